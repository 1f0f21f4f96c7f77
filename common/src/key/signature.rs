//! Signature algorithms: which there are, and how strictly their identifiers are read.

use super::{
    KeyError,
    spki::{ED25519, read_algorithm},
};
use crate::asn1::{self, Fields};
use const_oid::ObjectIdentifier;
use std::fmt;

pub(super) const ECDSA_SHA256: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");
pub(super) const ECDSA_SHA384: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.3");
pub(super) const RSA_SHA256: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.11");

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
