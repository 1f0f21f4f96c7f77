//! What the engineer claims, in a CSR attribute under the card's signature.

use crate::{name::ClusterName, ttl::Ttl};
use jiff::Timestamp;

/// Version, cluster, ttl, reason, nonce and time of a request.
///
/// ```text
/// Claims ::= SEQUENCE {
///   version        INTEGER (1),
///   cluster        UTF8String (SIZE (1..64)),
///   ttlSeconds     INTEGER (600..86400),
///   reason         UTF8String (SIZE (0..512)),
///   nonce          OCTET STRING (SIZE (32)),
///   issuedAt       GeneralizedTime,
///   readTokenHash  [0] IMPLICIT OCTET STRING (SIZE (32)) OPTIONAL }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claims {
    /// The cluster the certificate is for.
    pub cluster: ClusterName,
    /// The lifetime asked for.
    pub ttl: Ttl,
    /// Why, in the engineer's words.
    pub reason: Reason,
    /// Random, new for each request.
    pub nonce: [u8; 32],
    /// When the request was signed, by the engineer's clock; whole seconds.
    pub issued_at: Timestamp,
    /// SHA-256 of the 32 bytes of the one-time token with which the creator reads the request back.
    pub read_token_sha256: Option<[u8; 32]>,
}

/// A reason: at most 512 characters, no controls, bidi or zero-width characters, no edge spaces, NFC. May be empty.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Reason(String);

/// Why claims were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// Not what the ASN.1 above says.
    #[error("the claims are not the DER that is expected: {0}")]
    Der(String),
}

impl Reason {
    /// Reads a reason strictly.
    ///
    /// # Errors
    /// When it is too long or has characters that a terminal or a log could show as something else.
    pub fn parse(text: &str) -> Result<Self, ClaimsError> {
        todo!("{text}")
    }

    /// The reason as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
