//! What a file may say, and what a refusal says.

use super::{EXAMPLE, policy};
use crate::policy::{MAX_POLICY_BYTES, Policy};

fn refusal(text: &str) -> String {
    match Policy::parse("policy.yaml", text.as_bytes()) {
        Ok(_) => panic!("it was accepted:\n{text}"),
        Err(error) => error.to_string(),
    }
}

/// The example with one text in place of another.
fn changed(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "{from}");
    EXAMPLE.replacen(from, to, 1)
}

/// A refusal of the example with a change, which stands in one line.
#[track_caller]
fn refused(from: &str, to: &str, line: &str) {
    assert_eq!(refusal(&changed(from, to)), line);
}

#[test]
fn the_example_is_accepted() {
    let policy = policy(EXAMPLE);
    assert_eq!(policy.cluster().as_str(), "prod");
    assert_eq!(policy.users().len(), 3);
    assert_eq!(policy.rules().len(), 3);
    assert_eq!(policy.generation(), 1);
    assert_eq!(policy.with_generation(7).generation(), 7);
}

#[test]
fn the_digest_is_that_of_the_bytes() {
    // `printf 'apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\n' | sha256sum`
    let policy = policy("apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\n");
    assert_eq!(
        hex::encode(policy.digest()),
        "4264b645685b481260e1e02bae5bd4d1333f9c3a9e6a200fcb8a80f02e2d07dd"
    );
}

#[test]
fn json_is_read_as_well() {
    let policy = policy(
        "{\n\t\"apiVersion\": \"touchstone.dev/v1\",\n\t\"kind\": \"Policy\",\n\t\"cluster\": \"pr\\u006fd\",\n\t\
         \"rules\": [\n\t\t{\"name\": \"a\\/b\", \"groups\": [\"x\"], \"decision\": \"deny\"}\n\t]\n}\n",
    );
    assert_eq!(policy.cluster().as_str(), "prod");
    assert_eq!(policy.rules()[0].name(), "a/b");
}

#[test]
fn an_unknown_key_is_refused_with_its_place_and_the_nearest() {
    refused(
        "groups: [\"jit:oncall:cluster\"]",
        "grops: [\"jit:oncall:cluster\"]",
        "policy.yaml:39:5: unknown key \"grops\" in a rule; did you mean \"groups\"?",
    );
    refused(
        "maxTTL: 30m",
        "maxttl: 30m",
        "policy.yaml:32:5: unknown key \"maxttl\" in a rule; did you mean \"maxTTL\"?",
    );
    refused(
        "serial: 12345679",
        "zzz: 1",
        "policy.yaml:20:14: unknown key \"zzz\" in an enrolled key; it must be one of serial, spki, comment",
    );
}

#[test]
fn every_mapping_of_the_language_is_named_when_a_key_in_it_is_unknown() {
    for (from, to, place) in [
        ("kind: Policy", "kind: Policy\nzz: 1", "a policy"),
        ("ttl: 30m", "zz: 30m", "the defaults"),
        ("attested: true", "zz: true", "a key condition"),
        ("usernames:", "zz:", "a user"),
        ("serial: 12345679", "zz: 1", "an enrolled key"),
        ("hours: {", "zz: {", "a rule"),
        (
            "who: { teams: [payments] }",
            "who: { zz: [payments] }",
            "who",
        ),
        (
            "from: { teams: [sre-leads] }",
            "from: { zz: [sre-leads] }",
            "the approvers",
        ),
        ("pattern: ", "zz: ", "the reason"),
        ("days: ", "zz: ", "hours"),
        ("count: 1", "zz: 1", "a stage"),
    ] {
        let said = refusal(&changed(from, to));
        assert!(said.contains(&format!(" in {place}; ")), "{said}");
    }
}

#[test]
fn an_unknown_word_is_refused_with_its_place_and_the_nearest() {
    refused(
        "decision: auto",
        "decision: automatic",
        "policy.yaml:34:15: unknown value \"automatic\"; did you mean \"auto\"?",
    );
    refused(
        "[mon, tue",
        "[monday, tue",
        "policy.yaml:40:21: unknown value \"monday\"; did you mean \"mon\"?",
    );
    refused(
        "touchstone.dev/v1",
        "touchstone.dev/v2",
        "policy.yaml:2:13: unknown value \"touchstone.dev/v2\"; did you mean \"touchstone.dev/v1\"?",
    );
    refused(
        "approvals:\n",
        "approvals: kubernete\n    x:\n",
        "policy.yaml:42:5: unknown value \"kubernete\"; did you mean \"kubernetes\"?",
    );
}

#[test]
fn a_repeated_key_is_refused() {
    refused(
        "decision: auto",
        "decision: auto\n    decision: deny",
        "policy.yaml:35:5: the key \"decision\" stands here twice",
    );
    refused(
        "{ serial: 12345679 }",
        "{ serial: 1, serial: 2 }",
        "policy.yaml:20:25: the key \"serial\" stands here twice",
    );
}

#[test]
fn a_key_that_is_begun_and_left_empty_is_refused() {
    for (from, to) in [
        ("maxTTL: 30m", "maxTTL:"),
        (
            "reason: { pattern: \"^INC-[0-9]+ \", minLength: 12 }",
            "reason:",
        ),
        ("who: { teams: [payments] }", "who: ~"),
        ("defaults:\n", "defaults: null\nx:\n"),
        ("teams: [payments]\n", "teams:\n"),
        ("spki: sha256:", "spki: # "),
    ] {
        refusal(&changed(from, to));
    }
}

#[test]
fn a_missing_key_is_named() {
    refused(
        "    decision: auto\n",
        "",
        "policy.yaml:33:5: the key \"decision\" is missing",
    );
    assert!(refusal("kind: Policy\ncluster: x").contains("\"apiVersion\" is missing"));
}

#[test]
fn what_is_not_a_policy_at_all_is_refused() {
    for text in [
        "",
        "\n",
        "# nothing",
        "[]",
        "null",
        "a",
        "%",
        "\u{0}",
        "a: [",
        "- {",
        "*a",
        "&a",
    ] {
        refusal(text);
    }
    assert!(Policy::parse("p", b"\xff\xfe").is_err());
    let too_long = " ".repeat(MAX_POLICY_BYTES + 1);
    assert!(refusal(&too_long).contains("at most"));
}

#[test]
fn a_second_document_is_refused() {
    assert!(refusal(&format!("{EXAMPLE}---\n{EXAMPLE}")).contains("second document"));
}

#[test]
fn an_alias_may_stand_for_a_value() {
    let text = changed(
        "who: { teams: [payments] }",
        "who: &p { teams: [payments] }",
    );
    let text = text.replacen("who: { teams: [payments, sre] }", "who: *p", 1);
    assert_eq!(policy(&text).rules().len(), 3);
}

#[test]
fn aliases_that_multiply_are_refused_quickly() {
    let mut text =
        String::from("apiVersion: touchstone.dev/v1\nkind: Policy\nusers:\n- &a0 [x, x]\n");
    for i in 1..40 {
        text.push_str(&format!("- &a{i} [*a{0}, *a{0}, *a{0}]\n", i - 1));
    }
    refusal(&text);
    let wide = format!(
        "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: c\nusers:\n- {{ name: n, teams: &t [{}] }}\n{}",
        "team,".repeat(10_000),
        "- { name: n, teams: *t }\n".repeat(1000)
    );
    assert!(refusal(&wide).contains("too large or too deep"));
}

#[test]
fn depth_is_bounded() {
    for (open, close) in [("[", "]"), ("{a: ", "}")] {
        let text = format!("x: {}{}", open.repeat(100_000), close.repeat(100_000));
        refusal(&text);
    }
    refusal(
        &(0..2000)
            .map(|i| format!("{}a:\n", " ".repeat(i)))
            .collect::<String>(),
    );
}

#[test]
fn merge_keys_and_tags_are_refused() {
    assert!(
        refusal(&changed("kind: Policy", "kind: Policy\n<<: { cluster: x }"))
            .contains("merge keys")
    );
    refusal(&changed("kind: Policy", "kind: !other Policy"));
    refusal(&changed("kind: Policy", "!other kind: Policy"));
}

#[test]
fn numbers_and_truth_values_are_not_taken_for_names() {
    assert!(refusal(&changed("[payments, sre]", "[payments, 123]")).contains("must be quoted"));
    assert!(refusal(&changed("[payments, sre]", "[payments, true]")).contains("must be quoted"));
    assert!(refusal(&changed("attested: true", "attested: yes")).contains("true or false"));
    assert!(refusal(&changed("serial: 12345679", "serial: -5")).contains("a whole number"));
    assert!(refusal(&changed("serial: 12345679", "serial: 4294967296")).contains("a whole number"));
}

#[test]
fn every_finding_of_a_file_comes_back_in_its_order() {
    let text = changed("maxTTL: 30m", "maxTTL: 3h");
    let text = text.replacen("Europe/Berlin", "Europe/Berln", 1);
    let text = text.replacen("minFirmware: \"5.7.0\"", "minFirmware: \"5\"", 1);
    assert_eq!(
        refusal(&text),
        "policy.yaml:10:65: \"5\" is not a firmware version such as 5.7.0\n\
         policy.yaml:32:13: maxTTL 3h is longer than defaults.maxTTL, 1h, the longest that any rule can grant\n\
         policy.yaml:40:81: \"Europe/Berln\" is not a time zone; they are named like Europe/Berlin"
    );
}

#[test]
fn a_pattern_that_reaches_system_names_is_refused() {
    for pattern in [
        "system:masters",
        "system:*",
        "**",
        "*:*",
        "s**",
        "*:masters",
        "System:masters",
        "ｓｙｓｔｅｍ:masters",
        "touchstone:signer",
    ] {
        let said = refusal(&changed("jit:oncall:payments*", pattern));
        assert!(said.starts_with("policy.yaml:31:33: group "), "{said}");
        assert!(said.contains("Kubernetes"), "{said}");
    }
}

#[test]
fn a_rule_that_denies_may_reach_everything() {
    for pattern in ["**", "system:**", "*"] {
        policy(&changed("jit:deploy:**", pattern));
    }
}

#[test]
fn templates_and_namespaces_go_together() {
    let with = |groups: &str, namespaces: &str| {
        changed(
            "groups: [\"jit:oncall:cluster\"]",
            &format!("groups: [\"{groups}\"]\n    namespaces: {namespaces}"),
        )
    };
    policy(&with(
        "jit:oncall:{namespace}",
        "[payments, \"team-*\", \"*\"]",
    ));
    refused(
        "\"jit:oncall:cluster\"",
        "\"jit:oncall:{namespace}\"",
        "policy.yaml:39:14: group \"jit:oncall:{namespace}\" has `{namespace}`, and the rule does not say which: name \
         them under `namespaces`",
    );
    for (groups, namespaces, said) in [
        (
            "jit:a",
            "[payments]",
            "no group of the rule has {namespace}",
        ),
        ("jit:{namespace}", "[]", "namespaces is an empty list"),
        ("jit:{namespace}", "[\"**\"]", "has two stars"),
        (
            "jit:{namespace}",
            "[Payments]",
            "is none that Kubernetes has",
        ),
        (
            "jit:{namespace}",
            "[\"a:b\"]",
            "is none that Kubernetes has",
        ),
        ("jit:{namespace}", "[\"-a\"]", "is none that Kubernetes has"),
        ("jit:{namespace}", "[\"\"]", "is none that Kubernetes has"),
        (
            "jit:{namespace}*",
            "[a]",
            "leaves open which text is the namespace",
        ),
        ("{namespace}:{namespace}", "[a]", "twice"),
        ("jit:{namspace}", "[a]", "has a brace"),
        ("{namespace}:masters", "[system]", "reaches reserved names"),
        ("{namespace}:masters", "[\"*\"]", "reaches reserved names"),
    ] {
        let refusal = refusal(&with(groups, namespaces));
        assert!(refusal.contains(said), "{refusal}");
    }
}

#[test]
fn names_are_held_to_the_rules_of_certificates() {
    for (from, to) in [
        ("jit:oncall:payments*", "a  b*"),
        ("jit:oncall:payments*", " a"),
        ("jit:oncall:payments*", "a\\u202eb"),
        ("jit:oncall:payments*", "***"),
        ("jit:oncall:payments*", ""),
        ("name: alice@example.com", "name: \"system:admin\""),
        ("name: alice@example.com", "name: \"touchstone:signer\""),
        ("name: alice@example.com", "name: \"\""),
        ("cluster: prod", "cluster: \"pr od\""),
        ("teams: [payments]\n", "teams: [\" payments\"]\n"),
        ("teams: [payments]\n", "teams: [\"pay\\tments\"]\n"),
        ("name: payments on call", "name: \"\""),
        ("name: payments on call", "name: \"pay\\u202ements\""),
    ] {
        refusal(&changed(from, to));
    }
}

#[test]
fn names_that_kubernetes_gives_by_itself_stand_for_nobody() {
    for (from, to) in [
        ("\"oidc:alice@example.com\"", "\"system:anonymous\""),
        (
            "\"oidc:alice@example.com\"",
            "\"System:serviceaccount:a:b\"",
        ),
        (
            "who: { teams: [payments] }",
            "who: { groups: [\"system:authenticated\"] }",
        ),
    ] {
        refusal(&changed(from, to));
    }
}

#[test]
fn a_kubernetes_name_stands_for_one_user_only() {
    assert!(
        refusal(&changed("oidc:alice@example.com", "bob@example.com")).contains("another user")
    );
    let text = changed(
        "keys: [{ serial: 12345679 }]",
        "usernames: [\"oidc:alice@example.com\"]",
    );
    assert!(refusal(&text).contains("stands for another user already"));
}

#[test]
fn names_that_stand_twice_are_refused() {
    assert!(
        refusal(&changed("bob@example.com", "alice@example.com")).contains("in line 14 already")
    );
    assert!(
        refusal(&changed("name: cluster read", "name: payments on call"))
            .contains("in line 29 already")
    );
}

#[test]
fn lifetimes_that_contradict_each_other_are_refused() {
    assert!(refusal(&changed("maxTTL: 1h", "maxTTL: 20m")).contains("longer than defaults.maxTTL"));
    assert!(refusal(&changed("  ttl: 30m", "  ttl: 2h")).contains("longer than defaults.maxTTL"));
    assert!(refusal(&changed("maxTTL: 1h", "maxTTL: 25h")).contains("outside"));
    assert!(refusal(&changed("maxTTL: 30m", "maxTTL: 9m")).contains("outside"));
}

#[test]
fn conditions_that_can_never_hold_are_refused() {
    for (from, to) in [
        ("minLength: 12", "minLength: 513"),
        ("to: \"20:00\"", "to: \"08:00\""),
        ("days: [mon, tue, wed, thu, fri]", "days: []"),
        ("who: { teams: [payments] }", "who: {}"),
        ("groups: [\"jit:oncall:cluster\"]", "groups: []"),
        (
            "groups: [\"jit:oncall:cluster\"]",
            "groups: [\"a\"]\n    clusters: []",
        ),
        (
            "groups: [\"jit:oncall:cluster\"]",
            "groups: [\"a\"]\n    key: { slots: [] }",
        ),
        (
            "groups: [\"jit:oncall:cluster\"]",
            "groups: [\"a\"]\n    key: { slots: [\"9e\"] }",
        ),
        (
            "groups: [\"jit:oncall:cluster\"]",
            "groups: [\"a\"]\n    key: { attested: false, touch: cached }",
        ),
        // It takes keys that no YubiKey vouches for, and has to say so; and it is no default.
        (
            "groups: [\"jit:oncall:cluster\"]",
            "groups: [\"a\"]\n    key: { enrolled: false }",
        ),
        (
            "groups: [\"jit:oncall:cluster\"]",
            "groups: [\"a\"]\n    key: { attested: true, enrolled: false }",
        ),
        (
            "attested: true, touch: always, pin: once, minFirmware: \"5.7.0\"",
            "attested: false, enrolled: false",
        ),
        (
            "reason: { pattern: \"^INC-[0-9]+ \", minLength: 12 }",
            "reason: {}",
        ),
        ("count: 1", "count: 0"),
        ("from: { teams: [sre-leads] }", "from: {}"),
    ] {
        refusal(&changed(from, to));
    }
}

#[test]
fn a_rule_that_denies_takes_no_condition_of_grants() {
    for extra in [
        "maxTTL: 10m",
        "reason: { minLength: 1 }",
        "key: { pin: once }",
        "approvals: kubernetes",
    ] {
        refusal(&changed(
            "groups: [\"jit:deploy:**\"]",
            &format!("groups: [x]\n    {extra}"),
        ));
    }
}

#[test]
fn approvals_and_manual_go_together() {
    assert!(refusal(&changed("decision: manual", "decision: auto")).contains("decision: manual"));
    assert!(refusal(&changed("decision: auto", "decision: manual")).contains("who approves"));
}

#[test]
fn a_rule_that_grants_says_for_whom() {
    assert!(refusal(&changed("    who: { teams: [payments] }\n", "")).contains("who it is for"));
}

#[test]
fn regular_expressions_are_bounded() {
    for pattern in [
        "^INC-[0-9",
        "(((a{100}){100}){100})",
        "(a",
        "\\\\1",
        "(?=a)",
        &"a".repeat(257),
    ] {
        let said = refusal(&changed("^INC-[0-9]+ ", pattern));
        assert!(said.starts_with("policy.yaml:33:24: the pattern"), "{said}");
    }
}

#[test]
fn a_hash_that_is_none_is_refused() {
    for spki in [
        "sha256:12",
        "1f0c",
        "sha256:zz",
        "SHA256:1f0c3a5e7b9d2f4a6c8e0b1d3f5a7c9e1b2d4f6a8c0e2b4d6f8a0c1e3b5d7f90",
    ] {
        refusal(&changed(
            "{ serial: 12345679 }",
            &format!("{{ spki: \"{spki}\" }}"),
        ));
    }
    assert!(refusal(&changed("{ serial: 12345679 }", "{}")).contains("neither serial nor spki"));
}

#[test]
fn many_findings_are_printed_in_part() {
    let users = "- { name: \"\" }\n".repeat(250);
    let text = format!("apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: c\nusers:\n{users}");
    let said = refusal(&text);
    assert_eq!(said.lines().count(), 101);
    assert!(said.ends_with("policy.yaml: and 399 more"), "{said}");
}

/// The example with a binding of its first rule's grants.
fn bound(binding: &str) -> String {
    changed(
        "maxTTL: 30m\n",
        &format!("maxTTL: 30m\n    binding: {binding}\n"),
    )
}

#[test]
fn a_rule_may_bind_a_role_for_each_of_its_grants() {
    let text = bound("{ perGrant: { clusterRole: jit-debug, namespaces: [b, a, b] } }");
    let policy = policy(&text);
    let name = policy.rules()[0].name();
    let bindings: Vec<_> = policy
        .bindings(&[name.into()])
        .iter()
        .map(|binding| format!("{}/{} {}", binding.namespace, binding.kind, binding.role))
        .collect();
    assert_eq!(
        bindings,
        ["a/ClusterRole jit-debug", "b/ClusterRole jit-debug"]
    );
    assert!(policy.bindings(&["another".into()]).is_empty());
}

#[test]
fn what_cannot_be_bound_is_refused() {
    for (binding, what) in [
        (
            "{ perGrant: { namespaces: [a] } }",
            "perGrant names a clusterRole or a role",
        ),
        (
            "{ perGrant: { clusterRole: x, role: y, namespaces: [a] } }",
            "perGrant names a clusterRole or a role",
        ),
        (
            "{ perGrant: { role: \"x/y\", namespaces: [a] } }",
            "\"x/y\" is no role that Kubernetes can have",
        ),
        (
            "{ perGrant: { role: x, namespaces: [] } }",
            "namespaces is an empty list",
        ),
        (
            "{ perGrant: { role: x, namespaces: [\"team-*\"] } }",
            "patterns are not taken here",
        ),
        ("{ perGrant: { role: x } }", "namespaces"),
        ("{ perGrants: {} }", "did you mean \"perGrant\"?"),
    ] {
        let refusal = refusal(&bound(binding));
        assert!(refusal.contains(what), "{binding}: {refusal}");
    }
    let many: Vec<_> = (0..17).map(|number| format!("n{number}")).collect();
    let binding = format!(
        "{{ perGrant: {{ role: x, namespaces: [{}] }} }}",
        many.join(", ")
    );
    assert!(refusal(&bound(&binding)).contains("at most 16 namespaces"));
    assert!(
        refusal(&changed(
            "decision: deny\n",
            "decision: deny\n    binding: { perGrant: { role: x, namespaces: [a] } }\n"
        ))
        .contains("a rule that denies takes no binding")
    );
}
