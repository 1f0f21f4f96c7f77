//! What is signed: its dates, and that the same input gives the same bytes.

use crate::world::{Engineer, GROUP, SIGNER_NAME, policy};
use jiff::{SignedDuration, Timestamp};
use std::sync::Arc;
use touchstone_common::{
    attestation::Roots,
    certificate::{CertificateError, SerialNumber},
    policy::Policy,
};
use touchstone_signer::{
    ca::{
        authority::Signing,
        bootstrap::{self, Founded},
        lifecycle::Length,
        recognise,
    },
    data_dir::DataDir,
    issue::{self, IssueError},
    review::{self, Approvals, Intent, Review, Snapshot, Submission},
    service::evidence_cache,
};

fn founded() -> Founded {
    let temp = tempfile::tempdir().unwrap();
    let data = DataDir::open(temp.path()).unwrap();
    bootstrap::open(&data, Timestamp::now()).unwrap()
}

fn signing(founded: &Founded, longest_leaf: Length) -> Signing<'_> {
    Signing {
        ca: founded.issuing(),
        longest_leaf,
    }
}

fn granted() -> Intent {
    let alice = Engineer::new("alice@example.com");
    let snapshot = Snapshot {
        policy: Policy::parse("policy.yaml", policy(&alice).as_bytes()).unwrap(),
        roots: Arc::new(Roots::yubico()),
    };
    let request = alice.request(&[GROUP]);
    let submission = Submission {
        uid: "1",
        signer_name: SIGNER_NAME,
        username: "alice@example.com",
        groups: &[],
        request: request.pem.as_bytes(),
        expiration_seconds: Some(1800),
        usages: &["client auth".into()],
        created_at: None,
        approvals: Approvals::default(),
    };
    match review::review(&submission, &snapshot, &evidence_cache(), Timestamp::now()).unwrap() {
        Review::Approve(intent) => intent,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_same_input_gives_the_same_bytes_and_another_serial_number_gives_others() {
    let (founded, intent, now) = (founded(), granted(), Timestamp::now());
    let digest = |serial: u8| {
        let serial = SerialNumber::from_random([serial; 16]);
        let prepared =
            issue::prepare(&intent, &signing(&founded, Length::days(1)), now, serial).unwrap();
        prepared.tbs_sha256()
    };
    assert_eq!(digest(1), digest(1));
    assert_ne!(digest(1), digest(2));
}

#[test]
fn a_certificate_begins_at_most_a_minute_back_and_ends_with_the_lifetime_counted_from_now() {
    let (founded, intent) = (founded(), granted());
    let now = Timestamp::now();
    let prepared = issue::prepare(
        &intent,
        &signing(&founded, Length::days(1)),
        now,
        SerialNumber::from_random([1; 16]),
    )
    .unwrap();
    let digest = hex::encode(prepared.tbs_sha256());
    let issued = prepared.sign(founded.issuing()).unwrap();
    assert!(now.duration_since(issued.validity.not_before) <= SignedDuration::from_secs(60));
    let lifetime = issued.validity.not_after.duration_since(now);
    assert!(
        lifetime <= SignedDuration::from_mins(30) && lifetime > SignedDuration::from_secs(1798)
    );
    let leaf =
        recognise::leaf_of(issued.chain_pem.as_bytes(), founded.issuing().certificate()).unwrap();
    assert_eq!(
        leaf.tbs_sha256, digest,
        "what was recorded is what was signed"
    );
    assert_eq!(leaf.fingerprint, issued.fingerprint);
    assert_eq!(leaf.serial_number, issued.serial_number);
    assert_eq!(leaf.not_after, issued.validity.not_after);
}

#[test]
fn a_certificate_that_would_outlive_its_ca_is_refused_and_not_shortened() {
    let (founded, intent) = (founded(), granted());
    let end = founded.issuing().certificate().validity().not_after;
    let at = |before_the_end| {
        let now = end
            .checked_sub(SignedDuration::from_mins(before_the_end))
            .unwrap();
        issue::prepare(
            &intent,
            &signing(&founded, Length::days(1)),
            now,
            SerialNumber::from_random([1; 16]),
        )
        .map(|_| ())
    };
    assert_eq!(at(31), Ok(()));
    assert_eq!(
        at(29),
        Err(IssueError::Certificate(CertificateError::OutlivesIssuer))
    );
}

#[test]
fn a_certificate_of_another_ca_is_not_taken_for_ours() {
    let (ours, theirs, intent) = (founded(), founded(), granted());
    let serial = SerialNumber::from_random([1; 16]);
    let prepared = issue::prepare(
        &intent,
        &signing(&theirs, Length::days(1)),
        Timestamp::now(),
        serial,
    )
    .unwrap();
    let issued = prepared.sign(theirs.issuing()).unwrap();
    assert!(
        recognise::leaf_of(issued.chain_pem.as_bytes(), ours.issuing().certificate()).is_none()
    );
    let crossed = issue::prepare(
        &intent,
        &signing(&theirs, Length::days(1)),
        Timestamp::now(),
        serial,
    )
    .unwrap();
    assert!(
        crossed.sign(ours.issuing()).is_err(),
        "a key signs for its own CA alone"
    );
}
