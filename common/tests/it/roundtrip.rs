//! The whole way: a draft is signed, read, issued and verified.

use crate::support::{Ca, claims, draft, group, now, user};
use jiff::{SignedDuration, Timestamp};
use touchstone_common::{
    certificate::{CertificateError, ClientIdentity, Expected, from_pem_bundle, verify_issued},
    csr::{Request, to_pem},
    grant::GrantId,
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
    ttl::Ttl,
};

const KEYS: [KeyAlgorithm; 3] = [
    KeyAlgorithm::P256,
    KeyAlgorithm::P384,
    KeyAlgorithm::Ed25519,
];

#[test]
fn a_request_is_read_as_it_was_drafted() {
    for algorithm in KEYS {
        let key = SoftwareKey::generate(algorithm).unwrap();
        let der = draft("alice@example.com", &["oncall", "dev"])
            .sign(&key)
            .unwrap();
        let request = Request::from_pem(to_pem(&der).as_bytes()).unwrap();
        assert_eq!(request.user(), &user("alice@example.com"));
        assert_eq!(request.groups(), [group("dev"), group("oncall")]);
        assert_eq!(request.public_key(), key.public_key());
        assert_eq!(request.claims(), &claims());
        assert_eq!(request.evidence(), None);
    }
}

#[test]
fn an_issued_chain_is_what_was_asked_for() {
    for algorithm in KEYS {
        let ca = Ca::new(KeyAlgorithm::P256);
        let key = SoftwareKey::generate(algorithm).unwrap();
        let leaf = ca.issue(&key, "alice@example.com", &["dev", "oncall"]);
        let chain = ca.chain(&leaf);
        let bundle = ca.root.to_pem();
        let expected = Expected {
            public_key: key.public_key(),
            user: &user("alice@example.com"),
            groups: &[group("oncall"), group("dev")],
            grant: &GrantId::of_nonce(&[7; 32]),
            ttl: Ttl::from_secs(1800).unwrap(),
            trust_bundle: bundle.as_bytes(),
            now: now(),
        };
        let issued = verify_issued(chain.as_bytes(), &expected).unwrap();
        assert_eq!(issued.leaf_der, leaf);
        assert_eq!(issued.chain_pem, chain);
        let identity = ClientIdentity::from_der(&leaf).unwrap();
        assert_eq!(identity.fingerprint, issued.fingerprint);
        assert_eq!(identity.serial, issued.serial);
        assert_eq!(identity.groups, [group("dev"), group("oncall")]);
        assert_eq!(from_pem_bundle(chain.as_bytes()).unwrap().len(), 2);
    }
}

#[test]
fn a_certificate_that_has_ended_is_refused() {
    let ca = Ca::new(KeyAlgorithm::P384);
    let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
    let chain = ca.chain(&ca.issue(&key, "alice", &["dev"]));
    let bundle = ca.root.to_pem();
    let later: Timestamp = now() + SignedDuration::from_mins(30);
    let expected = Expected {
        public_key: key.public_key(),
        user: &user("alice"),
        groups: &[group("dev")],
        grant: &GrantId::of_nonce(&[7; 32]),
        ttl: Ttl::from_secs(1800).unwrap(),
        trust_bundle: bundle.as_bytes(),
        now: later,
    };
    assert!(matches!(
        verify_issued(chain.as_bytes(), &expected),
        Err(CertificateError::Expired(_))
    ));
}
