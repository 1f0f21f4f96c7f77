//! Proof that a key lives in a YubiKey, in the LAMPS CSR-attestation attribute id-aa-evidence.

use crate::{asn1, key, oid};
use const_oid::ObjectIdentifier;
use der::Tag;

/// The most certificates that evidence may carry besides the slot's own.
pub const MAX_INTERMEDIATES: usize = 4;

/// A slot's attestation certificate and what it chains through. Not yet verified: see [`crate::attestation::verify`].
///
/// The attribute's value is this profile of draft-ietf-lamps-csr-attestation's EvidenceBundle:
///
/// ```text
/// EvidenceBundle    ::= SEQUENCE { evidences SEQUENCE SIZE (1) OF EvidenceStatement,
///                                  certs     SEQUENCE SIZE (1..4) OF Certificate }
/// EvidenceStatement ::= SEQUENCE { type OBJECT IDENTIFIER (oid::YUBIKEY_PIV_EVIDENCE), stmt Certificate }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The slot's attestation certificate, DER.
    pub slot_certificate: Vec<u8>,
    /// The YubiKey's f9 certificate first, then any further intermediates, DER.
    pub intermediates: Vec<Vec<u8>>,
}

/// Why evidence could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvidenceError {
    /// Not one to [`MAX_INTERMEDIATES`] certificates.
    #[error("the evidence carries {0} certificates besides the slot's; 1 to 4 are read")]
    Certificates(usize),
    /// Not what the ASN.1 of [`Evidence`] says.
    #[error("the evidence is not the DER that is expected: {0}")]
    Der(#[from] der::Error),
    /// Evidence of another kind.
    #[error("the evidence is of an unknown type {0}")]
    Type(ObjectIdentifier),
}

impl Evidence {
    /// Reads an EvidenceBundle strictly. The certificates in it are only cut out, not read.
    ///
    /// # Errors
    /// When it is not exactly the DER of the ASN.1 above.
    pub fn from_der(der: &[u8]) -> Result<Self, EvidenceError> {
        let mut bundle = asn1::only(der, Tag::Sequence)?;
        let mut statements = bundle.inner(Tag::Sequence)?;
        let mut statement = statements.inner(Tag::Sequence)?;
        statements.finish()?;
        let kind: ObjectIdentifier = statement.read()?;
        if kind != oid::YUBIKEY_PIV_EVIDENCE {
            return Err(EvidenceError::Type(kind));
        }
        let slot_certificate = statement.whole(Tag::Sequence)?.to_vec();
        statement.finish()?;

        let mut certificates = bundle.inner(Tag::Sequence)?;
        bundle.finish()?;
        let mut intermediates = Vec::new();
        while !certificates.is_empty() {
            intermediates.push(certificates.whole(Tag::Sequence)?.to_vec());
        }
        if !(1..=MAX_INTERMEDIATES).contains(&intermediates.len()) {
            return Err(EvidenceError::Certificates(intermediates.len()));
        }
        Ok(Self {
            slot_certificate,
            intermediates,
        })
    }

    /// Writes the EvidenceBundle. Without intermediates, or with more than [`MAX_INTERMEDIATES`], no reader takes it.
    #[must_use]
    pub fn to_der(&self) -> Vec<u8> {
        let certificates: Vec<&[u8]> = self.intermediates.iter().map(Vec::as_slice).collect();
        let statement = asn1::sequence(&[
            &asn1::oid(oid::YUBIKEY_PIV_EVIDENCE),
            &self.slot_certificate,
        ]);
        asn1::sequence(&[
            &asn1::sequence(&[&statement]),
            &asn1::sequence(&certificates),
        ])
    }

    /// SHA-256 of the EvidenceBundle: with the key it speaks of, what a verified result may be remembered by.
    #[must_use]
    pub fn sha256(&self) -> [u8; 32] {
        key::sha256(&self.to_der())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOT: &[u8] = &[0x30, 3, 2, 1, 1];
    const F9: &[u8] = &[0x30, 3, 2, 1, 2];

    fn bundle(statements: &[&[u8]], certificates: &[&[u8]]) -> Vec<u8> {
        asn1::sequence(&[&asn1::sequence(statements), &asn1::sequence(certificates)])
    }

    fn statement(oid: ObjectIdentifier, parts: &[&[u8]]) -> Vec<u8> {
        asn1::sequence(&[&asn1::oid(oid), &parts.concat()])
    }

    #[test]
    fn evidence_is_read_as_it_was_written() {
        for count in 1..=MAX_INTERMEDIATES {
            let evidence = Evidence {
                slot_certificate: SLOT.to_vec(),
                intermediates: vec![F9.to_vec(); count],
            };
            assert_eq!(Evidence::from_der(&evidence.to_der()), Ok(evidence));
        }
    }

    #[test]
    fn nothing_but_one_statement_and_one_to_four_certificates_is_read() {
        let good = statement(oid::YUBIKEY_PIV_EVIDENCE, &[SLOT]);
        assert!(Evidence::from_der(&bundle(&[&good], &[F9])).is_ok());
        let hint = asn1::utf8_string("example.com");
        for hostile in [
            bundle(&[], &[F9]),
            bundle(&[&good, &good], &[F9]),
            bundle(&[&good], &[]),
            bundle(&[&good], &[F9; 5]),
            bundle(&[&good], &[&[5, 0]]),
            bundle(&[&statement(oid::CLAIMS, &[SLOT])], &[F9]),
            bundle(&[&statement(oid::YUBIKEY_PIV_EVIDENCE, &[])], &[F9]),
            bundle(
                &[&statement(oid::YUBIKEY_PIV_EVIDENCE, &[SLOT, &hint])],
                &[F9],
            ),
            bundle(
                &[&statement(oid::YUBIKEY_PIV_EVIDENCE, &[SLOT, SLOT])],
                &[F9],
            ),
            [bundle(&[&good], &[F9]), vec![0]].concat(),
            asn1::sequence(&[&asn1::sequence(&[&good])]),
        ] {
            assert!(Evidence::from_der(&hostile).is_err(), "{hostile:02x?}");
        }
    }
}
