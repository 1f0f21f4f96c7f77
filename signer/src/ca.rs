//! The signer's CA: a root that clients trust for years, and an issuing CA below it that signs for engineers.
//!
//! [`files`] keeps both in the data directory, [`bootstrap`] makes them once, whole or not at all, and [`endpoint`] has
//! the standalone's own server certificate and the administrator's.

pub mod authority;
pub mod bootstrap;
pub mod canary;
pub mod endpoint;
pub mod files;
pub mod key;
pub mod lifecycle;
pub mod recognise;
pub mod record;
pub mod rotation;
pub mod settings;
pub mod store;

use crate::{data_dir::DataDirError, traces::TRACES};
use jiff::Timestamp;
use key::{CaKey, CaKeyError};
use std::{fmt, path::PathBuf, sync::Arc};
use touchstone_common::{
    certificate::{CaCertificate, CertificateError, Prepared, SignError},
    key::SoftwareKeyError,
};

/// An issuing CA: its certificate, and a key that signs and cannot be taken out.
#[derive(Debug)]
pub struct IssuingCa {
    certificate: CaCertificate,
    certificate_pem: String,
    fingerprint: String,
    key: Box<dyn CaKey>,
}

/// Why the CA cannot be used. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A certificate in the data directory cannot be read.
    #[error("read the certificate {}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: CertificateError,
    },
    /// The key of an issuing CA.
    #[error(transparent)]
    CaKey(#[from] CaKeyError),
    /// A file cannot be read or written.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// This data directory has issued, and its CA is not there any more.
    #[error("load the CA: {} is gone, but {} shows that it was used", ca.display(), trace.display())]
    Gone {
        /// Where it should be.
        ca: PathBuf,
        /// What shows that there was one.
        trace: PathBuf,
    },
    /// A key in the data directory cannot be read.
    #[error("read the CA key {}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: SoftwareKeyError,
    },
    /// The note of where a key is cannot be read.
    #[error("read where the CA key is from {}", path.display())]
    KeyNote {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A key could not be made or written out.
    #[error("make a CA key")]
    KeyGeneration(#[source] SoftwareKeyError),
    /// A certificate could not be made.
    #[error("make the CA certificate")]
    Make(#[source] CertificateError),
    /// A certificate and a key are not of one pair.
    #[error("load the CA: {} is not the key of {}", key.display(), certificate.display())]
    Mismatch {
        /// The certificate.
        certificate: PathBuf,
        /// The key.
        key: PathBuf,
    },
    /// One half of a CA is missing.
    #[error("load the CA: {} is missing", path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The issuing certificate was not signed by the root.
    #[error("load the CA: {} was not signed by {}", issuing.display(), root.display())]
    NotChained {
        /// The issuing certificate.
        issuing: PathBuf,
        /// The root certificate.
        root: PathBuf,
    },
    /// The system gave no random bytes.
    #[error("make a CA: the system gives no random bytes")]
    Random,
    /// A certificate could not be signed.
    #[error("sign the CA certificate")]
    Sign(#[source] SignError<SoftwareKeyError>),
}

impl CaError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::CaKey(error) => error.remedy(),
            Self::DataDir(error) => error.remedy(),
            Self::Gone { .. } => {
                "restore the folder from a backup; to begin anew with another CA, name an empty directory with --data"
                    .into()
            }
            Self::Certificate { .. }
            | Self::Key { .. }
            | Self::KeyNote { .. }
            | Self::Mismatch { .. }
            | Self::Missing { .. }
            | Self::NotChained { .. } => {
                "restore the CA's folder from a backup: Touchstone makes it whole (touchstone-signer ca init) and never changes a part of it".into()
            }
            Self::KeyGeneration(_) | Self::Make(_) | Self::Random | Self::Sign(_) => {
                "check that this machine's clock is right, then start again".into()
            }
        }
    }
}

impl IssuingCa {
    /// `None` when the key is not the certificate's.
    pub(crate) fn new(certificate: CaCertificate, key: Box<dyn CaKey>) -> Option<Self> {
        if certificate.public_key() != key.public_key() {
            return None;
        }
        Some(Self {
            certificate_pem: certificate.to_pem(),
            fingerprint: fingerprint(certificate.der()),
            certificate,
            key,
        })
    }

    /// Its certificate.
    #[must_use]
    pub fn certificate(&self) -> &CaCertificate {
        &self.certificate
    }

    /// SHA-256 of its certificate, lower-case hexadecimal.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Signs a certificate that was prepared under it; DER.
    ///
    /// # Errors
    /// When the key cannot sign, or the certificate was prepared under another CA.
    pub fn sign(&self, prepared: Prepared) -> Result<Vec<u8>, SignError<CaKeyError>> {
        prepared.sign(&*self.key)
    }

    /// Does `work`, in which this CA signs: at once where its key is in memory, on a thread of its own where it waits for a
    /// device.
    ///
    /// # Errors
    /// When `work` fails, or the device does not answer.
    #[tracing::instrument(name = "sign", target = TRACES, skip_all, err)]
    pub async fn signing<T, E>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<CaKeyError> + fmt::Display + Send + 'static,
    {
        if !self.key.is_of_a_device() {
            return work(self);
        }
        let ca = Arc::clone(self);
        key::apart(move || work(&ca)).await
    }

    /// `leaf` (DER) and the issuing certificate, PEM.
    #[must_use]
    pub fn chain(&self, leaf: &[u8]) -> String {
        let mut chain = certificate_pem(leaf);
        chain.push_str(&self.certificate_pem);
        chain
    }
}

/// Whole days until a CA's certificate ends; negative past it.
#[must_use]
pub fn days_left(certificate: &CaCertificate, now: Timestamp) -> i64 {
    certificate
        .validity()
        .not_after
        .duration_since(now)
        .as_hours()
        / 24
}

/// SHA-256, lower-case hexadecimal.
#[must_use]
pub fn fingerprint(der: &[u8]) -> String {
    hex::encode(crate::audit::chain::sha256(der))
}

/// One PEM block `CERTIFICATE`, lines ending in LF.
#[must_use]
pub fn certificate_pem(der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new("CERTIFICATE", der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}
