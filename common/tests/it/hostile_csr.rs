//! Requests as an attacker would send them. Each is signed correctly unless the signature is the attack, so that nothing
//! but the rule under test can refuse it.

use crate::{
    der::{
        NULL, OCTET_STRING, PRINTABLE_STRING, SEQUENCE, UTF8_STRING, bits, children, cn, o, oid,
        rdn, sequence, set, tlv,
    },
    request::{
        CLAIMS, ECDSA_SHA256, EVIDENCE, Parts, attribute, claims_attribute, evidence_attribute,
        groups, is_der_error,
    },
    support::{claims, draft},
};
use touchstone_common::{
    claims::ClaimsError,
    csr::{CsrError, MAX_CSR_BYTES, Request, to_pem},
    key::{KeyAlgorithm, KeyError, SigningKey as _, SoftwareKey},
};

#[test]
fn the_request_that_the_attacks_start_from_is_read() {
    let request = Parts::new().read().unwrap();
    assert_eq!(request.user().as_str(), "alice");
    assert_eq!(request.claims(), &claims());
    let parts = Parts::subject(&[
        &rdn("2.5.4.10", PRINTABLE_STRING, b"dev"),
        &rdn("2.5.4.3", PRINTABLE_STRING, b"alice"),
    ]);
    assert_eq!(parts.read().unwrap().groups()[0].as_str(), "dev");
}

#[test]
fn requested_sans_are_refused_with_their_own_error() {
    let names = sequence(&[&tlv(0x82, b"kubernetes.default.svc")]);
    let san = sequence(&[&oid("2.5.29.17"), &tlv(OCTET_STRING, &names)]);
    for dotted in ["1.2.840.113549.1.9.14", "1.3.6.1.4.1.311.2.1.14"] {
        let request = attribute(dotted, &[&sequence(&[&san])]);
        for attributes in [
            vec![request.clone(), claims_attribute()],
            vec![claims_attribute(), request.clone()],
            vec![request.clone()],
        ] {
            let refusal = Parts::attributes(attributes).refusal();
            assert_eq!(refusal, CsrError::ExtensionRequest);
            assert!(refusal.to_string().contains("subject alternative names"));
        }
    }
}

#[test]
fn an_unknown_attribute_is_refused() {
    let password = "1.2.840.113549.1.9.7";
    let parts = Parts::attributes(vec![
        attribute(password, &[&tlv(UTF8_STRING, b"hello")]),
        claims_attribute(),
    ]);
    assert_eq!(
        parts.refusal(),
        CsrError::UnknownAttribute(password.parse().unwrap())
    );
}

#[test]
fn a_request_without_claims_is_refused() {
    assert_eq!(Parts::attributes(vec![]).refusal(), CsrError::NoClaims);
    let parts = Parts::attributes(vec![evidence_attribute()]);
    assert_eq!(parts.refusal(), CsrError::NoClaims);
}

#[test]
fn claims_or_evidence_twice_are_refused() {
    let parts = Parts::attributes(vec![claims_attribute(), claims_attribute()]);
    assert_eq!(
        parts.refusal(),
        CsrError::DuplicateAttribute(CLAIMS.parse().unwrap())
    );
    let mut twice = vec![
        claims_attribute(),
        evidence_attribute(),
        evidence_attribute(),
    ];
    twice.sort();
    let parts = Parts::attributes(twice);
    assert_eq!(
        parts.refusal(),
        CsrError::DuplicateAttribute(EVIDENCE.parse().unwrap())
    );
    let value = claims().to_der();
    for values in [&[value.as_slice(), &value][..], &[]] {
        let parts = Parts::attributes(vec![attribute(CLAIMS, values)]);
        assert_eq!(
            parts.refusal(),
            CsrError::AttributeValues(CLAIMS.parse().unwrap())
        );
    }
}

#[test]
fn attributes_in_another_order_than_der_asks_are_refused() {
    let mut sorted = vec![claims_attribute(), evidence_attribute()];
    sorted.sort();
    assert!(Parts::attributes(sorted.clone()).read().is_ok());
    sorted.reverse();
    assert_eq!(
        Parts::attributes(sorted).refusal(),
        CsrError::AttributeOrder
    );
}

#[test]
fn claims_of_another_shape_are_refused() {
    let parts = Parts::attributes(vec![attribute(CLAIMS, &[&sequence(&[&[2, 1, 2]])])]);
    assert_eq!(parts.refusal(), CsrError::Claims(ClaimsError::Version(2)));
    let parts = Parts::attributes(vec![attribute(CLAIMS, &[NULL])]);
    assert!(matches!(parts.refusal(), CsrError::AttributeValues(_)));
}

#[test]
fn trailing_bytes_are_refused_wherever_they_stand() {
    let mut der = Parts::new().der();
    der.push(0);
    assert!(matches!(Request::from_der(&der), Err(CsrError::Der { .. })));
    let parts = Parts {
        after_attributes: NULL.to_vec(),
        ..Parts::new()
    };
    assert!(is_der_error(&parts));
    let whole = children(&Parts::new().der()).concat();
    let with_more = tlv(SEQUENCE, &[whole.as_slice(), NULL].concat());
    assert!(matches!(
        Request::from_der(&with_more),
        Err(CsrError::Der { .. })
    ));
}

#[test]
fn ber_in_place_of_der_is_refused() {
    let info = Parts::new().info();
    let parts = Parts::new();
    let sign = |info: &[u8]| {
        let signature = parts.key.sign(info).unwrap();
        let der = sequence(&[info, &parts.algorithm, &bits(&signature)]);
        Request::from_der(&der)
    };
    // Indefinite length.
    let contents = children(&info).concat();
    let indefinite = [&[0x30, 0x80][..], &contents, &[0, 0]].concat();
    assert!(matches!(sign(&indefinite), Err(CsrError::Der { .. })));
    // A length in more octets than it needs.
    let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
    let long = [&[0x30, 0x83, 0][..], &length, &contents].concat();
    assert!(matches!(sign(&long), Err(CsrError::Der { .. })));
    // An INTEGER with a leading zero too many, a BIT STRING with unused bits, a constructed string.
    let parts = Parts {
        version: vec![2, 2, 0, 0],
        ..Parts::new()
    };
    assert!(is_der_error(&parts));
    let constructed = set(&[&sequence(&[
        &oid("2.5.4.10"),
        &tlv(0x2c, &tlv(UTF8_STRING, b"dev")),
    ])]);
    assert!(is_der_error(&Parts::subject(&[&cn("alice"), &constructed])));
    let parts = Parts::new();
    let info = parts.info();
    let signature = parts.key.sign(&info).unwrap();
    let unused = tlv(3, &[&[1], signature.as_slice()].concat());
    let der = sequence(&[&info, &parts.algorithm, &unused]);
    assert!(matches!(Request::from_der(&der), Err(CsrError::Der { .. })));
}

#[test]
fn another_version_is_refused() {
    let parts = Parts {
        version: vec![2, 1, 1],
        ..Parts::new()
    };
    assert_eq!(parts.refusal(), CsrError::Version(1));
}

#[test]
fn a_signature_that_does_not_verify_is_refused() {
    let bad = CsrError::Signature(KeyError::BadSignature);
    let mut der = Parts::new().der();
    *der.last_mut().unwrap() ^= 1;
    assert_eq!(Request::from_der(&der).unwrap_err(), bad);
    // The key of someone else in the place of the signer's.
    let other = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let parts = Parts {
        spki: other.public_key().spki_der().to_vec(),
        ..Parts::new()
    };
    assert_eq!(parts.refusal(), bad);
    // Someone else's subject under one's own signature.
    let (one, two) = (Parts::new(), groups(&["admins"]));
    let signature = one.key.sign(&one.info()).unwrap();
    let info = Parts {
        subject: two.subject,
        spki: one.spki.clone(),
        ..Parts::new()
    }
    .info();
    let der = sequence(&[&info, &one.algorithm, &bits(&signature)]);
    assert_eq!(Request::from_der(&der).unwrap_err(), bad);
}

#[test]
fn a_signature_algorithm_that_does_not_fit_the_key_is_refused() {
    for (dotted, parameters) in [
        ("1.2.840.10045.4.3.3", &[][..]),
        ("1.3.101.112", &[]),
        ("1.2.840.113549.1.1.11", NULL),
    ] {
        let parts = Parts {
            algorithm: sequence(&[&oid(dotted), parameters]),
            ..Parts::new()
        };
        assert!(matches!(
            parts.refusal(),
            CsrError::Signature(KeyError::Unfit { .. })
        ));
    }
    let sha1 = "1.2.840.10045.4.1";
    let parts = Parts {
        algorithm: sequence(&[&oid(sha1)]),
        ..Parts::new()
    };
    assert_eq!(
        parts.refusal(),
        CsrError::Signature(KeyError::SignatureAlgorithm(sha1.parse().unwrap()))
    );
    let parts = Parts {
        algorithm: sequence(&[&oid(ECDSA_SHA256), NULL]),
        ..Parts::new()
    };
    assert_eq!(parts.refusal(), CsrError::Signature(KeyError::Parameters));
}

#[test]
fn weak_rsa_keys_and_other_curves_are_refused_before_anything_is_verified() {
    let rsa = |bytes: usize, exponent: &[u8]| {
        let mut modulus = vec![0xa5; bytes];
        modulus.insert(0, 0);
        let key = sequence(&[&tlv(2, &modulus), &tlv(2, exponent)]);
        let spki = sequence(&[
            &sequence(&[&oid("1.2.840.113549.1.1.1"), NULL]),
            &bits(&key),
        ]);
        Parts {
            spki,
            ..Parts::new()
        }
        .refusal()
    };
    assert_eq!(rsa(128, &[1, 0, 1]), CsrError::Key(KeyError::RsaBits(1024)));
    assert_eq!(rsa(256, &[3]), CsrError::Key(KeyError::Exponent));
    let p521 = sequence(&[
        &sequence(&[&oid("1.2.840.10045.2.1"), &oid("1.3.132.0.35")]),
        &bits(&[4; 133]),
    ]);
    let parts = Parts {
        spki: p521,
        ..Parts::new()
    };
    assert_eq!(
        parts.refusal(),
        CsrError::Key(KeyError::Curve("1.3.132.0.35".parse().unwrap()))
    );
}

#[test]
fn two_pem_blocks_other_labels_and_text_around_are_refused() {
    let pem = to_pem(&Parts::new().der());
    assert!(Request::from_pem(pem.as_bytes()).is_ok());
    assert!(Request::from_pem(format!("{pem}\n\n").as_bytes()).is_ok());
    for hostile in [
        format!("{pem}{pem}"),
        format!("Subject: alice\n{pem}"),
        format!("{pem}x"),
        format!("\u{feff}{pem}"),
        pem.replace("CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST"),
        pem.replace("CERTIFICATE REQUEST", "CERTIFICATE"),
        pem.replace("REQUEST-----\nM", "REQUEST-----\nFoo: bar\n\nM"),
    ] {
        assert!(
            matches!(Request::from_pem(hostile.as_bytes()), Err(CsrError::Pem(_))),
            "{hostile}"
        );
    }
}

#[test]
fn more_than_16_kib_are_not_even_looked_at() {
    let long = vec![b'\n'; MAX_CSR_BYTES + 1];
    assert_eq!(
        Request::from_pem(&long).unwrap_err(),
        CsrError::TooLong(MAX_CSR_BYTES + 1)
    );
    assert_eq!(
        Request::from_der(&long).unwrap_err(),
        CsrError::TooLong(MAX_CSR_BYTES + 1)
    );
}

#[test]
fn a_refusal_fits_into_a_condition_and_has_no_control_characters() {
    let hostile = [
        groups(&["\u{1b}[2J\u{202e}".repeat(30).as_str()]),
        groups(&["\n\r\0\u{7f}"]),
        Parts::subject(&[&cn("\u{9b}31m"), &o("dev")]),
    ];
    for parts in hostile {
        let refusal = parts.refusal().to_string();
        assert!(refusal.chars().count() < 1024, "{refusal}");
        assert!(
            refusal
                .chars()
                .all(|c| c.is_ascii_graphic() || c == ' ' || c == '…'),
            "{refusal:?}"
        );
    }
}

#[test]
fn the_same_draft_and_key_give_the_same_bytes_to_sign() {
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let one = draft("alice", &["b", "a", "b"]).sign(&key).unwrap();
    let two = draft("alice", &["a", "b"]).sign(&key).unwrap();
    assert_eq!(children(&one)[0], children(&two)[0]);
}

#[test]
fn an_old_request_under_a_second_signature_keeps_its_nonce() {
    // n of P-256; with s, n - s verifies too.
    const ORDER: &str = "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551";
    let parts = Parts::new();
    let der = parts.der();
    let signature = &children(&der)[2][3..];
    let numbers = children(signature);
    let s = [vec![0; 33], numbers[1][2..].to_vec()].concat();
    let s = &s[s.len() - 32..];
    let mut difference = hex::decode(ORDER).unwrap();
    let mut borrow = 0_i16;
    for (digit, s) in difference.iter_mut().zip(s).rev() {
        let value = i16::from(*digit) - i16::from(*s) - borrow;
        borrow = i16::from(value < 0);
        *digit = u8::try_from(value & 0xff).unwrap();
    }
    let start = difference.iter().take_while(|byte| **byte == 0).count();
    let mut second = difference[start..].to_vec();
    if second[0] >= 0x80 {
        second.insert(0, 0);
    }
    let second = sequence(&[&numbers[0], &tlv(2, &second)]);
    let again = sequence(&[&parts.info(), &parts.algorithm, &bits(&second)]);
    let (one, two) = (
        Request::from_der(&der).unwrap(),
        Request::from_der(&again).unwrap(),
    );
    assert_ne!(one.sha256(), two.sha256());
    assert_eq!(one.claims().nonce, two.claims().nonce);
}
