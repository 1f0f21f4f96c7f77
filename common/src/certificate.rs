//! The certificates Touchstone makes, each from one strict profile, and the check of what comes back.

use crate::{
    key::{PublicKey, SigningKey},
    name::{GroupName, UserName},
    ttl::Ttl,
};
use jiff::Timestamp;

/// From when to when, both inclusive, whole seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: Timestamp,
    /// Last second.
    pub not_after: Timestamp,
}

/// A certificate's serial number: 16 to 20 random bytes, positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialNumber([u8; 16]);

impl SerialNumber {
    /// From 16 random bytes; the top bit is cleared and the next one set.
    #[must_use]
    pub fn from_random(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

/// A parsed CA certificate that certificates are issued under.
#[derive(Clone, Debug)]
pub struct CaCertificate {
    der: Vec<u8>,
    public_key: PublicKey,
    validity: Validity,
}

/// The profiles.
#[derive(Clone, Debug)]
pub enum Profile<'a> {
    /// An engineer's client certificate.
    ClientLeaf {
        /// CN.
        user: &'a UserName,
        /// O, sorted.
        groups: &'a [GroupName],
    },
    /// The root: self-signed, CA, pathlen 1, keyCertSign and cRLSign.
    Root {
        /// CN.
        common_name: &'a str,
    },
    /// An issuing CA: pathlen 0, clientAuth only.
    IssuingCa {
        /// CN.
        common_name: &'a str,
    },
    /// The standalone's TLS server certificate.
    Server {
        /// DNS names.
        dns_names: &'a [String],
        /// IP addresses.
        ip_addresses: &'a [std::net::IpAddr],
    },
}

/// A certificate ready to be signed, once.
#[derive(Debug)]
pub struct Prepared {
    tbs_der: Vec<u8>,
}

/// Why a certificate could not be made or was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// It would outlive its issuer.
    #[error("the certificate would end after its issuing CA")]
    OutlivesIssuer,
}

impl CaCertificate {
    /// Reads a CA certificate from one PEM block.
    ///
    /// # Errors
    /// When it is not a CA certificate of ours.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CertificateError> {
        todo!("{pem:?}")
    }

    /// DER.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        todo!()
    }

    /// Its key.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// Its dates.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }
}

impl Prepared {
    /// A certificate of `profile` for `public_key` under `issuer` (`None`: self-signed).
    ///
    /// # Errors
    /// When it would outlive its issuer, or the validity is empty.
    pub fn new(
        profile: &Profile<'_>,
        public_key: &PublicKey,
        validity: Validity,
        serial: SerialNumber,
        issuer: Option<&CaCertificate>,
    ) -> Result<Self, CertificateError> {
        todo!("{profile:?} {public_key:?} {validity:?} {serial:?} {issuer:?}")
    }

    /// SHA-256 of the to-be-signed bytes.
    #[must_use]
    pub fn tbs_sha256(&self) -> [u8; 32] {
        todo!("{}", self.tbs_der.len())
    }

    /// Signs it; the certificate, DER. Refuses a key that is not the issuer's.
    ///
    /// # Errors
    /// When the key cannot sign or is not the issuer's.
    pub fn sign<K: SigningKey>(self, key: &K) -> Result<Vec<u8>, SignError<K::Error>> {
        let _ = key;
        todo!()
    }
}

/// Why a prepared certificate was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError<E> {
    /// The key failed.
    #[error("the CA key cannot sign")]
    Key(#[source] E),
    /// The key is another's.
    #[error("the key is not the issuer's")]
    WrongKey,
}

/// What the engineer's side expects of an issued chain.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// The card's key.
    pub public_key: &'a PublicKey,
    /// The CN asked for.
    pub user: &'a UserName,
    /// The groups asked for, any order.
    pub groups: &'a [GroupName],
    /// The lifetime asked for: the certificate may live shorter, not longer.
    pub ttl: Ttl,
    /// The trust bundle, PEM: the root (or the root-less issuing CA).
    pub trust_bundle: &'a [u8],
    /// The time now.
    pub now: Timestamp,
}

/// A client certificate that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The leaf, DER.
    pub leaf_der: Vec<u8>,
    /// The whole chain as delivered, PEM, leaf first.
    pub chain_pem: String,
    /// Dates of the leaf.
    pub validity: Validity,
    /// SHA-256 of the leaf, the audit log's credential id.
    pub fingerprint: [u8; 32],
    /// Serial number, lower-case hex.
    pub serial: String,
}

/// Checks a delivered chain: key, CN, groups, EKU, chain to the trust bundle, real dates.
///
/// # Errors
/// What is not as expected.
pub fn verify_issued(
    chain_pem: &[u8],
    expected: &Expected<'_>,
) -> Result<Issued, CertificateError> {
    todo!("{chain_pem:?} {expected:?}")
}
