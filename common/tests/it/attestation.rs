//! Attestations of real YubiKeys, up to Yubico's pinned roots.

use jiff::Timestamp;
use touchstone_common::{
    attestation::{AttestationError, Attested, PinPolicy, Roots, TouchPolicy, verify},
    certificate::{self, from_pem_bundle},
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

#[test]
fn an_attestation_of_another_key_is_refused() {
    assert_eq!(
        verify(&OLD.evidence(), &NEW.key(), &Roots::yubico(), now()),
        Err(AttestationError::KeyMismatch)
    );
}

#[test]
fn the_two_devices_do_not_vouch_for_each_other() {
    let mixed = Evidence {
        slot_certificate: OLD.slot.to_vec(),
        intermediates: vec![NEW.f9.to_vec()],
    };
    assert!(verify(&mixed, &OLD.key(), &Roots::yubico(), now()).is_err());
    // A real slot's certificate in the place of the f9.
    let chained = Evidence {
        slot_certificate: OLD.slot.to_vec(),
        intermediates: vec![OLD.slot.to_vec(), OLD.f9.to_vec()],
    };
    assert_eq!(
        verify(&chained, &OLD.key(), &Roots::yubico(), now()),
        Err(AttestationError::NotCa("f9 certificate"))
    );
}

#[test]
fn before_and_after_its_dates_a_real_attestation_is_refused() {
    for (device, time) in [
        (&OLD, "2016-03-13T23:59:59Z"),
        (&OLD, "2052-04-17T00:00:01Z"),
        (&NEW, "2024-11-30T23:59:59Z"),
    ] {
        assert!(matches!(
            device.verify(time.parse().unwrap()),
            Err(AttestationError::Dates(_))
        ));
    }
    assert!(
        OLD.verify("2052-04-17T00:00:00.5Z".parse().unwrap())
            .is_ok()
    );
    assert!(NEW.verify(Timestamp::MAX).is_ok());
}

#[test]
fn every_changed_bit_of_a_real_attestation_is_noticed() {
    let key = OLD.key();
    let roots = Roots::yubico();
    for index in 0..OLD.slot.len() {
        let mut evidence = OLD.evidence();
        evidence.slot_certificate[index] ^= 1;
        assert!(verify(&evidence, &key, &roots, now()).is_err(), "{index}");
    }
    for index in 0..OLD.f9.len() {
        let mut evidence = OLD.evidence();
        evidence.intermediates[0][index] ^= 1;
        assert!(verify(&evidence, &key, &roots, now()).is_err(), "{index}");
    }
}

#[test]
fn the_shipped_roots_are_the_pinned_ones() {
    for (pem, fingerprint) in [
        (
            include_bytes!("../../src/attestation/roots/yubico-piv-root-ca-263751.pem").as_slice(),
            "63ece914e54dd87915f34033c85af4c0696ba1512f8add66ced738331207b546",
        ),
        (
            include_bytes!("../../src/attestation/roots/yubico-attestation-root-1.pem"),
            "62760c6a6ef91679f454c8902b80fd009825b3f25da90f1fbace2ec6586cd5a8",
        ),
    ] {
        let [der] = <[Vec<u8>; 1]>::try_from(from_pem_bundle(pem).unwrap()).unwrap();
        assert_eq!(hex::encode(certificate::fingerprint(&der)), fingerprint);
    }
}

#[test]
fn yubicos_intermediates_may_be_sent_along() {
    let pinned = [
        include_bytes!("../../src/attestation/roots/yubico-piv-attestation-b-1.pem").as_slice(),
        include_bytes!("../../src/attestation/roots/yubico-attestation-intermediate-b-1.pem"),
    ];
    let mut evidence = NEW.evidence();
    for pem in pinned {
        evidence.intermediates.extend(from_pem_bundle(pem).unwrap());
    }
    assert!(verify(&evidence, &NEW.key(), &Roots::yubico(), now()).is_ok());
}
