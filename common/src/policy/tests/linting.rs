//! What lint finds.

use super::EXAMPLE;
use crate::policy::{Severity, lint};

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
    // One lead and one of the security team: each is needed for every approval.
    assert_eq!(
        findings(EXAMPLE),
        [
            (Warning, "scarce-approvers", 43),
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
        [(Warning, "user-without-keys")]
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
