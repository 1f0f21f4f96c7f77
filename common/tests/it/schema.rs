//! The published schema, asked by a validator that no one here wrote, beside the loader: what an editor marks as wrong is
//! refused, and what it does not is refused for what it means only.

use jsonschema::Validator;
use serde_json::{Value, json};
use std::sync::LazyLock;
use touchstone_common::policy::{self, Policy};

static SCHEMA: LazyLock<Validator> =
    LazyLock::new(|| jsonschema::draft202012::new(&policy::schema()).expect("a schema"));

const EXAMPLE: &str = include_str!("../../../docs/examples/policy.yaml");

fn example() -> Value {
    value(EXAMPLE)
}

fn value(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).expect("YAML")
}

fn loads(policy: &Value) -> Result<(), String> {
    let text = serde_json::to_vec(policy).expect("JSON");
    let read = Policy::parse("policy.json", &text);
    read.map(drop).map_err(|error| error.to_string())
}

/// Every place in a value.
fn places(value: &Value, at: &str, all: &mut Vec<String>) {
    all.push(at.to_owned());
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                places(item, &format!("{at}/{i}"), all);
            }
        }
        Value::Object(fields) => {
            for (key, field) in fields {
                places(field, &format!("{at}/{key}"), all);
            }
        }
        _ => {}
    }
}

/// Policies that use all of the language.
fn policies() -> Vec<Value> {
    let rest = "apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
defaults: { waitFor: 2h, key: { slots: [\"9a\", \"82\"], algorithms: [p256, rsa2048] } }
users: [{ name: a, teams: [t], keys: [{ spki: \"sha256:1f0c3a5e7b9d2f4a6c8e0b1d3f5a7c9e1b2d4f6a8c0e2b4d6f8a0c1e3b5d7f90\" }] }]
rules:
- { name: r, who: { users: [a], groups: [g] }, groups: [\"jit:{namespace}\"], namespaces: [payments, \"team-*\"],
    clusters: [\"p*\"], key: { attested: false }, decision: manual, approvals: kubernetes }
- { name: s, who: { teams: [t] }, groups: [x], waitFor: 30m, decision: manual,
    approvals: [{ from: { users: [a], teams: [t] }, count: 1 }] }
";
    vec![example(), value(rest)]
}

#[test]
fn what_loads_is_valid() {
    for policy in policies() {
        assert_eq!(loads(&policy), Ok(()));
        let errors: Vec<_> = SCHEMA.iter_errors(&policy).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

#[test]
fn a_key_that_is_unknown_or_empty_is_refused_by_both_wherever_it_stands() {
    for policy in policies() {
        let mut all = Vec::new();
        places(&policy, "", &mut all);
        for place in all {
            let mut changed = policy.clone();
            let there = changed.pointer_mut(&place).unwrap();
            if let Value::Object(fields) = there {
                fields.insert("unknown".into(), json!(1));
                assert!(!SCHEMA.is_valid(&changed), "{place}");
                assert!(loads(&changed).is_err(), "{place}");
            }
            let mut changed = policy.clone();
            *changed.pointer_mut(&place).unwrap() = Value::Null;
            assert!(!SCHEMA.is_valid(&changed), "{place}");
            assert!(loads(&changed).is_err(), "{place}");
        }
    }
}

#[test]
fn what_the_schema_refuses_the_loader_refuses() {
    let others = [
        json!(7),
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
        json!(-1),
        json!(1.5),
        json!([1]),
        json!(""),
    ];
    let mut refused = 0;
    for policy in policies() {
        let mut all = Vec::new();
        places(&policy, "", &mut all);
        for place in all {
            for other in &others {
                let mut changed = policy.clone();
                *changed.pointer_mut(&place).unwrap() = other.clone();
                if !SCHEMA.is_valid(&changed) {
                    assert!(loads(&changed).is_err(), "{place}: {other}");
                    refused += 1;
                }
            }
            // Without it.
            let (parent, key) = place.rsplit_once('/').unwrap_or(("", ""));
            let mut changed = policy.clone();
            if let Some(Value::Object(fields)) = changed.pointer_mut(parent)
                && fields.remove(key).is_some()
                && !SCHEMA.is_valid(&changed)
            {
                assert!(loads(&changed).is_err(), "{place}");
                refused += 1;
            }
        }
    }
    assert!(refused > 500, "{refused}");
}

/// What a value means, no schema says: only these are left to the loader.
#[test]
fn what_only_the_loader_refuses_is_wrong_by_its_meaning() {
    const MEANING: [&str; 22] = [
        "is an empty list",
        "names nobody",
        "neither serial nor spki",
        "asks for nothing",
        "is not a time zone",
        "stands in line",
        "is longer than",
        "reaches reserved names",
        "takes no",
        "who approves",
        "go with `decision: manual`",
        "can only be proven",
        "the pattern",
        "is empty",
        "does not say who it is for",
        "the window is empty",
        "is not a PIV slot",
        "has `{namespace}`",
        "no group of the rule",
        "is none that Kubernetes has",
        "goes with",
        "another user",
    ];
    let others = [
        json!("x"),
        json!([]),
        json!({}),
        json!(true),
        json!(7),
        json!(""),
    ];
    for policy in policies() {
        let mut all = Vec::new();
        places(&policy, "", &mut all);
        for place in all {
            for other in &others {
                let mut changed = policy.clone();
                *changed.pointer_mut(&place).unwrap() = other.clone();
                if let (true, Err(said)) = (SCHEMA.is_valid(&changed), loads(&changed)) {
                    let by_meaning = MEANING.iter().any(|words| said.contains(words));
                    assert!(by_meaning, "{place} = {other}: {said}");
                }
            }
        }
    }
}
