//! What the policy's rules make of a request.

use super::*;

#[test]
fn a_weak_key_is_denied_by_the_policy_and_told_why() {
    for (attests, said) in [
        (
            Attests {
                firmware: [5, 4, 3],
                ..GOOD
            },
            "firmware must be 5.7.0 or later; it is 5.4.3",
        ),
        (
            Attests {
                policies: [2, 1],
                ..GOOD
            },
            "touch policy must be always or stricter; it is never",
        ),
        (
            Attests {
                policies: [1, 2],
                ..GOOD
            },
            "PIN policy must be once or stricter; it is never",
        ),
    ] {
        let denial = Bench::with(POLICY, attests).denial(|_| {});
        assert_eq!(denial.reason, "DeniedByPolicy");
        assert!(denial.message.contains(said), "{}", denial.message);
    }
}

#[test]
fn a_group_that_the_policy_does_not_grant_is_denied_with_the_reason() {
    let denial = Bench::new().denial(|c| {
        c.draft.groups.push(GroupName::parse("oncall2").unwrap());
    });
    assert_eq!(denial.reason, "DeniedByPolicy");
    assert_eq!(
        denial.message,
        "denied: no rule grants group oncall2. Nearest: rule \"on call\" grants oncall"
    );
}

#[test]
fn a_manual_rule_leaves_the_request_waiting_for_whom_it_names() {
    let bench = Bench::new();
    let Review::Wait(waiting) =
        bench.review(|c| c.draft.groups = vec![GroupName::parse("read").unwrap()])
    else {
        panic!("does not wait");
    };
    assert_eq!(waiting.missing().len(), 1);
    assert_eq!(waiting.intent().user().as_str(), "alice");
    assert_eq!(
        waiting.message(),
        "waiting for 1 approval from team payments (for 30m, by rule \"read\")"
    );
}

#[test]
fn a_clock_that_cannot_be_right_is_an_error_and_no_verdict() {
    let bench = Bench::new();
    let mut case = bench.case();
    case.now = Timestamp::UNIX_EPOCH;
    assert!(matches!(
        bench.try_review(&case),
        Err(ReviewError::Clock(_))
    ));
    let mut case = bench.case();
    case.created_at = Some(shifted(301));
    assert!(matches!(
        bench.try_review(&case),
        Err(ReviewError::ClockBehind { .. })
    ));
}

#[test]
fn the_same_request_gives_the_same_verdict() {
    let bench = Bench::new();
    let pem = bench.pem(&bench.case());
    let submission = Submission {
        uid: "1",
        signer_name: "touchstone.dev/client",
        username: "alice",
        groups: &[],
        request: pem.as_bytes(),
        expiration_seconds: Some(1800),
        usages: &["client auth".to_owned()],
        created_at: None,
        approvals: Approvals::default(),
    };
    let verdict = || {
        format!(
            "{:?}",
            review(&submission, &bench.snapshot, &bench.cache, now())
        )
    };
    assert_eq!(verdict(), verdict());
}
