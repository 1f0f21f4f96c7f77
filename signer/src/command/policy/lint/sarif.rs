//! Findings as SARIF 2.1.0 (OASIS, Static Analysis Results Interchange Format), which code scanning shows in a pull request.

use serde_json::{Value, json};
use std::collections::BTreeSet;
use touchstone_common::policy::{Lint, Position, Severity};

pub(super) fn log(file: &str, findings: &[Lint]) -> Value {
    let codes: BTreeSet<&str> = findings.iter().map(|lint| lint.code).collect();
    let rules: Vec<_> = codes.iter().map(|code| json!({ "id": code })).collect();
    let results: Vec<_> = findings.iter().map(|lint| result(file, lint)).collect();
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "touchstone-signer policy lint",
                "version": env!("CARGO_PKG_VERSION"),
                "rules": rules,
            } },
            // Columns of a Position count characters (SARIF 3.14.27).
            "columnKind": "unicodeCodePoints",
            "results": results,
        }],
    })
}

fn result(file: &str, lint: &Lint) -> Value {
    let artifact = json!({ "uri": uri(file) });
    let place = match lint.finding.position {
        None => json!({ "artifactLocation": artifact }),
        Some(Position { line, column }) => json!({
            "artifactLocation": artifact,
            "region": { "startLine": line, "startColumn": column },
        }),
    };
    json!({
        "ruleId": lint.code,
        "level": match lint.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        },
        "message": { "text": lint.finding.message },
        "locations": [{ "physicalLocation": place }],
    })
}

/// A path as a relative reference (RFC 3986, 4.2): what a URI keeps for itself is written with `%`.
fn uri(path: &str) -> String {
    let path = path.strip_prefix("./").unwrap_or(path);
    path.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use touchstone_common::policy;

    #[test]
    fn findings_keep_their_code_severity_and_place() {
        let text = b"apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
users: [{ name: a }]
rules: [{ name: r, who: { users: [b] }, groups: [g], decision: auto }]
";
        let findings = policy::lint("p", text, &policy::Surroundings::default()).unwrap();
        let log = log("./policies/prod eu.yaml", &findings);
        assert_eq!(log["version"], "2.1.0");
        let run = &log["runs"][0];
        assert_eq!(
            run["tool"]["driver"]["rules"],
            json!([{ "id": "unknown-user" }, { "id": "user-without-keys" }])
        );
        assert_eq!(
            run["results"][1],
            json!({
                "ruleId": "unknown-user",
                "level": "error",
                "message": { "text": "there is no user \"b\"" },
                "locations": [{ "physicalLocation": {
                    "artifactLocation": { "uri": "policies/prod%20eu.yaml" },
                    "region": { "startLine": 5, "startColumn": 35 },
                } }],
            })
        );
        assert_eq!(run["results"][0]["level"], "warning");
    }

    #[test]
    fn a_finding_without_a_place_has_no_region() {
        let text = b"apiVersion: touchstone.dev/v1\nkind: Policy\ncluster: prod\n";
        let log = log(
            "p.yaml",
            &policy::lint("p", text, &policy::Surroundings::default()).unwrap(),
        );
        let place = &log["runs"][0]["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(place, &json!({ "artifactLocation": { "uri": "p.yaml" } }));
    }
}
