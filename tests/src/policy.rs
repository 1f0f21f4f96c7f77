//! The policy that the suites run on.

/// The group that the policy grants to the team `payments`.
pub const GRANTED: &str = "jit:oncall:payments";
/// A group that is granted to the team `billing`.
pub const OF_ANOTHER_TEAM: &str = "jit:oncall:billing";
/// A group that needs approval.
pub const MANUAL: &str = "jit:oncall:cluster";

/// A policy for the cluster `demo` with these entries of `users`, each as `touchstone key enrol` prints it.
#[must_use]
pub fn policy(enrolments: &[String]) -> String {
    let users = if enrolments.is_empty() {
        "users: []\n".to_owned()
    } else {
        format!("users:\n{}", enrolments.join(""))
    };
    format!(
        r#"apiVersion: touchstone.dev/v1
kind: Policy
cluster: demo
{users}rules:
  - name: payments on call
    who: {{ teams: [payments] }}
    groups: ["{GRANTED}"]
    maxTTL: 30m
    reason: {{ pattern: "^INC-[0-9]+ ", minLength: 12 }}
    decision: auto
  - name: billing on call
    who: {{ teams: [billing] }}
    groups: ["{OF_ANOTHER_TEAM}"]
    decision: auto
  - name: cluster read
    who: {{ teams: [payments] }}
    groups: ["{MANUAL}"]
    decision: manual
    approvals: [ {{ from: {{ teams: [billing] }}, count: 1 }} ]
  - name: everything for everyone
    who: {{ teams: [payments, billing] }}
    groups: ["legacy:*"]
    maxTTL: 10m
    decision: auto
"#
    )
}
