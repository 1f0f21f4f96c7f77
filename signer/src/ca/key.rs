//! The keys of CAs: they sign, they show their public half, and nothing exports them.
//!
//! [`KeySource`] says where a key is, and opens it. Behind [`CaKey`] no one sees where that was.

mod pkcs11;
mod place;
mod secret_file;
mod software;
mod source;

pub use pkcs11::{Code, TokenError, TokenObject, TokenSettings, Tokens};
pub(super) use place::written;
pub use place::{KeyPlace, KeyPlan};
pub use secret_file::{SecretFile, SecretFileError};
pub use software::SoftwareCaKey;
pub use source::{KeySource, SecretPem};

use std::{fmt, io, panic, path::PathBuf, time::Duration};
use touchstone_common::key::{SigningKey, SoftwareKeyError};

/// A key that a CA signs with.
///
/// It is [`SigningKey`] and no more that matters, so that `dyn CaKey` signs whatever a `SigningKey` does.
pub trait CaKey: SigningKey<Error = CaKeyError> + fmt::Debug + Send + Sync {
    /// Whether whoever signs waits for a device, perhaps across a network: not on a thread that others need.
    fn is_of_a_device(&self) -> bool;
}

/// How long a device may take. Whoever waits goes on then; the thread that asked it stays until it answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Does what may wait for a device, on a thread of its own: those of the executor serve everyone.
pub(crate) async fn apart<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<CaKeyError> + Send + 'static,
{
    let silent = || TokenError::Silent {
        seconds: PATIENCE.as_secs(),
    };
    let working = tokio::task::spawn_blocking(work);
    match tokio::time::timeout(PATIENCE, working).await {
        Ok(Ok(done)) => done,
        Ok(Err(error)) => match error.try_into_panic() {
            Ok(panic) => panic::resume_unwind(panic),
            // The program ends.
            Err(_) => Err(CaKeyError::from(silent()).into()),
        },
        Err(_) => Err(CaKeyError::from(silent()).into()),
    }
}

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
    /// Too short a passphrase for a new key.
    #[error("put a CA key under the passphrase in {}: it has fewer than eight characters", path.display())]
    ShortPassphrase {
        /// The file.
        path: PathBuf,
    },
    /// The crypto library does not sign.
    #[error("sign with the CA key: {0}")]
    Sign(SoftwareKeyError),
    /// The passphrase of a key file.
    #[error(transparent)]
    Passphrase(#[from] SecretFileError),
    /// A token.
    #[error(transparent)]
    Token(#[from] TokenError),
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
            Self::Token(error) => error.is_retriable(),
            Self::Exposed { .. }
            | Self::Malformed { .. }
            | Self::Missing { .. }
            | Self::Passphrase(_)
            | Self::Random
            | Self::Read { .. }
            | Self::ShortPassphrase { .. }
            | Self::Sign(_)
            | Self::Write { .. } => false,
        }
    }

    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Exposed { path, .. } => format!("chmod 600 {}", path.display()),
            Self::Malformed {
                source: SoftwareKeyError::Encrypted,
                ..
            } => "name the file with its passphrase in the CA settings: keys: { file: { …, passphrase: { file: … } } }".into(),
            Self::Malformed {
                source: SoftwareKeyError::Passphrase,
                ..
            } => "write the key's own passphrase into the passphrase file; if it is lost, so is the key".into(),
            Self::ShortPassphrase { .. } => {
                "write a passphrase of eight characters or more into the passphrase file".into()
            }
            Self::Passphrase(error) => error.remedy(),
            Self::Malformed { .. } | Self::Missing { .. } => {
                "restore the key from a backup: a PKCS#8 private key in PEM".into()
            }
            Self::Read { .. } => {
                "check that the file is there and that the signer's user may read it".into()
            }
            Self::Token(error) => error.remedy(),
            Self::Write { .. } => {
                "check that there is space and that the signer's user may write there".into()
            }
            Self::Random | Self::Sign(_) => {
                "check that the system gives random numbers, then try again".into()
            }
        }
    }
}
