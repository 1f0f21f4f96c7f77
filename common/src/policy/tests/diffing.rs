//! What a change of the policy changes for whom.

use super::{EXAMPLE, policy};
use crate::policy::{Access, Diff, Terms};

/// A policy with alice (payments), bob (sre) and carol, who has no key; and these rules.
fn with(rules: &str) -> String {
    format!(
        "apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users:
- {{ name: alice, teams: [payments], keys: [{{ serial: 1 }}] }}
- {{ name: bob, teams: [sre], keys: [{{ serial: 2 }}] }}
- {{ name: carol, teams: [sre] }}
rules:
{rules}"
    )
}

const A: &str = "- { name: a, who: { teams: [payments] }, groups: [a], decision: auto }\n";

fn between(old: &str, new: &str) -> Diff {
    Diff::between(&policy(old), &policy(new))
}

/// `alice gains a`, in words.
fn access(diff: &Diff) -> Vec<String> {
    let each = diff.access.iter().map(|of| {
        let more = match &of.change {
            Access::Changed { old, new } => match (old.as_slice(), new.as_slice()) {
                ([old], [new]) => fields(old, new),
                _ => format!("{} to {}", old.len(), new.len()),
            },
            Access::Gained { had, .. } => format!("gained, had {had:?}"),
            Access::Lost { keeps, .. } => format!("lost, keeps {keeps:?}"),
        };
        format!("{} {}: {more}", of.who, of.group)
    });
    each.collect()
}

fn fields(old: &Terms, new: &Terms) -> String {
    let word = |value: Option<String>| value.unwrap_or("none".into());
    let each = old.changes(new).into_iter();
    let each = each.map(|f| format!("{} {} to {}", f.field, word(f.old), word(f.new)));
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn who_has_no_key_gains_what_takes_any_key() {
    let named = |rules: &str| {
        with(rules).replace(
            "name: carol, teams: [sre]",
            "name: carol, teams: [sre], usernames: [\"sso:carol\"]",
        )
    };
    let rule = |key: &str| {
        format!(
            "- {{ name: s, who: {{ teams: [sre] }}, groups: [s], decision: auto, key: {key} }}\n"
        )
    };
    let any = rule("{ attested: false, enrolled: false }");
    let diff = between(&named(&rule("{ attested: false }")), &named(&any));
    assert_eq!(
        access(&diff),
        [
            "bob s: key.enrolled none to false",
            "carol s: gained, had []"
        ]
    );
    assert_eq!(
        access(&between(&with(A), &with(&format!("{A}{any}")))).len(),
        1
    );
}

#[test]
fn a_policy_does_not_differ_from_itself_nor_from_its_rules_in_another_order() {
    assert_eq!(between(EXAMPLE, EXAMPLE), Diff::default());
    let b = "- { name: b, who: { teams: [sre] }, groups: [b], decision: auto }\n";
    let diff = between(&with(&format!("{A}{b}")), &with(&format!("{b}{A}")));
    assert_eq!(diff.count(), 0);
    let renamed = A.replace("name: a,", "name: other,");
    assert_eq!(between(&with(A), &with(&renamed)).count(), 0);
}

#[test]
fn who_joins_a_team_gains_its_groups_and_who_leaves_loses_them() {
    let new = with(A).replacen("[payments], keys", "[web], keys", 1);
    let new = new.replacen("teams: [sre], keys", "teams: [sre, payments], keys", 1);
    let diff = between(&with(A), &new);
    assert_eq!(
        access(&diff),
        ["alice a: lost, keeps []", "bob a: gained, had []"]
    );
    let names: Vec<_> = diff.users.iter().map(|user| user.name.as_str()).collect();
    assert_eq!(names, ["alice", "bob"]);
    assert_eq!(diff.users[0].teams.added, ["web"]);
    assert_eq!(diff.users[0].teams.removed, ["payments"]);
}

#[test]
fn a_first_key_gains_and_taking_the_last_loses_what_the_rules_grant() {
    let rule = "- { name: s, who: { teams: [sre] }, groups: [s], decision: auto }\n";
    let old = with(rule);
    let new = old
        .replacen(
            "{ name: carol, teams: [sre] }",
            "{ name: carol, teams: [sre], keys: [{ serial: 3 }] }",
            1,
        )
        .replacen("teams: [sre], keys: [{ serial: 2 }] }", "teams: [sre] }", 1);
    let diff = between(&old, &new);
    assert_eq!(
        access(&diff),
        ["bob s: lost, keeps []", "carol s: gained, had []"]
    );
    assert_eq!(diff.users[0].keys.removed, ["YubiKey 2"]);
    assert_eq!(diff.users[1].keys.added, ["YubiKey 3"]);
}

#[test]
fn a_user_who_comes_or_goes_is_one_change_of_users() {
    let old = with(A);
    let new = old.replacen("- { name: alice,", "- { name: dave,", 1);
    let diff = between(&old, &new);
    let users: Vec<_> = diff
        .users
        .iter()
        .map(|u| (u.name.as_str(), u.was, u.is))
        .collect();
    assert_eq!(users, [("alice", true, false), ("dave", false, true)]);
    assert_eq!(
        access(&diff),
        ["alice a: lost, keeps []", "dave a: gained, had []"]
    );
}

#[test]
fn a_narrower_pattern_loses_the_rest_and_a_wider_one_gains_it() {
    let narrow =
        "- { name: r, who: { users: [alice] }, groups: [\"jit:oncall:*\"], decision: auto }\n";
    let wide = narrow.replace("jit:oncall:*", "jit:**");
    assert_eq!(
        access(&between(&with(&wide), &with(narrow))),
        ["alice jit:**: lost, keeps [\"jit:oncall:*\"]"]
    );
    assert_eq!(
        access(&between(&with(narrow), &with(&wide))),
        ["alice jit:**: gained, had [\"jit:oncall:*\"]"]
    );
}

#[test]
fn other_terms_are_told_field_by_field() {
    let manual = "- { name: a, who: { teams: [payments] }, groups: [a], maxTTL: 20m, decision: manual, \
                  approvals: [{ from: { teams: [sre] } }], reason: { minLength: 5 } }\n";
    assert_eq!(
        access(&between(&with(manual), &with(A))),
        [
            "alice a: decision manual to auto, maxTTL 20m to 1h, reason.minLength 5 to none, \
             approvals 1 approval from team sre to none, waitFor 1h to none"
        ]
    );
    let weak = A.replace("decision", "key: { touch: cached }, decision");
    assert_eq!(
        access(&between(&with(A), &with(&weak))),
        ["alice a: key.touch always to cached"]
    );
    let second = A.replace("name: a,", "name: b, maxTTL: 10m,");
    assert_eq!(
        access(&between(&with(A), &with(&format!("{A}{second}")))),
        ["alice a: 1 to 2"]
    );
}

#[test]
fn defaults_that_change_what_rules_grant_are_changes_of_access() {
    let old = with(A);
    let new = old.replacen(
        "users:",
        "defaults: { maxTTL: 40m, key: { pin: always } }\nusers:",
        1,
    );
    let diff = between(&old, &new);
    assert_eq!(diff.settings.len(), 1);
    assert_eq!(diff.settings[0].field, "defaults.maxTTL");
    assert_eq!(
        access(&diff),
        ["alice a: maxTTL 1h to 40m, key.pin once to always"]
    );
}

#[test]
fn a_rule_that_denies_takes_what_it_covers_and_is_told_itself() {
    let freeze = "- { name: f, groups: [\"a**\"], decision: deny }\n";
    let diff = between(&with(A), &with(&format!("{A}{freeze}")));
    assert_eq!(access(&diff), ["alice a: lost, keeps []"]);
    assert_eq!(diff.denials.len(), 1);
    assert!(diff.denials[0].denied);
    assert_eq!(diff.denials[0].who, "everyone");
    let night = freeze.replace(
        "decision",
        "hours: { from: \"22:00\", to: \"06:00\", zone: UTC }, decision",
    );
    let diff = between(&with(&format!("{A}{night}")), &with(A));
    assert_eq!(
        access(&diff),
        [] as [&str; 0],
        "granted by day before and after"
    );
    assert!(!diff.denials[0].denied);
    assert_eq!(
        diff.denials[0].hours.as_deref(),
        Some("every day 22:00 to 06:00 UTC")
    );
}

#[test]
fn groups_that_kubernetes_knows_someone_in_stand_for_themselves() {
    let rule = "- { name: k, who: { groups: [admins] }, groups: [k], decision: auto }\n";
    assert_eq!(
        access(&between(&with(A), &with(&format!("{A}{rule}")))),
        ["Kubernetes group admins k: gained, had []"]
    );
}

#[test]
fn rules_for_another_cluster_grant_nothing() {
    let elsewhere = A.replace("decision", "clusters: [staging], decision");
    assert_eq!(
        access(&between(&with(A), &with(&elsewhere))),
        ["alice a: lost, keeps []"]
    );
    let moved = with(A).replacen("cluster: prod", "cluster: staging", 1);
    let diff = between(&with(A), &moved);
    assert_eq!((diff.settings.len(), diff.access.len()), (1, 0));
}

#[test]
fn another_role_in_another_namespace_is_a_difference() {
    let rule = |binding: &str| with(&A.replace(" }\n", &format!(", binding: {binding} }}\n")));
    let old = rule("{ perGrant: { role: x, namespaces: [a] } }");
    let new = rule("{ perGrant: { clusterRole: x, namespaces: [a, b] } }");
    assert_eq!(
        access(&between(&old, &new)),
        ["alice a: binding.perGrant Role x in a to ClusterRole x in a, b"]
    );
}
