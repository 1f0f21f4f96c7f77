//! Approvals counted.

use super::*;
use crate::{
    approval::Decision,
    claims::Reason,
    policy::{Cases, Tally, Vote},
};

const POLICY: &str = r#"
apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
defaults: { waitFor: 2h }
users:
- { name: alice, teams: [payments, leads], keys: [{ serial: 1 }] }
- { name: bob, teams: [leads], keys: [{ serial: 2 }] }
- { name: carol, teams: [leads, security], keys: [{ serial: 3 }] }
- { name: dave, teams: [security], keys: [{ serial: 4 }] }
- { name: eve, teams: [payments], keys: [{ serial: 5 }] }
rules:
- name: two stages
  who: { teams: [payments] }
  groups: [a]
  decision: manual
  waitFor: 30s
  approvals: [{ from: { teams: [leads] } }, { from: { teams: [security] } }]
- { name: two of a team, who: { teams: [payments] }, groups: [b], decision: manual, approvals: [{ from: { teams: [leads] }, count: 2 }] }
- { name: the same twice, who: { teams: [payments] }, groups: [c], decision: manual, approvals: [{ from: { teams: [leads] } }, { from: { teams: [leads] } }] }
- { name: in kubernetes, who: { teams: [payments] }, groups: [d], decision: manual, approvals: kubernetes }
- { name: one, who: { teams: [payments] }, groups: [e], decision: manual, approvals: [{ from: { teams: [leads] } }] }
"#;

fn policy() -> Policy {
    Policy::parse("policy.yaml", POLICY.as_bytes()).unwrap()
}

/// What is still waited for by alice's request for these groups after these said yes, `!` before a name for no.
fn after(groups: &[&str], votes: &[&str]) -> String {
    tally(groups, votes, false).1
}

fn tally(groups: &[&str], votes: &[&str], in_kubernetes: bool) -> (Tally, String) {
    let policy = policy();
    let Verdict::Wait { stages, .. } = request("alice", groups).verdict(&policy) else {
        panic!("does not wait");
    };
    let names: Vec<(UserName, Decision)> = votes
        .iter()
        .map(|vote| match vote.strip_prefix('!') {
            None => (UserName::parse(vote).unwrap(), Decision::Approve),
            Some(name) => (UserName::parse(name).unwrap(), Decision::Deny),
        })
        .collect();
    let comment = Reason::parse("because").unwrap();
    let votes: Vec<Vote<'_>> = names
        .iter()
        .map(|(approver, decision)| Vote {
            approver,
            decision: *decision,
            comment: &comment,
        })
        .collect();
    let requester = UserName::parse("alice").unwrap();
    let tally = policy.tally(&stages, &requester, &votes, in_kubernetes);
    let said = match tally.denial() {
        Some(denial) => denial.to_owned(),
        None => {
            let missing: Vec<_> = tally.missing().iter().map(ToString::to_string).collect();
            missing.join(" and ")
        }
    };
    (tally, said)
}

#[test]
fn every_stage_has_to_be_met() {
    assert_eq!(
        after(&["a"], &[]),
        "1 approval from team leads and 1 approval from team security"
    );
    assert_eq!(after(&["a"], &["bob"]), "1 approval from team security");
    assert_eq!(after(&["a"], &["dave"]), "1 approval from team leads");
    assert_eq!(after(&["a"], &["bob", "dave"]), "");
    assert_eq!(after(&["b"], &["bob"]), "1 of 2 approvals from team leads");
    assert_eq!(after(&["b"], &["bob", "carol"]), "");
}

#[test]
fn one_person_never_counts_in_two_stages() {
    assert_eq!(after(&["a"], &["carol"]), "1 approval from team security");
    assert_eq!(
        after(&["a"], &["carol", "carol"]),
        "1 approval from team security"
    );
    // In whatever order they come, each is counted where it helps.
    for votes in [
        ["carol", "bob"],
        ["bob", "carol"],
        ["carol", "dave"],
        ["dave", "carol"],
    ] {
        assert_eq!(after(&["a"], &votes), "", "{votes:?}");
    }
    assert_eq!(after(&["c"], &["bob"]), "1 of 2 approvals from team leads");
    assert_eq!(after(&["c"], &["bob", "carol"]), "");
}

#[test]
fn what_two_rules_ask_of_the_same_people_is_asked_once() {
    assert_eq!(after(&["b", "e"], &[]), "2 approvals from team leads");
    assert_eq!(after(&["b", "e"], &["bob", "carol"]), "");
}

#[test]
fn whoever_asks_is_a_stranger_or_may_not_counts_for_nothing() {
    let (tally, said) = tally(&["e"], &["alice", "dave", "eve", "mallory"], false);
    assert_eq!(said, "1 approval from team leads");
    assert!(tally.counted().is_empty());
    let why: Vec<_> = tally
        .nothing()
        .iter()
        .map(|(who, why)| format!("{who} {why}"))
        .collect();
    assert_eq!(
        why,
        [
            "alice asks, and does not count",
            "dave may not approve this request",
            "eve may not approve this request",
            "mallory is not a user of this policy",
        ]
    );
}

#[test]
fn a_no_to_a_stage_that_is_not_met_denies_at_once() {
    assert_eq!(after(&["a"], &["!bob"]), "bob says no: \"because\"");
    assert_eq!(after(&["a"], &["dave", "!bob"]), "bob says no: \"because\"");
    // bob's stage is met by carol; dave's is not.
    assert_eq!(
        after(&["a"], &["carol", "!bob"]),
        "1 approval from team security"
    );
    assert_eq!(
        after(&["a"], &["carol", "!dave"]),
        "dave says no: \"because\""
    );
    for nobody in ["!alice", "!eve", "!mallory"] {
        assert_eq!(after(&["e"], &[nobody]), "1 approval from team leads");
    }
    // The last thing that someone said is what they say.
    assert_eq!(after(&["e"], &["bob", "!bob"]), "bob says no: \"because\"");
    assert_eq!(after(&["e"], &["!bob", "bob"]), "");
}

#[test]
fn an_approval_in_kubernetes_meets_its_own_stage_and_no_other() {
    let with = |groups: &[&str], votes: &[&str]| tally(groups, votes, true).1;
    assert_eq!(after(&["d"], &["bob"]), "an approval in Kubernetes");
    assert_eq!(with(&["d"], &[]), "");
    assert_eq!(with(&["e"], &[]), "1 approval from team leads");
    assert_eq!(with(&["d", "e"], &[]), "1 approval from team leads");
    assert_eq!(with(&["d", "e"], &["bob"]), "");
}

#[test]
fn a_request_waits_as_long_as_the_strictest_of_its_rules_says() {
    let wait = |groups: &[&str]| match request("alice", groups).verdict(&policy()) {
        Verdict::Wait { wait_for, .. } => wait_for.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(wait(&["b"]), "2h");
    assert_eq!(wait(&["a", "b"]), "30s");
}

#[test]
fn the_policy_knows_its_approvers() {
    let policy = policy();
    let is = |name: &str| policy.is_approver(&UserName::parse(name).unwrap());
    assert!(is("alice") && is("bob") && is("carol") && is("dave"));
    assert!(!is("eve") && !is("mallory"));
}

#[test]
fn cases_say_what_approvers_said() {
    let cases = r#"
apiVersion: touchstone.dev/v1
kind: PolicyTests
at: 2026-07-01T10:00:00Z
cases:
- name: nobody yet
  request: { user: alice, groups: [e] }
  expect: { verdict: wait, because: waiting for 1 approval from team leads }
- name: bob
  request: { user: alice, groups: [e], approvals: [{ by: bob }] }
  expect: { verdict: approve, rules: [one], ttl: 30m }
- name: herself
  request: { user: alice, groups: [e], approvals: [{ by: alice }] }
  expect: { verdict: wait }
- name: no
  request: { user: alice, groups: [e], approvals: [{ by: bob, decision: deny, comment: not today }] }
  expect: { verdict: deny, because: 'bob says no: "not today"' }
- name: bare
  request: { user: alice, groups: [d], approvedInKubernetes: true }
  expect: { verdict: approve }
"#;
    let cases = Cases::parse("policy.tests.yaml", cases.as_bytes()).unwrap();
    for result in cases.run(&policy()) {
        assert!(result.passed(), "{result:?}");
    }
}

#[test]
fn a_wait_goes_with_manual_and_is_a_duration() {
    let of = |rule: &str| {
        let text = POLICY.to_owned() + rule;
        Policy::parse("policy.yaml", text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    let auto =
        "- { name: x, who: { teams: [payments] }, groups: [x], decision: auto, waitFor: 1h }\n";
    assert!(of(auto).contains("waitFor goes with `decision: manual`"));
    for wait in ["5s", "25h", "soon"] {
        let rule = format!(
            "- {{ name: x, who: {{ teams: [payments] }}, groups: [x], decision: manual, waitFor: {wait}, approvals: kubernetes }}\n"
        );
        assert!(of(&rule).contains("waitFor"), "{}", of(&rule));
    }
}
