use super::*;
use crate::{
    asn1,
    certificate::{CaCertificate, Prepared, Profile, SerialNumber, Validity, to_pem},
    csr::{self, CsrError, MAX_CSR_BYTES},
    key::{KeyAlgorithm, KeyError, SigningKey as _, SoftwareKey},
    name::AuthorityName,
    x509,
};
use der::Tag;
use jiff::{SignedDuration, Timestamp};

fn name(text: &str) -> AuthorityName {
    AuthorityName::parse(text).unwrap()
}

fn key(algorithm: KeyAlgorithm) -> SoftwareKey {
    SoftwareKey::generate(algorithm).unwrap()
}

fn days(from: i64, to: i64) -> Validity {
    let now: Timestamp = "2026-05-06T07:08:09Z".parse().unwrap();
    Validity {
        not_before: now + SignedDuration::from_hours(24 * from),
        not_after: now + SignedDuration::from_hours(24 * to),
    }
}

struct World {
    root: CaCertificate,
    root_key: SoftwareKey,
    key: SoftwareKey,
}

fn made(
    profile: &Profile<'_>,
    key: &SoftwareKey,
    validity: Validity,
    issuer: Option<&CaCertificate>,
    issuer_key: &SoftwareKey,
) -> String {
    let serial = SerialNumber::from_random([5; 16]);
    let prepared = Prepared::new(profile, key.public_key(), validity, serial, issuer).unwrap();
    to_pem(&prepared.sign(issuer_key).unwrap())
}

impl World {
    fn new() -> Self {
        let root_key = key(KeyAlgorithm::P384);
        let profile = Profile::Root {
            common_name: "Root 1",
        };
        let pem = made(&profile, &root_key, days(-1, 3650), None, &root_key);
        Self {
            root: CaCertificate::from_pem(pem.as_bytes()).unwrap(),
            root_key,
            key: key(KeyAlgorithm::P256),
        }
    }

    fn issued(&self, common_name: &str, validity: Validity) -> String {
        let profile = Profile::IssuingCa { common_name };
        made(
            &profile,
            &self.key,
            validity,
            Some(&self.root),
            &self.root_key,
        )
    }

    fn verify(&self, pem: &str) -> Result<CaCertificate, IssuingError> {
        verify_issuing(
            pem.as_bytes(),
            &ExpectedIssuing {
                name: &name("Issuing 1"),
                public_key: self.key.public_key(),
                root: &self.root,
            },
        )
    }

    /// A certificate that the root really signed, with extensions of the test's choice.
    fn signed_with(&self, extensions: &[Vec<u8>]) -> String {
        let extensions: Vec<&[u8]> = extensions.iter().map(Vec::as_slice).collect();
        let validity = days(0, 120);
        let algorithm = self.root_key.public_key().signature_algorithm().to_der();
        let tbs = asn1::sequence(&[
            &asn1::tlv(asn1::context(0, true), &[&asn1::unsigned(&[2])]),
            &asn1::unsigned(&[9]),
            &algorithm,
            self.root.subject(),
            &asn1::sequence(&[
                &x509::certificate_time(validity.not_before),
                &x509::certificate_time(validity.not_after),
            ]),
            &csr::subject("Issuing 1", &[]),
            self.key.public_key().spki_der(),
            &asn1::tlv(asn1::context(3, true), &[&asn1::sequence(&extensions)]),
        ]);
        let signature = self.root_key.sign(&tbs).unwrap();
        to_pem(&asn1::sequence(&[
            &tbs,
            &algorithm,
            &asn1::bit_string(&signature),
        ]))
    }
}

fn extension(oid: const_oid::ObjectIdentifier, critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    asn1::sequence(&[
        &asn1::oid(oid),
        critical,
        &asn1::tlv(Tag::OctetString, &[value]),
    ])
}

/// The extensions of an issuing CA, as they must be.
fn profile(world: &World) -> Vec<Vec<u8>> {
    let authority = asn1::tlv(asn1::context(0, false), &[world.root.key_identifier()]);
    vec![
        extension(
            x509::BASIC_CONSTRAINTS,
            true,
            &asn1::sequence(&[&[1, 1, 0xff], &asn1::unsigned(&[0])]),
        ),
        extension(x509::KEY_USAGE, true, &[3, 2, 1, 6]),
        extension(
            x509::EXTENDED_KEY_USAGE,
            false,
            &asn1::sequence(&[&asn1::oid(crate::certificate::CLIENT_AUTH)]),
        ),
        extension(
            x509::SUBJECT_KEY_ID,
            false,
            &asn1::tlv(Tag::OctetString, &[&[1; 20]]),
        ),
        extension(
            x509::AUTHORITY_KEY_ID,
            false,
            &asn1::sequence(&[&authority]),
        ),
    ]
}

fn with(world: &World, at: usize, other: Vec<u8>) -> String {
    let mut extensions = profile(world);
    extensions[at] = other;
    world.signed_with(&extensions)
}

#[test]
fn what_a_key_asks_is_read_back() {
    for algorithm in [
        KeyAlgorithm::P256,
        KeyAlgorithm::P384,
        KeyAlgorithm::Ed25519,
    ] {
        let key = key(algorithm);
        let der = IssuingRequest::sign(&name("Issuing 1"), &key).unwrap();
        let read = IssuingRequest::from_pem(csr::to_pem(&der).as_bytes()).unwrap();
        assert_eq!(read.name().as_str(), "Issuing 1");
        assert_eq!(read.public_key(), key.public_key());
    }
}

#[test]
fn a_request_whose_key_did_not_sign_it_is_refused() {
    let mut der = IssuingRequest::sign(&name("Issuing 1"), &key(KeyAlgorithm::P256)).unwrap();
    let at = der
        .windows(9)
        .position(|text| text == b"Issuing 1")
        .unwrap();
    der[at + 8] = b'2';
    assert_eq!(
        IssuingRequest::from_der(&der).unwrap_err(),
        CsrError::Signature(KeyError::BadSignature).into()
    );
}

#[test]
fn a_request_of_ten_megabytes_is_refused_before_it_is_read() {
    let big = vec![b'A'; 10 << 20];
    assert_eq!(
        IssuingRequest::from_pem(&big).unwrap_err(),
        CsrError::TooLong(10 << 20).into()
    );
    assert!(IssuingRequest::from_der(&vec![0x30; MAX_CSR_BYTES + 1]).is_err());
}

#[test]
fn a_request_for_extensions_or_with_any_attribute_is_refused() {
    let key = key(KeyAlgorithm::P256);
    for (oid, expected) in [
        (EXTENSION_REQUEST, CsrError::ExtensionRequest),
        (
            crate::oid::CLAIMS,
            CsrError::UnknownAttribute(crate::oid::CLAIMS),
        ),
    ] {
        let attribute = asn1::sequence(&[
            &asn1::oid(oid),
            &asn1::tlv(Tag::Set, &[&asn1::sequence(&[])]),
        ]);
        let der = csr::signed(&csr::subject("Issuing 1", &[]), &[&attribute], &key).unwrap();
        assert_eq!(IssuingRequest::from_der(&der).unwrap_err(), expected.into());
    }
}

const EXTENSION_REQUEST: const_oid::ObjectIdentifier =
    const_oid::ObjectIdentifier::new_unwrap("1.2.840.113549.1.9.14");

#[test]
fn a_ca_that_could_pass_for_a_kubernetes_component_or_carries_groups_is_refused() {
    let key = key(KeyAlgorithm::P256);
    let signed = |subject: &[u8]| {
        let der = csr::signed(subject, &[], &key).unwrap();
        IssuingRequest::from_der(&der).unwrap_err()
    };
    for text in [
        "system:kube-controller-manager",
        "System:admin",
        "",
        "a\u{202e}b",
    ] {
        assert!(
            matches!(
                signed(&csr::subject(text, &[])),
                IssuingRequestError::Name { .. }
            ),
            "{text:?}"
        );
    }
    let group = crate::name::GroupName::parse("admins").unwrap();
    assert_eq!(
        signed(&csr::subject("Issuing 1", &[group])),
        IssuingRequestError::Subject
    );
    assert_eq!(signed(&asn1::sequence(&[])), IssuingRequestError::Subject);
}

#[test]
fn an_issuing_certificate_of_the_profile_is_accepted() {
    let world = World::new();
    let ca = world
        .verify(&world.issued("Issuing 1", days(0, 120)))
        .unwrap();
    assert_eq!(ca.common_name(), "Issuing 1");
    // And one that another tool made, whatever identifier it computes for the key.
    world.verify(&world.signed_with(&profile(&world))).unwrap();
}

#[test]
fn a_certificate_of_another_root_of_the_same_name_is_refused() {
    let world = World::new();
    let other = World::new();
    let profile = Profile::IssuingCa {
        common_name: "Issuing 1",
    };
    let foreign = made(
        &profile,
        &world.key,
        days(0, 120),
        Some(&other.root),
        &other.root_key,
    );
    assert_eq!(
        world.verify(&foreign).unwrap_err(),
        IssuingError::Signature("\"Root 1\"".into())
    );
}

#[test]
fn a_certificate_for_another_key_or_name_is_refused() {
    let world = World::new();
    let profile = Profile::IssuingCa {
        common_name: "Issuing 1",
    };
    let other = key(KeyAlgorithm::P256);
    let pem = made(
        &profile,
        &other,
        days(0, 120),
        Some(&world.root),
        &world.root_key,
    );
    assert_eq!(world.verify(&pem).unwrap_err(), IssuingError::WrongKey);
    assert!(matches!(
        world.verify(&world.issued("Issuing 2", days(0, 120))),
        Err(IssuingError::WrongName { .. })
    ));
}

#[test]
fn dates_outside_the_roots_are_refused() {
    let world = World::new();
    assert!(matches!(
        world.verify(&world.issued("Issuing 1", days(-2, 120))),
        Err(IssuingError::OutsideRoot { .. })
    ));
}

#[test]
fn one_that_lives_longer_than_any_ceremony_allows_is_refused() {
    let world = World::new();
    world
        .verify(&world.issued("Issuing 1", days(0, 366)))
        .unwrap();
    assert!(matches!(
        world.verify(&world.issued("Issuing 1", days(0, 367))),
        Err(IssuingError::TooLong(_))
    ));
}

#[test]
fn every_departure_from_the_profile_is_refused() {
    let world = World::new();
    let server_auth = const_oid::ObjectIdentifier::new_unwrap("1.3.6.1.5.5.7.3.1");
    let client_auth = asn1::oid(crate::certificate::CLIENT_AUTH);
    let constraints = |length: &[u8]| asn1::sequence(&[&[1, 1, 0xff], length]);
    let other_authority = asn1::sequence(&[&asn1::tlv(asn1::context(0, false), &[&[2; 20]])]);
    for (what, pem, expected) in [
        (
            "path length 1",
            with(
                &world,
                0,
                extension(x509::BASIC_CONSTRAINTS, true, &constraints(&[2, 1, 1])),
            ),
            IssuingError::PathLength,
        ),
        (
            "no path length",
            with(
                &world,
                0,
                extension(x509::BASIC_CONSTRAINTS, true, &constraints(&[])),
            ),
            IssuingError::PathLength,
        ),
        (
            "constraints that may be ignored",
            with(
                &world,
                0,
                extension(x509::BASIC_CONSTRAINTS, false, &constraints(&[2, 1, 0])),
            ),
            IssuingError::PathLength,
        ),
        (
            "digitalSignature as well",
            with(
                &world,
                1,
                extension(x509::KEY_USAGE, true, &[3, 2, 1, 0x86]),
            ),
            IssuingError::KeyUsage,
        ),
        (
            "server authentication as well",
            with(
                &world,
                2,
                extension(
                    x509::EXTENDED_KEY_USAGE,
                    false,
                    &asn1::sequence(&[&client_auth, &asn1::oid(server_auth)]),
                ),
            ),
            IssuingError::Purpose,
        ),
        (
            "an empty subject key identifier",
            with(&world, 3, extension(x509::SUBJECT_KEY_ID, false, &[4, 0])),
            IssuingError::KeyIdentifier("subject key identifier"),
        ),
        (
            "another authority key identifier",
            with(
                &world,
                4,
                extension(x509::AUTHORITY_KEY_ID, false, &other_authority),
            ),
            IssuingError::KeyIdentifier("authority key identifier"),
        ),
        (
            "alternative names",
            {
                let mut extensions = profile(&world);
                extensions.push(extension(x509::SUBJECT_ALT_NAME, false, &[0x30, 0]));
                world.signed_with(&extensions)
            },
            IssuingError::Extension(x509::SUBJECT_ALT_NAME),
        ),
    ] {
        assert_eq!(world.verify(&pem).unwrap_err(), expected, "{what}");
    }
    for missing in 0..5 {
        let mut extensions = profile(&world);
        extensions.remove(missing);
        assert!(
            world.verify(&world.signed_with(&extensions)).is_err(),
            "without extension {missing}"
        );
    }
}

#[test]
fn no_issuing_ca_stands_under_another_issuing_ca() {
    let world = World::new();
    let pem = world.issued("Issuing 1", days(0, 120));
    let issuing = CaCertificate::from_pem(pem.as_bytes()).unwrap();
    let expected = ExpectedIssuing {
        name: &name("Issuing 1"),
        public_key: world.key.public_key(),
        root: &issuing,
    };
    assert!(matches!(
        verify_issuing(pem.as_bytes(), &expected),
        Err(IssuingError::Root(_))
    ));
}

const CEREMONY: &str = "\
apiVersion: touchstone.dev/v1
kind: Ceremony
makes: issuing-ca
subject: Issuing 1
validityDays: 120
pathLength: 0
extendedKeyUsage: [clientAuth]
root: \"sha256:1111111111111111111111111111111111111111111111111111111111111111\"
present:
  - { name: Alice Example, role: key holder }
";

#[test]
fn a_ceremony_file_is_read_strictly_and_refused_with_its_place() {
    assert!(Plan::parse("c.yaml", CEREMONY.as_bytes()).is_ok());
    for (from, to, expected) in [
        ("pathLength: 0", "pathLength: 1", "c.yaml:6:"),
        ("validityDays: 120", "validityDays: 36500", "c.yaml:5:"),
        ("validityDays: 120", "validityDays: -1", "c.yaml:5:"),
        ("validityDays: 120", "validityDays: 0", "c.yaml:5:"),
        ("[clientAuth]", "[clientAuth, clientAuth]", "c.yaml:7:"),
        ("[clientAuth]", "[serverAuth]", "c.yaml:7:"),
        (
            "subject: Issuing 1",
            "subject: \"system:admin\"",
            "c.yaml:4:",
        ),
        (
            "subject: Issuing 1",
            "subject: Issuing 1\nsubject: Issuing 2",
            "c.yaml:5:",
        ),
        ("pathLength: 0", "pathLength: 0\npathLenght: 0", "c.yaml:7:"),
        ("sha256:1", "sha256:x", "c.yaml:8:"),
        (
            "  - { name: Alice Example, role: key holder }",
            "  []",
            "c.yaml:10:",
        ),
        ("role: key holder", "rolle: key holder", "c.yaml:10:"),
        ("makes: issuing-ca", "makes: root", "c.yaml:"),
    ] {
        let text = CEREMONY.replace(from, to);
        assert_ne!(text, CEREMONY, "{from}");
        let error = Plan::parse("c.yaml", text.as_bytes())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}

fn ceremony(world: &World) -> Record {
    let at = days(0, 0).not_before;
    let text = CEREMONY.replace(&"1".repeat(64), &hex::encode(world.root.fingerprint()));
    let plan = Plan::parse("c.yaml", text.as_bytes()).unwrap();
    let request = IssuingRequest::sign(plan.name(), &world.key).unwrap();
    let request = IssuingRequest::from_der(&request).unwrap();
    let statement = Statement {
        at,
        tool: "touchstone 0".into(),
        present: plan.present().to_vec(),
        signed_with: SignedWith::InsecureSoftwareKey,
        ceremony_sha256: hex::encode(plan.sha256()),
        request_sha256: Some(hex::encode(request.sha256())),
        root_sha256: Some(hex::encode(world.root.fingerprint())),
        attestation_sha256: None,
    };
    let nonce = [7; 32];
    let profile = Profile::IssuingCa {
        common_name: "Issuing 1",
    };
    let prepared = Prepared::new(
        &profile,
        world.key.public_key(),
        plan.validity(at, None).unwrap(),
        statement.serial(&nonce),
        Some(&world.root),
    )
    .unwrap();
    Record {
        statement,
        nonce: hex::encode(nonce),
        ceremony: text,
        request: Some(request.to_pem()),
        root: Some(world.root.to_pem()),
        attestation: None,
        certificate: to_pem(&prepared.sign(&world.root_key).unwrap()),
    }
}

type Change = fn(&mut Record);

#[test]
fn a_record_verifies_and_nothing_in_it_can_be_changed_afterwards() {
    let world = World::new();
    let record = ceremony(&world);
    let roots = crate::attestation::Roots::yubico();
    let json = serde_json::to_string(&record).unwrap();
    let read: Record = serde_json::from_str(&json).unwrap();
    read.verify(&roots).unwrap();

    let changes: [(&str, Change); 7] = [
        ("when", |r| r.statement.at += SignedDuration::from_millis(1)),
        ("who, in both places", |r| {
            r.ceremony = r.ceremony.replace("Alice", "Mallory");
            r.statement.present[0].name = "Mallory Example".into();
            r.statement.ceremony_sha256 = hex::encode(crate::key::sha256(r.ceremony.as_bytes()));
        }),
        ("the tool", |r| r.statement.tool.push('x')),
        ("where the key is", |r| {
            r.statement.signed_with = SignedWith::YubiKey {
                serial: 1,
                slot: "9c".parse().unwrap(),
            };
        }),
        ("the nonce", |r| r.nonce.replace_range(..2, "00")),
        ("the request", |r| r.request = None),
        ("the ceremony file", |r| r.ceremony.push('\n')),
    ];
    for (what, change) in changes {
        let mut changed = record.clone();
        change(&mut changed);
        assert!(changed.verify(&roots).is_err(), "{what}");
    }
}

#[test]
fn a_record_of_another_ceremonys_certificate_is_refused() {
    let world = World::new();
    let mut record = ceremony(&world);
    record.certificate = world.issued("Issuing 1", days(0, 120));
    assert!(record.verify(&crate::attestation::Roots::yubico()).is_err());
}
