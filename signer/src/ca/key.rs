//! The keys of CAs: they sign, they show their public half, and nothing exports them.
//!
//! [`KeySource`] says where a key is, and opens it. Behind [`CaKey`] no one sees where that was.

mod software;
mod source;

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
}

impl CaKeyError {
    /// Whether the same may succeed later, with nothing changed here.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Exposed { .. } | Self::Malformed { .. } | Self::Read { .. } | Self::Sign(_) => {
                false
            }
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Malformed { .. } => {
                "restore the key from a backup: a PKCS#8 private key in PEM".into()
            }
            Self::Read { .. } => {
                "check that the file is there and that the signer's user may read it".into()
            }
            Self::Sign(_) => "check that the system gives random numbers, then try again".into(),
        }
    }
}
