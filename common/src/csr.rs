//! Certificate signing requests: building one, and reading one strictly.

use crate::{
    claims::Claims,
    evidence::Evidence,
    key::{PublicKey, SigningKey},
    name::{GroupName, UserName},
};

/// The most bytes a request may have, as DER and as PEM.
pub const MAX_CSR_BYTES: usize = 16 * 1024;

/// What an engineer asks, before the card signs it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// Who.
    pub user: UserName,
    /// Which groups; at least one.
    pub groups: Vec<GroupName>,
    /// The conditions.
    pub claims: Claims,
    /// The proof of the key, if it is in a card.
    pub evidence: Option<Evidence>,
}

impl Draft {
    /// Signs the request; DER.
    ///
    /// # Errors
    /// The key's own error when it cannot sign.
    pub fn sign<K: SigningKey>(&self, key: &K) -> Result<Vec<u8>, K::Error> {
        let _ = key;
        todo!()
    }
}

/// One PEM block `CERTIFICATE REQUEST`.
#[must_use]
pub fn to_pem(der: &[u8]) -> String {
    todo!("{der:?}")
}

/// A request that was read strictly and whose signature verified.
#[derive(Clone, Debug)]
pub struct Request {
    user: UserName,
    groups: Vec<GroupName>,
    public_key: PublicKey,
    claims: Claims,
    evidence: Option<Evidence>,
    sha256: [u8; 32],
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// More than [`MAX_CSR_BYTES`].
    #[error("the request has {0} bytes; at most 16384 are read")]
    TooLong(usize),
}

impl Request {
    /// Reads exactly one PEM block and nothing else.
    ///
    /// # Errors
    /// When anything at all is not as the design's strict reading asks.
    pub fn from_pem(pem: &[u8]) -> Result<Self, CsrError> {
        todo!("{pem:?}")
    }

    /// Reads DER without trailing bytes.
    ///
    /// # Errors
    /// As [`Request::from_pem`].
    pub fn from_der(der: &[u8]) -> Result<Self, CsrError> {
        todo!("{der:?}")
    }

    /// The CN.
    #[must_use]
    pub fn user(&self) -> &UserName {
        &self.user
    }

    /// The O values, sorted, none twice.
    #[must_use]
    pub fn groups(&self) -> &[GroupName] {
        &self.groups
    }

    /// The key that signed it.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// The claims.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// The evidence, not yet verified.
    #[must_use]
    pub fn evidence(&self) -> Option<&Evidence> {
        self.evidence.as_ref()
    }

    /// SHA-256 of the DER.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        self.sha256
    }
}
