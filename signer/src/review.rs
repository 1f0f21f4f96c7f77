//! What the policy says of a request: pure, the same input gives the same verdict. No kube, no tokio, no clock.

mod cache;

pub use cache::EvidenceCache;

use jiff::Timestamp;
use std::sync::Arc;
use touchstone_common::{
    attestation::Roots,
    claims::Reason,
    key::PublicKey,
    name::{GroupName, UserName},
    policy::{Policy, Stage},
    ttl::Ttl,
};

/// How far apart the engineer's clock and the signer's may be, and how old a request may be, in seconds.
pub const FRESH_SECONDS: i64 = 300;

/// A CertificateSigningRequest as Kubernetes keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Submission<'a> {
    /// `metadata.uid`.
    pub uid: &'a str,
    /// `spec.signerName`.
    pub signer_name: &'a str,
    /// `spec.username`: who created it, as Kubernetes authenticated them.
    pub username: &'a str,
    /// `spec.groups`: the groups of who created it.
    pub groups: &'a [String],
    /// `spec.request`: PEM.
    pub request: &'a [u8],
    /// `spec.expirationSeconds`.
    pub expiration_seconds: Option<i32>,
    /// `spec.usages`.
    pub usages: &'a [String],
    /// `metadata.creationTimestamp`: the request must have been fresh then. `None`: it must be fresh now.
    pub created_at: Option<Timestamp>,
}

/// What requests are judged by. One request is judged by one snapshot, from review to signature.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The policy.
    pub policy: Policy,
    /// The attestation roots.
    pub roots: Arc<Roots>,
}

/// What is to be done with a request.
#[derive(Clone, Debug)]
pub enum Review {
    /// Approve it, and sign what the intent says.
    Approve(Intent),
    /// Deny it.
    Deny(Denial),
    /// Leave it pending.
    Wait(Waiting),
}

/// What is to be signed: validated values only.
#[derive(Clone, Debug)]
pub struct Intent {
    user: UserName,
    groups: Vec<GroupName>,
    public_key: PublicKey,
    ttl: Ttl,
    reason: Reason,
    rules: Vec<Arc<str>>,
    key_serial: Option<u32>,
    nonce: [u8; 32],
    csr_sha256: [u8; 32],
    read_token_sha256: Option<[u8; 32]>,
    policy_digest: [u8; 32],
    policy_generation: u64,
}

impl Intent {
    /// Who: the CN.
    #[must_use]
    pub fn user(&self) -> &UserName {
        &self.user
    }
    /// The groups: the O values, sorted.
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
    /// The generation of that policy.
    #[must_use]
    pub fn policy_generation(&self) -> u64 {
        self.policy_generation
    }
}

/// A request that others must approve first.
#[derive(Clone, Debug)]
pub struct Waiting {
    intent: Intent,
    stages: Vec<Stage>,
    message: String,
}

impl Waiting {
    /// What would be signed.
    #[must_use]
    pub fn intent(&self) -> &Intent {
        &self.intent
    }
    /// What must be met.
    #[must_use]
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }
    /// What it waits for, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }
}

/// Why a request is denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Denial {
    /// The condition's reason, CamelCase.
    pub reason: &'static str,
    /// The condition's message: why, and what would make it pass.
    pub message: String,
}

/// A request that the embedded API takes from someone it does not know: the key alone speaks for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Who the key is enrolled for.
    pub user: UserName,
    /// The YubiKey's serial number.
    pub key_serial: u32,
    /// SHA-256 of the token with which the request is read back.
    pub read_token_sha256: [u8; 32],
}

/// A request could not be judged: not a verdict, to be tried again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// The signer's clock cannot be right.
    #[error("judge the request: this machine's clock says {0}, which cannot be; set it")]
    Clock(Timestamp),
}

/// Judges a request.
///
/// # Errors
/// When it could not be judged.
pub fn review(
    submission: &Submission<'_>,
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Review, ReviewError> {
    todo!("{submission:?} {snapshot:?} {evidence:?} {now}")
}

/// Judges whether the embedded API takes a request from someone it does not know: its signature, evidence, enrolment and
/// freshness, and that it carries a read token; not the policy's rules.
///
/// # Errors
/// Why it is not taken; or that it could not be judged.
pub fn admit_anonymous(
    request_pem: &[u8],
    snapshot: &Snapshot,
    evidence: &EvidenceCache,
    now: Timestamp,
) -> Result<Result<Admission, Denial>, ReviewError> {
    todo!("{request_pem:?} {snapshot:?} {evidence:?} {now}")
}
