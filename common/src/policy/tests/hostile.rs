//! Files made to hurt: each is refused with its place, and none costs much.

use super::{EXAMPLE, policy};
use crate::policy::{MAX_POLICY_BYTES, Policy, Position};
use std::fmt::Write as _;

const HEAD: &str = "apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\n";

/// Why bytes are refused, and where.
#[track_caller]
fn refused(bytes: &[u8]) -> (Option<Position>, String) {
    match Policy::parse("p", bytes) {
        Ok(_) => panic!("it was accepted"),
        Err(error) => {
            let first = &error.findings()[0];
            (first.position, first.message.clone())
        }
    }
}

/// That the text after the head is refused in the given line and column, and what is said.
#[track_caller]
fn refused_at(text: &str, line: u64, column: u64) -> String {
    let (position, message) = refused(format!("{HEAD}{text}").as_bytes());
    assert_eq!(position, Some(Position { line, column }), "{message}");
    message
}

const USER: &str = "users: [{ name: alice, teams: [t], keys: [{ serial: 1 }] }]\n";

fn rule(fields: &str) -> String {
    format!("{USER}rules:\n- name: r\n  who: {{ teams: [t] }}\n  groups: [g]\n  {fields}\n")
}

#[test]
fn text_that_is_not_utf8_is_refused_where_it_begins() {
    let mut bytes = format!("{HEAD}users: [{{ name: \"a").into_bytes();
    bytes.extend(b"\xff\"}]");
    let (position, message) = refused(&bytes);
    assert_eq!(
        position,
        Some(Position {
            line: 4,
            column: 19
        })
    );
    assert!(message.contains("UTF-8"), "{message}");
    for other in [
        &b"\xfe\xff\0a"[..],
        b"\xff\xfea\0",
        b"\xc3\x28",
        b"\xed\xa0\x80",
    ] {
        refused(other);
    }
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_change_nothing() {
    let plain = policy(EXAMPLE);
    for text in [format!("\u{feff}{EXAMPLE}"), EXAMPLE.replace('\n', "\r\n")] {
        let read = policy(&text);
        assert_eq!(read.users().len(), plain.users().len());
        assert_eq!(read.rules().len(), plain.rules().len());
        assert_eq!(read.rules()[1].name(), plain.rules()[1].name());
    }
    let (position, _) = refused(
        format!("{HEAD}users: []\nrulse: []\n")
            .replace('\n', "\r\n")
            .as_bytes(),
    );
    assert_eq!(position, Some(Position { line: 5, column: 1 }));
}

#[test]
fn control_characters_are_refused() {
    for text in [
        "users: [{ name: \"a\u{0}b\" }]",
        "users: [{ name: \"a\\0b\" }]",
        "users: [{ name: \"a\\e[31m\" }]",
    ] {
        refused(format!("{HEAD}{text}").as_bytes());
    }
    for control in [
        '\u{0}', '\u{1}', '\u{7}', '\u{1b}', '\u{7f}', '\u{85}', '\u{2028}',
    ] {
        let text = format!(
            "{HEAD}{USER}rules: [{{ name: \"a{control}b\", groups: [g], decision: deny }}]"
        );
        refused(text.as_bytes());
    }
}

#[test]
fn a_tab_that_indents_is_refused_where_it_stands() {
    let message = refused_at("users:\n\t- name: alice\n", 5, 2);
    assert_eq!(message, "a tab stands here; YAML is indented with spaces");
}

#[test]
fn keys_that_stand_twice_are_refused_in_yaml_and_json() {
    let message = refused_at("users: []\nusers: []\n", 5, 1);
    assert_eq!(message, "the key \"users\" stands here twice");
    for json in [
        r#"{"apiVersion":"touchstone.dev/v1","kind":"Policy","cluster":"a","cluster":"b"}"#,
        r#"{"apiVersion":"touchstone.dev/v1","kind":"Policy","cluster":"a","clu\u0073ter":"b"}"#,
    ] {
        let (position, message) = refused(json.as_bytes());
        assert_eq!(message, "the key \"cluster\" stands here twice");
        assert_eq!(position.unwrap().line, 1);
    }
    refused_at(&rule("decision: auto\n  ? decision\n  : deny"), 10, 5);
    refused_at(&rule("decision: auto\n  \"decision\": deny"), 10, 3);
}

#[test]
fn keys_that_are_no_words_are_refused() {
    for key in [
        "1",
        "true",
        "~",
        "[a]",
        "{a: b}",
        "1.5",
        "? [a, b]\n",
        "*a",
        "&a b",
        "!!str kind",
    ] {
        refused(format!("{HEAD}{key}: x\n").as_bytes());
    }
}

#[test]
fn what_readers_of_yaml_differ_about_is_refused_or_is_text() {
    // In YAML 1.1, these are truth values, sexagesimal and octal numbers, dates and nothing. Here a name needs quotes.
    for word in [
        "yes",
        "No",
        "on",
        "OFF",
        "y",
        "null",
        "~",
        "0123",
        "0o17",
        "0x1F",
        "1e3",
        "1_000",
        ".inf",
        "-.INF",
        ".nan",
        "NaN",
        "190:20:30",
        "true",
        "False",
        "2026-07-01",
    ] {
        let text = format!("{HEAD}users: [{{ name: alice, teams: [{word}] }}]\n");
        if let Ok(policy) = Policy::parse("p", text.as_bytes()) {
            // What is taken is taken letter by letter.
            assert_eq!(policy.team(policy.users()[0].teams[0]), word);
        }
    }
    // Hexadecimal and the like are the same number to everyone.
    for number in [
        "017",
        "0017",
        "00",
        "1:30",
        "1e3",
        "1.0",
        ".nan",
        "-1",
        "true",
        "4294967296",
        "99999999999999999999999999",
    ] {
        let text = format!("{HEAD}users: [{{ name: alice, keys: [{{ serial: {number} }}] }}]\n");
        if let Ok(policy) = Policy::parse("p", text.as_bytes()) {
            let serial = policy.users()[0].serials().next().unwrap();
            panic!("{number} was read as {serial}");
        }
    }
    for truth in ["yes", "on", "1", "y", "~"] {
        let text = rule(&format!("decision: auto\n  key: {{ attested: {truth} }}"));
        refused(format!("{HEAD}{text}").as_bytes());
    }
    for count in ["0", "17", "65536", "-1", "1.5", ".inf", "one"] {
        let text = rule(&format!(
            "decision: manual\n  approvals: [{{ from: {{ teams: [t] }}, count: {count} }}]"
        ));
        refused(format!("{HEAD}{text}").as_bytes());
    }
}

#[test]
fn nothing_is_expanded_or_included() {
    for (text, name) in [
        ("\"${HOME}\"", "${HOME}"),
        ("\"$HOME\"", "$HOME"),
        ("\"~\"", "~"),
        ("\"%(name)s\"", "%(name)s"),
    ] {
        let policy = policy(&format!(
            "{HEAD}users: [{{ name: alice, teams: [{text}] }}]\n"
        ));
        assert_eq!(policy.team(policy.users()[0].teams[0]), name);
    }
    for text in [
        "users: !include other.yaml",
        "users: [{ name: !!js/function x }]",
        "users: [{ name: alice, keys: [{ serial: !!float 1 }] }]",
        "users: !!set { a }",
        "%YAML 1.1\n---\nusers: []",
    ] {
        refused(format!("{HEAD}{text}\n").as_bytes());
    }
    // A tag that says what a value is changes nothing of what is seen.
    for tag in ["!!binary", "!!str", "!<tag:yaml.org,2002:binary>"] {
        let policy = policy(&format!("{HEAD}users: [{{ name: {tag} YWxpY2U= }}]\n"));
        assert_eq!(policy.users()[0].name().as_str(), "YWxpY2U=");
    }
}

#[test]
fn other_versions_and_kinds_are_refused_with_the_one_there_is() {
    for version in [
        "touchstone.dev/v2",
        "touchstone.dev/v1beta1",
        "v1",
        "touchstone.dev/V1",
        "TOUCHSTONE.DEV/v1",
    ] {
        let text = format!("apiVersion: {version}\nkind: Policy\ncluster: prod\n");
        let (position, message) = refused(text.as_bytes());
        assert_eq!(
            position,
            Some(Position {
                line: 1,
                column: 13
            })
        );
        assert!(message.contains("touchstone.dev/v1\""), "{message}");
    }
    refused(b"apiVersion: touchstone.dev/v1\nkind: ClusterPolicy\ncluster: prod\n");
    refused(b"apiVersion: touchstone.dev/v1\nkind: PolicyTests\ncluster: prod\n");
}

#[test]
fn patterns_that_would_blow_up_elsewhere_are_linear_or_refused() {
    // A backtracking engine takes 2^n steps for these.
    let policy = policy(&format!(
        "{HEAD}{}",
        rule("reason: { pattern: \"^(a+)+$\" }\n  decision: auto")
    ));
    let reason = format!("{}!", "a".repeat(500));
    let asked = super::request("alice", &["g"]).with(|r| r.reason = reason);
    let begun = std::time::Instant::now();
    for _ in 0..100 {
        assert_eq!(asked.outcome(&policy), "deny");
    }
    assert!(begun.elapsed().as_secs() < 10);
    for pattern in [
        "(a{1000}){1000}",
        "((a{100}){100}){100}",
        "a{4294967295}",
        "\\\\pL{500}",
        "[^\\\\x00-\\\\x{10FFFF}]{65535}",
        "(((((((((((((((((((a)))))))))))))))))))",
        "(?P<n>a)(?P<n>b)",
        "\\\\u{110000}",
        "[z-a]",
        "(?<=a)b",
        "(a)\\\\1",
    ] {
        let message = refused_at(
            &rule(&format!(
                "reason: {{ pattern: \"{pattern}\" }}\n  decision: auto"
            )),
            9,
            22,
        );
        assert!(message.starts_with("the pattern \""), "{message}");
    }
}

#[test]
fn many_patterns_together_are_bounded() {
    let mut text = format!("{HEAD}{USER}rules:\n");
    for i in 0..300 {
        let _ = writeln!(
            text,
            "- {{ name: r{i}, who: {{ teams: [t] }}, groups: [g], reason: {{ pattern: \"^A{i}\" }}, decision: auto }}"
        );
    }
    let (position, message) = refused(text.as_bytes());
    assert_eq!(position.unwrap().line, 6 + 256);
    assert!(message.contains("at most 256"), "{message}");
}

#[test]
fn depth_costs_no_stack() {
    for (open, close) in [
        ("[", "]"),
        ("{a: ", "}"),
        ("- ", ""),
        ("? ", ""),
        ("&a [", "]"),
        ("!!seq [", "]"),
    ] {
        for text in [
            format!(
                "{HEAD}users: {}{}",
                open.repeat(200_000),
                close.repeat(200_000)
            ),
            format!("{HEAD}users: {}", open.repeat(200_000)),
            format!("{}{}", open.repeat(200_000), close.repeat(200_000)),
        ] {
            refused(text.as_bytes());
        }
    }
}

#[test]
fn aliases_never_stand_for_themselves_or_for_too_much() {
    for text in [
        "users: &a [*a]\n",
        "users: &a\n- *a\n",
        "users: [{ name: &n alice, teams: [*m] }]\n",
        "users: *nobody\n",
    ] {
        refused(format!("{HEAD}{text}").as_bytes());
    }
    let mut text = format!("{HEAD}x0: &x0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for i in 1..12 {
        let aliases = vec![format!("*x{}", i - 1); 9].join(", ");
        let _ = writeln!(text, "x{i}: &x{i} [{aliases}]");
    }
    refused(text.as_bytes());
    let many = format!("{HEAD}users:\n{}", "- &a { name: alice }\n".repeat(20_000));
    refused(many.as_bytes());
}

#[test]
fn large_values_are_refused_for_what_they_are() {
    let huge = "a".repeat(8 * 1024 * 1024);
    for text in [
        format!("users: [{{ name: {huge} }}]"),
        format!("{huge}: 1"),
        format!(
            "users: [{{ name: alice, keys: [{{ serial: {} }}] }}]",
            "9".repeat(1_000_000)
        ),
        rule(&format!(
            "reason: {{ pattern: \"{huge}\" }}\n  decision: auto"
        )),
        format!("defaults: {{ ttl: {huge} }}"),
    ] {
        let (_, message) = refused(format!("{HEAD}{text}\n").as_bytes());
        assert!(
            message.chars().count() < 400,
            "{} characters",
            message.chars().count()
        );
    }
    // A comment is nothing.
    policy(&format!("{HEAD}# {huge}\n"));
    let (_, message) = refused(&vec![b'#'; MAX_POLICY_BYTES + 1]);
    assert!(message.contains("at most"), "{message}");
}

#[test]
fn more_users_and_rules_than_are_read_are_refused() {
    let rules = "- { name: r, groups: [g], decision: deny }\n".repeat(10_001);
    let (_, message) = refused(format!("{HEAD}rules:\n{rules}").as_bytes());
    assert_eq!(message, "there are 10001 rules; at most 10000 are read");
    let items = "- { name: u }\n".repeat(100_001);
    let (_, message) = refused(format!("{HEAD}users:\n{items}").as_bytes());
    assert_eq!(message, "there are 100001 users; at most 100000 are read");
}

/// The largest, 50,000 users and 10,000 rules, is loaded by the benchmark: code that is not optimized takes a minute.
#[test]
fn a_large_policy_loads_whole_or_not_at_all() {
    let mut text = format!("{HEAD}users:\n");
    for i in 0..3_000 {
        let _ = writeln!(
            text,
            "- {{ name: user{i:05}@example.com, teams: [team{}, all], keys: [{{ serial: {} }}] }}",
            i % 1000,
            i + 1
        );
    }
    text.push_str("rules:\n");
    for i in 0..600 {
        let _ = writeln!(
            text,
            "- {{ name: rule {i}, who: {{ teams: [team{i}] }}, groups: [\"jit:team{i}:*\"], decision: auto }}"
        );
    }
    let lines = u64::try_from(text.lines().count()).unwrap();
    // As large as a file may be, with its comments.
    text.push_str(&"# comment\n".repeat((MAX_POLICY_BYTES - text.len()) / 10));
    let policy = policy(&text);
    assert_eq!((policy.users().len(), policy.rules().len()), (3_000, 600));
    let asked = super::request("user01577@example.com", &["jit:team577:x"]);
    assert_eq!(asked.outcome(&policy), "approve 30m");
    // One slip in the last rule, and none of it is in force.
    let slip = text.replace("name: rule 599,", "nam: rule 599,");
    let (position, _) = refused(slip.as_bytes());
    assert_eq!(position.unwrap().line, lines);
}

#[test]
fn rules_that_contradict_each_other_deny() {
    let both = policy(&format!(
        "{HEAD}{USER}rules:\n- {{ name: yes, who: {{ teams: [t] }}, groups: [g], decision: auto }}\n\
         - {{ name: no, who: {{ teams: [t] }}, groups: [g], decision: deny }}\n"
    ));
    assert_eq!(super::request("alice", &["g"]).outcome(&both), "deny");
}

#[test]
fn zones_are_those_of_the_world_and_no_paths() {
    for zone in [
        "Mars/Olympus",
        "../../etc/passwd",
        "/etc/localtime",
        "",
        "Europe",
        "CEST-2",
        "Local",
        "+02:00",
        "Europe/Berlin\\0",
    ] {
        let text = rule(&format!(
            "hours: {{ from: \"08:00\", to: \"09:00\", zone: \"{zone}\" }}\n  decision: auto"
        ));
        let message = refused_at(&text, 9, 46);
        assert!(message.contains("is not a time zone"), "{message}");
    }
}
