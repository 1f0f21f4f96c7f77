//! Cases kept beside a policy.

use super::{EXAMPLE, policy};
use crate::policy::{CaseResult, Cases, Word};

const HEAD: &str =
    "apiVersion: touchstone.dev/v1\nkind: PolicyTests\nat: 2026-07-01T10:00:00Z\ncases:\n";

/// What the example policy makes of one case.
fn run(case: &str) -> CaseResult {
    let text = format!("{HEAD}- name: c\n{case}");
    let cases = Cases::parse("c", text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let mut results = cases.run(&policy(EXAMPLE));
    assert_eq!(results.len(), 1);
    results.remove(0)
}

fn refused(case: &str) -> String {
    Cases::parse("c.yaml", format!("{HEAD}{case}").as_bytes())
        .unwrap_err()
        .to_string()
}

const ALICE: &str = "user: alice@example.com, reason: INC-4211 checkout latency";

#[test]
fn a_case_that_is_answered_as_expected_passes() {
    let result = run(&format!(
        "  request: {{ {ALICE}, groups: [\"jit:oncall:payments\"], ttl: 1h, creator: \"oidc:alice@example.com\" }}
  expect: {{ verdict: approve, rules: [payments on call], ttl: 30m }}"
    ));
    assert_eq!(result.mismatches, []);
    assert_eq!(result.verdict, Word::Approve);
}

#[test]
fn a_request_that_waits_and_one_that_a_rule_denies_name_their_rules() {
    let waits = run(&format!(
        "  request: {{ {ALICE}, groups: [\"jit:oncall:cluster\"] }}
  expect: {{ verdict: wait, rules: [cluster read] }}"
    ));
    assert_eq!(waits.mismatches, []);
    let denied = run(&format!(
        "  at: 2026-07-03T15:00:00Z
  request: {{ {ALICE}, groups: [\"jit:deploy:shop\"] }}
  expect: {{ verdict: deny, rules: [friday freeze], because: \"friday freeze\" }}"
    ));
    assert_eq!(denied.mismatches, []);
}

#[test]
fn what_is_not_as_expected_is_told_field_by_field() {
    let result = run(&format!(
        "  request: {{ {ALICE}, groups: [\"jit:oncall:payments\"] }}
  expect: {{ verdict: wait, rules: [payment on call], ttl: 1h, because: nothing }}"
    ));
    let told: Vec<_> = result
        .mismatches
        .iter()
        .map(|m| (m.field, m.expected.as_str(), m.got.as_str()))
        .collect();
    let explanation = "granted for 30m by rule \"payments on call\"";
    assert_eq!(
        told,
        [
            ("verdict", "wait", "approve"),
            (
                "rules",
                "\"payment on call\" (there is no rule \"payment on call\"; did you mean \"payments on call\"?)",
                "\"payments on call\""
            ),
            ("ttl", "1h", "30m"),
            ("because", "nothing", explanation),
        ]
    );
    assert_eq!(result.explanation, explanation);
}

#[test]
fn a_new_key_is_for_rules_that_take_any_key_and_for_a_creator_with_another_name() {
    let policy = policy(&EXAMPLE.replacen(
        "    decision: auto",
        "    key: { attested: false, enrolled: false }\n    decision: auto",
        1,
    ));
    let key = "key: { attested: false, enrolled: false, algorithm: ed25519 }";
    for (with, verdict) in [
        (
            format!("creator: \"oidc:alice@example.com\", {key}"),
            "approve",
        ),
        (key.to_owned(), "deny"),
        (
            "creator: \"oidc:alice@example.com\", key: { enrolled: false }".to_owned(),
            "approve",
        ),
    ] {
        let cases = Cases::parse(
            "c",
            format!(
                "apiVersion: touchstone.dev/v1\nkind: PolicyTests\nat: 2026-07-01T10:00:00Z\ncases:\n- name: c\n  \
                 request: {{ {ALICE}, groups: [\"jit:oncall:payments\"], {with} }}\n  expect: {{ verdict: {verdict} }}\n"
            )
            .as_bytes(),
        )
        .unwrap();
        assert_eq!(cases.run(&policy)[0].mismatches, [], "{with}");
    }
}

#[test]
fn a_key_of_someone_else_and_a_creator_who_is_someone_else_are_denied() {
    for (with, because) in [
        (
            "key: { serial: 12345679 }",
            "YubiKey 12345679 is not enrolled",
        ),
        ("creator: \"oidc:bob@example.com\"", "was created by"),
        ("key: { attested: false }", "the key is not enrolled"),
        ("key: { touch: cached }", "touch policy must be always"),
        ("key: { pin: never }", "PIN policy must be once"),
        ("key: { firmware: \"5.4.3\" }", "firmware must be 5.7.0"),
        ("cluster: staging", "the request is for cluster staging"),
    ] {
        let result = run(&format!(
            "  request: {{ {ALICE}, groups: [\"jit:oncall:payments\"], {with} }}
  expect: {{ verdict: deny, rules: [], because: \"{because}\" }}"
        ));
        assert_eq!(result.mismatches, [], "{with}");
    }
}

#[test]
fn a_key_is_enrolled_by_its_hash_where_the_policy_names_one() {
    let carol = |spki: &str| {
        run(&format!(
            "  request: {{ user: carol@example.com, groups: [g], key: {{ serial: 12345680, spki: \"sha256:{spki}\" }} }}
  expect: {{ verdict: deny }}"
        ))
        .explanation
    };
    let enrolled = "1f0c3a5e7b9d2f4a6c8e0b1d3f5a7c9e1b2d4f6a8c0e2b4d6f8a0c1e3b5d7f90";
    assert!(carol(enrolled).contains("no rule grants group g"));
    assert!(carol(&"0".repeat(64)).contains("is not enrolled"));
}

#[test]
fn slips_are_refused_with_their_place_and_the_nearest_name() {
    let request = "request: { user: a, groups: [g] }";
    for (case, expected) in [
        (
            format!("- {{ name: c, {request}, expects: {{ verdict: deny }} }}"),
            "c.yaml:5:49: unknown key \"expects\" in a case; did you mean \"expect\"?",
        ),
        (
            "- name: c\n  request: { usr: a }".to_owned(),
            "c.yaml:6:14: unknown key \"usr\" in a request; did you mean \"user\"?",
        ),
        (
            format!("- name: c\n  {request}\n  expect: {{ verdict: aprove }}"),
            "c.yaml:7:22: unknown value \"aprove\"; did you mean \"approve\"?",
        ),
        (
            format!("- name: c\n  {request}\n  expect: {{ verdict: deny, ttl: 30m }}"),
            "c.yaml:7:33: a denial has no ttl: leave it out",
        ),
        (
            "- name: c\n  request: { user: a, groups: [g], key: { attested: false, touch: always } }\n  expect: { verdict: deny }"
                .to_owned(),
            "c.yaml:6:67: without an attestation nobody knows the key's touch: leave it out",
        ),
        (
            "- name: c\n  request: { user: a, groups: [g], key: { sreial: 1 } }".to_owned(),
            "c.yaml:6:43: unknown key \"sreial\" in the request's key; did you mean \"serial\"?",
        ),
        (
            format!("- name: c\n  at: noon\n  {request}\n  expect: {{ verdict: deny }}"),
            "c.yaml:6:7: the time \"noon\" is not one such as 2026-07-01T10:00:00Z",
        ),
        (
            format!("- &c {{ name: c, {request}, expect: {{ verdict: deny }} }}\n- *c"),
            "c.yaml:6:3: case \"c\" stands in line 5 already",
        ),
        ("  []".to_owned(), "c.yaml:5:3: there are no cases"),
    ] {
        assert_eq!(refused(&case), expected, "{case}");
    }
}

#[test]
fn a_policy_is_no_file_of_cases() {
    let error = Cases::parse("p", EXAMPLE.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("\"PolicyTests\""), "{error}");
}
