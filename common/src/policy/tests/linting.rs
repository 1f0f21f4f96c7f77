//! What lint finds.

use super::EXAMPLE;
use crate::policy::{Binding, GrantBindings, Lint, LoadError, Policy, Severity, Surroundings};
use std::collections::BTreeSet;

fn lint(file: &str, source: &[u8]) -> Result<Vec<Lint>, LoadError> {
    crate::policy::lint(file, source, &Surroundings::default())
}

/// The findings of a policy: severity, code and line.
fn findings(text: &str) -> Vec<(Severity, &'static str, u64)> {
    let lints = lint("policy.yaml", text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    lints
        .into_iter()
        .map(|lint| {
            let line = lint.finding.position.map_or(0, |position| position.line);
            (lint.severity, lint.code, line)
        })
        .collect()
}

/// The findings that a change of the example adds.
fn of(from: &str, to: &str) -> Vec<(Severity, &'static str)> {
    assert!(EXAMPLE.contains(from), "{from}");
    let before = findings(EXAMPLE);
    findings(&EXAMPLE.replacen(from, to, 1))
        .into_iter()
        .filter(|(_, code, _)| !before.iter().any(|(_, known, _)| known == code))
        .map(|(severity, code, _)| (severity, code))
        .collect()
}

use Severity::{Error, Warning};

#[test]
fn the_example_has_only_the_findings_that_it_shows() {
    // One lead and one of the security team: each is needed for every approval, the lead's own requests among them.
    assert_eq!(
        findings(EXAMPLE),
        [
            (Warning, "scarce-approvers", 43),
            (Warning, "self-approval", 43),
            (Warning, "scarce-approvers", 44)
        ]
    );
}

#[test]
fn names_that_nobody_has_are_found() {
    assert_eq!(
        of("[payments, sre]", "[payment, sre]"),
        [(Error, "unknown-team")]
    );
    assert_eq!(
        of("who: { teams: [payments] }", "who: { users: [dave] }"),
        [(Error, "unknown-user")]
    );
    let text = EXAMPLE.replacen("[payments, sre]", "[payment, sre]", 1);
    let lints = lint("p", text.as_bytes()).unwrap();
    assert!(
        lints.iter().any(|lint| lint.finding.message
            == "nobody is in team \"payment\"; did you mean \"payments\"?")
    );
}

#[test]
fn users_without_keys_and_shared_yubikeys_are_found() {
    assert_eq!(
        of(
            "    keys: [{ serial: 12345678, comment: \"5C NFC, blue sticker\" }]\n",
            ""
        ),
        [
            (Warning, "user-without-keys"),
            (Warning, "unreachable-rule")
        ]
    );
    assert_eq!(
        of("serial: 12345679", "serial: 12345678"),
        [(Error, "shared-serial")]
    );
    let [a, b] =
        ["a", "b"].map(|digit| format!("serial: 7, spki: \"sha256:{}\"", digit.repeat(64)));
    let apart = EXAMPLE
        .replacen("serial: 12345678", &a, 1)
        .replacen("serial: 12345679", &b, 1);
    assert_eq!(findings(&apart), findings(EXAMPLE));
}

#[test]
fn patterns_that_grant_everything_or_deny_less_than_they_seem_are_found() {
    assert_eq!(
        of("\"oncall-payments\"", "\"*\""),
        [(Warning, "grants-everything")]
    );
    assert_eq!(
        of("jit:deploy:**", "jit:deploy:*"),
        [(Warning, "denies-less-than-it-seems")]
    );
}

#[test]
fn weak_key_conditions_are_found() {
    assert_eq!(of("\"5.7.0\"", "\"5.4.3\""), [(Warning, "old-firmware")]);
    assert_eq!(of("touch: always", "touch: never"), [(Warning, "no-touch")]);
    assert_eq!(
        of(
            "    decision: auto",
            "    key: { attested: false }\n    decision: auto"
        ),
        [(Warning, "not-attested")]
    );
    assert_eq!(
        of(
            "    decision: auto",
            "    key: { attested: false, enrolled: false }\n    decision: auto"
        ),
        [(Warning, "not-attested"), (Warning, "not-enrolled")]
    );
}

#[test]
fn who_can_ask_with_any_key_needs_none() {
    let text = |username: &str, key: &str| {
        format!(
            "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\nusers:\n- {{ name: dave, teams: [t], usernames: [{username:?}] }}\n\
             rules:\n- {{ name: r, who: {{ teams: [t] }}, groups: [g], decision: auto, key: {key} }}\n"
        )
    };
    let codes = |text: &str| -> Vec<_> {
        let found = findings(text).into_iter();
        found.map(|(_, code, _)| code).collect()
    };
    let any = "{ attested: false, enrolled: false }";
    assert_eq!(
        codes(&text("oidc:dave", any)),
        ["not-attested", "not-enrolled"]
    );
    for (username, key) in [("dave", any), ("oidc:dave", "{ attested: false }")] {
        let found = codes(&text(username, key));
        assert!(found.contains(&"user-without-keys"), "{found:?}");
        assert!(found.contains(&"unreachable-rule"), "{found:?}");
    }
}

#[test]
fn approvals_that_nobody_can_give_are_found() {
    assert_eq!(
        of(
            "from: { teams: [security] }, count: 1",
            "from: { teams: [security] }, count: 2"
        ),
        [(Error, "unreachable-approval")]
    );
}

#[test]
fn rules_that_can_never_apply_are_found() {
    assert_eq!(
        of(
            "    decision: auto",
            "    clusters: [staging]\n    decision: auto"
        ),
        [(Warning, "other-cluster")]
    );
    let always =
        "    hours: { days: [fri], from: \"16:00\", to: \"24:00\", zone: Europe/Berlin }\n";
    let text = EXAMPLE
        .replacen(always, "", 1)
        .replacen("jit:deploy:**", "jit:oncall:cl*", 1);
    assert!(
        findings(&text).contains(&(Error, "shadowed", 37)),
        "{:?}",
        findings(&text)
    );
}

#[test]
fn a_policy_without_rules_is_noticed() {
    let text = "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\n";
    assert_eq!(findings(text), [(Warning, "no-rules", 0)]);
}

#[test]
fn a_policy_that_does_not_load_is_refused() {
    assert!(lint("p", b"kind: Polcy").is_err());
}

/// The findings of a policy of these rules; alice and ann are in payments, bob in sre, carol has no key.
fn of_rules(rules: &str) -> Vec<(Severity, &'static str, u64)> {
    let text = format!(
        "apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users:
- {{ name: alice, teams: [payments], keys: [{{ serial: 1 }}] }}
- {{ name: ann, teams: [payments], keys: [{{ serial: 4 }}] }}
- {{ name: bob, teams: [sre], keys: [{{ serial: 2 }}] }}
- {{ name: carol, teams: [web] }}
rules:
{rules}"
    );
    let lints = findings(&text).into_iter();
    // Teams that most of these rules leave out, and carol.
    lints
        .filter(|(_, code, _)| !["unused-team", "user-without-keys"].contains(code))
        .collect()
}

#[test]
fn teams_that_no_rule_names_are_found_once() {
    assert_eq!(
        of("teams: [payments]\n", "teams: [payments, web]\n"),
        [(Warning, "unused-team")]
    );
    let text = EXAMPLE.replace("sre-leads]\n", "sre-leads, web]\n");
    let text = text.replacen("[security]\n", "[security, web]\n", 1);
    let unused = findings(&text);
    let unused = unused.iter().filter(|(_, code, _)| *code == "unused-team");
    assert_eq!(unused.count(), 1);
}

#[test]
fn groups_that_another_rule_always_denies_are_found() {
    let grant = "- { name: g, who: { teams: [payments] }, groups: [a, \"b:c\"], decision: auto }\n";
    let deny = |more: &str| format!("{grant}- {{ name: d, {more}, decision: deny }}\n");
    assert_eq!(
        of_rules(&deny("groups: [a]")),
        [(Warning, "shadowed-group", 10)]
    );
    assert_eq!(
        of_rules(&deny("who: { teams: [payments] }, groups: [\"**\"]")),
        [(Error, "shadowed", 10)]
    );
    assert_eq!(
        of_rules(&deny("who: { users: [alice] }, groups: [\"**\"]")),
        []
    );
    assert_eq!(
        of_rules(&deny(
            "groups: [\"**\"], hours: { from: \"22:00\", to: \"06:00\", zone: UTC }"
        )),
        []
    );
}

#[test]
fn hours_that_never_come_because_another_rule_denies_them_are_found() {
    let rules = |zone: &str| {
        format!(
            "- {{ name: g, who: {{ teams: [payments] }}, groups: [a], decision: auto, \
             hours: {{ days: [fri], from: \"18:00\", to: \"20:00\", zone: {zone} }} }}
- {{ name: d, groups: [a], decision: deny, hours: {{ days: [fri], from: \"16:00\", to: \"24:00\", zone: UTC }} }}\n"
        )
    };
    assert_eq!(of_rules(&rules("UTC")), [(Error, "shadowed", 10)]);
    assert_eq!(of_rules(&rules("Asia/Tokyo")), []);
}

#[test]
fn windows_that_are_empty_and_lifetimes_that_a_ca_could_not_give_do_not_load() {
    for (from, to, line) in [
        ("to: \"20:00\"", "to: \"08:00\"", 40),
        ("maxTTL: 30m", "maxTTL: 2881h", 32),
    ] {
        assert!(EXAMPLE.contains(from));
        let error = lint("p", EXAMPLE.replacen(from, to, 1).as_bytes()).unwrap_err();
        let position = error.findings()[0].position.unwrap();
        assert_eq!(position.line, line, "{error}");
    }
}

#[test]
fn hours_that_are_the_whole_week_are_found() {
    let rule = "- { name: g, who: { teams: [sre] }, groups: [a], decision: auto, \
                hours: { from: \"00:00\", to: \"24:00\", zone: UTC } }\n";
    assert_eq!(of_rules(rule), [(Warning, "hours-always", 10)]);
}

#[test]
fn a_rule_in_whose_place_another_always_stands_is_found() {
    let wide = "- { name: w, who: { teams: [payments, sre] }, groups: [\"a*\"], decision: auto }\n";
    let narrow = |more: &str| {
        format!("{wide}- {{ name: n, who: {{ users: [bob] }}, groups: [ab], {more} }}\n")
    };
    assert_eq!(
        of_rules(&narrow("decision: auto")),
        [(Warning, "swallows-others", 10), (Warning, "redundant", 11)]
    );
    let manual = "decision: manual, approvals: [{ from: { teams: [payments] } }]";
    assert_eq!(
        of_rules(&narrow(manual)),
        [
            (Warning, "swallows-others", 10),
            (Error, "bypassed-approvals", 11)
        ]
    );
    let other_key = "key: { touch: cached }, decision: auto";
    assert_eq!(
        of_rules(&narrow(other_key)),
        [(Warning, "swallows-others", 10)]
    );
    assert_eq!(
        of_rules(&format!("{wide}{}", wide.replace("name: w", "name: x"))),
        [(Warning, "redundant", 11)],
        "of two that are the same, the second"
    );
}

#[test]
fn a_pattern_that_takes_in_the_groups_of_others_is_found() {
    let rules = |pattern: &str, who: &str| {
        format!(
            "- {{ name: p, who: {{ teams: [payments] }}, groups: [{pattern}], decision: auto }}
- {{ name: s, who: {{ teams: [{who}] }}, groups: [\"on:payroll\"], maxTTL: 10m, decision: auto }}\n"
        )
    };
    let swallows = [(Warning, "swallows-others", 10)];
    assert_eq!(of_rules(&rules("\"on:pay*\"", "sre")), swallows);
    assert_eq!(of_rules(&rules("\"on:payments*\"", "sre")), []);
    assert_eq!(of_rules(&rules("\"on:pay*\"", "payments, sre")), []);
}

#[test]
fn approvers_who_could_only_approve_themselves_are_found() {
    let rule = |who: &str, from: &str| {
        let rule = format!(
            "- {{ name: m, who: {{ teams: [{who}] }}, groups: [a], decision: manual, \
             approvals: [{{ from: {{ teams: [{from}] }} }}] }}\n"
        );
        let found = of_rules(&rule).into_iter();
        let own = found.filter(|(_, code, _)| *code == "self-approval");
        own.map(|(severity, ..)| severity).collect::<Vec<_>>()
    };
    assert_eq!(rule("sre", "sre"), [Error]);
    assert_eq!(rule("sre, payments", "sre"), [Warning]);
    assert_eq!(rule("payments", "payments"), []);
    assert_eq!(rule("payments", "sre"), []);
}

#[test]
fn stages_that_the_same_people_would_have_to_meet_are_found() {
    let of = |second: &str| {
        let rule = format!(
            "- {{ name: m, who: {{ teams: [sre] }}, groups: [a], decision: manual, \
             approvals: [{{ from: {{ users: [alice] }} }}, {{ from: {{ users: [{second}] }} }}] }}\n"
        );
        of_rules(&rule)
            .into_iter()
            .any(|found| found == (Error, "unreachable-approval", 10))
    };
    assert!(of("alice"));
    assert!(!of("alice, ann"));
}

#[test]
fn a_rule_for_people_without_keys_is_found() {
    let rule = "- { name: r, who: { teams: [web] }, groups: [a], decision: auto }\n";
    let found = of_rules(rule);
    assert!(
        found.contains(&(Warning, "unreachable-rule", 10)),
        "{found:?}"
    );
}

#[test]
fn namespaces_that_take_in_the_clusters_own_are_found() {
    let with = |namespaces: &str| {
        of(
            "groups: [\"oncall-payments\", \"jit:oncall:payments*\"]",
            &format!("groups: [\"jit:oncall:{{namespace}}\"]\n    namespaces: {namespaces}"),
        )
    };
    assert_eq!(with("[\"*\"]"), [(Warning, "takes-in-kube-system")]);
    assert_eq!(with("[\"kube-*\"]"), [(Warning, "takes-in-kube-system")]);
    assert_eq!(with("[kube-system, \"team-*\"]"), []);
}

#[test]
fn a_template_is_held_against_other_groups_as_a_pattern_is() {
    let both = |second: &str| {
        let rule = "  - { name: on call, who: { teams: [payments, sre] }, groups: [\"jit:ns:{namespace}\"], \
                    namespaces: [\"team-*\"], decision: auto }\n";
        of(
            "  # Never on the night",
            &format!("{rule}{second}  # Never on the night"),
        )
    };
    let deny = "  - { name: no, groups: [\"jit:ns:*\"], decision: deny }\n";
    assert_eq!(
        both(deny),
        [(Error, "shadowed"), (Warning, "denies-less-than-it-seems")]
    );
    let narrower = "  - { name: no, groups: [\"jit:ns:{namespace}\"], namespaces: [\"team-a*\"], decision: deny }\n";
    assert_eq!(both(narrower), []);
    let other = "  - { name: b, who: { teams: [security] }, groups: [\"jit:ns:team-b\"], decision: auto }\n";
    assert_eq!(both(other), [(Warning, "swallows-others")]);
    let outside = "  - { name: b, who: { teams: [security] }, groups: [\"jit:ns:billing\"], decision: auto }\n";
    assert_eq!(both(outside), []);
}

/// The findings of what is around the example, with their lines and messages.
fn around(text: &str, around: &Surroundings) -> Vec<(&'static str, u64, String)> {
    let lints = crate::policy::lint("p", text.as_bytes(), around).unwrap();
    let of = |lint: Lint| {
        let line = lint.finding.position.map_or(0, |position| position.line);
        (lint.code, line, lint.finding.message)
    };
    let all = lints.into_iter().map(of);
    all.filter(|(code, _, _)| matches!(*code, "unbound-group" | "outlives-ca"))
        .collect()
}

fn bound(groups: &[&str]) -> Surroundings {
    let groups: BTreeSet<_> = groups.iter().map(ToString::to_string).collect();
    Surroundings {
        bound_groups: Some(groups),
        ..Surroundings::default()
    }
}

#[test]
fn groups_that_no_binding_names_are_found() {
    let all = [
        "oncall-payments",
        "jit:oncall:payments-ro",
        "jit:oncall:cluster",
    ];
    assert_eq!(around(EXAMPLE, &bound(&all)), []);
    assert_eq!(
        around(EXAMPLE, &bound(&["oncall-payments", "jit:oncall:clusters"])),
        [
            (
                "unbound-group",
                31,
                "no binding names a group like \"jit:oncall:payments*\": who has one can do nothing more with it".into()
            ),
            (
                "unbound-group",
                39,
                "no binding names group \"jit:oncall:cluster\": who has it can do nothing more with it; did you mean \
                 \"jit:oncall:clusters\"?"
                    .into()
            ),
        ]
    );
    // A rule that denies needs no binding, and without a cluster nothing is said.
    assert_eq!(around(EXAMPLE, &Surroundings::default()), []);
}

#[test]
fn namespaces_without_a_binding_are_found() {
    let text = EXAMPLE.replace(
        "groups: [\"jit:oncall:cluster\"]",
        "groups: [\"jit:ns:{namespace}\"]\n    namespaces: [payments, billing, \"team-*\"]",
    );
    let rest = ["oncall-payments", "jit:oncall:payments"];
    let with = |more: &[&str]| {
        let found = around(&text, &bound(&[&rest[..], more].concat()));
        found
            .into_iter()
            .map(|(_, line, said)| (line, said))
            .collect::<Vec<_>>()
    };
    let all = ["jit:ns:payments", "jit:ns:billing", "jit:ns:team-a"];
    assert_eq!(with(&all), []);
    assert_eq!(
        with(&["jit:ns:payments", "jit:ns:other"]),
        [(
            40,
            "no binding names group \"jit:ns:billing\": who has it can do nothing more with it"
                .to_owned()
        )]
    );
    assert_eq!(
        with(&["jit:ns:other"]),
        [(
            39,
            "no binding names a group like \"jit:ns:{payments,billing,team-*}\": who has one can do nothing more with it"
                .to_owned()
        )]
    );
}

#[test]
fn lifetimes_above_the_cas_are_found() {
    let within = |seconds| {
        let around_it = Surroundings {
            ca_seconds: Some(seconds),
            ..Surroundings::default()
        };
        let found = around(EXAMPLE, &around_it);
        found
            .into_iter()
            .map(|(_, line, _)| line)
            .collect::<Vec<_>>()
    };
    assert!(within(3600).is_empty());
    assert_eq!(within(3599), [9], "defaults.maxTTL");
    assert_eq!(within(1799), [8, 9, 32], "and defaults.ttl, and a rule's");
}

#[test]
fn a_binding_that_lets_its_holder_keep_access_or_reaches_the_clusters_own_is_found() {
    let bound = |binding: &str| {
        let rule = format!("maxTTL: 30m\n    binding: {{ perGrant: {binding} }}\n");
        of("maxTTL: 30m\n", &rule)
    };
    assert_eq!(bound("{ clusterRole: jit-debug, namespaces: [a] }"), []);
    assert_eq!(
        bound("{ clusterRole: admin, namespaces: [a] }"),
        [(Warning, "outlasts-grant")]
    );
    assert_eq!(bound("{ role: admin, namespaces: [a] }"), []);
    assert_eq!(
        bound("{ role: x, namespaces: [kube-system] }"),
        [(Warning, "takes-in-kube-system")]
    );
}

#[test]
fn bindings_that_a_cluster_would_not_take_are_found_where_they_are_written() {
    let with = |role: &str| {
        let binding = format!(
            "maxTTL: 30m\n    binding:\n      perGrant:\n        {role}\n        namespaces: [b, a]\n"
        );
        EXAMPLE.replacen("maxTTL: 30m\n", &binding, 1)
    };
    let findings = |text: &str, around: &Surroundings| -> Vec<_> {
        let lints = crate::policy::lint("p", text.as_bytes(), around).unwrap();
        let ours = |lint: &Lint| matches!(lint.code, "missing-role" | "signer-cannot-bind");
        let of = |lint: Lint| {
            let at = lint.finding.position.unwrap();
            (
                lint.severity,
                lint.code,
                (at.line, at.column),
                lint.finding.message,
            )
        };
        lints.into_iter().filter(ours).map(of).collect()
    };
    let line = |text: &str, word: &str| {
        let at = text.lines().position(|line| line.contains(word)).unwrap();
        at as u64 + 1
    };

    let text = with("clusterRole: jit-debug");
    let bindings = Policy::parse("p", text.as_bytes())
        .unwrap()
        .grant_bindings();
    assert_eq!(bindings.len(), 2);
    assert_eq!(findings(&text, &Surroundings::default()), []);
    let around = Surroundings {
        grant_bindings: GrantBindings {
            account: "signer".to_owned(),
            lacking: bindings
                .iter()
                .filter(|binding| &*binding.namespace == "a")
                .map(|binding| (binding.clone(), "bind clusterroles/jit-debug".to_owned()))
                .collect(),
            without_role: bindings.clone(),
        },
        ..Surroundings::default()
    };
    let found = findings(&text, &around);
    let [
        (Severity::Error, "missing-role", role, _),
        (Severity::Warning, "signer-cannot-bind", namespace, message),
    ] = &found[..]
    else {
        panic!("{found:?}");
    };
    assert_eq!(*role, (line(&text, "clusterRole: jit-debug"), 22));
    assert_eq!(*namespace, (line(&text, "[b, a]"), 25));
    assert!(
        message.starts_with("signer may not bind clusterroles/jit-debug in namespace \"a\""),
        "{message}"
    );

    let text = with("role: debug");
    let bindings = Policy::parse("p", text.as_bytes())
        .unwrap()
        .grant_bindings();
    let in_b = |binding: &&Binding| &*binding.namespace == "b";
    let around = Surroundings {
        grant_bindings: GrantBindings {
            without_role: bindings.iter().filter(in_b).cloned().collect(),
            ..GrantBindings::default()
        },
        ..Surroundings::default()
    };
    let found = findings(&text, &around);
    let [(Severity::Error, "missing-role", place, message)] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(*place, (line(&text, "[b, a]"), 22));
    assert!(message.contains("\"b\" has no Role \"debug\""), "{message}");
}

#[test]
fn groups_of_a_rule_that_binds_for_each_grant_need_no_binding_of_theirs() {
    let nothing = Surroundings {
        bound_groups: Some(BTreeSet::new()),
        ..Surroundings::default()
    };
    let unbound = |text: &str| {
        let lints = crate::policy::lint("policy.yaml", text.as_bytes(), &nothing).unwrap();
        let mut lints = lints.iter();
        lints.any(|lint| lint.code == "unbound-group" && lint.finding.message.contains("payments"))
    };
    assert!(unbound(EXAMPLE));
    let rule = "maxTTL: 30m\n    binding: { perGrant: { role: x, namespaces: [a] } }\n";
    assert!(!unbound(&EXAMPLE.replacen("maxTTL: 30m\n", rule, 1)));
}
