//! What a verdict says to people.

use super::{EXAMPLE, policy, request, rules};
use crate::{name::GroupName, policy::Verdict};

#[test]
fn a_denial_names_the_team_that_has_the_group_and_what_is_near() {
    let policy = rules(
        "- { name: payments on call, who: { teams: [payments] }, groups: [\"jit:oncall:payments*\"], decision: auto }
- { name: billing, who: { teams: [billing] }, groups: [\"jit:oncall:billing\"], decision: auto }",
    );
    assert_eq!(
        request("alice", &["jit:oncall:billing"]).short(&policy),
        "denied: group jit:oncall:billing is granted to team billing; you are in payments. \
         Nearest: rule \"payments on call\" grants jit:oncall:payments*"
    );
    assert_eq!(
        request("alice", &["jit:oncall:payment"]).short(&policy),
        "denied: no rule grants group jit:oncall:payment. \
         Nearest: rule \"payments on call\" grants jit:oncall:payments*"
    );
    assert_eq!(
        request("carol", &["jit:oncall:billing"]).short(&policy),
        "denied: group jit:oncall:billing is granted to team billing; you are in no team"
    );
    assert_eq!(
        request("alicia", &["jit:oncall:billing"]).short(&policy),
        "denied: alicia is not a user of this policy; did you mean alice?"
    );
}

#[test]
fn a_denial_names_the_namespaces_that_a_rule_has() {
    let policy = rules(
        "- { name: on call, who: { teams: [payments] }, groups: [\"jit:oncall:{namespace}\"], namespaces: [payments, \"pay-*\"], decision: auto }",
    );
    assert_eq!(
        request("alice", &["jit:oncall:billing"]).short(&policy),
        "denied: no rule grants group jit:oncall:billing. Nearest: rule \"on call\" grants jit:oncall:{payments,pay-*}"
    );
    assert_eq!(
        request("bob", &["jit:oncall:payments"]).short(&policy),
        "denied: group jit:oncall:payments is granted to team payments; you are in sre"
    );
}

#[test]
fn what_is_near_is_found_in_a_large_policy_too() {
    let users: String = (0..5_000)
        .map(|i| format!("- {{ name: user{i:05} }}\n"))
        .collect();
    let text =
        format!("apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\nusers:\n{users}");
    let policy = policy(&text);
    assert_eq!(
        request("user03330x", &["a"]).short(&policy),
        "denied: user03330x is not a user of this policy; did you mean user03330?"
    );
    assert_eq!(
        request("zzz", &["a"]).short(&policy),
        "denied: zzz is not a user of this policy"
    );
}

#[test]
fn a_denial_names_everything_that_is_missing() {
    let policy = policy(EXAMPLE);
    let said = request("alice@example.com", &["jit:oncall:payments"])
        .with(|r| {
            r.reason = "please".into();
            r.attested = None;
        })
        .short(&policy);
    assert_eq!(
        said,
        "denied: rule \"payments on call\" would grant group jit:oncall:payments, but the reason must match \
         ^INC-[0-9]+ ; it is \"please\", and the reason must have at least 12 characters; it has 6, and the key must be \
         proven to live in a YubiKey; the request carries no attestation"
    );
}

#[test]
fn hours_are_explained_by_what_the_clock_shows_there() {
    let policy = policy(EXAMPLE);
    let said = request("alice@example.com", &["jit:oncall:cluster"])
        .with(|r| r.now = "2026-07-04T19:04:00Z".parse().unwrap())
        .short(&policy);
    assert_eq!(
        said,
        "denied: rule \"cluster read\" would grant group jit:oncall:cluster, but only mon, tue, wed, thu, fri 08:00 to \
         20:00 Europe/Berlin; it is Sat 21:04 there"
    );
}

#[test]
fn who_waits_reads_for_whom() {
    let said = request("alice@example.com", &["jit:oncall:cluster"]).short(&policy(EXAMPLE));
    assert_eq!(
        said,
        "waiting for 1 approval from team sre-leads and 1 approval from team security (for 30m, by rule \"cluster read\")"
    );
}

#[test]
fn the_short_form_is_short_whatever_is_asked() {
    let policy = policy(EXAMPLE);
    let groups: Vec<_> = (0..32)
        .map(|i| GroupName::parse(&format!("{i:0>2}{}", "ä".repeat(60))).unwrap())
        .collect();
    let request = request("alice@example.com", &[]).with(|r| r.groups = groups);
    assert!(request.short(&policy).chars().count() <= 1000);
}

#[test]
fn every_condition_that_fails_is_listed_by_field() {
    let policy = rules(
        "- name: r
  who: { teams: [sre] }
  groups: [b]
  clusters: [staging]
  hours: { from: \"20:00\", to: \"21:00\", zone: UTC }
  reason: { pattern: \"^X\", minLength: 500 }
  key: { touch: always, pin: always, minFirmware: \"9.0.0\", slots: [\"95\"], algorithms: [rsa2048] }
  decision: auto",
    );
    let mut request = request("alice", &["a"]);
    if let Some(key) = &mut request.attested {
        key.touch_policy = crate::attestation::TouchPolicy::Never;
    }
    let facts = request.facts();
    let evaluation = policy.evaluate_by_every_rule(&facts);
    let fields: Vec<_> = evaluation.outcomes[0]
        .violations(&policy, &facts)
        .into_iter()
        .map(|v| v.field)
        .collect();
    assert_eq!(
        fields,
        [
            "who",
            "groups",
            "clusters",
            "hours",
            "reason.pattern",
            "reason.minLength",
            "key.algorithms",
            "key.minFirmware",
            "key.slots",
            "key.pin",
            "key.touch",
        ]
    );
    let long = evaluation.long(&policy, &facts).to_string();
    for field in fields {
        assert!(long.contains(&format!("    {field}")), "{field}:\n{long}");
    }
}

#[test]
fn the_long_form_shows_the_request_the_verdict_and_every_rule() {
    let policy = policy(EXAMPLE);
    let request = request("alice@example.com", &["jit:oncall:payments"]);
    let facts = request.facts();
    let evaluation = policy.evaluate_by_every_rule(&facts);
    assert!(matches!(evaluation.verdict, Verdict::Approve { .. }));
    let long = evaluation.long(&policy, &facts).to_string();
    for text in [
        "granted for 30m by rule \"payments on call\"",
        "teams     payments",
        "key       p256 in YubiKey 12345678 slot 9a, firmware 5.7.1, PIN once, touch always",
        "payments on call (auto): applies",
        "grants jit:oncall:payments for at most 30m",
        "cluster read (manual): does not apply",
        "friday freeze (deny): does not apply",
    ] {
        assert!(long.contains(text), "{text}:\n{long}");
    }
}

#[test]
fn what_an_engineer_typed_is_shown_quoted_and_short() {
    let policy = policy(EXAMPLE);
    let said = request("alice@example.com", &["jit:oncall:payments"])
        .with(|r| r.reason = format!("\"; granted {}", "x".repeat(400)))
        .short(&policy);
    assert!(said.contains("it is \"\\\"; granted xxx"), "{said}");
    assert!(said.contains("xxx…\""), "{said}");
}
