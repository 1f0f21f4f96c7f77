//! Requests as engineers and attackers make them.

mod yubikey;

use super::{
    Denial, EvidenceCache, Review, ReviewError, Snapshot, Submission, admit_anonymous, review,
};
use jiff::{SignedDuration, Timestamp};
use std::{num::NonZeroUsize, sync::Arc};
use touchstone_common::{
    claims::{Claims, Reason},
    csr::{self, Draft},
    name::{ClusterName, GroupName, UserName},
    policy::Policy,
};
use yubikey::{Attests, GOOD, YubiKey};

const POLICY: &str = r#"
apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users:
- { name: alice, teams: [payments], keys: [{ serial: 12345678 }], usernames: ["oidc:alice"] }
- { name: bob, teams: [payments], keys: [{ serial: 2 }] }
rules:
- { name: on call, who: { teams: [payments] }, groups: [oncall], maxTTL: 30m, reason: { pattern: "^INC-" }, decision: auto }
- { name: read, who: { teams: [payments] }, groups: [read], decision: manual, approvals: [{ from: { teams: [payments] } }] }
"#;

fn now() -> Timestamp {
    "2026-07-01T10:00:00Z".parse().unwrap()
}

/// A signer with a cache, and the engineer's YubiKey.
struct Bench {
    card: YubiKey,
    snapshot: Snapshot,
    cache: EvidenceCache,
}

/// A request and what surrounds it; the default is alice's, and good.
#[derive(Clone)]
struct Case {
    draft: Draft,
    username: String,
    expiration_seconds: Option<i32>,
    usages: Vec<String>,
    created_at: Option<Timestamp>,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        Self::with(POLICY, GOOD)
    }

    fn with(policy: &str, attests: Attests) -> Self {
        let card = YubiKey::new(attests);
        let policy = Policy::parse("policy.yaml", policy.as_bytes()).unwrap();
        let roots = Arc::new(card.roots());
        Self {
            card,
            snapshot: Snapshot { policy, roots },
            cache: EvidenceCache::new(NonZeroUsize::new(2).unwrap()),
        }
    }

    fn case(&self) -> Case {
        Case {
            draft: Draft {
                user: UserName::parse("alice").unwrap(),
                groups: vec![GroupName::parse("oncall").unwrap()],
                claims: Claims {
                    cluster: ClusterName::parse("prod").unwrap(),
                    ttl: "30m".parse().unwrap(),
                    reason: Reason::parse("INC-4211 checkout latency").unwrap(),
                    nonce: [7; 32],
                    issued_at: now(),
                    read_token_sha256: Some([9; 32]),
                },
                evidence: Some(self.card.evidence.clone()),
            },
            username: "alice".into(),
            expiration_seconds: Some(1800),
            usages: vec!["client auth".into()],
            created_at: None,
            now: now(),
        }
    }

    fn pem(&self, case: &Case) -> String {
        csr::to_pem(&case.draft.sign(&self.card).unwrap())
    }

    fn try_review(&self, case: &Case) -> Result<Review, ReviewError> {
        let pem = self.pem(case);
        let submission = Submission {
            uid: "1",
            signer_name: "touchstone.dev/client",
            username: &case.username,
            groups: &[],
            request: pem.as_bytes(),
            expiration_seconds: case.expiration_seconds,
            usages: &case.usages,
            created_at: case.created_at,
        };
        review(&submission, &self.snapshot, &self.cache, case.now)
    }

    fn review(&self, change: impl FnOnce(&mut Case)) -> Review {
        let mut case = self.case();
        change(&mut case);
        self.try_review(&case).unwrap()
    }

    #[track_caller]
    fn denial(&self, change: impl FnOnce(&mut Case)) -> Denial {
        match self.review(change) {
            Review::Deny(denial) => denial,
            other => panic!("not denied: {other:?}"),
        }
    }

    #[track_caller]
    fn approves(&self, change: impl FnOnce(&mut Case)) -> super::Intent {
        match self.review(change) {
            Review::Approve(intent) => intent,
            other => panic!("not approved: {other:?}"),
        }
    }

    fn admit(&self, case: &Case) -> Result<super::Admission, Denial> {
        let pem = self.pem(case);
        admit_anonymous(pem.as_bytes(), &self.snapshot, &self.cache, case.now).unwrap()
    }
}

fn shifted(seconds: i64) -> Timestamp {
    now() + SignedDuration::from_secs(seconds)
}

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

impl Bench {
    fn case_key_sha256(&self) -> [u8; 32] {
        use touchstone_common::key::SigningKey as _;
        self.card.public_key().spki_sha256()
    }
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
    assert_eq!(waiting.stages().len(), 1);
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
    };
    let verdict = || {
        format!(
            "{:?}",
            review(&submission, &bench.snapshot, &bench.cache, now())
        )
    };
    assert_eq!(verdict(), verdict());
}

#[test]
fn the_embedded_api_takes_a_request_that_its_own_key_vouches_for() {
    let bench = Bench::new();
    let admission = bench.admit(&bench.case()).unwrap();
    assert_eq!(admission.user.as_str(), "alice");
    assert_eq!(admission.key_serial, 12_345_678);
    assert_eq!(admission.read_token_sha256, [9; 32]);
}

#[test]
fn the_embedded_api_takes_nothing_else() {
    let bench = Bench::new();
    let other = YubiKey::new(GOOD);
    let refused = |change: &dyn Fn(&mut Case)| {
        let mut case = bench.case();
        change(&mut case);
        bench.admit(&case).unwrap_err().reason
    };
    assert_eq!(
        refused(&|c| c.draft.claims.read_token_sha256 = None),
        "NoReadToken"
    );
    assert_eq!(refused(&|c| c.draft.evidence = None), "KeyNotEnrolled");
    assert_eq!(
        refused(&|c| c.draft.evidence = Some(other.evidence.clone())),
        "InvalidEvidence"
    );
    assert_eq!(refused(&|c| c.now = shifted(301)), "NotFresh");
    assert_eq!(
        refused(&|c| c.draft.user = UserName::parse("bob").unwrap()),
        "KeyNotEnrolled"
    );
    assert_eq!(
        refused(&|c| c.draft.user = UserName::parse("eve").unwrap()),
        "UnknownUser"
    );
    assert_eq!(
        refused(&|c| c.draft.claims.cluster = ClusterName::parse("x").unwrap()),
        "WrongCluster"
    );
    assert_eq!(
        admit_anonymous(b"x", &bench.snapshot, &bench.cache, now())
            .unwrap()
            .unwrap_err()
            .reason,
        "InvalidRequest"
    );
}

#[test]
fn a_key_that_only_its_hash_enrols_needs_evidence_to_speak_for_itself() {
    let card_hash = |bench: &Bench| hex::encode(bench.case_key_sha256());
    let bench = Bench::new();
    let policy = POLICY.replace(
        "{ serial: 12345678 }",
        &format!("{{ spki: \"sha256:{}\" }}", card_hash(&bench)),
    );
    let policy = Policy::parse("p", policy.as_bytes()).unwrap();
    let bench = Bench {
        snapshot: Snapshot {
            policy,
            roots: Arc::clone(&bench.snapshot.roots),
        },
        ..bench
    };
    let mut case = bench.case();
    assert_eq!(bench.admit(&case).unwrap().key_serial, 12_345_678);
    case.draft.evidence = None;
    assert_eq!(bench.admit(&case).unwrap_err().reason, "NoEvidence");
    // A signed-in creator may ask with it, and the policy then wants the attestation.
    let denial = bench.denial(|c| c.draft.evidence = None);
    assert_eq!(denial.reason, "DeniedByPolicy");
    assert!(
        denial.message.contains("no attestation"),
        "{}",
        denial.message
    );
}

#[test]
fn an_explanation_names_everything_that_stands_in_the_way() {
    let bench = Bench::new();
    let mut case = bench.case();
    case.draft.groups = vec![GroupName::parse("other").unwrap()];
    case.draft.claims.cluster = ClusterName::parse("staging").unwrap();
    case.draft.claims.issued_at = shifted(-3600);
    case.username = "bob".into();
    case.usages.clear();
    case.expiration_seconds = None;
    let explanation = bench.explain(&case);
    let reasons: Vec<_> = explanation.objections.iter().map(|o| o.reason).collect();
    assert_eq!(
        reasons,
        [
            "InvalidUsages",
            "InvalidLifetime",
            "WrongCluster",
            "NotFresh",
            "WrongCreator"
        ]
    );
    assert_eq!(explanation.verdict(), "deny");
    let long = explanation.rules.unwrap().long;
    assert!(long.contains("in YubiKey 12345678 slot 9a"), "{long}");
}

#[test]
fn an_explanation_agrees_with_the_review() {
    let bench = Bench::new();
    for (group, verdict) in [("oncall", "approve"), ("read", "wait"), ("other", "deny")] {
        let mut case = bench.case();
        case.draft.groups = vec![GroupName::parse(group).unwrap()];
        let explanation = bench.explain(&case);
        assert_eq!(explanation.verdict(), verdict);
        assert!(explanation.objections.is_empty());
        let reviewed = match bench.try_review(&case).unwrap() {
            Review::Approve(_) => "approve",
            Review::Deny(_) => "deny",
            Review::Wait(_) => "wait",
        };
        assert_eq!(reviewed, verdict);
    }
    let mut stranger = bench.case();
    stranger.username = "bob".into();
    assert_eq!(
        bench.explain(&stranger).verdict(),
        "deny",
        "whatever the rules say"
    );
}

impl Bench {
    fn explain(&self, case: &Case) -> super::Explanation {
        let pem = self.pem(case);
        let submission = Submission {
            uid: "1",
            signer_name: "touchstone.dev/client",
            username: &case.username,
            groups: &[],
            request: pem.as_bytes(),
            expiration_seconds: case.expiration_seconds,
            usages: &case.usages,
            created_at: case.created_at,
        };
        super::explain(&submission, &self.snapshot, &self.cache, case.now).unwrap()
    }
}
