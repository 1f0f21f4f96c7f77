//! Reading a SubjectPublicKeyInfo: each accepted key has exactly one accepted encoding.

use super::{KeyAlgorithm, KeyError};
use crate::asn1::{self, Fields};
use aws_lc_rs::signature as aws;
use const_oid::ObjectIdentifier;
use der::{
    Tag,
    asn1::{AnyRef, UintRef},
};

pub(super) const EC_PUBLIC_KEY: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
pub(super) const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
pub(super) const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
pub(super) const P384: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.132.0.34");
pub(super) const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

const RSA_EXPONENT: [u8; 3] = [1, 0, 1];
const RSA_BITS: std::ops::RangeInclusive<u32> = 2048..=8192;

/// A public key, read but for the check that the library makes of the point or number itself.
pub(super) struct Spki<'a> {
    pub(super) algorithm: KeyAlgorithm,
    pub(super) verification: &'static dyn aws::VerificationAlgorithm,
    /// The subjectPublicKey.
    pub(super) bits: &'a [u8],
}

impl<'a> Spki<'a> {
    pub(super) fn read(spki: &'a [u8]) -> Result<Self, KeyError> {
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
        Ok(Self {
            algorithm,
            verification,
            bits,
        })
    }
}

/// The fields of an AlgorithmIdentifier.
pub(super) fn read_algorithm<'a>(
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
