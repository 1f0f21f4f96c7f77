//! The audit log: JSON Lines in which each record carries the hash of the one before, on disk before anyone goes on.
//!
//! [`chain`] says what a line is, [`writer`] appends and waits for the disk, [`verify`] proves that nothing inside was
//! cut or changed. What the chain cannot prove is that nothing was cut off its end: compare the head hash with one that
//! was kept elsewhere (`audit verify --anchor`).

pub mod chain;
pub mod files;
pub mod stream;
pub mod verify;
pub mod writer;

use crate::grant::GrantBinding;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{io, path::PathBuf};

pub use writer::{AuditLog, Receipt};

/// The name of the log in a data directory.
pub const FILE_NAME: &str = "audit.jsonl";

/// What is recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "kind",
    rename_all = "camelCase",
    rename_all_fields = "camelCase"
)]
pub enum Event {
    /// A CA moved in its life cycle.
    CaMoved {
        /// Which, such as `ca-3`.
        ca: String,
        /// From where; nothing for a new one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<String>,
        /// To where.
        to: String,
        /// What moved it.
        cause: String,
        /// SHA-256 of its certificate, lower-case hex, where it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        fingerprint: Option<String>,
    },
    /// A request was denied.
    Denied {
        /// The request.
        #[serde(flatten)]
        request: RequestRef,
        /// The condition's reason.
        verdict: String,
        /// What the engineer reads.
        message: String,
    },
    /// A request, or an intent, came to nothing.
    Failed {
        /// The request.
        #[serde(flatten)]
        request: RequestRef,
        /// The grant, where there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        grant: Option<String>,
        /// Why.
        message: String,
    },
    /// Someone else approved what the policy does not grant, under a signer name that is not Touchstone's: it is signed.
    ForeignApproval {
        /// The request.
        #[serde(flatten)]
        request: RequestRef,
        /// What the policy says of it.
        message: String,
    },
    /// A request of ours carries a certificate that this CA did not make.
    ForeignCertificate {
        /// The request.
        #[serde(flatten)]
        request: RequestRef,
        /// SHA-256 of what stands in its status, lower-case hex.
        sha256: String,
    },
    /// A certificate is about to be signed.
    Intent(Box<Intent>),
    /// A certificate was signed and delivered.
    Issued {
        /// The request.
        #[serde(flatten)]
        request: RequestRef,
        /// The grant.
        grant: String,
        /// SHA-256 of the leaf, as in `authentication.kubernetes.io/credential-id`.
        fingerprint: String,
        /// Serial number, lower-case hex.
        serial_number: String,
        /// The leaf's last second.
        not_after: Timestamp,
    },
    /// A policy came into force.
    PolicyLoaded {
        /// SHA-256 of the file.
        sha256: String,
        /// Which policy of its process it is, 1 for the one it started with.
        #[serde(default)]
        generation: u64,
    },
    /// A policy file was not taken; the last good one stays in force.
    PolicyRefused {
        /// Why.
        message: String,
    },
    /// The log can be written again, after it could not be.
    Resumed {},
    /// A grant was revoked.
    Revoked {
        /// The grant.
        grant: String,
        /// Whose it is.
        user: String,
        /// Who revoked it, as Kubernetes knows them.
        by: String,
        /// Why, in their words.
        reason: String,
        /// Until when its certificate is valid all the same.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        not_after: Option<Timestamp>,
    },
    /// The log goes on in this file.
    Rotated {
        /// Which file of the log it is, 1 for the first.
        file: u64,
        /// The name of the one before.
        after: String,
    },
    /// The signer started.
    Started {
        /// Its version.
        version: String,
        /// SHA-256 of the issuing certificate.
        ca: String,
        /// The signer name it answers to.
        signer_name: String,
    },
    /// The signer was stopped in good order.
    Stopped {},
    /// A last line that a crash cut short was set aside.
    Torn {
        /// The file it was moved to.
        file: String,
        /// How many bytes.
        bytes: u64,
        /// Their SHA-256.
        sha256: String,
    },
    /// The RoleBindings of a grant were removed: its certificate ended, or it was revoked or failed.
    Unbound {
        /// The grant.
        grant: String,
        /// How many.
        bindings: u64,
    },
    /// A request waits for approvals.
    Waiting {
        /// The request.
        #[serde(flatten)]
        request: RequestRef,
        /// For what.
        message: String,
    },
}

/// Which CertificateSigningRequest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestRef {
    /// Its name.
    pub csr: String,
    /// Its UID: one made again under the same name is another.
    pub csr_uid: String,
    /// Who created it, as Kubernetes knows them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub creator: String,
}

/// What is about to be signed, for whom, by which rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Intent {
    /// The request.
    #[serde(flatten)]
    pub request: RequestRef,
    /// SHA-256 of the request's DER.
    pub csr_sha256: String,
    /// The grant.
    pub grant: String,
    /// The CN.
    pub user: String,
    /// The O values.
    pub groups: Vec<String>,
    /// What is bound to the grant's own group, before the certificate is delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bindings: Vec<GrantBinding>,
    /// Why, in the engineer's words, signed by the card.
    pub reason: String,
    /// The rules that granted it.
    pub rules: Vec<String>,
    /// Who approved, for a manual rule.
    pub approvers: Vec<String>,
    /// What they signed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub approvals: Vec<Approval>,
    /// Whether a bare approval in Kubernetes counted, which nobody signed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unsigned_approval: bool,
    /// The YubiKey's serial number, where the key is attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_serial: Option<u32>,
    /// SHA-256 of the engineer's SPKI.
    pub key_sha256: String,
    /// The lifetime granted, seconds.
    pub ttl_seconds: u32,
    /// SHA-256 of the policy file.
    pub policy_sha256: String,
    /// Which policy of its process that was, 1 for the one it started with.
    #[serde(default)]
    pub policy_generation: u64,
    /// Who signs: the request's signer name. Nothing in records of earlier versions.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub signer_name: String,
    /// SHA-256 of the issuing certificate. Nothing where kube-controller-manager signs the request as it is.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ca: String,
    /// SHA-256 of the bytes that will be signed. Nothing, as above.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tbs_sha256: String,
}

/// A signed approval that counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Approval {
    /// Who approved.
    pub approver: String,
    /// The serial number of the YubiKey that signed it, where the key is attested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_serial: Option<u32>,
    /// SHA-256 of the statement, lower-case hex.
    pub sha256: String,
    /// The statement, a JWS: proof that outlives the request.
    pub statement: String,
}

/// Why the audit log cannot be used. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// A line does not fit the chain.
    #[error("verify the audit log {}: line {line}: {problem}", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// The first line that does not fit, from 1.
        line: u64,
        /// What is wrong with it.
        problem: chain::Problem,
    },
    /// A write failed earlier in a way that leaves the file's state unknown.
    #[error("write the audit log {}: an earlier write was lost by the disk", path.display())]
    Lost {
        /// The file.
        path: PathBuf,
    },
    /// The file that is written to is gone, and older ones are there.
    #[error("read the audit log {}: it is gone, and {} is there", path.display(), last.display())]
    Gone {
        /// The file.
        path: PathBuf,
        /// The last one that is there.
        last: PathBuf,
    },
    /// It cannot be opened or read.
    #[error("read the audit log {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The writer has ended.
    #[error("write the audit log: it is closed")]
    Closed,
    /// It cannot be written.
    #[error("write the audit log {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The anchored hash is not in the log.
    #[error("verify the audit log {}: no record has the anchored hash {anchor}", path.display())]
    AnchorMissing {
        /// The file.
        path: PathBuf,
        /// The hash that was kept elsewhere.
        anchor: String,
    },
}

impl AuditError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Broken { path, .. } => format!(
                "the file was changed by something other than Touchstone: keep a copy as evidence, compare it with a \
                 backup, and restore the backup; to begin a new log knowingly, move {} away",
                path.display()
            ),
            Self::AnchorMissing { .. } => {
                "records were cut off the end, or the anchor is of another log: compare with a backup".into()
            }
            Self::Gone { path, .. } => format!(
                "someone took it away: restore it from a backup; to begin a new log knowingly, move the other files away \
                 from {} too",
                path.display()
            ),
            Self::Lost { .. } => "check the disk, then start again: nothing was signed without a record".into(),
            Self::Closed => "start again: the signer was stopping".into(),
            Self::Read { .. } => "check that the file is there and that this user can read it".into(),
            Self::Write { .. } => {
                "free space on its file system and check that this user can write it; nothing is signed until then"
                    .into()
            }
        }
    }
}
