//! Proof that a key lives in a YubiKey, in the LAMPS CSR-attestation attribute id-aa-evidence.

/// A slot's attestation certificate and what it chains through. Not yet verified: see [`crate::attestation::verify`].
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
