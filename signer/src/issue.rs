//! What is signed: pure, the same input gives the same bytes. No kube, no tokio, no clock, no randomness.

use crate::{
    ca::{IssuingCa, authority::Signing, key::CaKeyError},
    review::Intent,
};
use jiff::{SignedDuration, Timestamp};
use touchstone_common::certificate::{
    self, CertificateError, Profile, SerialNumber, SignError, Validity,
};

/// How far back a certificate begins, for clocks that are a little behind: a minute at most, with the part of a second
/// that is cut off.
const BACKDATE: SignedDuration = SignedDuration::from_secs(59);

/// A client certificate that is ready to be signed, once. Its digest is recorded before the key signs.
#[derive(Debug)]
pub struct Prepared {
    certificate: certificate::Prepared,
}

/// A signed client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// Leaf and issuing certificate, PEM: what goes into `status.certificate`.
    pub chain_pem: String,
    /// SHA-256 of the leaf, lower-case hexadecimal.
    pub fingerprint: String,
    /// Serial number, lower-case hexadecimal.
    pub serial_number: String,
    /// Its dates.
    pub validity: Validity,
}

/// Why nothing is issued. Each message completes "failed to …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The certificate cannot be built.
    #[error("build the certificate")]
    Certificate(#[from] CertificateError),
    /// The dates leave the calendar.
    #[error("build the certificate: {0} is too far in the future")]
    Date(Timestamp),
    /// The key does not sign.
    #[error("sign the certificate")]
    Sign(#[from] SignError<CaKeyError>),
}

/// Builds the certificate for what was granted from `now` on, cut to the longest that the CA's leaves may live.
///
/// # Errors
/// When it would outlive the CA: it is refused, not shortened.
pub fn prepare(
    intent: &Intent,
    signing: &Signing<'_>,
    now: Timestamp,
    serial: SerialNumber,
) -> Result<Prepared, IssueError> {
    let second = Timestamp::from_second(now.as_second()).map_err(|_| IssueError::Date(now))?;
    let seconds = intent.ttl().as_secs().min(signing.longest_leaf.as_secs());
    let validity = Validity {
        not_before: second
            .checked_sub(BACKDATE)
            .map_err(|_| IssueError::Date(now))?,
        not_after: second
            .checked_add(SignedDuration::from_secs(i64::from(seconds)))
            .map_err(|_| IssueError::Date(now))?,
    };
    let profile = Profile::ClientLeaf {
        user: intent.user(),
        groups: intent.groups(),
    };
    let certificate = certificate::Prepared::new(
        &profile,
        intent.public_key(),
        validity,
        serial,
        Some(signing.ca.certificate()),
    )?;
    Ok(Prepared { certificate })
}

impl From<CaKeyError> for IssueError {
    fn from(error: CaKeyError) -> Self {
        Self::Sign(SignError::Key(error))
    }
}

impl IssueError {
    /// Whether the same may succeed later, with nothing changed here.
    #[must_use]
    pub fn is_retriable(&self) -> bool {
        match self {
            Self::Sign(SignError::Key(error)) => error.is_retriable(),
            Self::Certificate(_) | Self::Date(_) | Self::Sign(SignError::WrongKey) => false,
        }
    }
}

impl Prepared {
    /// SHA-256 of the bytes that will be signed.
    #[must_use]
    pub fn tbs_sha256(&self) -> [u8; 32] {
        self.certificate.tbs_sha256()
    }

    /// Signs it.
    ///
    /// # Errors
    /// When the key cannot sign, or is not the issuer's.
    pub fn sign(self, ca: &IssuingCa) -> Result<Issued, IssueError> {
        let serial_number = self.certificate.serial().to_hex();
        let validity = self.certificate.validity();
        let leaf = ca.sign(self.certificate)?;
        Ok(Issued {
            chain_pem: ca.chain(&leaf),
            fingerprint: crate::ca::fingerprint(&leaf),
            serial_number,
            validity,
        })
    }
}
