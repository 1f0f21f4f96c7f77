//! Attestations that prove nothing, from a virtual vendor whose root the operator configured.

use crate::{
    der::{UTF8_STRING, cn, oid, rdn, sequence},
    support::now,
    x509::{KEY_CERT_SIGN, Parts, ca, extension, generalized_time, key_usage, not_ca, utc_time},
};
use touchstone_common::{
    attestation::{AttestationError, Attested, PinPolicy, Roots, TouchPolicy, verify},
    certificate::{ReadError, to_pem},
    evidence::Evidence,
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
};

const FIRMWARE: &str = "1.3.6.1.4.1.41482.3.3";
const SERIAL: &str = "1.3.6.1.4.1.41482.3.7";
const POLICIES: &str = "1.3.6.1.4.1.41482.3.8";
const FORM_FACTOR: &str = "1.3.6.1.4.1.41482.3.9";

fn key() -> SoftwareKey {
    SoftwareKey::generate(KeyAlgorithm::P256).unwrap()
}

fn name(text: &str) -> Vec<u8> {
    sequence(&[&cn(text)])
}

/// What a slot's certificate says.
fn facts() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (FIRMWARE, vec![5, 7, 1]),
        (SERIAL, vec![2, 4, 0, 0xbc, 0x61, 0x4e]),
        (POLICIES, vec![2, 2]),
        (FORM_FACTOR, vec![3]),
    ]
}

/// A vendor: a root, an f9 key under it and a slot key under that.
struct Vendor {
    root_key: SoftwareKey,
    root: Parts,
    f9_key: SoftwareKey,
    f9: Parts,
    slot_key: SoftwareKey,
    slot_name: Vec<u8>,
    facts: Vec<(&'static str, Vec<u8>)>,
}

impl Vendor {
    fn new() -> Self {
        let (root_key, f9_key, slot_key) = (key(), key(), key());
        let root = Parts::new(&name("Test root"), &name("Test root"), &root_key)
            .with(ca(Some(1)))
            .with(key_usage(KEY_CERT_SIGN));
        let f9 = Parts::new(
            &name("Test root"),
            &name("YubiKey PIV Attestation"),
            &f9_key,
        )
        .with(extension(FIRMWARE, false, &[5, 7, 1]))
        .with(ca(Some(0)));
        Self {
            root_key,
            root,
            f9_key,
            f9,
            slot_key,
            slot_name: name("YubiKey PIV Attestation 9a"),
            facts: facts(),
        }
    }

    fn roots(&self) -> Roots {
        Roots::yubico()
            .with_test_root(to_pem(&self.root.sign(&self.root_key)).as_bytes())
            .unwrap()
    }

    fn slot_parts(&self) -> Parts {
        let mut slot = Parts::new(&self.f9.subject, &self.slot_name, &self.slot_key);
        for (oid, value) in &self.facts {
            slot = slot.with(extension(oid, false, value));
        }
        slot
    }

    fn slot(&self) -> Vec<u8> {
        self.slot_parts().sign(&self.f9_key)
    }

    fn f9(&self) -> Vec<u8> {
        self.f9.sign(&self.root_key)
    }

    fn verify_chain(
        &self,
        slot: Vec<u8>,
        intermediates: Vec<Vec<u8>>,
    ) -> Result<Attested, AttestationError> {
        let evidence = Evidence {
            slot_certificate: slot,
            intermediates,
        };
        verify(&evidence, self.slot_key.public_key(), &self.roots(), now())
    }

    fn verify(&self) -> Result<Attested, AttestationError> {
        self.verify_chain(self.slot(), vec![self.f9()])
    }

    fn refusal(&self) -> AttestationError {
        self.verify().unwrap_err()
    }

    fn with_fact(fact: &'static str, value: &[u8]) -> Self {
        let mut vendor = Self::new();
        for (oid, old) in &mut vendor.facts {
            if *oid == fact {
                *old = value.to_vec();
            }
        }
        vendor
    }

    fn without_fact(fact: &str) -> Self {
        let mut vendor = Self::new();
        vendor.facts.retain(|(oid, _)| *oid != fact);
        vendor
    }
}

#[test]
fn the_attestation_that_the_attacks_start_from_is_believed_where_its_root_is_configured() {
    let vendor = Vendor::new();
    let attested = vendor.verify().unwrap();
    assert_eq!(attested.serial, 12_345_678);
    assert_eq!(attested.slot.to_string(), "9a");
    assert_eq!(attested.pin_policy, PinPolicy::Once);
    assert_eq!(attested.touch_policy, TouchPolicy::Always);
    assert!(attested.test_root);
    assert_eq!(attested.valid.not_after.to_string(), "2026-05-06T07:30:00Z");
}

#[test]
fn a_root_that_no_one_configured_is_not_believed() {
    let vendor = Vendor::new();
    let evidence = Evidence {
        slot_certificate: vendor.slot(),
        intermediates: vec![vendor.f9(), vendor.root.sign(&vendor.root_key)],
    };
    let key = vendor.slot_key.public_key();
    assert_eq!(
        verify(&evidence, key, &Roots::yubico(), now()),
        Err(AttestationError::UnknownRoot)
    );
    assert!(verify(&evidence, key, &vendor.roots(), now()).is_ok());
    // Another vendor under the same name.
    assert_eq!(
        verify(&evidence, key, &Vendor::new().roots(), now()),
        Err(AttestationError::UnknownRoot)
    );
}

#[test]
fn an_attestation_of_another_key_is_refused() {
    let vendor = Vendor::new();
    let evidence = Evidence {
        slot_certificate: vendor.slot(),
        intermediates: vec![vendor.f9()],
    };
    assert_eq!(
        verify(&evidence, key().public_key(), &vendor.roots(), now()),
        Err(AttestationError::KeyMismatch)
    );
}

#[test]
fn an_extension_that_is_missing_is_a_refusal_and_never_a_zero() {
    for (fact, what) in [
        (FIRMWARE, "firmware version"),
        (SERIAL, "serial number"),
        (POLICIES, "PIN and touch policy"),
    ] {
        assert_eq!(
            Vendor::without_fact(fact).refusal(),
            AttestationError::Missing(what)
        );
    }
    let attested = Vendor::without_fact(FORM_FACTOR).verify().unwrap();
    assert_eq!(attested.form_factor, None);
}

#[test]
fn an_extension_of_another_length_or_value_is_refused() {
    for (fact, values) in [
        (FIRMWARE, &[&[][..], &[5, 7], &[5, 7, 1, 0]][..]),
        (
            SERIAL,
            &[
                &[],
                &[2, 0],
                &[0, 0xbc, 0x61, 0x4e],
                &[2, 4, 0, 0x3c, 0x61, 0x4e],
                &[2, 4, 0xff, 0xbc, 0x61, 0x4e],
                &[2, 5, 1, 0, 0, 0, 0],
                &[2, 1, 1, 0],
                &[4, 4, 0, 0xbc, 0x61, 0x4e],
            ],
        ),
        (
            POLICIES,
            &[&[], &[2], &[2, 2, 2], &[0, 2], &[6, 2], &[2, 0], &[2, 4]],
        ),
        (FORM_FACTOR, &[&[], &[3, 3]]),
    ] {
        for value in values {
            assert!(
                matches!(
                    Vendor::with_fact(fact, value).refusal(),
                    AttestationError::Extension(_)
                ),
                "{fact} {value:?}"
            );
        }
    }
}

#[test]
fn an_extension_that_stands_there_twice_is_refused() {
    for (fact, value) in facts() {
        let mut vendor = Vendor::new();
        vendor.facts.push((fact, value));
        assert!(matches!(
            vendor.refusal(),
            AttestationError::Certificate {
                error: ReadError::DuplicateExtension(_),
                ..
            }
        ));
    }
}

#[test]
fn every_policy_that_yubico_defines_is_read() {
    for (pin, expected) in [
        (1, PinPolicy::Never),
        (2, PinPolicy::Once),
        (3, PinPolicy::Always),
        (4, PinPolicy::MatchOnce),
        (5, PinPolicy::MatchAlways),
    ] {
        let vendor = Vendor::with_fact(POLICIES, &[pin, 1]);
        assert_eq!(vendor.verify().unwrap().pin_policy, expected);
    }
    for (touch, expected) in [
        (1, TouchPolicy::Never),
        (2, TouchPolicy::Always),
        (3, TouchPolicy::Cached),
    ] {
        let vendor = Vendor::with_fact(POLICIES, &[1, touch]);
        assert_eq!(vendor.verify().unwrap().touch_policy, expected);
    }
}

#[test]
fn card_authentication_the_attestation_slot_and_names_that_are_no_slot_are_refused() {
    for text in [
        "YubiKey PIV Attestation 9e",
        "YubiKey PIV Attestation f9",
        "YubiKey PIV Attestation 9d",
        "YubiKey PIV Attestation 9A",
        "YubiKey PIV Attestation 9a ",
        "YubiKey PIV Attestation  9a",
        "YubiKey PIV Attestation 9a9c",
        "YubiKey PIV Attestation",
        "yubikey PIV Attestation 9a",
    ] {
        let mut vendor = Vendor::new();
        vendor.slot_name = name(text);
        assert_eq!(vendor.refusal(), AttestationError::Slot, "{text}");
    }
    for subject in [
        sequence(&[]),
        sequence(&[
            &cn("YubiKey PIV Attestation 9e"),
            &cn("YubiKey PIV Attestation 9a"),
        ]),
        sequence(&[&rdn("2.5.4.10", UTF8_STRING, b"YubiKey PIV Attestation 9a")]),
    ] {
        let mut vendor = Vendor::new();
        vendor.slot_name = subject;
        assert_eq!(vendor.refusal(), AttestationError::Slot);
    }
    for text in ["9a", "9c", "82", "95"] {
        let mut vendor = Vendor::new();
        vendor.slot_name = name(&format!("YubiKey PIV Attestation {text}"));
        assert_eq!(vendor.verify().unwrap().slot.to_string(), text);
    }
}

#[test]
fn a_leaf_that_a_slot_key_signed_is_refused() {
    // The attacker's own YubiKey attests a key in a slot; with it they sign an attestation of a key in no YubiKey, which
    // speaks of the victim's serial number.
    let mut attacker = Vendor::new();
    attacker.f9 = Parts {
        extensions: vec![extension(FIRMWARE, false, &[5, 2, 4])],
        ..attacker.f9
    };
    assert!(attacker.verify().is_ok());
    let software_key = key();
    let mut forged = Parts::new(&attacker.slot_name, &attacker.slot_name, &software_key);
    for (fact, value) in facts() {
        forged = forged.with(extension(fact, false, &value));
    }
    let evidence = Evidence {
        slot_certificate: forged.sign(&attacker.slot_key),
        intermediates: vec![attacker.slot(), attacker.f9()],
    };
    assert_eq!(
        verify(
            &evidence,
            software_key.public_key(),
            &attacker.roots(),
            now()
        ),
        Err(AttestationError::NotCa("f9 certificate"))
    );
}

#[test]
fn two_f9_certificates_in_a_row_are_refused() {
    // An f9 without BasicConstraints, whose key its owner replaced, signs a second one.
    for constraints in [None, Some(ca(Some(0))), Some(ca(None)), Some(not_ca())] {
        let vendor = Vendor::new();
        let first_key = key();
        let mut first = Parts::new(&vendor.root.subject, &name("First"), &first_key);
        first.extensions.extend(constraints);
        first
            .extensions
            .push(extension(FIRMWARE, false, &[5, 2, 4]));
        let mut second = vendor.f9.clone();
        second.issuer = name("First");
        let refused = vendor.verify_chain(
            vendor.slot(),
            vec![second.sign(&first_key), first.sign(&vendor.root_key)],
        );
        assert!(
            matches!(refused, Err(AttestationError::NotCa(_))),
            "{refused:?}"
        );
    }
}

#[test]
fn an_f9_that_says_it_is_no_ca_is_refused() {
    let mut vendor = Vendor::new();
    vendor.f9.extensions = vec![not_ca()];
    assert_eq!(vendor.refusal(), AttestationError::NotCa("f9 certificate"));
    vendor.f9.extensions = vec![ca(Some(0)), key_usage(0x80)];
    assert_eq!(vendor.refusal(), AttestationError::NotCa("f9 certificate"));
}

#[test]
fn an_unpinned_intermediate_is_a_ca_and_leaves_room_for_what_is_below() {
    let mut vendor = Vendor::new();
    vendor.root.extensions = vec![ca(None)];
    let middle_key = key();
    let subject = name("Yubico PIV Attestation X 1");
    vendor.f9.issuer = subject.clone();
    let f9 = vendor.f9.sign(&middle_key);
    let middle = |extensions: Vec<Vec<u8>>| {
        Parts {
            extensions,
            ..Parts::new(&vendor.root.subject, &subject, &middle_key)
        }
        .sign(&vendor.root_key)
    };
    let verify = |middle| vendor.verify_chain(vendor.slot(), vec![f9.clone(), middle]);
    assert!(verify(middle(vec![ca(None)])).is_ok());
    assert!(verify(middle(vec![ca(Some(1))])).is_ok());
    let no = AttestationError::NotCa("intermediate certificate");
    assert_eq!(verify(middle(vec![ca(Some(0))])), Err(no.clone()));
    assert_eq!(verify(middle(vec![not_ca()])), Err(no.clone()));
    assert_eq!(verify(middle(vec![key_usage(0x04)])), Err(no.clone()));
    assert_eq!(verify(middle(vec![ca(None), key_usage(0x80)])), Err(no));
    assert_eq!(
        vendor.verify_chain(vendor.slot(), vec![f9.clone()]),
        Err(AttestationError::UnknownRoot)
    );
    // The root's own path length counts too.
    let mut vendor = vendor;
    vendor.root.extensions = vec![ca(Some(1))];
    let middle = Parts::new(&vendor.root.subject, &subject, &middle_key).with(ca(None));
    assert_eq!(
        vendor.verify_chain(vendor.slot(), vec![f9, middle.sign(&vendor.root_key)]),
        Err(AttestationError::NotCa("attestation root"))
    );
}

#[test]
fn swapped_and_mixed_chains_are_refused() {
    let (one, two) = (Vendor::new(), Vendor::new());
    let bad = |result| matches!(result, Err(AttestationError::BadSignature { .. }));
    // Another device's f9 under the same names.
    assert!(bad(one.verify_chain(one.slot(), vec![two.f9()])));
    // The two certificates in each other's place.
    assert_eq!(
        one.verify_chain(one.f9(), vec![one.slot()]),
        Err(AttestationError::KeyMismatch)
    );
    assert_eq!(
        one.verify_chain(one.slot(), vec![]),
        Err(AttestationError::Missing("f9 certificate"))
    );
    let mut renamed = Vendor::new();
    let mut slot = renamed.slot_parts();
    slot.issuer = name("Someone else");
    let slot = slot.sign(&renamed.f9_key);
    assert_eq!(
        renamed.verify_chain(slot, vec![renamed.f9()]),
        Err(AttestationError::Issuer("slot's certificate"))
    );
    renamed.f9.issuer = name("Someone else");
    assert_eq!(renamed.refusal(), AttestationError::UnknownRoot);
}

#[test]
fn a_certificate_outside_its_dates_is_refused() {
    let dates = |result| matches!(result, Err(AttestationError::Dates(_)));
    for (not_before, not_after) in [
        ("260506060000Z", "260506070000Z"),
        ("260506071000Z", "260506073000Z"),
        ("260506073000Z", "260506060000Z"),
    ] {
        let change = |parts: &mut Parts| {
            parts.not_before = utc_time(not_before);
            parts.not_after = utc_time(not_after);
        };
        let mut vendor = Vendor::new();
        change(&mut vendor.f9);
        assert!(dates(vendor.verify()));
        let mut vendor = Vendor::new();
        change(&mut vendor.root);
        assert!(dates(vendor.verify()));
        let vendor = Vendor::new();
        let mut slot = vendor.slot_parts();
        change(&mut slot);
        assert!(dates(
            vendor.verify_chain(slot.sign(&vendor.f9_key), vec![vendor.f9()])
        ));
    }
}

#[test]
fn the_end_of_time_is_read() {
    let mut vendor = Vendor::new();
    vendor.root.not_after = generalized_time("99991231235959Z");
    vendor.f9.not_after = generalized_time("99991231235959Z");
    assert!(vendor.verify().is_ok());
}

#[test]
fn a_critical_extension_that_is_not_understood_is_refused() {
    let mut vendor = Vendor::new();
    vendor.f9 = vendor.f9.with(extension("2.5.29.30", true, &sequence(&[])));
    assert!(matches!(
        vendor.refusal(),
        AttestationError::CriticalExtension { .. }
    ));
}

#[test]
fn two_names_for_the_signature_algorithm_are_refused() {
    let mut vendor = Vendor::new();
    vendor.f9.outer_algorithm = Some(sequence(&[&oid("1.2.840.10045.4.3.3")]));
    assert!(matches!(
        vendor.refusal(),
        AttestationError::Certificate {
            error: ReadError::AlgorithmMismatch,
            ..
        }
    ));
}

#[test]
fn a_test_root_is_one_self_signed_ca() {
    let vendor = Vendor::new();
    let add = |pem: &str| Roots::yubico().with_test_root(pem.as_bytes()).map(|_| ());
    let root = to_pem(&vendor.root.sign(&vendor.root_key));
    assert_eq!(add(&root), Ok(()));
    assert!(matches!(
        add(&format!("{root}{root}")),
        Err(AttestationError::Pem(_))
    ));
    assert!(matches!(add(""), Err(AttestationError::Pem(_))));
    assert_eq!(add(&to_pem(&vendor.f9())), Err(AttestationError::Root));
    let signed_by_another = to_pem(&vendor.root.sign(&key()));
    assert_eq!(add(&signed_by_another), Err(AttestationError::Root));
    let mut no_ca = vendor.root.clone();
    for extensions in [vec![not_ca()], vec![], vec![ca(None), key_usage(0x80)]] {
        no_ca.extensions = extensions;
        assert_eq!(
            add(&to_pem(&no_ca.sign(&vendor.root_key))),
            Err(AttestationError::Root)
        );
    }
}
