//! Attestations of real YubiKeys, up to Yubico's pinned roots.

use jiff::Timestamp;
use touchstone_common::{
    attestation::{AttestationError, Attested, PinPolicy, Roots, TouchPolicy, verify},
    evidence::Evidence,
    key::PublicKey,
};
use x509_cert::der::{Decode as _, Encode as _};

struct Device {
    slot: &'static [u8],
    f9: &'static [u8],
}

/// A YubiKey 5Ci, firmware 5.2.4: the old root, an f9 without BasicConstraints.
const OLD: Device = Device {
    slot: include_bytes!("data/attestation/yubikey_5ci_attestation.der"),
    f9: include_bytes!("data/attestation/yubikey_5ci_intermediate.der"),
};

/// A YubiKey 5C, firmware 5.7.4: the new root, through `Yubico PIV Attestation B 1`.
const NEW: Device = Device {
    slot: include_bytes!("data/attestation/yubikey_5c_5_7_4_attestation.der"),
    f9: include_bytes!("data/attestation/yubikey_5c_5_7_4_intermediate.der"),
};

fn now() -> Timestamp {
    "2026-05-06T07:08:09Z".parse().unwrap()
}

impl Device {
    fn key(&self) -> PublicKey {
        let certificate = x509_cert::Certificate::from_der(self.slot).unwrap();
        let spki = certificate.tbs_certificate().subject_public_key_info();
        PublicKey::from_spki_der(&spki.to_der().unwrap()).unwrap()
    }

    fn evidence(&self) -> Evidence {
        Evidence {
            slot_certificate: self.slot.to_vec(),
            intermediates: vec![self.f9.to_vec()],
        }
    }

    fn verify(&self, now: Timestamp) -> Result<Attested, AttestationError> {
        verify(&self.evidence(), &self.key(), &Roots::yubico(), now)
    }
}

#[test]
fn a_real_key_before_5_7_4_is_attested_by_the_old_root() {
    let attested = OLD.verify(now()).unwrap();
    assert_eq!(attested.serial, 11_778_047);
    assert_eq!(attested.firmware.to_string(), "5.2.4");
    assert_eq!(attested.slot.to_string(), "93");
    assert_eq!(attested.pin_policy, PinPolicy::Never);
    assert_eq!(attested.touch_policy, TouchPolicy::Cached);
    assert!(!attested.test_root);
}

#[test]
fn a_real_key_from_5_7_4_on_is_attested_by_the_new_root() {
    let attested = NEW.verify(now()).unwrap();
    assert_eq!(attested.serial, 33_162_554);
    assert_eq!(attested.firmware.to_string(), "5.7.4");
    assert_eq!(attested.slot.to_string(), "82");
    assert_eq!(attested.pin_policy, PinPolicy::Never);
    assert_eq!(attested.touch_policy, TouchPolicy::Always);
    assert_eq!(attested.form_factor.unwrap().to_string(), "USB-C keychain");
}
