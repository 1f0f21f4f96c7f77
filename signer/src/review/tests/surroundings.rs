//! What surrounds a request: its form, usages, lifetime, cluster, age and creator.

use super::*;

#[test]
fn what_is_granted_is_what_was_validated() {
    let bench = Bench::new();
    let intent = bench.approves(|_| {});
    assert_eq!(intent.user().as_str(), "alice");
    assert_eq!(intent.groups().len(), 1);
    assert_eq!(intent.groups()[0].as_str(), "oncall");
    assert_eq!(intent.ttl().as_secs(), 1800);
    assert_eq!(intent.reason().as_str(), "INC-4211 checkout latency");
    assert_eq!(&*intent.rules()[0], "on call");
    assert_eq!(intent.key_serial(), Some(12_345_678));
    assert_eq!(intent.nonce(), &[7; 32]);
    assert_eq!(intent.read_token_sha256(), Some(&[9; 32]));
    assert_eq!(*intent.policy_digest(), bench.snapshot.policy.digest());
    assert_eq!(intent.policy_generation(), 1);
    let request = csr::Request::from_pem(bench.pem(&bench.case()).as_bytes()).unwrap();
    assert_eq!(
        intent.public_key().spki_der(),
        request.public_key().spki_der()
    );
}

#[test]
fn what_is_not_a_request_is_denied() {
    let bench = Bench::new();
    for request in [
        "",
        "x",
        "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
    ] {
        let submission = Submission {
            uid: "1",
            signer_name: "touchstone.dev/client",
            username: "alice",
            groups: &[],
            request: request.as_bytes(),
            expiration_seconds: Some(1800),
            usages: &["client auth".to_owned()],
            created_at: None,
            approvals: Approvals::default(),
        };
        let verdict = review(&submission, &bench.snapshot, &bench.cache, now()).unwrap();
        assert!(
            matches!(&verdict, Review::Deny(d) if d.reason == "InvalidRequest"),
            "{verdict:?}"
        );
    }
}

#[test]
fn usages_other_than_client_auth_are_denied() {
    let bench = Bench::new();
    for usages in [
        &[][..],
        &["server auth"],
        &["client auth", "digital signature"],
        &["client auth", "client auth"],
        &["Client Auth"],
    ] {
        let denial = bench.denial(|c| c.usages = usages.iter().map(ToString::to_string).collect());
        assert_eq!(denial.reason, "InvalidUsages");
    }
}

#[test]
fn a_lifetime_that_the_key_did_not_sign_is_denied() {
    let bench = Bench::new();
    for seconds in [
        None,
        Some(599),
        Some(0),
        Some(-1800),
        Some(1799),
        Some(3600),
        Some(i32::MIN),
    ] {
        let denial = bench.denial(|c| c.expiration_seconds = seconds);
        assert_eq!(denial.reason, "InvalidLifetime", "{seconds:?}");
    }
}

#[test]
fn the_rule_shortens_the_lifetime() {
    let bench = Bench::new();
    let intent = bench.approves(|c| {
        c.draft.claims.ttl = "2h".parse().unwrap();
        c.expiration_seconds = Some(7200);
    });
    assert_eq!(intent.ttl().as_secs(), 1800);
}

#[test]
fn a_request_for_another_cluster_is_denied() {
    let denial = Bench::new().denial(|c| {
        c.draft.claims.cluster = ClusterName::parse("staging").unwrap();
    });
    assert_eq!(denial.reason, "WrongCluster");
    assert!(denial.message.contains("staging") && denial.message.contains("prod"));
}

#[test]
fn a_request_is_fresh_for_five_minutes_either_way() {
    let bench = Bench::new();
    for seconds in [-300, -1, 0, 1, 300] {
        bench.approves(|c| c.draft.claims.issued_at = shifted(seconds));
    }
    for (seconds, said) in [
        (-301, "5 minutes before"),
        (-540, "9 minutes before"),
        (7260, "2 hours after"),
    ] {
        let denial = bench.denial(|c| c.draft.claims.issued_at = shifted(seconds));
        assert_eq!(denial.reason, "NotFresh");
        assert!(denial.message.contains(said), "{}", denial.message);
        assert!(denial.message.contains("timedatectl"));
    }
}

#[test]
fn an_old_request_that_is_submitted_again_is_denied() {
    let bench = Bench::new();
    let denial = bench.denial(|c| {
        c.created_at = Some(shifted(3600));
        c.now = shifted(3601);
    });
    assert_eq!(denial.reason, "NotFresh");
}

#[test]
fn a_request_that_was_fresh_when_it_was_created_may_wait() {
    let bench = Bench::new();
    bench.approves(|c| {
        c.created_at = Some(shifted(2));
        c.now = shifted(7200);
    });
}

#[test]
fn a_request_is_the_creators_own_or_of_whom_the_policy_maps() {
    let bench = Bench::new();
    bench.approves(|c| c.username = "oidc:alice".into());
    for creator in ["bob", "oidc:bob", "", "system:anonymous", "ALICE", "alice "] {
        let denial = bench.denial(|c| c.username = creator.into());
        assert_eq!(denial.reason, "WrongCreator", "{creator}");
    }
    let denial = bench.denial(|c| {
        c.username = "alicia".into();
        c.draft.user = UserName::parse("alicia").unwrap();
    });
    assert_eq!(denial.reason, "UnknownUser");
    assert!(
        denial.message.contains("did you mean alice?"),
        "{}",
        denial.message
    );
}
