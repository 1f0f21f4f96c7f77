//! A certificate on a key that is in memory only, for clusters whose policy takes any key.
//!
//! The login that made the key hands both to the cluster's background process, which keeps them in locked memory until the
//! certificate ends; `touchstone credential --software-key` gets them from there for kubectl. Nothing of it is on disk.

use crate::error::Exit;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::{fmt, time::Duration};
use touchstone_common::key::SoftwareKeyError;
use zeroize::ZeroizeOnDrop;

/// A certificate with less than this left is as good as ended.
const LAST_SECONDS: SignedDuration = SignedDuration::from_secs(5);

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum SoftwareError {
    /// The key.
    #[error(transparent)]
    Key(SoftwareKeyError),
    /// The cluster is reached without a credential.
    #[error("a software key does not say who you are, and {0} is reached without a credential")]
    NobodyAsks(String),
    /// None is kept.
    #[error("there is no software key for {0}")]
    None(String),
    /// Memory cannot be locked.
    #[error("no memory can be locked for the key")]
    NotLocked,
    /// The key ends with the process that made it.
    #[error("request {name} still waits for a decision after {} s, and its key is gone", .waited.as_secs())]
    Waiting {
        /// The request.
        name: String,
        /// For how long.
        waited: Duration,
    },
}

impl SoftwareError {
    /// How a command that fails for this ends.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::Key(_) | Self::NotLocked => Exit::Other,
            Self::NobodyAsks(_) => Exit::Config,
            Self::None(_) => Exit::NotLoggedIn,
            Self::Waiting { .. } => Exit::Waiting,
        }
    }

    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Key(_) => None,
            Self::NobodyAsks(cluster) => Some(format!(
                "reach it with your own credential: touchstone config set-cluster {cluster} --kubeconfig FILE …; or use a YubiKey"
            )),
            Self::None(cluster) => Some(format!(
                "touchstone login --cluster {cluster} --software-key --group GROUP --reason \"WHY\""
            )),
            Self::NotLocked => Some("allow some: ulimit -l 64".to_owned()),
            Self::Waiting { .. } => Some(
                "log in again when those who approve are there, and let it wait (--timeout)"
                    .to_owned(),
            ),
        }
    }
}

/// What is public of it. The field names are those of `--output json`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SoftwareCertificate {
    /// CN.
    pub user: String,
    /// O.
    pub groups: Vec<String>,
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
    /// The certificate's serial number, hex.
    pub serial_number: String,
    /// SHA-256 of the leaf, hex: the audit log's `X509SHA256=`.
    pub fingerprint: String,
    /// The kind of key.
    pub algorithm: String,
    /// Name of the request.
    pub request: String,
}

impl SoftwareCertificate {
    /// Whether it can be used at this moment, and has these groups.
    #[must_use]
    pub fn will_do(&self, groups: &[String]) -> bool {
        self.not_after.duration_since(Timestamp::now()) > LAST_SECONDS
            && groups.iter().all(|group| self.groups.contains(group))
    }
}

/// All of it.
#[derive(Clone, Deserialize, Serialize, ZeroizeOnDrop)]
#[serde(rename_all = "camelCase")]
pub struct SoftwareCredential {
    /// What is public.
    #[zeroize(skip)]
    pub certificate: SoftwareCertificate,
    /// Leaf and what it chains through, PEM.
    #[zeroize(skip)]
    pub chain: String,
    /// PKCS#8, PEM.
    pub key: String,
}

impl fmt::Debug for SoftwareCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SoftwareCredential")
            .field("certificate", &self.certificate)
            .finish_non_exhaustive()
    }
}
