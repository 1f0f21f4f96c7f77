//! `touchstone-signer` without a kubeconfig: in a pod it takes the service account, elsewhere it says what is missing.

use std::{fs, path::Path, process::Command};
use touchstone_tests::{
    child::program,
    cluster::{Cluster, Setup},
    engineer::Ran,
    policy::policy,
};

const USAGE: i32 = 2;
const API_UNUSABLE: i32 = 7;

fn signer(arguments: &[&str]) -> Command {
    let mut command = Command::new(program("touchstone-signer"));
    command
        .env_remove("KUBERNETES_SERVICE_HOST")
        .args(arguments);
    command
}

/// Runs the signer as it would in a pod of `namespace`, with this service account token.
///
/// Needs a file system of its own, so a mount namespace: as root, or where users may make one.
fn in_a_pod(cluster: &Cluster, namespace: &str, token: &str, arguments: &[&str]) -> Ran {
    let script = r#"
set -eu
account=/run/secrets/kubernetes.io/serviceaccount
ca=$(cat "$1") token=$2 namespace=$3
shift 3
mount -t tmpfs tmpfs /run
mkdir -p "$account"
printf %s "$ca" >"$account/ca.crt"
printf %s "$token" >"$account/token"
printf %s "$namespace" >"$account/namespace"
exec "$@"
"#;
    let is_root = rustix::process::geteuid().is_root();
    let server = cluster.files().server.trim_start_matches("https://");
    let (host, port) = server.split_once(':').expect("a port");
    let mut command = Command::new("unshare");
    command
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port)
        .arg(if is_root { "-m" } else { "-rm" })
        .args(["sh", "-c", script, "sh"])
        .arg(&cluster.files().server_ca)
        .args([token, namespace])
        .arg(program("touchstone-signer"))
        .args(arguments);
    Ran::of(&mut command)
}

#[test]
fn elsewhere_a_kubeconfig_is_asked_for_and_nothing_is_made() {
    let dir = tempfile::tempdir().expect("make a folder");
    let path = |name: &str| dir.path().join(name).display().to_string();
    fs::write(path("policy.yaml"), policy(&[])).expect("write the policy");
    let (data, file) = (path("data"), path("policy.yaml"));
    for arguments in [
        &["run", "--data", &data, "--policy", &file][..],
        &["ca", "status"],
        &["bundle", "show"],
    ] {
        Ran::of(&mut signer(arguments)).failed(API_UNUSABLE, &["no pod", "--kubeconfig"]);
    }
    assert!(!Path::new(&data).exists());
    let both = ["ca", "status", "--data", &data, "--kubeconfig", "k"];
    Ran::of(&mut signer(&both)).failed(USAGE, &["--data", "--kubeconfig"]);
}

#[test]
fn in_a_pod_the_service_account_and_its_namespace_are_taken() {
    let cluster = Cluster::start(&Setup {
        policy: policy(&[]),
        attestation_roots: Vec::new(),
    });
    if cluster.is_embedded() {
        // It knows no service accounts: that it is asked, over TLS that its CA vouches for, shows what was taken.
        let ran = in_a_pod(&cluster, "default", "a-token", &["bundle", "show"]);
        ran.failed(API_UNUSABLE, &["trust bundle", "nauthorized"]);
        return;
    }
    let account = "touchstone-reader";
    cluster.kubectl_ok(["-n", "touchstone", "create", "serviceaccount", account]);
    let subject = format!("--serviceaccount=touchstone:{account}");
    // Roles of Kubernetes' own are put together by a controller that need not run here.
    let role = ["create", "clusterrole", account, "--verb=get"];
    cluster.kubectl_ok(role.iter().chain(&["--resource=configmaps,namespaces"]));
    let binding = ["create", "clusterrolebinding", account];
    let binding = [&binding[..], &["--clusterrole=touchstone-reader"]].concat();
    cluster.kubectl_ok(binding.iter().copied().chain([subject.as_str()]));
    cluster.wait_until("its rights are known", |cluster| {
        let user = format!("system:serviceaccount:touchstone:{account}");
        let asked = ["auth", "can-i", "get", "configmaps", "-A", "--as", &user];
        cluster.kubectl(asked).status.success()
    });
    let token = cluster.kubectl_ok(["-n", "touchstone", "create", "token", account]);
    let ran = in_a_pod(&cluster, "touchstone", token.trim(), &["bundle", "show"]).succeeded();
    assert!(ran.stdout.contains("revision"), "{ran}");
    let ran = in_a_pod(&cluster, "touchstone", token.trim(), &["ca", "status"]);
    ran.failed(API_UNUSABLE, &["forbidden", "touchstone-reader"]);
    // Another namespace than the bundle's.
    let ran = in_a_pod(&cluster, "default", token.trim(), &["bundle", "show"]);
    assert!(ran.stderr.contains("in the namespace default"), "{ran}");
}
