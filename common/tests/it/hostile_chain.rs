//! What a signer, or whoever can write a CSR's status, might deliver in the place of what was asked for.

use crate::{
    der::{NULL, cn, o, sequence, tlv},
    support::{Ca, group, now, serial, user, validity},
    x509::{
        CLIENT_AUTH, DIGITAL_SIGNATURE, KEY_CERT_SIGN, Parts, SERVER_AUTH, ca, extension,
        generalized_time, key_usage, not_ca, purposes, utc_time,
    },
};
use jiff::SignedDuration;
use touchstone_common::{
    certificate::{
        CaCertificate, CertificateError, Expected, Issued, Prepared, Profile, ReadError, SignError,
        to_pem, verify_issued,
    },
    csr::CsrError,
    grant::GrantId,
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
    name::{NameError, UserName},
    ttl::Ttl,
};

fn key() -> SoftwareKey {
    SoftwareKey::generate(KeyAlgorithm::P256).unwrap()
}

/// A cluster's CA, made by hand, and a leaf under it in parts.
struct Cluster {
    ca_key: SoftwareKey,
    ca: Parts,
    key: SoftwareKey,
    leaf: Parts,
    user: UserName,
}

impl Cluster {
    fn new() -> Self {
        let (ca_key, key) = (key(), key());
        let name = sequence(&[&cn("Cluster CA")]);
        let mut ca = Parts::new(&name, &name, &ca_key)
            .with(self::ca(Some(0)))
            .with(key_usage(KEY_CERT_SIGN));
        ca.not_after = generalized_time("20560101000000Z");
        let leaf = Parts::new(
            &name,
            &sequence(&[&cn("alice"), &o("dev"), &o("ops")]),
            &key,
        )
        .with(not_ca())
        .with(key_usage(DIGITAL_SIGNATURE))
        .with(purposes(&[CLIENT_AUTH]));
        Self {
            ca_key,
            ca,
            key,
            leaf,
            user: user("alice"),
        }
    }

    fn bundle(&self) -> String {
        to_pem(&self.ca.sign(&self.ca_key))
    }

    fn leaf(&self) -> String {
        to_pem(&self.leaf.sign(&self.ca_key))
    }

    fn verify_chain(&self, chain: &str, bundle: &str) -> Result<Issued, CertificateError> {
        verify_issued(
            chain.as_bytes(),
            &Expected {
                public_key: self.key.public_key(),
                user: &self.user,
                groups: &[group("ops"), group("dev")],
                grant: &GrantId::of_nonce(&[7; 32]),
                ttl: Ttl::from_secs(1800).unwrap(),
                trust_bundle: bundle.as_bytes(),
                now: now(),
            },
        )
    }

    fn verify(&self) -> Result<Issued, CertificateError> {
        self.verify_chain(&self.leaf(), &self.bundle())
    }

    /// The refusal of the leaf with a change.
    fn refusal(change: impl FnOnce(&mut Parts)) -> CertificateError {
        let mut cluster = Self::new();
        change(&mut cluster.leaf);
        cluster.verify().unwrap_err()
    }
}

#[test]
fn the_chain_that_the_attacks_start_from_is_kept() {
    let cluster = Cluster::new();
    let issued = cluster.verify().unwrap();
    assert_eq!(issued.serial, "01");
    // As kube-controller-manager may deliver it: with the root behind.
    let with_root = cluster.leaf() + &cluster.bundle();
    assert!(cluster.verify_chain(&with_root, &cluster.bundle()).is_ok());
    // A bundle with comments, other CAs and CAs that cannot be read.
    let foreign = Cluster::new().bundle();
    let broken = to_pem(b"no certificate");
    let bundle = format!("# CAs\n{foreign}\n{broken}{}", cluster.bundle());
    assert!(cluster.verify_chain(&cluster.leaf(), &bundle).is_ok());
}

#[test]
fn a_certificate_of_kube_controller_manager_has_no_key_usage() {
    let mut cluster = Cluster::new();
    cluster.leaf.extensions = vec![not_ca(), purposes(&[CLIENT_AUTH])];
    assert!(cluster.verify().is_ok());
}

#[test]
fn another_key_user_or_set_of_groups_is_refused() {
    let other = key();
    let spki = other.public_key().spki_der().to_vec();
    assert_eq!(
        Cluster::refusal(|leaf| leaf.spki = spki),
        CertificateError::WrongKey
    );
    assert!(matches!(
        Cluster::refusal(|leaf| leaf.subject = sequence(&[&cn("bob"), &o("dev"), &o("ops")])),
        CertificateError::WrongUser { .. }
    ));
    for groups in [
        vec![o("dev")],
        vec![o("dev"), o("ops"), o("admins")],
        vec![o("dev"), o("oops")],
    ] {
        let subject = sequence(&[&cn("alice"), &groups.concat()]);
        assert_eq!(
            Cluster::refusal(|leaf| leaf.subject = subject),
            CertificateError::WrongGroups
        );
    }
    let masters = sequence(&[&cn("alice"), &o("dev"), &o("ops"), &o("system:masters")]);
    assert!(matches!(
        Cluster::refusal(|leaf| leaf.subject = masters),
        CertificateError::Subject(CsrError::Group {
            error: NameError::System,
            ..
        })
    ));
}

#[test]
fn a_certificate_for_more_than_a_client_is_refused() {
    for wanted in [
        vec![],
        vec![purposes(&[SERVER_AUTH])],
        vec![purposes(&[CLIENT_AUTH, SERVER_AUTH])],
        vec![purposes(&["2.5.29.37.0"])],
        vec![purposes(&[CLIENT_AUTH, CLIENT_AUTH])],
    ] {
        assert_eq!(
            Cluster::refusal(|leaf| {
                leaf.extensions = vec![not_ca(), key_usage(DIGITAL_SIGNATURE)];
                leaf.extensions.extend(wanted);
            }),
            CertificateError::ExtendedKeyUsage
        );
    }
    assert_eq!(
        Cluster::refusal(|leaf| leaf.extensions[0] = ca(None)),
        CertificateError::IsCa
    );
    for usage in [KEY_CERT_SIGN, DIGITAL_SIGNATURE | KEY_CERT_SIGN, 0x20] {
        assert_eq!(
            Cluster::refusal(|leaf| leaf.extensions[1] = key_usage(usage)),
            CertificateError::KeyUsage
        );
    }
    let names = sequence(&[&tlv(0x82, b"kubernetes.default.svc")]);
    assert_eq!(
        Cluster::refusal(|leaf| leaf.extensions.push(extension("2.5.29.17", false, &names))),
        CertificateError::SubjectAltName
    );
    assert!(matches!(
        Cluster::refusal(|leaf| leaf.extensions.push(extension("2.5.29.30", true, NULL))),
        CertificateError::CriticalExtension(_)
    ));
}

#[test]
fn a_certificate_that_lives_too_long_or_not_now_is_refused() {
    let until = |time: &str| {
        let mut cluster = Cluster::new();
        cluster.leaf.not_after = utc_time(time);
        cluster.verify()
    };
    // Asked for 30 minutes at 07:08:09.
    assert!(until("260506073809Z").is_ok());
    assert!(until("260506073909Z").is_ok());
    assert!(matches!(
        until("260506073910Z"),
        Err(CertificateError::LivesTooLong { .. })
    ));
    assert!(until("260506070810Z").is_ok());
    assert!(matches!(
        until("260506070809Z"),
        Err(CertificateError::Expired(_))
    ));
    assert!(matches!(
        Cluster::refusal(|leaf| leaf.not_before = utc_time("260506070910Z")),
        CertificateError::NotYetValid(_)
    ));
    let from = |time: &str| {
        let mut cluster = Cluster::new();
        cluster.leaf.not_before = utc_time(time);
        cluster.verify()
    };
    assert!(from("260506070909Z").is_ok());
    assert!(matches!(
        Cluster::refusal(|leaf| leaf.not_after = generalized_time("99991231235959Z")),
        CertificateError::LivesTooLong { .. }
    ));
}

#[test]
fn dates_in_the_wrong_type_are_refused() {
    for change in [
        generalized_time("20260506073000Z"),
        utc_time("2605060730Z"),
        utc_time("260506073000+0000"),
        generalized_time("20560506073000.5Z"),
    ] {
        assert!(matches!(
            Cluster::refusal(|leaf| leaf.not_after = change),
            CertificateError::Read(ReadError::Der(_))
        ));
    }
}

#[test]
fn a_chain_to_another_ca_is_refused() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    // The same name, another key.
    assert_eq!(
        cluster.verify_chain(&cluster.leaf(), &other.bundle()),
        Err(CertificateError::UnknownIssuer)
    );
    let with_other = cluster.leaf() + &other.bundle();
    assert_eq!(
        cluster.verify_chain(&with_other, &cluster.bundle()),
        Err(CertificateError::Unrelated)
    );
    // Its own CA sent along is not a reason to believe it.
    let with_own = cluster.leaf() + &cluster.bundle();
    assert_eq!(
        cluster.verify_chain(&with_own, &other.bundle()),
        Err(CertificateError::UnknownIssuer)
    );
    assert_eq!(
        cluster.verify_chain(&cluster.leaf(), ""),
        Err(CertificateError::TrustBundle)
    );
    assert_eq!(
        cluster.verify_chain(&cluster.leaf(), &cluster.leaf()),
        Err(CertificateError::TrustBundle)
    );
}

#[test]
fn a_leaf_that_only_names_the_issuing_ca_is_refused() {
    let ca = Ca::new(KeyAlgorithm::P256);
    let mut cluster = Cluster::new();
    let issuing_key = key();
    // The attacker's own CA certificate, with the real one's name, signs; the real one is delivered.
    let name = sequence(&[&cn("Touchstone issuing CA")]);
    cluster.leaf.issuer = name;
    let leaf = to_pem(&cluster.leaf.sign(&issuing_key));
    assert_eq!(
        cluster.verify_chain(&(leaf.clone() + &ca.issuing.to_pem()), &ca.root.to_pem()),
        Err(CertificateError::Unrelated)
    );
    assert_eq!(
        cluster.verify_chain(&leaf, &ca.root.to_pem()),
        Err(CertificateError::UnknownIssuer)
    );
    let honest = to_pem(&cluster.leaf.sign(&ca.key)) + &ca.issuing.to_pem();
    assert!(cluster.verify_chain(&honest, &ca.root.to_pem()).is_ok());
}

#[test]
fn nothing_a_certificate_five_certificates_and_text_between_are_refused() {
    let cluster = Cluster::new();
    let bundle = cluster.bundle();
    let refusal = |chain: &str| cluster.verify_chain(chain, &bundle).unwrap_err();
    assert_eq!(refusal(""), CertificateError::ChainLength(0));
    let five = cluster.leaf() + &bundle.repeat(4);
    assert_eq!(refusal(&five), CertificateError::ChainLength(5));
    let text = format!("{}# hello\n{bundle}", cluster.leaf());
    assert!(matches!(refusal(&text), CertificateError::Pem(_)));
    let backwards = bundle.clone() + &cluster.leaf();
    assert!(cluster.verify_chain(&backwards, &bundle).is_err());
}

#[test]
fn a_ca_in_the_path_that_ended_or_is_for_servers_or_too_deep_is_refused() {
    let refusal = |change: fn(&mut Parts)| {
        let mut cluster = Cluster::new();
        change(&mut cluster.ca);
        cluster.verify().unwrap_err()
    };
    assert!(matches!(
        refusal(|ca| ca.not_after = utc_time("260506070000Z")),
        CertificateError::Expired(_)
    ));
    assert!(matches!(
        refusal(|ca| ca.not_before = utc_time("260506071000Z")),
        CertificateError::NotYetValid(_)
    ));
    assert!(matches!(
        refusal(|ca| ca.extensions.push(purposes(&[SERVER_AUTH]))),
        CertificateError::Issuer(_)
    ));
    assert_eq!(
        refusal(|ca| ca.extensions[1] = key_usage(DIGITAL_SIGNATURE)),
        CertificateError::TrustBundle
    );
    // An issuing CA under a CA whose path length is zero.
    let cluster = Cluster::new();
    let middle_key = key();
    let name = sequence(&[&cn("Middle")]);
    let middle = Parts::new(&cluster.ca.subject, &name, &middle_key)
        .with(ca(Some(0)))
        .with(key_usage(KEY_CERT_SIGN));
    let mut leaf = cluster.leaf.clone();
    leaf.issuer = name;
    let chain = to_pem(&leaf.sign(&middle_key)) + &to_pem(&middle.sign(&cluster.ca_key));
    assert!(matches!(
        cluster.verify_chain(&chain, &cluster.bundle()),
        Err(CertificateError::Issuer(_))
    ));
    let mut deep = Cluster {
        ca_key: cluster.ca_key,
        ..Cluster::new()
    };
    deep.ca = cluster.ca;
    deep.ca.extensions[0] = ca(Some(1));
    deep.key = cluster.key;
    assert!(deep.verify_chain(&chain, &deep.bundle()).is_ok());
    // A leaf that issues.
    let leaf_as_ca = Parts::new(&deep.leaf.subject, &deep.leaf.subject, &deep.key);
    let chain = to_pem(&leaf_as_ca.sign(&deep.key)) + &deep.leaf();
    assert!(deep.verify_chain(&chain, &deep.bundle()).is_err());
}

#[test]
fn every_changed_bit_of_a_leaf_is_noticed() {
    let cluster = Cluster::new();
    let bundle = cluster.bundle();
    let der = cluster.leaf.sign(&cluster.ca_key);
    for index in 0..der.len() {
        let mut changed = der.clone();
        changed[index] ^= 1;
        let result = cluster.verify_chain(&to_pem(&changed), &bundle);
        assert!(result.is_err(), "byte {index}");
    }
}

fn prepared(
    profile: &Profile<'_>,
    key: &SoftwareKey,
    minutes: i64,
    issuer: Option<&CaCertificate>,
) -> Result<Prepared, CertificateError> {
    Prepared::new(
        profile,
        key.public_key(),
        validity(SignedDuration::ZERO, SignedDuration::from_mins(minutes)),
        serial(9),
        issuer,
    )
}

#[test]
fn a_certificate_never_outlives_its_issuer_and_is_refused_not_shortened() {
    let ca = Ca::new(KeyAlgorithm::P256);
    let (alice, groups) = (user("alice"), [group("dev")]);
    let leaf = Profile::ClientLeaf {
        user: &alice,
        groups: &groups,
    };
    let day = 24 * 60;
    assert!(prepared(&leaf, &key(), 120 * day, Some(&ca.issuing)).is_ok());
    assert_eq!(
        prepared(&leaf, &key(), 120 * day + 1, Some(&ca.issuing)).unwrap_err(),
        CertificateError::OutlivesIssuer
    );
    // A fraction of a second is not written, and so is no second more.
    let mut until_its_end = ca.issuing.validity();
    until_its_end.not_after += SignedDuration::from_millis(999);
    let leaf_key = key();
    let prepared_to_end = Prepared::new(
        &leaf,
        leaf_key.public_key(),
        until_its_end,
        serial(9),
        Some(&ca.issuing),
    );
    assert_eq!(prepared_to_end.unwrap().validity(), ca.issuing.validity());
    assert_eq!(
        prepared(&leaf, &key(), -1, Some(&ca.issuing)).unwrap_err(),
        CertificateError::EmptyValidity
    );
}

#[test]
fn each_profile_has_the_issuer_that_it_must_have() {
    let ca = Ca::new(KeyAlgorithm::P256);
    let (alice, groups) = (user("alice"), [group("dev")]);
    let leaf = Profile::ClientLeaf {
        user: &alice,
        groups: &groups,
    };
    let issuing = Profile::IssuingCa { common_name: "CA" };
    let root = Profile::Root { common_name: "CA" };
    let server_ca = Profile::ServerCa { common_name: "CA" };
    let names = ["localhost".to_owned()];
    let server = Profile::Server {
        dns_names: &names,
        ip_addresses: &[],
    };
    let refused = |profile, issuer| prepared(profile, &key(), 30, issuer).unwrap_err();
    for profile in [&leaf, &server] {
        assert!(matches!(
            refused(profile, None),
            CertificateError::SelfIssued(_, "without")
        ));
    }
    for profile in [&root, &server_ca] {
        assert!(prepared(profile, &key(), 30, None).is_ok());
        assert!(matches!(
            refused(profile, Some(&ca.root)),
            CertificateError::SelfIssued(_, "under")
        ));
    }
    assert!(prepared(&issuing, &key(), 30, None).is_ok());
    assert!(prepared(&issuing, &key(), 30, Some(&ca.root)).is_ok());
    // No CA under an issuing CA, no server under a CA for clients, and the other way round.
    for profile in [&issuing, &server] {
        assert!(matches!(
            refused(profile, Some(&ca.issuing)),
            CertificateError::Issuer(_)
        ));
    }
    let server_key = key();
    let server_ca = prepared(&server_ca, &server_key, 60, None)
        .unwrap()
        .sign(&server_key)
        .unwrap();
    let server_ca = CaCertificate::from_der(&server_ca).unwrap();
    assert!(prepared(&server, &key(), 30, Some(&server_ca)).is_ok());
    assert!(matches!(
        refused(&leaf, Some(&server_ca)),
        CertificateError::Issuer(_)
    ));
}

#[test]
fn names_are_checked_before_they_stand_in_a_certificate() {
    for common_name in ["", "a\u{202e}b", " a", &"a".repeat(65)] {
        assert!(matches!(
            prepared(&Profile::Root { common_name }, &key(), 30, None),
            Err(CertificateError::Name(_))
        ));
    }
    let server_key = key();
    let server_ca = prepared(
        &Profile::ServerCa { common_name: "CA" },
        &server_key,
        60,
        None,
    )
    .unwrap()
    .sign(&server_key)
    .unwrap();
    let server_ca = CaCertificate::from_der(&server_ca).unwrap();
    for name in [
        "",
        "-a",
        "a-",
        "a..b",
        "*.a",
        "a_b",
        "a b",
        "é",
        &"a".repeat(64),
    ] {
        let names = [name.to_owned()];
        let server = Profile::Server {
            dns_names: &names,
            ip_addresses: &[],
        };
        assert_eq!(
            prepared(&server, &key(), 30, Some(&server_ca)).unwrap_err(),
            CertificateError::NoNames,
            "{name}"
        );
    }
    let ca = Ca::new(KeyAlgorithm::P256);
    let alice = user("alice");
    let none = Profile::ClientLeaf {
        user: &alice,
        groups: &[],
    };
    assert_eq!(
        prepared(&none, &key(), 30, Some(&ca.issuing)).unwrap_err(),
        CertificateError::Groups(0)
    );
}

#[test]
fn only_the_issuers_own_key_signs() {
    let ca = Ca::new(KeyAlgorithm::P256);
    let (alice, groups) = (user("alice"), [group("dev")]);
    let leaf = Profile::ClientLeaf {
        user: &alice,
        groups: &groups,
    };
    let other = key();
    let refused = prepared(&leaf, &key(), 30, Some(&ca.issuing))
        .unwrap()
        .sign(&other);
    assert_eq!(refused, Err(SignError::WrongKey));
}

#[test]
fn the_same_values_give_the_same_bytes_and_the_digest_is_of_what_gets_signed() {
    let ca = Ca::new(KeyAlgorithm::P256);
    let alice = user("alice");
    let leaf_key = key();
    let tbs = |groups: &[&str]| {
        let groups: Vec<_> = groups.iter().map(|name| group(name)).collect();
        let leaf = Profile::ClientLeaf {
            user: &alice,
            groups: &groups,
        };
        prepared(&leaf, &leaf_key, 30, Some(&ca.issuing)).unwrap()
    };
    let (one, two) = (tbs(&["b", "a"]), tbs(&["a", "b", "a"]));
    assert_eq!(one.tbs_sha256(), two.tbs_sha256());
    let digest = one.tbs_sha256();
    let signed = one.sign(&ca.key).unwrap();
    let tbs = &crate::der::children(&signed)[0];
    let found = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, tbs);
    assert_eq!(found.as_ref(), digest);
}

#[test]
fn a_ca_certificate_that_did_not_sign_itself_is_refused() {
    let cluster = Cluster::new();
    let forged = cluster.ca.sign(&key());
    assert!(matches!(
        CaCertificate::from_der(&forged),
        Err(CertificateError::Signature(_))
    ));
    assert!(matches!(
        CaCertificate::from_pem((cluster.bundle() + &cluster.bundle()).as_bytes()),
        Err(CertificateError::Pem(_))
    ));
    assert!(matches!(
        CaCertificate::from_der(&cluster.leaf.sign(&cluster.ca_key)),
        Err(CertificateError::NotCa)
    ));
    let mut version_1 = cluster.ca.clone();
    version_1.version = vec![0];
    assert!(matches!(
        CaCertificate::from_der(&version_1.sign(&cluster.ca_key)),
        Err(CertificateError::Read(ReadError::Version))
    ));
}
