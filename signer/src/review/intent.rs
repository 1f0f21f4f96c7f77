//! What comes of a request that is granted, now or once others approve.

use super::approvals::Approval;
use jiff::Timestamp;
use std::sync::Arc;
use touchstone_common::{
    claims::Reason,
    grant::GrantId,
    key::PublicKey,
    name::{GroupName, UserName},
    policy::{Binding, Missing},
    ttl::Ttl,
};

/// What is to be signed: validated values only.
#[derive(Clone, Debug)]
pub struct Intent {
    pub(super) user: UserName,
    pub(super) groups: Vec<GroupName>,
    pub(super) public_key: PublicKey,
    pub(super) ttl: Ttl,
    pub(super) reason: Reason,
    pub(super) rules: Vec<Arc<str>>,
    pub(super) key_serial: Option<u32>,
    pub(super) nonce: [u8; 32],
    pub(super) csr_sha256: [u8; 32],
    pub(super) read_token_sha256: Option<[u8; 32]>,
    pub(super) policy_digest: [u8; 32],
    pub(super) policy_generation: u64,
    pub(super) approvals: Vec<Approval>,
    pub(super) unsigned_approval: bool,
    pub(super) bindings: Vec<Binding>,
}

impl Intent {
    /// Who: the CN.
    #[must_use]
    pub fn user(&self) -> &UserName {
        &self.user
    }
    /// The groups: the O values, sorted; the grant's own among them, where something is bound to it.
    #[must_use]
    pub fn groups(&self) -> &[GroupName] {
        &self.groups
    }
    /// The key to certify.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
    /// For how long, counted from issuing.
    #[must_use]
    pub fn ttl(&self) -> Ttl {
        self.ttl
    }
    /// Why, in the engineer's words.
    #[must_use]
    pub fn reason(&self) -> &Reason {
        &self.reason
    }
    /// The rules that grant it.
    #[must_use]
    pub fn rules(&self) -> &[Arc<str>] {
        &self.rules
    }
    /// The YubiKey's serial number; `None` for a key without evidence.
    #[must_use]
    pub fn key_serial(&self) -> Option<u32> {
        self.key_serial
    }
    /// The request's nonce: a request is used once.
    #[must_use]
    pub fn nonce(&self) -> &[u8; 32] {
        &self.nonce
    }
    /// SHA-256 of the request's DER.
    #[must_use]
    pub fn csr_sha256(&self) -> &[u8; 32] {
        &self.csr_sha256
    }
    /// SHA-256 of the token that reads the request back.
    #[must_use]
    pub fn read_token_sha256(&self) -> Option<&[u8; 32]> {
        self.read_token_sha256.as_ref()
    }
    /// SHA-256 of the policy file that granted it.
    #[must_use]
    pub fn policy_digest(&self) -> &[u8; 32] {
        &self.policy_digest
    }
    /// The signed approvals that counted.
    #[must_use]
    pub fn approvals(&self) -> &[Approval] {
        &self.approvals
    }
    /// Whether a rule took a bare approval in Kubernetes.
    #[must_use]
    pub fn has_unsigned_approval(&self) -> bool {
        self.unsigned_approval
    }
    /// What is bound to the grant's own group.
    #[must_use]
    pub fn bindings(&self) -> &[Binding] {
        &self.bindings
    }
    /// Which grant it is.
    #[must_use]
    pub fn grant_id(&self) -> GrantId {
        GrantId::of_nonce(&self.nonce)
    }
    /// The generation of that policy.
    #[must_use]
    pub fn policy_generation(&self) -> u64 {
        self.policy_generation
    }
}

/// A request that others must approve first.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub(super) intent: Intent,
    pub(super) missing: Vec<Missing>,
    pub(super) message: String,
    pub(super) until: Timestamp,
}

impl Waiting {
    /// What would be signed.
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }
    /// What is not there yet.
    #[must_use]
    pub fn missing(&self) -> &[Missing] {
        &self.missing
    }
    /// What it waits for, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
    /// When it is denied.
    #[must_use]
    pub fn until(&self) -> Timestamp {
        self.until
    }
}
