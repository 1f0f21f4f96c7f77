//! The certificates Touchstone makes, each from one strict profile, and the check of what comes back.

use crate::{
    csr::CsrError,
    key::{self, KeyError},
    name::{GroupName, NameError, UserName},
    pem::{self, PemError},
    ttl::Ttl,
};
use const_oid::ObjectIdentifier;
use jiff::Timestamp;

pub use build::{Prepared, SerialNumber, SignError};
pub(crate) use profile::CLIENT_AUTH;
pub use profile::Profile;
pub use read::{CaCertificate, ClientIdentity};
pub use verify::{Expected, Issued, verify_issued};

pub use crate::x509::ReadError;

mod build;
mod profile;
mod read;
mod verify;

const LABEL: &str = "CERTIFICATE";

/// From when to when, both inclusive, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
}

impl Validity {
    /// Whether this moment lies within.
    #[must_use]
    pub fn contains(&self, now: Timestamp) -> bool {
        self.not_before <= now && now.as_second() <= self.not_after.as_second()
    }

    /// The same in whole seconds, as certificates have it.
    pub(crate) fn whole_seconds(self) -> Self {
        let whole = |time: Timestamp| Timestamp::from_second(time.as_second()).unwrap_or(time);
        Self {
            not_before: whole(self.not_before),
            not_after: whole(self.not_after),
        }
    }

    /// What lies within both.
    pub(crate) fn intersection(self, other: Self) -> Self {
        Self {
            not_before: self.not_before.max(other.not_before),
            not_after: self.not_after.min(other.not_after),
        }
    }
}

/// Why a certificate could not be made or was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Another number of certificates.
    #[error("the chain has {0} certificates; 1 to 4 are read")]
    ChainLength(usize),
    /// A critical extension that is not understood.
    #[error("the certificate has the critical extension {0}, which is not understood")]
    CriticalExtension(ObjectIdentifier),
    /// The first second comes after the last.
    #[error("the certificate's validity is empty")]
    EmptyValidity,
    /// Its end has passed.
    #[error("the certificate ended at {0}")]
    Expired(Timestamp),
    /// Another purpose than client authentication.
    #[error("the certificate is not for client authentication alone")]
    ExtendedKeyUsage,
    /// No group, or too many.
    #[error("a client certificate carries 1 to 33 groups, not {0}")]
    Groups(usize),
    /// It is a CA.
    #[error("the certificate is a CA's")]
    IsCa,
    /// The issuer is not allowed to issue this.
    #[error("the issuing CA may not issue {0}")]
    Issuer(&'static str),
    /// Key usages that do not fit.
    #[error("the certificate's key usage does not fit its purpose")]
    KeyUsage,
    /// It lives longer than what was asked for.
    #[error(
        "the certificate lives until {not_after}, longer than the {ttl} that were asked for, or this computer's clock is slow"
    )]
    LivesTooLong {
        /// Its end.
        not_after: Timestamp,
        /// The lifetime asked for.
        ttl: Ttl,
    },
    /// A name that must not stand in a certificate.
    #[error("the certificate's name {0}")]
    Name(NameError),
    /// A server certificate without names, or with names that are none.
    #[error("a server certificate needs at least one valid DNS name or IP address")]
    NoNames,
    /// Not a CA certificate.
    #[error("the certificate is not a CA's that may sign certificates")]
    NotCa,
    /// Its first second lies in the future.
    #[error("the certificate begins at {0}, in the future; is a clock wrong?")]
    NotYetValid(Timestamp),
    /// It would outlive its issuer.
    #[error("the certificate would end after its issuing CA")]
    OutlivesIssuer,
    /// PEM.
    #[error("the certificate {0}")]
    Pem(#[from] PemError),
    /// It cannot be read.
    #[error("the certificate {0}")]
    Read(#[from] ReadError),
    /// Only a CA may be its own issuer, and a root must be.
    #[error("a {0} certificate cannot be made {1} an issuer")]
    SelfIssued(&'static str, &'static str),
    /// A signature.
    #[error("the certificate's signature: {0}")]
    Signature(KeyError),
    /// Subject alternative names.
    #[error("the certificate has subject alternative names")]
    SubjectAltName,
    /// The subject.
    #[error(transparent)]
    Subject(#[from] CsrError),
    /// The trust bundle holds no CA certificate that can be used.
    #[error("the trust bundle holds no usable CA certificate")]
    TrustBundle,
    /// Certificates that do not belong to the chain.
    #[error("the chain holds certificates that do not belong to it")]
    Unrelated,
    /// The chain does not end in the trust bundle.
    #[error("the chain does not end in the trust bundle")]
    UnknownIssuer,
    /// Other groups than those asked for.
    #[error("the certificate's groups are not those that were asked for")]
    WrongGroups,
    /// Another key.
    #[error("the certificate is for another key")]
    WrongKey,
    /// Another user.
    #[error("the certificate is for the user {found}, not {expected}")]
    WrongUser {
        /// Who it is for.
        found: UserName,
        /// Who asked.
        expected: UserName,
    },
}

/// One PEM block `CERTIFICATE`.
#[must_use]
pub fn to_pem(der: &[u8]) -> String {
    pem::encode(LABEL, der)
}

/// SHA-256 of a certificate: what the API server's audit log calls its credential id.
#[must_use]
pub fn fingerprint(der: &[u8]) -> [u8; 32] {
    key::sha256(der)
}

/// The certificates of a chain or bundle, DER. Text between the blocks is skipped.
///
/// # Errors
/// When a block is not PEM of a certificate.
pub fn from_pem_bundle(pem: &[u8]) -> Result<Vec<Vec<u8>>, CertificateError> {
    Ok(pem::blocks(pem, LABEL, pem::Around::Text)?)
}

/// The groups, sorted, none twice.
fn sorted(groups: &[GroupName]) -> Vec<&GroupName> {
    let mut groups: Vec<&GroupName> = groups.iter().collect();
    groups.sort_unstable();
    groups.dedup();
    groups
}
