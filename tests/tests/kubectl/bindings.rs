//! `policy lint` beside what kubectl applied: the groups that the bindings of a running cluster name.

use crate::Setting;
use std::process::Command;
use touchstone_tests::{child::program, engineer::Ran, policy::GRANTED};

fn lint(setting: &Setting) -> Ran {
    let files = setting.cluster.files();
    let mut command = Command::new(program("touchstone-signer"));
    command
        .args(["policy", "lint", "--output", "json", "--kubeconfig"])
        .args([&files.admin_kubeconfig, &files.policy]);
    Ran::of(&mut command)
}

/// Whether lint says that no binding names the group.
fn is_unbound(ran: &Ran) -> bool {
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let findings = report["findings"].as_array().expect("findings");
    findings.iter().any(|finding| {
        let message = finding["message"].as_str().unwrap_or_default();
        finding["code"] == "unbound-group"
            && message.starts_with(&format!("no binding names group {GRANTED:?}:"))
    })
}

#[test]
fn lint_asks_a_cluster_which_groups_its_bindings_name() {
    let setting = Setting::new();
    if setting.cluster.is_embedded() {
        // It has no RBAC, and says so: an empty answer would call every group unbound.
        lint(&setting).failed(7, &["RoleBindings", "--bindings"]);
        return;
    }
    assert!(is_unbound(&lint(&setting)));
    let group = format!("--group={GRANTED}");
    setting.cluster.kubectl_ok([
        "create",
        "rolebinding",
        "oncall",
        "--namespace=default",
        "--clusterrole=view",
        &group,
    ]);
    assert!(!is_unbound(&lint(&setting)));
}
