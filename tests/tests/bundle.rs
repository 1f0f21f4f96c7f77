//! The trust bundle on its way: published by the signer's account, kept in a file by `touchstone-signer bundle sync`, read
//! by a real kube-apiserver where there is one.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

#[path = "bundle/faults.rs"]
mod faults;
#[path = "bundle/world.rs"]
mod world;

use serde_json::json;
use std::{fs, os::unix::fs::PermissionsExt as _, process::Command};
use touchstone_signer::bundle::publish::{Change, PublishError};
use touchstone_tests::{
    child::{Running, program},
    engineer::Ran,
};
use world::{CLUSTER_TRUST_BUNDLE, Ca, MAP, World};

#[test]
fn the_file_follows_a_rotation_and_the_api_server_believes_it_without_a_restart() {
    let world = World::start();
    let file = world.client_ca_file();
    let cluster_ca = world.dir().join("cluster-ca.pem");
    fs::write(&cluster_ca, &world.cas[2].certificate).expect("write the cluster's own CA");
    let (old, new) = (&world.cas[0], &world.cas[1]);

    let log = world.dir().join("sync.log");
    let mut command = world.sync(&file);
    command.arg("--include").arg(&cluster_ca);
    let mut sync = Running::start("bundle sync", &mut command, &log);
    // A quarter: the old one, both, the new one.
    let steps: [(u64, &[&Ca]); 3] = [(1, &[old]), (2, &[old, new]), (3, &[new])];
    for (revision, trusted) in steps {
        let bundle = world.bundle(revision, trusted);
        let published = world.publish(&bundle);
        assert_ne!(published.config_map, Change::Unchanged);
        sync.wait_until(world::PATIENCE, "the new revision in the file", || {
            world::revision(&file) == Some(revision)
        });
        for ca in &world.cas {
            let is_trusted = trusted.iter().any(|one| one.certificate == ca.certificate);
            let is_in = world::holds(&file, ca);
            assert_eq!(is_in, is_trusted || ca.name == "cluster", "{}", ca.name);
            world.wait_until_believed(ca, is_in);
        }
        // What the harness gave it at first is not published, and stays all the same.
        if let Some(first) = &world.first {
            assert!(world::text(&file).contains(first));
        }
    }
    let mode = fs::metadata(&file).expect("the file").permissions().mode();
    assert_eq!(mode & 0o777, 0o644);
    sync.terminate();
    assert_eq!(
        sync.wait(world::PATIENCE).code(),
        Some(0),
        "{}",
        sync.output()
    );
    assert!(
        sync.output().contains("brought up to date"),
        "{}",
        sync.output()
    );
}

#[test]
fn a_cluster_that_knows_cluster_trust_bundles_has_one_and_what_is_changed_there_is_put_right() {
    let world = World::start();
    let bundle = world.bundle(4, &[&world.cas[0], &world.cas[1]]);
    let published = world.publish(&bundle);
    assert_eq!(published.config_map, Change::Created);
    let of_cluster = published.cluster_trust_bundle.expect("it is published");
    let shown = world.show().succeeded();
    let shown: serde_json::Value = serde_json::from_str(&shown.stdout).expect("JSON");
    assert_eq!(shown["revision"], 4);
    assert_eq!(shown["cluster"], "demo");
    assert_eq!(shown["certificates"].as_array().map(Vec::len), Some(2));
    assert_eq!(shown["sha256"], bundle.sha256());
    if world.cluster.is_embedded() {
        assert_eq!(of_cluster, None);
        return;
    }
    assert_eq!(of_cluster, Some(Change::Created));
    let read = || {
        world.cluster.kubectl_ok([
            "get",
            CLUSTER_TRUST_BUNDLE,
            "-o",
            "jsonpath={.spec.trustBundle}",
        ])
    };
    assert_eq!(read(), bundle.to_pem());
    let patch = json!({ "spec": { "trustBundle": world.cas[2].certificate } });
    world.cluster.kubectl_ok([
        "patch",
        CLUSTER_TRUST_BUNDLE,
        "--type=merge",
        "-p",
        &patch.to_string(),
    ]);
    let published = world.publish(&bundle);
    assert_eq!(published.config_map, Change::Unchanged);
    assert_eq!(
        published.cluster_trust_bundle.expect("it is published"),
        Some(Change::Repaired)
    );
    assert_eq!(read(), bundle.to_pem());
    let next = world.bundle(5, &[&world.cas[1]]);
    assert_eq!(
        world
            .publish(&next)
            .cluster_trust_bundle
            .expect("it is published"),
        Some(Change::Updated)
    );
}

#[test]
fn a_config_map_that_was_made_immutable_is_named_and_made_again_once_it_is_deleted() {
    let world = World::start();
    world.publish(&world.bundle(1, &[&world.cas[0]]));
    world.patch(&json!({ "immutable": true }));
    let next = world.bundle(2, &[&world.cas[1]]);
    let error = world.try_publish(&next).expect_err("it cannot be changed");
    assert!(matches!(error, PublishError::Immutable { .. }), "{error}");
    assert!(error.remedy().contains(MAP), "{}", error.remedy());
    world.delete_config_map();
    assert_eq!(world.publish(&next).config_map, Change::Created);
}

/// Needs a mount namespace, since a pod's service account is at a fixed place; and service accounts, which the embedded
/// API has not.
#[test]
fn in_a_pod_it_takes_the_service_account() {
    let world = World::start();
    if world.cluster.is_embedded() {
        return;
    }
    world.publish(&world.bundle(1, &[&world.cas[0]]));
    let ok = |arguments: &[&str]| world.cluster.kubectl_ok(arguments);
    let account = format!("--serviceaccount={}:sync", world.namespace);
    ok(&["create", "serviceaccount", "sync", "-n", world.namespace]);
    let role = "touchstone-bundle-sync";
    let of = |kind: &str| format!("--{kind}={role}");
    ok(&[
        "create",
        "rolebinding",
        "pod",
        "-n",
        world.namespace,
        &of("role"),
        &account,
    ]);
    ok(&[
        "create",
        "clusterrolebinding",
        "pod",
        &of("clusterrole"),
        &account,
    ]);
    let token = ok(&["create", "token", "sync", "-n", world.namespace]);
    let files = world.cluster.files();
    let (host, port) = files
        .server
        .trim_start_matches("https://")
        .split_once(':')
        .expect("an address and a port");
    let file = world.dir().join("client-ca.crt");
    let script = r#"
set -eu
mount -t tmpfs tmpfs /var/run
mkdir -p /var/run/secrets/kubernetes.io/serviceaccount
cd /var/run/secrets/kubernetes.io/serviceaccount
printf %s "$1" >token
printf %s "$2" >namespace
cp "$3" ca.crt
exec "$4" bundle sync --once --namespace "$2" --out "$5"
"#;
    let root = rustix::process::geteuid().is_root();
    let mut command = Command::new("unshare");
    command
        .arg(if root { "-m" } else { "-rm" })
        .args(["sh", "-c", script, "sh", token.trim(), world.namespace])
        .args([&files.server_ca, &program("touchstone-signer"), &file])
        .env("KUBERNETES_SERVICE_HOST", host)
        .env("KUBERNETES_SERVICE_PORT", port);
    Ran::of(&mut command).succeeded();
    assert!(world::holds(&file, &world.cas[0]));
}

#[test]
fn what_would_change_is_shown_and_what_changed_is_said_once() {
    let world = World::start();
    let file = world.dir().join("client-ca.crt");
    world.publish(&world.bundle(1, &[&world.cas[0]]));
    let dry = world
        .once(&file, &["--dry-run", "--output", "json"])
        .succeeded();
    let dry: serde_json::Value = serde_json::from_str(&dry.stdout).expect("JSON");
    assert_eq!(
        (&dry["changed"], &dry["dryRun"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(dry["added"][0]["commonName"], "old");
    assert!(!file.exists());
    let done = world.once(&file, &[]).succeeded();
    assert!(
        done.stdout.contains("changed:") && done.stdout.contains("\"old\""),
        "{done}"
    );
    let again = world.once(&file, &[]).succeeded();
    assert!(again.stdout.contains("nothing changes"), "{again}");
    world.publish(&world.bundle(2, &[&world.cas[1]]));
    let next = world.once(&file, &["--output", "json"]).succeeded();
    let next: serde_json::Value = serde_json::from_str(&next.stdout).expect("JSON");
    assert_eq!(next["added"][0]["commonName"], "new");
    assert_eq!(next["removed"][0]["commonName"], "old");
    assert_eq!(next["revision"], 2);
    // A node's account may read the one ConfigMap; the embedded API's administrator finds that there is none.
    let code = if world.cluster.is_embedded() {
        world::REFUSED
    } else {
        world::API
    };
    let mut elsewhere = world::sync(&world.cluster.kubeconfig_of("touchstone-bundle-sync"));
    elsewhere
        .args(["--once", "--namespace", "kube-system", "--out"])
        .arg(&file);
    Ran::of(&mut elsewhere).failed(code, &["touchstone-trust-bundle", "--namespace"]);
    world.delete_config_map();
    world.show().failed(world::REFUSED, &["no ConfigMap"]);
}
