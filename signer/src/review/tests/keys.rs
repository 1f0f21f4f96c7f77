//! Whose key it is, and whether its evidence verifies.

use super::*;

#[test]
fn a_key_that_is_enrolled_for_someone_else_is_denied() {
    let bench = Bench::new();
    let denial = bench.denial(|c| {
        c.username = "bob".into();
        c.draft.user = UserName::parse("bob").unwrap();
    });
    assert_eq!(denial.reason, "KeyNotEnrolled");
    assert!(
        denial
            .message
            .contains("YubiKey 12345678 is not enrolled for bob"),
        "{}",
        denial.message
    );
}

#[test]
fn another_key_in_the_enrolled_yubikey_is_denied_where_the_policy_names_the_key() {
    let hash = "0".repeat(64);
    let policy = POLICY.replace(
        "{ serial: 12345678 }",
        &format!("{{ serial: 12345678, spki: \"sha256:{hash}\" }}"),
    );
    let bench = Bench::with(&policy, GOOD);
    let denial = bench.denial(|_| {});
    assert_eq!(denial.reason, "KeyNotEnrolled");
    assert!(
        denial.message.contains("with another key"),
        "{}",
        denial.message
    );

    let hash = hex::encode(bench.case_key_sha256());
    let policy = policy.replace(&"0".repeat(64), &hash);
    let policy = Policy::parse("p", policy.as_bytes()).unwrap();
    let snapshot = Snapshot {
        policy,
        roots: Arc::clone(&bench.snapshot.roots),
    };
    Bench { snapshot, ..bench }.approves(|_| {});
}

#[test]
fn a_request_without_evidence_is_denied() {
    let denial = Bench::new().denial(|c| c.draft.evidence = None);
    assert_eq!(denial.reason, "KeyNotEnrolled");
    assert!(
        denial.message.contains("no attestation"),
        "{}",
        denial.message
    );
}

#[test]
fn evidence_of_another_key_is_denied() {
    let bench = Bench::new();
    let other = YubiKey::new(GOOD);
    let denial = bench.denial(|c| c.draft.evidence = Some(other.evidence));
    assert_eq!(denial.reason, "InvalidEvidence");
}

#[test]
fn evidence_under_a_root_that_nobody_configured_is_denied() {
    let mut bench = Bench::new();
    bench.approves(|_| {});
    bench.snapshot.roots = Arc::new(touchstone_common::attestation::Roots::yubico());
    assert_eq!(bench.denial(|_| {}).reason, "InvalidEvidence");
}

#[test]
fn evidence_is_remembered_but_its_dates_are_not() {
    let attests = Attests {
        dates: ["250101000000Z", "260701100500Z"],
        ..GOOD
    };
    let bench = Bench::with(POLICY, attests);
    bench.approves(|_| {});
    assert_eq!(bench.cache.len(), 1);
    bench.approves(|c| {
        c.draft.claims.issued_at = shifted(300);
        c.now = shifted(300);
    });
    assert_eq!(bench.cache.len(), 1);
    let denial = bench.denial(|c| {
        c.draft.claims.issued_at = shifted(301);
        c.now = shifted(301);
    });
    assert_eq!(denial.reason, "InvalidEvidence");
}

#[test]
fn the_cache_is_bounded_and_keeps_no_evidence_that_does_not_verify() {
    let bench = Bench::new();
    let strangers: Vec<_> = (0..3).map(|_| YubiKey::new(GOOD)).collect();
    for stranger in &strangers {
        let roots = Arc::clone(&bench.snapshot.roots);
        let key = touchstone_common::key::SigningKey::public_key(stranger);
        assert!(
            bench
                .cache
                .verify(&stranger.evidence, key, &roots, now())
                .is_err()
        );
    }
    assert_eq!(bench.cache.len(), 0);
    let roots = strangers
        .iter()
        .fold(bench.card.roots(), |roots, card| card.add_root(roots));
    let roots = Arc::new(roots);
    for stranger in &strangers {
        let key = touchstone_common::key::SigningKey::public_key(stranger);
        bench
            .cache
            .verify(&stranger.evidence, key, &roots, now())
            .unwrap();
    }
    assert_eq!(bench.cache.len(), 2);
}
