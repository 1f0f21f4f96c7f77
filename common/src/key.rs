//! Public keys and signatures: what is accepted, and how it is verified.

use aws_lc_rs::{digest, signature as aws};
use const_oid::ObjectIdentifier;
use std::fmt;

pub(crate) use signature::Accept;
pub use signature::SignatureAlgorithm;
pub use software::{SoftwareKey, SoftwareKeyError};
use spki::Spki;

mod signature;
mod software;
mod spki;
#[cfg(test)]
mod tests;

/// The kinds of key that Touchstone accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyAlgorithm {
    /// Ed25519 (RFC 8410).
    Ed25519,
    /// ECDSA on NIST P-256.
    P256,
    /// ECDSA on NIST P-384.
    P384,
    /// RSA with e = 65537 and at least 2048 bits.
    Rsa {
        /// Length of the modulus in bits.
        bits: u32,
    },
}

impl KeyAlgorithm {
    /// Whether it is ECDSA: what EUCLEAK is about.
    #[must_use]
    pub const fn is_ecdsa(self) -> bool {
        matches!(self, Self::P256 | Self::P384)
    }
}

impl fmt::Display for KeyAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("Ed25519"),
            Self::P256 => f.write_str("P-256"),
            Self::P384 => f.write_str("P-384"),
            Self::Rsa { bits } => write!(f, "RSA-{bits}"),
        }
    }
}

/// A checked public key.
#[derive(Clone)]
pub struct PublicKey {
    spki_der: Vec<u8>,
    algorithm: KeyAlgorithm,
    // Where the subjectPublicKey's own bytes begin in `spki_der`: they run to its end.
    bits_at: usize,
    parsed: aws::ParsedPublicKey,
}

/// Why a key or a signature was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Another kind of key.
    #[error("is of an unknown kind ({0}); P-256, P-384, Ed25519 and RSA keys are accepted")]
    Algorithm(ObjectIdentifier),
    /// The signature does not verify.
    #[error("the signature does not verify")]
    BadSignature,
    /// Another curve.
    #[error("is on the curve {0}; P-256 and P-384 are accepted")]
    Curve(ObjectIdentifier),
    /// Not DER.
    #[error("is not strict DER: {0}")]
    Der(#[from] der::Error),
    /// Another RSA exponent.
    #[error("has an RSA exponent other than 65537")]
    Exponent,
    /// Not a point of the curve in uncompressed form, or an RSA modulus that cannot be one.
    #[error("is not a valid {0} public key")]
    Invalid(&'static str),
    /// Algorithm parameters that must not be there, or are not what they must be.
    #[error("has other algorithm parameters than its kind asks for")]
    Parameters,
    /// Too few or too many bits.
    #[error("has an RSA modulus of {0} bits; 2048 to 8192 are accepted")]
    RsaBits(u32),
    /// Another signature algorithm.
    #[error("the signature algorithm {0} is not accepted")]
    SignatureAlgorithm(ObjectIdentifier),
    /// An algorithm that does not fit the key.
    #[error("the signature algorithm {signature} does not fit a {key} key")]
    Unfit {
        /// The signature's.
        signature: SignatureAlgorithm,
        /// The key's.
        key: KeyAlgorithm,
    },
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo strictly.
    ///
    /// # Errors
    /// When it is not DER, not of an accepted kind, or (RSA) too small or of another exponent.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        let Spki {
            algorithm,
            verification,
            bits,
        } = Spki::read(spki)?;
        let parsed = aws::ParsedPublicKey::new(verification, bits)
            .map_err(|_| KeyError::Invalid(algorithm.kind()))?;
        Ok(Self {
            bits_at: spki.len() - bits.len(),
            spki_der: spki.to_vec(),
            algorithm,
            parsed,
        })
    }

    /// The kind of key.
    #[must_use]
    pub fn algorithm(&self) -> KeyAlgorithm {
        self.algorithm
    }

    /// The SubjectPublicKeyInfo, DER.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki_der
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_sha256(&self) -> [u8; 32] {
        sha256(&self.spki_der)
    }

    /// The subjectPublicKey.
    fn bits(&self) -> &[u8] {
        self.spki_der.get(self.bits_at..).unwrap_or_default()
    }

    /// The key identifier that certificates carry: the first 160 bits of the SHA-256 of the subjectPublicKey
    /// (RFC 7093 section 2, method 1).
    pub(crate) fn key_identifier(&self) -> [u8; 20] {
        let hash = sha256(self.bits());
        let mut identifier = [0; 20];
        for (to, from) in identifier.iter_mut().zip(hash) {
            *to = from;
        }
        identifier
    }

    /// The signature algorithm that this key is used with in requests and certificates.
    #[must_use]
    pub fn signature_algorithm(&self) -> SignatureAlgorithm {
        match self.algorithm {
            KeyAlgorithm::Ed25519 => SignatureAlgorithm::Ed25519,
            KeyAlgorithm::P256 => SignatureAlgorithm::EcdsaSha256,
            KeyAlgorithm::P384 => SignatureAlgorithm::EcdsaSha384,
            KeyAlgorithm::Rsa { .. } => SignatureAlgorithm::RsaSha256,
        }
    }

    /// As [`PublicKey::verify`], for signatures that need not fit the key in all respects.
    pub(crate) fn verify_accepting(
        &self,
        accept: Accept,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        match (accept, self.algorithm, algorithm) {
            (Accept::Attestations, KeyAlgorithm::P384, SignatureAlgorithm::EcdsaSha256) => {
                aws::UnparsedPublicKey::new(&aws::ECDSA_P384_SHA256_ASN1, self.bits())
                    .verify(message, signature)
                    .map_err(|_| KeyError::BadSignature)
            }
            (Accept::Attestations | Accept::Fitting, _, _) => {
                self.verify(algorithm, message, signature)
            }
        }
    }

    /// Verifies an X.509-encoded signature (ECDSA: DER SEQUENCE of r and s) over `message`.
    ///
    /// # Errors
    /// When the algorithm does not fit the key or the signature does not verify.
    pub fn verify(
        &self,
        algorithm: SignatureAlgorithm,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), KeyError> {
        if algorithm != self.signature_algorithm() {
            return Err(KeyError::Unfit {
                signature: algorithm,
                key: self.algorithm,
            });
        }
        self.parsed
            .verify_sig(message, signature)
            .map_err(|_| KeyError::BadSignature)
    }
}

impl KeyAlgorithm {
    const fn kind(self) -> &'static str {
        match self {
            Self::Ed25519 => "Ed25519",
            Self::P256 => "P-256",
            Self::P384 => "P-384",
            Self::Rsa { .. } => "RSA",
        }
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        // Every accepted key has exactly one accepted encoding.
        self.spki_der == other.spki_der
    }
}

impl Eq for PublicKey {}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({:?})", self.algorithm)
    }
}

/// A private key that signs and that nothing can be exported from: a PIV slot, a CA key in a file, a token.
pub trait SigningKey {
    /// What goes wrong when it signs.
    type Error;

    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs `message` (not a digest of it) with [`PublicKey::signature_algorithm`]; the signature as X.509 encodes it.
    ///
    /// # Errors
    /// When the card, token or key cannot sign.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Self::Error>;
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    for (to, from) in out
        .iter_mut()
        .zip(digest::digest(&digest::SHA256, bytes).as_ref())
    {
        *to = *from;
    }
    out
}
