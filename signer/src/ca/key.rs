//! The keys of CAs: they sign, they show their public half, and nothing exports them.
//!
//! [`KeySource`] says where a key is, and opens it. Behind [`CaKey`] no one sees where that was.

mod place;
mod software;
mod source;

pub use place::{KeyPlace, KeyPlan};
pub use software::SoftwareCaKey;
pub use source::{KeySource, SecretPem};

use std::{fmt, io, path::PathBuf};
use touchstone_common::key::{SigningKey, SoftwareKeyError};

/// A key that a CA signs with.
///
/// It is [`SigningKey`] and no more, so that `dyn CaKey` signs whatever a `SigningKey` does.
pub trait CaKey: SigningKey<Error = CaKeyError> + fmt::Debug + Send + Sync {}

impl<K: SigningKey<Error = CaKeyError> + fmt::Debug + Send + Sync> CaKey for K {}

/// Why a CA key cannot be opened or does not sign. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CaKeyError {
    /// Others may read or change the file.
    #[error("use the key {}: its mode is {mode:o}, so that others can read or change it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It is no private key that can be used.
    #[error("read the key {place}: it {source}")]
    Malformed {
        /// Where it is, in words.
        place: String,
        /// What is wrong with it.
        source: SoftwareKeyError,
    },
    /// A file is not there.
    #[error("read the CA key: {} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The system gives no random bytes.
    #[error("make a CA key: the system gives no random bytes")]
    Random,
    /// A file cannot be read.
    #[error("read {}: {kind}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
    /// The crypto library does not sign.
    #[error("sign with the CA key: {0}")]
    Sign(SoftwareKeyError),
    /// A file cannot be written or removed.
    #[error("write {}: {kind}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        kind: io::ErrorKind,
    },
}

impl CaKeyError {
    /// Whether the same may succeed later, with nothing changed here.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Exposed { .. }
            | Self::Malformed { .. }
            | Self::Missing { .. }
            | Self::Random
            | Self::Read { .. }
            | Self::Sign(_)
            | Self::Write { .. } => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Malformed { .. } | Self::Missing { .. } => {
                "restore the key from a backup: a PKCS#8 private key in PEM".into()
            }
            Self::Read { .. } => {
                "check that the file is there and that the signer's user may read it".into()
            }
            Self::Write { .. } => {
                "check that there is space and that the signer's user may write there".into()
            }
            Self::Random | Self::Sign(_) => {
                "check that the system gives random numbers, then try again".into()
            }
        }
    }
}
