//! Every object identifier that Touchstone itself defines or depends on.
//!
//! Own identifiers stand under the documentation arc 1.3.6.1.4.1.32473 (RFC 5612) until an arc is assigned.

use const_oid::ObjectIdentifier;

/// CSR attribute: [`crate::claims::Claims`].
pub const CLAIMS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.77.1");
/// Evidence statement type: a YubiKey PIV slot's attestation certificate.
pub const YUBIKEY_PIV_EVIDENCE: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.32473.77.2");
/// CSR attribute id-aa-evidence (LAMPS CSR attestation).
pub const EVIDENCE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.16.2.59");
/// Yubico's PIV attestation extensions: firmware version, three raw bytes.
pub const YUBICO_FIRMWARE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.3");
/// Yubico's PIV attestation extensions: serial number, DER INTEGER.
pub const YUBICO_SERIAL: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.7");
/// Yubico's PIV attestation extensions: PIN policy and touch policy, two raw bytes.
pub const YUBICO_POLICIES: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.8");
/// Yubico's PIV attestation extensions: form factor, one raw byte.
pub const YUBICO_FORM_FACTOR: ObjectIdentifier =
    ObjectIdentifier::new_unwrap("1.3.6.1.4.1.41482.3.9");
