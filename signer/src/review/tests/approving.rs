//! Approvals as approvers and attackers make them.

use super::*;
use std::collections::BTreeMap;
use touchstone_common::{
    approval::{ANNOTATION_PREFIX, Asked, Decision, Statement, annotation_key},
    csr::Request,
};

const POLICY: &str = r#"
apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
defaults: { waitFor: 1h }
users:
- { name: alice, teams: [payments, leads], keys: [{ serial: 12345678 }, { serial: 7 }] }
- { name: bob, teams: [leads], keys: [{ serial: 2 }] }
- { name: bobby, teams: [leads], keys: [{ serial: 2 }] }
- { name: carol, teams: [leads], keys: [{ serial: 3 }] }
- { name: dave, teams: [security], keys: [{ serial: 4 }] }
rules:
- { name: one, who: { teams: [payments] }, groups: [one], decision: manual, approvals: [{ from: { teams: [leads] } }] }
- { name: two, who: { teams: [payments] }, groups: [two], decision: manual, approvals: [{ from: { teams: [leads] }, count: 2 }] }
- { name: bound, who: { teams: [payments] }, groups: [bound], decision: manual, approvals: [{ from: { teams: [leads] } }], binding: { perGrant: { role: debug, namespaces: [b, a] } } }
- { name: bare, who: { teams: [payments] }, groups: [bare], decision: manual, approvals: kubernetes }
"#;

const UID: &str = "0b2a4e9e-1f6e-4d4b-8f3a-0a8a3c7d9e11";

/// alice's request for a group, and people who say something of it.
struct Scene {
    bench: Bench,
    pem: String,
    annotations: BTreeMap<String, String>,
    in_kubernetes: bool,
    now: Timestamp,
}

impl Scene {
    fn new(group: &str) -> Self {
        let bench = Bench::with(POLICY, GOOD);
        let mut case = bench.case();
        case.draft.groups = vec![GroupName::parse(group).unwrap()];
        let pem = bench.pem(&case);
        Self {
            bench,
            pem,
            annotations: BTreeMap::new(),
            in_kubernetes: false,
            now: now(),
        }
    }

    /// A YubiKey that the signer trusts.
    fn card(&mut self, attests: Attests) -> YubiKey {
        let card = YubiKey::new(attests);
        let roots = (*self.bench.snapshot.roots).clone();
        self.bench.snapshot.roots = Arc::new(card.add_root(roots));
        card
    }

    fn says(
        &self,
        who: &str,
        decision: Decision,
        change: impl FnOnce(&mut Statement),
    ) -> Statement {
        let request = Request::from_pem(self.pem.as_bytes()).unwrap();
        let asked = Asked {
            cluster: &request.claims().cluster,
            uid: UID,
            csr_sha256: &request.sha256(),
            user: request.user(),
            groups: request.groups(),
            ttl: request.claims().ttl,
        };
        let comment = Reason::parse("because").unwrap();
        let who = UserName::parse(who).unwrap();
        let times = [now(), shifted(3600)];
        let mut statement = Statement::new(&asked, who, decision, comment, times, [5; 32]);
        change(&mut statement);
        statement
    }

    fn put(&mut self, statement: &Statement, card: &YubiKey) {
        let text = statement.sign(card, Some(&card.evidence)).unwrap();
        self.annotations
            .insert(annotation_key(&statement.approver), text);
    }

    /// `who` approves, with a good YubiKey of this serial.
    fn approves(&mut self, who: &str, serial: u32) {
        let card = self.card(Attests { serial, ..GOOD });
        let statement = self.says(who, Decision::Approve, |_| {});
        self.put(&statement, &card);
    }

    fn review(&self) -> Review {
        let submission = Submission {
            uid: UID,
            signer_name: "touchstone.dev/client",
            username: "alice",
            groups: &[],
            request: self.pem.as_bytes(),
            expiration_seconds: Some(1800),
            usages: &["client auth".to_owned()],
            created_at: Some(now()),
            approvals: Approvals {
                annotations: Some(&self.annotations),
                in_kubernetes: self.in_kubernetes,
            },
        };
        review(
            &submission,
            &self.bench.snapshot,
            &self.bench.cache,
            self.now,
        )
        .unwrap()
    }

    #[track_caller]
    fn waits(&self) -> String {
        match self.review() {
            Review::Wait(waiting) => waiting.message().to_owned(),
            other => panic!("does not wait: {other:?}"),
        }
    }

    #[track_caller]
    fn granted(&self) -> crate::review::Intent {
        match self.review() {
            Review::Approve(intent) => intent,
            other => panic!("not granted: {other:?}"),
        }
    }

    #[track_caller]
    fn denied(&self) -> Denial {
        match self.review() {
            Review::Deny(denial) => denial,
            other => panic!("not denied: {other:?}"),
        }
    }
}

#[test]
fn a_request_is_granted_once_its_stages_are_met_and_says_by_whom() {
    let mut scene = Scene::new("two");
    assert_eq!(
        scene.waits(),
        "waiting for 2 approvals from team leads (for 30m, by rule \"two\")"
    );
    scene.approves("bob", 2);
    assert_eq!(
        scene.waits(),
        "waiting for 1 of 2 approvals from team leads (for 30m, by rule \"two\"); approved by bob"
    );
    scene.approves("carol", 3);
    let intent = scene.granted();
    let mut by: Vec<_> = intent
        .approvals()
        .iter()
        .map(|approval| (approval.approver().as_str(), approval.key_serial()))
        .collect();
    // In the order of their annotations' keys, which are hashes.
    by.sort_unstable();
    assert_eq!(by, [("bob", Some(2)), ("carol", Some(3))]);
    assert!(!intent.has_unsigned_approval());
    assert_eq!(intent.ttl().to_string(), "30m");
}

#[test]
fn an_approver_reads_what_would_be_bound_and_signs_for_no_group_of_the_grants_own() {
    let mut scene = Scene::new("bound");
    assert_eq!(
        scene.waits(),
        "waiting for 1 approval from team leads (for 30m, by rule \"bound\"); it would have Role debug in a, Role debug in b"
    );
    scene.approves("bob", 2);
    let intent = scene.granted();
    assert_eq!(intent.bindings().len(), 2);
    let groups: Vec<_> = intent.groups().iter().map(GroupName::as_str).collect();
    assert_eq!(groups, ["bound", intent.grant_id().group_name().as_str()]);
}

/// What does not count, and the reason that is told.
#[test]
fn a_statement_that_does_not_fit_counts_for_nothing_and_the_reason_is_told() {
    let replayed = |change: &dyn Fn(&mut Statement), why: &str| {
        let mut scene = Scene::new("one");
        let card = scene.card(Attests { serial: 2, ..GOOD });
        let statement = scene.says("bob", Decision::Approve, change);
        scene.put(&statement, &card);
        let said = scene.waits();
        assert!(said.contains(why), "{said}");
        // Nor does it deny.
        let statement = scene.says("bob", Decision::Deny, change);
        scene.put(&statement, &card);
        let said = scene.waits();
        assert!(said.contains(why), "{said}");
    };
    let group = |name: &str| GroupName::parse(name).unwrap();
    replayed(&|s| s.request.uid.push('0'), "bob is about another request");
    replayed(
        &|s| s.request.sha256 = [1; 32],
        "another request under the same UID",
    );
    replayed(
        &|s| s.user = UserName::parse("carol").unwrap(),
        "another user",
    );
    replayed(
        &|s| s.groups = vec![group("one"), group("two")],
        "another list of groups",
    );
    replayed(&|s| s.ttl = "10m".parse().unwrap(), "another lifetime");
    replayed(&|s| s.ttl = "1h".parse().unwrap(), "another lifetime");
    replayed(
        &|s| s.cluster = ClusterName::parse("dev").unwrap(),
        "another cluster",
    );
    replayed(
        &|s| s.expires_at = shifted(25 * 3600),
        "24 hours are the most",
    );
    replayed(&|s| s.issued_at = shifted(301), "still to come");
}

#[test]
fn a_statement_ends() {
    let mut scene = Scene::new("one");
    let card = scene.card(Attests { serial: 2, ..GOOD });
    let statement = scene.says("bob", Decision::Approve, |s| s.expires_at = shifted(60));
    scene.put(&statement, &card);
    scene.granted();
    scene.now = shifted(60);
    assert!(scene.waits().contains("the statement of bob ended at"));
}

#[test]
fn only_an_enrolled_key_of_the_approver_signs_for_them() {
    for (who, serial, why) in [
        (
            "bob",
            3,
            "bob signed with a key that is not enrolled for them",
        ),
        ("mallory", 2, "mallory is not a user of this policy"),
        ("dave", 4, "dave may not approve this request"),
        (
            "alice",
            12_345_678,
            "alice signed with a key of the requester",
        ),
        ("alice", 7, "alice signed with a key of the requester"),
        (
            "bob",
            7,
            "bob signed with a key that is not enrolled for them",
        ),
    ] {
        let mut scene = Scene::new("one");
        scene.approves(who, serial);
        let said = scene.waits();
        assert!(said.contains(why), "{who} {serial}: {said}");
    }
}

#[test]
fn the_requesters_second_key_under_anothers_name_counts_for_nothing() {
    let mut scene = Scene::new("one");
    let policy = POLICY.replace("{ serial: 2 }", "{ serial: 2 }, { serial: 7 }");
    scene.bench.snapshot.policy = Policy::parse("p", policy.as_bytes()).unwrap();
    scene.approves("bob", 7);
    let why = "bob signed with a key of the requester";
    assert!(scene.waits().contains(why));
    // Nor where the policy names one key in that YubiKey as the requester's, and another as bob's.
    let pinned = format!("{{ serial: 7, spki: \"sha256:{}\" }}", "0".repeat(64));
    let policy = policy.replacen("{ serial: 7 }", &pinned, 1);
    scene.bench.snapshot.policy = Policy::parse("p", policy.as_bytes()).unwrap();
    assert!(scene.waits().contains(why));
}

#[test]
fn one_card_counts_once_whatever_names_it_is_enrolled_under() {
    let mut scene = Scene::new("two");
    let card = scene.card(Attests { serial: 2, ..GOOD });
    for who in ["bob", "bobby"] {
        let statement = scene.says(who, Decision::Approve, |_| {});
        scene.put(&statement, &card);
    }
    let said = scene.waits();
    assert!(said.contains("1 of 2 approvals"), "{said}");
    assert!(
        said.contains("signed with the same YubiKey or key as"),
        "{said}"
    );
    // Nor with another key in the same YubiKey.
    scene.approves("bobby", 2);
    assert!(scene.waits().contains("1 of 2 approvals"));
}

#[test]
fn an_approvers_key_is_as_good_as_the_policys_defaults_ask() {
    for (attests, why) in [
        (
            Attests {
                firmware: [5, 4, 3],
                ..GOOD
            },
            "firmware is too old",
        ),
        (
            Attests {
                policies: [2, 1],
                ..GOOD
            },
            "touch policy is too weak",
        ),
        (
            Attests {
                policies: [1, 2],
                ..GOOD
            },
            "PIN policy is too weak",
        ),
        (
            Attests {
                dates: ["200101000000Z", "210101000000Z"],
                ..GOOD
            },
            "attestation does not verify",
        ),
    ] {
        let mut scene = Scene::new("one");
        let card = scene.card(Attests {
            serial: 2,
            ..attests
        });
        let statement = scene.says("bob", Decision::Approve, |_| {});
        scene.put(&statement, &card);
        let said = scene.waits();
        assert!(said.contains(why), "{said}");
    }
    // Without evidence, or with that of another root, nobody knows whose key it is.
    let mut scene = Scene::new("one");
    let card = YubiKey::new(Attests { serial: 2, ..GOOD });
    let statement = scene.says("bob", Decision::Approve, |_| {});
    scene.put(&statement, &card);
    assert!(scene.waits().contains("attestation does not verify"));
    let text = statement.sign(&card, None).unwrap();
    scene
        .annotations
        .insert(annotation_key(&statement.approver), text);
    assert!(scene.waits().contains("not enrolled for them"));
}

#[test]
fn annotations_that_are_no_statements_keep_nobody_from_approving() {
    let mut scene = Scene::new("one");
    for number in 0..200 {
        scene
            .annotations
            .insert(format!("{ANNOTATION_PREFIX}{number:08x}"), "x".repeat(1000));
    }
    let said = scene.waits();
    assert!(said.contains("not counted: 196 more"), "{said}");
    assert!(said.chars().count() <= 1000);
    scene.approves("bob", 2);
    scene.granted();
}

#[test]
fn a_statement_in_anothers_annotation_counts_for_nothing() {
    let mut scene = Scene::new("one");
    let card = scene.card(Attests { serial: 2, ..GOOD });
    let statement = scene.says("bob", Decision::Approve, |_| {});
    let text = statement.sign(&card, Some(&card.evidence)).unwrap();
    let of_carol = annotation_key(&UserName::parse("carol").unwrap());
    scene.annotations.insert(of_carol, text);
    assert!(scene.waits().contains("not its approver's"));
}

#[test]
fn a_signed_no_denies_with_the_name_and_the_comment() {
    let mut scene = Scene::new("two");
    scene.approves("bob", 2);
    let card = scene.card(Attests { serial: 3, ..GOOD });
    let statement = scene.says("carol", Decision::Deny, |_| {});
    scene.put(&statement, &card);
    let denial = scene.denied();
    assert_eq!(denial.reason, "DeniedByApprover");
    assert_eq!(denial.message, "denied: carol says no: \"because\"");
    // The requester may not even say no.
    let mut scene = Scene::new("one");
    let card = scene.card(Attests { serial: 7, ..GOOD });
    let statement = scene.says("alice", Decision::Deny, |_| {});
    scene.put(&statement, &card);
    scene.waits();
}

#[test]
fn a_bare_approval_counts_where_the_policy_says_so_and_is_recorded_as_unsigned() {
    let mut scene = Scene::new("one");
    scene.in_kubernetes = true;
    scene.waits();
    let mut scene = Scene::new("bare");
    assert!(scene.waits().contains("an approval in Kubernetes"));
    scene.approves("bob", 2);
    assert!(scene.waits().contains("bob may not approve this request"));
    scene.in_kubernetes = true;
    assert!(scene.granted().has_unsigned_approval());
}

#[test]
fn an_approver_who_is_removed_meanwhile_counts_no_more() {
    let mut scene = Scene::new("two");
    scene.approves("bob", 2);
    scene.approves("carol", 3);
    scene.granted();
    let policy = POLICY.replace("name: carol, teams: [leads]", "name: carol, teams: []");
    scene.bench.snapshot.policy = Policy::parse("p", policy.as_bytes()).unwrap();
    let said = scene.waits();
    assert!(
        said.contains("carol may not approve this request"),
        "{said}"
    );
    let policy = POLICY.replace("keys: [{ serial: 3 }]", "keys: []");
    scene.bench.snapshot.policy = Policy::parse("p", policy.as_bytes()).unwrap();
    assert!(scene.waits().contains("not enrolled for them"));
}

#[test]
fn a_wait_ends_and_approvals_after_it_count_for_nothing() {
    let mut scene = Scene::new("one");
    scene.now = shifted(3599);
    let Review::Wait(waiting) = scene.review() else {
        panic!("does not wait");
    };
    assert_eq!(waiting.until(), shifted(3600));
    scene.now = shifted(3600);
    let denial = scene.denied();
    assert_eq!(denial.reason, "WaitEnded");
    assert!(
        denial.message.contains("waits for 1h"),
        "{}",
        denial.message
    );
    let card = scene.card(Attests { serial: 2, ..GOOD });
    let statement = scene.says("bob", Decision::Approve, |s| s.expires_at = shifted(7200));
    scene.put(&statement, &card);
    assert_eq!(scene.denied().reason, "WaitEnded");
}
