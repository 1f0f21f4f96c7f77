//! `policy lint` beside what kubectl applied: the groups that the bindings of a running cluster name, and what it says of those
//! that rules have made for their grants.

use crate::Setting;
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};
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

/// The setting's policy, whose first rule binds this for each of its grants.
fn policy_that_binds(setting: &Setting, per_grant: &str) -> PathBuf {
    let text = fs::read_to_string(&setting.cluster.files().policy).expect("read the policy");
    let rule = "    maxTTL: 30m\n";
    assert!(text.contains(rule));
    let binding = format!("    binding: {{ perGrant: {{ {per_grant} }} }}\n{rule}");
    let path = setting.cluster.dir().join("binds.yaml");
    fs::write(&path, text.replacen(rule, &binding, 1)).expect("write a policy");
    path
}

/// What lint finds about the bindings of grants: exit code, codes and messages.
fn about_grants(setting: &Setting, policy: &Path, format: &str) -> (Option<i32>, Vec<String>) {
    let admin = &setting.cluster.files().admin_kubeconfig;
    let mut command = Command::new(program("touchstone-signer"));
    command.args(["policy", "lint", "--output", format, "--kubeconfig"]);
    let ran = Ran::of(command.args([admin, policy]));
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    let (list, code, message) = match format {
        "sarif" => ("/runs/0/results", "/ruleId", "/message/text"),
        _ => ("/findings", "/code", "/message"),
    };
    let findings = report.pointer(list).and_then(|it| it.as_array());
    let text = |finding: &serde_json::Value, pointer: &str| {
        let text = finding.pointer(pointer).and_then(|it| it.as_str());
        text.expect("a text").to_owned()
    };
    let all = findings.expect("findings").iter();
    let all = all.map(|it| format!("{}: {}", text(it, code), text(it, message)));
    let is_ours =
        |it: &String| it.starts_with("missing-role") || it.starts_with("signer-cannot-bind");
    (ran.code, all.filter(is_ours).collect())
}

#[test]
fn lint_asks_a_cluster_for_the_roles_that_grants_are_bound_to_and_whether_the_signer_may() {
    let setting = Setting::new();
    if setting.cluster.is_embedded() {
        // It has no roles, and says so above.
        return;
    }
    let binds = |per_grant: &str| policy_that_binds(&setting, per_grant);
    let cluster_role = binds("clusterRole: jit-debug, namespaces: [payments]");
    for format in ["json", "sarif"] {
        let (code, found) = about_grants(&setting, &cluster_role, format);
        assert_eq!(code, Some(1));
        let [missing, may_not] = &found[..] else {
            panic!("{found:#?}");
        };
        assert!(
            missing.starts_with("missing-role: there is no ClusterRole \"jit-debug\""),
            "{missing}"
        );
        let account = "system:serviceaccount:touchstone:touchstone-signer";
        let lacks = "create rolebindings nor get rolebindings nor delete rolebindings nor bind clusterroles/jit-debug";
        let expected =
            format!("signer-cannot-bind: {account} may not {lacks} in namespace \"payments\"");
        assert!(may_not.starts_with(&expected), "{may_not}");
    }

    setting.ok(&["create", "namespace", "payments"]);
    let rules = ["--verb=get", "--resource=pods/log"];
    let create = ["create", "clusterrole", "jit-debug"];
    setting.ok(&[&create[..], &rules].concat());
    let rights = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/per-grant.yaml");
    setting.ok(&["apply", "-f", rights]);
    setting
        .cluster
        .wait_until("the rights count and nothing is found", |_| {
            about_grants(&setting, &cluster_role, "json").1.is_empty()
        });

    // A Role is one of its namespace, and the signer may bind no other.
    let create = ["create", "role", "debug", "--namespace=default"];
    setting.ok(&[&create[..], &rules].concat());
    let role = binds("role: debug, namespaces: [default, payments]");
    let (_, found) = about_grants(&setting, &role, "json");
    let has = |words: &str| found.iter().any(|it| it.contains(words));
    assert!(
        has("namespace \"payments\" has no Role \"debug\""),
        "{found:#?}"
    );
    assert!(!has("namespace \"default\" has no Role"), "{found:#?}");
    assert!(
        has("may not bind roles/debug in namespace \"payments\""),
        "{found:#?}"
    );
}
