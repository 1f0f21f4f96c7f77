//! Requests that the signer's own front door created: the key alone says who asks.

use super::*;
use crate::review::review_of_front_door;

const ACCOUNT: &str = "touchstone-signer";

/// What the signer says of a request that its front door made.
fn judged(bench: &Bench, change: impl FnOnce(&mut Case)) -> Review {
    let mut case = bench.case();
    case.username = ACCOUNT.into();
    change(&mut case);
    let pem = bench.pem(&case);
    let submission = Submission {
        uid: "1",
        signer_name: "touchstone.dev/client",
        username: &case.username,
        groups: &[
            "system:serviceaccounts".to_owned(),
            "oncall-people".to_owned(),
        ],
        request: pem.as_bytes(),
        expiration_seconds: case.expiration_seconds,
        usages: &case.usages,
        created_at: case.created_at,
        approvals: Approvals::default(),
    };
    review_of_front_door(&submission, &bench.snapshot, &bench.cache, case.now).unwrap()
}

#[track_caller]
fn denied(bench: &Bench, change: impl FnOnce(&mut Case)) -> &'static str {
    match judged(bench, change) {
        Review::Deny(denial) => denial.reason,
        other => panic!("not denied: {other:?}"),
    }
}

#[test]
fn an_attested_and_enrolled_key_is_granted_what_it_is_granted_on_the_embedded_api() {
    let bench = Bench::new();
    let Review::Approve(intent) = judged(&bench, |_| {}) else {
        panic!("not approved");
    };
    let embedded = bench.approves(|_| {});
    assert_eq!(intent.user(), embedded.user());
    assert_eq!(intent.groups(), embedded.groups());
    assert_eq!(intent.key_serial(), Some(12_345_678));
    assert_eq!(intent.read_token_sha256(), embedded.read_token_sha256());
    assert!(matches!(
        judged(&bench, |case| case.draft.groups =
            vec![GroupName::parse("read").unwrap()]),
        Review::Wait(_)
    ));
}

#[test]
fn the_signers_account_speaks_for_nobody_where_no_front_door_is() {
    let denial = Bench::new().denial(|case| case.username = ACCOUNT.into());
    assert_eq!(denial.reason, "WrongCreator");
}

#[test]
fn a_key_without_evidence_is_denied_even_where_its_hash_is_enrolled() {
    let mut bench = Bench::new();
    let sha256 = hex::encode(bench.case_key_sha256());
    let policy = POLICY.replace(
        "keys: [{ serial: 12345678 }]",
        &format!("keys: [{{ serial: 12345678 }}, {{ spki: \"sha256:{sha256}\" }}]"),
    );
    let policy = policy.replace(
        "groups: [oncall]",
        "groups: [oncall], key: { attested: false }",
    );
    bench.snapshot.policy = Policy::parse("policy.yaml", policy.as_bytes()).unwrap();
    // On a cluster of which alice has a credential, such a key is hers.
    bench.approves(|case| case.draft.evidence = None);
    assert_eq!(
        denied(&bench, |case| case.draft.evidence = None),
        "NoEvidence"
    );
}

#[test]
fn a_rule_for_any_key_takes_none_that_is_not_enrolled_whoever_the_policy_lists() {
    let rule = "- { name: scratch, who: { teams: [payments] }, groups: [scratch], maxTTL: 15m, decision: auto, \
                key: { attested: false, enrolled: false } }\n";
    // Not even where someone wrote the signer's account down as another name of hers.
    let policy = POLICY.replace("\"oidc:alice\"", &format!("\"oidc:alice\", \"{ACCOUNT}\""));
    let bench = Bench::with(&format!("{policy}{rule}"), GOOD);
    let scratch = |case: &mut Case| {
        case.draft.groups = vec![GroupName::parse("scratch").unwrap()];
        case.draft.evidence = None;
    };
    assert_eq!(denied(&bench, scratch), "KeyNotEnrolled");
    // The card of another user.
    let bobs = |case: &mut Case| case.draft.user = UserName::parse("bob").unwrap();
    assert_eq!(denied(&bench, bobs), "KeyNotEnrolled");
}

#[test]
fn the_groups_of_the_signers_account_are_nobodys() {
    let rule = "- { name: of people, who: { groups: [oncall-people] }, groups: [people], decision: auto }\n";
    let bench = Bench::with(&format!("{POLICY}{rule}"), GOOD);
    let people = |case: &mut Case| case.draft.groups = vec![GroupName::parse("people").unwrap()];
    assert_eq!(denied(&bench, people), "DeniedByPolicy");
}

#[test]
fn what_surrounds_it_is_checked_as_ever() {
    let bench = Bench::new();
    for (reason, change) in [
        (
            "InvalidUsages",
            (|case: &mut Case| case.usages = vec!["server auth".into()]) as fn(&mut Case),
        ),
        ("InvalidLifetime", |case| {
            case.expiration_seconds = Some(3600)
        }),
        ("NotFresh", |case| {
            case.draft.claims.issued_at = shifted(-301)
        }),
        ("WrongCluster", |case| {
            case.draft.claims.cluster = ClusterName::parse("staging").unwrap();
        }),
        ("UnknownUser", |case| {
            case.draft.user = UserName::parse("mallory").unwrap();
        }),
    ] {
        assert_eq!(denied(&bench, change), reason);
    }
}
