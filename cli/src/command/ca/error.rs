//! Why a ceremony did not take place, or proves nothing.

use std::path::PathBuf;
use touchstone_common::{
    ceremony::{IssuingRequestError, RecordError},
    key::SoftwareKeyError,
    policy::LoadError,
};

/// Why a ceremony was refused.
#[derive(Debug, thiserror::Error)]
pub enum CeremonyError {
    /// Whoever was asked said no.
    #[error("nothing was signed: the ceremony was not confirmed")]
    Declined,
    /// Something stands where a file would be written.
    #[error("{} is already there, and a ceremony replaces nothing", .0.display())]
    Exists(PathBuf),
    /// A key file that others may read or change.
    #[error("the key {} has mode {mode:o}, so that others can read or change it", .path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A key file.
    #[error("{} {source}", .path.display())]
    Key {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: SoftwareKeyError,
    },
    /// A document that is too large to be one.
    #[error("{} is larger than any {what}", .path.display())]
    Large {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// A file that is no ceremony's record.
    #[error("{} is no record of a ceremony: {source}", .path.display())]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// Documents that do not fit together.
    #[error("{0}")]
    Mismatch(String),
    /// The ceremony file.
    #[error("the ceremony file is refused:\n{0}")]
    Plan(#[from] LoadError),
    /// What was made, or a record of it.
    #[error("the ceremony's record does not verify: {0}")]
    Record(#[from] RecordError),
    /// A document is not the one that the record speaks of.
    #[error("{} is not the {what} of the record", .path.display())]
    Other {
        /// Which file.
        path: PathBuf,
        /// What it should be.
        what: &'static str,
    },
    /// A key in a file that does not sign.
    #[error(transparent)]
    Sign(SoftwareKeyError),
    /// The request.
    #[error("the request is refused: {0}")]
    Request(#[from] IssuingRequestError),
}

impl CeremonyError {
    /// What can be done.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(
            match self {
                Self::Declined | Self::Sign(_) => return None,
                Self::Exposed { path, .. } => {
                    return Some(format!("chmod 600 {}", path.display()));
                }
                Self::Key {
                    source: SoftwareKeyError::Passphrase,
                    ..
                } => "give the passphrase that the key was put under; it can be tried again",
                Self::Key {
                    source: SoftwareKeyError::ShortPassphrase,
                    ..
                } => "choose a passphrase of eight characters or more",
                Self::Key { .. } => "name the root's private key, PKCS#8 in PEM",
                Self::Large { what, .. } => return Some(format!("name the {what}")),
                Self::Malformed { .. } => {
                    "name the file that the ceremony wrote beside its certificate (.record.json), whole as it was"
                }
                Self::Other { .. } => {
                    "name the document that was there; what differs from it was not part of this ceremony"
                }
                Self::Record(_) => {
                    "rely on no certificate of it before you know why; those who were present may have kept another copy of the record"
                }
                Self::Exists(_) => "name another file with --out or --record, or move it away",
                Self::Mismatch(_) => {
                    "nothing was signed; have the ceremony file reviewed against the request and the root"
                }
                Self::Plan(_) => "mend the ceremony file and have it reviewed again",
                Self::Request(_) => {
                    "use the request as `touchstone-signer ca request` prints it"
                }
            }
            .to_owned(),
        )
    }
}
