//! Public keys and signatures: what is accepted, and how it is verified.

use crate::asn1::{self, Fields};
use aws_lc_rs::{digest, signature as aws};
use const_oid::ObjectIdentifier;
use der::{
    Tag,
    asn1::{AnyRef, UintRef},
};
use std::fmt;

pub use software::{SoftwareKey, SoftwareKeyError};

mod software;
#[cfg(test)]
mod tests;

const EC_PUBLIC_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
const ECDSA_SHA384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const RSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");

const RSA_EXPONENT: [u8; 3] = [1, 0, 1];
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

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

/// A signature algorithm, as an X.509 AlgorithmIdentifier names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignatureAlgorithm {
    /// ecdsa-with-SHA256.
    EcdsaSha256,
    /// ecdsa-with-SHA384.
    EcdsaSha384,
    /// Ed25519.
    Ed25519,
    /// sha256WithRSAEncryption.
    RsaSha256,
}

/// Which signatures on a certificate or request are accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accept {
    /// What YubiKeys and Yubico's own CAs make, too: one intermediate omits the NULL parameter of RSA, and an f9 key on
    /// P-384 signs with SHA-256 (<https://docs.yubico.com/hardware/oid/oid-piv-arc.html>).
    Attestations,
    /// The one algorithm that fits the key, its identifier exactly as RFC 4055 section 5 and RFC 5758 section 3.2 ask.
    Fitting,
}

impl fmt::Display for SignatureAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::EcdsaSha256 => "ecdsa-with-SHA256",
            Self::EcdsaSha384 => "ecdsa-with-SHA384",
            Self::Ed25519 => "Ed25519",
            Self::RsaSha256 => "sha256WithRSAEncryption",
        })
    }
}

impl SignatureAlgorithm {
    /// Reads the contents of an AlgorithmIdentifier.
    pub(crate) fn read(mut fields: Fields<'_>, accept: Accept) -> Result<Self, KeyError> {
        let (oid, parameters) = read_algorithm(&mut fields)?;
        fields.finish()?;
        let algorithm = match oid {
            ECDSA_SHA256 => Self::EcdsaSha256,
            ECDSA_SHA384 => Self::EcdsaSha384,
            ED25519 => Self::Ed25519,
            RSA_SHA256 => Self::RsaSha256,
            other => return Err(KeyError::SignatureAlgorithm(other)),
        };
        let fits = match (algorithm, parameters) {
            (Self::RsaSha256, Some(parameters)) => parameters.is_null(),
            (Self::RsaSha256, None) => accept == Accept::Attestations,
            (Self::EcdsaSha256 | Self::EcdsaSha384 | Self::Ed25519, parameters) => {
                parameters.is_none()
            }
        };
        if fits {
            Ok(algorithm)
        } else {
            Err(KeyError::Parameters)
        }
    }

    /// The AlgorithmIdentifier, DER.
    pub(crate) fn to_der(self) -> Vec<u8> {
        let (oid, parameters): (_, &[u8]) = match self {
            Self::EcdsaSha256 => (ECDSA_SHA256, &[]),
            Self::EcdsaSha384 => (ECDSA_SHA384, &[]),
            Self::Ed25519 => (ED25519, &[]),
            Self::RsaSha256 => (RSA_SHA256, &[5, 0]),
        };
        asn1::sequence(&[&asn1::oid(oid), parameters])
    }
}

impl PublicKey {
    /// Reads a SubjectPublicKeyInfo strictly.
    ///
    /// # Errors
    /// When it is not DER, not of an accepted kind, or (RSA) too small or of another exponent.
    pub fn from_spki_der(spki: &[u8]) -> Result<Self, KeyError> {
        let mut fields = asn1::only(spki, Tag::Sequence)?;
        let mut algorithm = fields.inner(Tag::Sequence)?;
        let (oid, parameters) = read_algorithm(&mut algorithm)?;
        algorithm.finish()?;
        let bits = asn1::whole_bits(&mut fields)?;
        fields.finish()?;

        let (algorithm, verification): (_, &'static dyn aws::VerificationAlgorithm) = match oid {
            EC_PUBLIC_KEY => match named_curve(parameters)? {
                P256 => {
                    check_point(bits, 32, "P-256")?;
                    (KeyAlgorithm::P256, &aws::ECDSA_P256_SHA256_ASN1)
                }
                P384 => {
                    check_point(bits, 48, "P-384")?;
                    (KeyAlgorithm::P384, &aws::ECDSA_P384_SHA384_ASN1)
                }
                other => return Err(KeyError::Curve(other)),
            },
            ED25519 => {
                if parameters.is_some() {
                    return Err(KeyError::Parameters);
                }
                check_ed25519(bits)?;
                (KeyAlgorithm::Ed25519, &aws::ED25519)
            }
            RSA => {
                if !parameters.is_some_and(AnyRef::is_null) {
                    return Err(KeyError::Parameters);
                }
                let bits = read_rsa(bits)?;
                (KeyAlgorithm::Rsa { bits }, &aws::RSA_PKCS1_2048_8192_SHA256)
            }
            other => return Err(KeyError::Algorithm(other)),
        };
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

/// The fields of an AlgorithmIdentifier.
fn read_algorithm<'a>(
    fields: &mut Fields<'a>,
) -> Result<(ObjectIdentifier, Option<AnyRef<'a>>), der::Error> {
    let oid = fields.read()?;
    let parameters = if fields.is_empty() {
        None
    } else {
        Some(fields.any()?)
    };
    Ok((oid, parameters))
}

/// RFC 5480 section 2.1.1: only the name of a curve, never its parameters written out (CVE-2020-0601).
fn named_curve(parameters: Option<AnyRef<'_>>) -> Result<ObjectIdentifier, KeyError> {
    let parameters = parameters.ok_or(KeyError::Parameters)?;
    parameters
        .decode_as::<ObjectIdentifier>()
        .map_err(|_| KeyError::Parameters)
}

/// SEC 1 section 2.3.3: the uncompressed form. That the point is on the curve is checked when it is parsed.
fn check_point(bits: &[u8], field_bytes: usize, name: &'static str) -> Result<(), KeyError> {
    if bits.len() == 1 + 2 * field_bytes && bits.first() == Some(&4) {
        Ok(())
    } else {
        Err(KeyError::Invalid(name))
    }
}

/// RFC 8032 section 5.1.2: 32 bytes. Points of small order are refused: a signature under them says nothing of the
/// message.
fn check_ed25519(bits: &[u8]) -> Result<(), KeyError> {
    if bits.len() == 32 && !ed25519_small_order(bits) {
        Ok(())
    } else {
        Err(KeyError::Invalid("Ed25519"))
    }
}

/// Whether these are the y coordinate of a point of order 1, 2, 4 or 8, whatever the sign of x, canonical or not.
fn ed25519_small_order(bits: &[u8]) -> bool {
    const ORDER_8: [[u8; 32]; 2] = [
        [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef,
            0x98, 0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88,
            0x6d, 0x53, 0xfc, 0x05,
        ],
        [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10,
            0x67, 0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77,
            0x92, 0xac, 0x03, 0x7a,
        ],
    ];
    let mut y = [0; 32];
    for (to, from) in y.iter_mut().zip(bits) {
        *to = *from;
    }
    if let Some(last) = y.last_mut() {
        *last &= 0x7f;
    }
    // y = 0, 1, -1 and their forms that are not reduced: p and p + 1, where p = 2^255 - 19.
    let near_zero = matches!(y, [0 | 1, rest @ ..] if rest == [0; 31]);
    let near_p = matches!(y, [0xec..=0xee, rest @ .., 0x7f] if rest == [0xff; 30]);
    near_zero || near_p || ORDER_8.contains(&y)
}

/// RSAPublicKey (RFC 8017 appendix A.1.1); the modulus' bits.
fn read_rsa(bits: &[u8]) -> Result<u32, KeyError> {
    let mut fields = asn1::only(bits, Tag::Sequence)?;
    let modulus: UintRef<'_> = fields.read()?;
    let exponent: UintRef<'_> = fields.read()?;
    fields.finish()?;
    let modulus = modulus.as_bytes();
    let leading = modulus.first().map_or(0, |first| first.leading_zeros());
    let length = u32::try_from(modulus.len())
        .ok()
        .and_then(|bytes| bytes.checked_mul(8))
        .map_or(u32::MAX, |bits| bits.saturating_sub(leading));
    if !RSA_BITS.contains(&length) {
        return Err(KeyError::RsaBits(length));
    }
    if exponent.as_bytes() != RSA_EXPONENT {
        return Err(KeyError::Exponent);
    }
    Ok(length)
}
