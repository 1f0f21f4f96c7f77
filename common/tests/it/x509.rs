//! Certificates by hand, right or wrong.

use crate::der::{BOOLEAN, OCTET_STRING, bits, oid, sequence, tlv};
use touchstone_common::key::{KeyAlgorithm, SigningKey as _, SoftwareKey};

/// A certificate in parts, each of which can be replaced.
#[derive(Clone)]
pub(crate) struct Parts {
    pub(crate) version: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) not_before: Vec<u8>,
    pub(crate) not_after: Vec<u8>,
    pub(crate) subject: Vec<u8>,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
    pub(crate) inner_algorithm: Option<Vec<u8>>,
    pub(crate) outer_algorithm: Option<Vec<u8>>,
}

impl Parts {
    /// Version 3, from 2026-05-06 06:00 to 07:30 UTC, no extensions.
    pub(crate) fn new(issuer: &[u8], subject: &[u8], key: &SoftwareKey) -> Self {
        Self {
            version: vec![2],
            issuer: issuer.to_vec(),
            not_before: utc_time("260506060000Z"),
            not_after: utc_time("260506073000Z"),
            subject: subject.to_vec(),
            spki: key.public_key().spki_der().to_vec(),
            extensions: Vec::new(),
            inner_algorithm: None,
            outer_algorithm: None,
        }
    }

    pub(crate) fn with(mut self, extension: Vec<u8>) -> Self {
        self.extensions.push(extension);
        self
    }

    pub(crate) fn sign(&self, key: &SoftwareKey) -> Vec<u8> {
        let fitting = match key.public_key().algorithm() {
            KeyAlgorithm::Ed25519 => "1.3.101.112",
            KeyAlgorithm::P256 => "1.2.840.10045.4.3.2",
            KeyAlgorithm::P384 => "1.2.840.10045.4.3.3",
            KeyAlgorithm::Rsa { .. } => panic!("no RSA keys here"),
        };
        let fitting = sequence(&[&oid(fitting)]);
        let algorithm = |given: &Option<Vec<u8>>| given.clone().unwrap_or_else(|| fitting.clone());
        let extensions = if self.extensions.is_empty() {
            Vec::new()
        } else {
            tlv(0xa3, &sequence(&[&self.extensions.concat()]))
        };
        let tbs = sequence(&[
            &tlv(0xa0, &tlv(2, &self.version)),
            &[2, 1, 1],
            &algorithm(&self.inner_algorithm),
            &self.issuer,
            &sequence(&[&self.not_before, &self.not_after]),
            &self.subject,
            &self.spki,
            &extensions,
        ]);
        let signature = key.sign(&tbs).unwrap();
        sequence(&[&tbs, &algorithm(&self.outer_algorithm), &bits(&signature)])
    }
}

pub(crate) fn utc_time(time: &str) -> Vec<u8> {
    tlv(0x17, time.as_bytes())
}

pub(crate) fn generalized_time(time: &str) -> Vec<u8> {
    tlv(0x18, time.as_bytes())
}

pub(crate) fn extension(dotted: &str, critical: bool, value: &[u8]) -> Vec<u8> {
    let flag = if critical {
        tlv(BOOLEAN, &[0xff])
    } else {
        Vec::new()
    };
    sequence(&[&oid(dotted), &flag, &tlv(OCTET_STRING, value)])
}

/// BasicConstraints of a CA.
pub(crate) fn ca(path_length: Option<u8>) -> Vec<u8> {
    let length = path_length.map_or_else(Vec::new, |length| vec![2, 1, length]);
    extension(
        "2.5.29.19",
        true,
        &sequence(&[&tlv(BOOLEAN, &[0xff]), &length]),
    )
}

/// BasicConstraints of anything else.
pub(crate) fn not_ca() -> Vec<u8> {
    extension("2.5.29.19", true, &sequence(&[]))
}

/// KeyUsage with these bits in its first byte.
pub(crate) fn key_usage(first: u8) -> Vec<u8> {
    let unused = u8::try_from(first.trailing_zeros()).unwrap();
    extension("2.5.29.15", true, &tlv(3, &[unused, first]))
}

/// ExtendedKeyUsage.
pub(crate) fn purposes(dotted: &[&str]) -> Vec<u8> {
    let purposes: Vec<Vec<u8>> = dotted.iter().map(|dotted| oid(dotted)).collect();
    extension("2.5.29.37", false, &sequence(&[&purposes.concat()]))
}

pub(crate) const CLIENT_AUTH: &str = "1.3.6.1.5.5.7.3.2";
pub(crate) const SERVER_AUTH: &str = "1.3.6.1.5.5.7.3.1";
pub(crate) const DIGITAL_SIGNATURE: u8 = 0x80;
pub(crate) const KEY_CERT_SIGN: u8 = 0x04;
