//! The admission policies of `deploy/`, tried by people whom RBAC refuses nothing, or whose role is for something else. On a
//! real control plane: the embedded API has rules of its own.

#[path = "admission/approve_only.rs"]
mod approve_only;
#[path = "admission/world.rs"]
mod world;

use serde_json::{Value, json};
use touchstone_tests::{
    cluster::{Cluster, request},
    policy::GRANTED,
};
use world::{
    ALICE, BOB, FOREIGN_NAME, OPERATOR, OWN_NAME, ROOT, World, assert_refused, base64_of,
    condition, fail, label, malformed, owners, with_every_right,
};

/// An operator, who is nothing else.
const OLGA: &str = "olga@example.com";
const SIGNER: &str = "touchstone-signer";

#[test]
fn what_could_never_be_granted_is_refused_before_it_is_stored() {
    let Some(world) = World::start() else {
        return;
    };
    let good = request(&world.pem(GRANTED, 1));
    for (changed, words) in malformed(&good, &world.pem(GRANTED, 1)) {
        world.refused(ALICE, &["create"], &changed, words);
        world.refused(ROOT, &["create"], &changed, words);
    }
    // An account of the cluster, with every right: as whom an administrator acts.
    for account in ["system:serviceaccount:default:default", "system:node:n"] {
        let arguments = [&with_every_right(account)[..], &["create"]].concat();
        world.refused(ROOT, &arguments, &good, "not for accounts of the cluster");
    }
    // Of another signer name, none of this holds.
    let mut foreign = world.manual(FOREIGN_NAME);
    foreign["metadata"]["annotations"] = json!({ "touchstone.dev/waiting-for": "x" });
    foreign["spec"]["expirationSeconds"] = 864_000.into();
    world.send(ROOT, &["create"], &foreign).succeeded();

    world.send(ALICE, &["create"], &good).succeeded();
    world
        .cluster
        .wait_until("the good one is issued", |cluster| {
            let requests = cluster.kubectl_ok(["get", "csr", "-o", "json"]);
            requests.contains("\"certificate\":")
        });
}

#[test]
fn nobody_but_the_signer_approves_denies_or_signs_whatever_rbac_says() {
    let Some(world) = World::start() else {
        return;
    };
    let name = world.waiting(OWN_NAME);
    for verb in ["approve", "deny"] {
        let ran = world.by(ROOT, &["certificate", verb, &name]);
        assert_refused(&ran, "only touchstone-signer");
    }
    // A certificate of an attacker's own CA, and no certificate but the word that there will be none.
    let certificate = world.planted();
    let plant = |changed: &mut Value| changed["status"]["certificate"] = certificate.clone();
    for change in [&plant as &dyn Fn(&mut Value), &fail] {
        for user in [ROOT, OPERATOR] {
            let ran = world.replace(user, &name, "status", change);
            assert_refused(&ran, "only touchstone-signer");
        }
    }
    // Two policies refuse this, and the API server names the one whose answer it had first.
    for user in [ROOT, OPERATOR] {
        let ran = world.replace(user, &name, "status", &label);
        let said = &ran.stderr;
        let refused = said.contains("only touchstone-signer") || said.contains("no labels");
        assert!(ran.code != Some(0) && refused, "{ran}");
    }
    assert_eq!(world.read(&name)["metadata"]["labels"], Value::Null);
    // Nor by the other door, which is no door for it.
    let patch =
        json!({ "status": { "conditions": condition("Approved"), "certificate": certificate } });
    world.by(
        ROOT,
        &[
            "patch",
            "csr",
            &name,
            "--type=merge",
            "-p",
            &patch.to_string(),
        ],
    );
    assert_eq!(world.read(&name)["status"], json!({}));

    // Who may give bare approvals writes nothing else by the way.
    let both = |changed: &mut Value| {
        changed["status"]["conditions"] = condition("Approved");
        label(changed);
    };
    let ran = world.replace(OPERATOR, &name, "approval", &both);
    assert_refused(&ran, "no labels");
    let approve = |changed: &mut Value| changed["status"]["conditions"] = condition("Approved");
    world
        .replace(OPERATOR, &name, "approval", &approve)
        .succeeded();

    // Requests of another signer name are the business of others.
    let foreign = world.create(ROOT, &world.manual(FOREIGN_NAME));
    let approve = ["certificate", "approve", &foreign];
    world.by(ROOT, &approve).succeeded();
    world.replace(ROOT, &foreign, "status", &plant).succeeded();
    world
        .by(ROOT, &["label", "csr", &foreign, "a=b"])
        .succeeded();
}

#[test]
fn what_is_asked_stays_as_it_was_asked_and_only_statements_are_added() {
    let Some(world) = World::start() else {
        return;
    };
    let name = world.waiting(OWN_NAME);
    let before = world.read(&name)["spec"].clone();
    let patch = |user: &str, patch: &Value| {
        let patch = patch.to_string();
        world.by(user, &["patch", "csr", &name, "--type=merge", "-p", &patch])
    };
    for user in [BOB, ROOT] {
        for change in [
            json!({ "spec": { "expirationSeconds": 86_400 } }),
            json!({ "spec": { "request": base64_of(world.pem(GRANTED, 9).as_bytes()) } }),
            json!({ "spec": { "signerName": "kubernetes.io/kube-apiserver-client" } }),
            json!({ "spec": { "username": "root" } }),
        ] {
            patch(user, &change);
            assert_eq!(world.read(&name)["spec"], before, "{user}: {change}");
        }
        for (change, words) in [
            (json!({ "labels": { "a": "b" } }), "no labels"),
            (json!({ "finalizers": ["a.example/b"] }), "finalizers"),
            (json!({ "ownerReferences": owners() }), "owners"),
            (
                json!({ "annotations": { "touchstone.dev/waiting-for": "x" } }),
                "annotations that begin",
            ),
            (
                json!({ "annotations": { "touchstone.dev/waiting-for": null } }),
                "takes no annotations away",
            ),
            (
                json!({ "annotations": { "approval.touchstone.dev/x": "x".repeat(16_385) } }),
                "16 KiB",
            ),
        ] {
            assert_refused(&patch(user, &json!({ "metadata": change })), words);
        }
        patch(
            user,
            &json!({ "metadata": { "annotations": { "approval.touchstone.dev/x": user } } }),
        )
        .succeeded();
    }
}

#[test]
fn nobody_but_the_signer_and_operators_writes_what_api_servers_believe() {
    let Some(world) = World::start() else {
        return;
    };
    let words = "touchstone-operators";
    for object in [
        "secret/touchstone-ca",
        "configmap/touchstone-trust-bundle",
        "clustertrustbundle/touchstone.dev:client:trust-bundle",
    ] {
        world.cluster.wait_until("it is there", |cluster| {
            cluster
                .kubectl(["get", "-n", "touchstone", object])
                .status
                .success()
        });
        for change in [
            &["annotate", "-n", "touchstone", object, "a=b"][..],
            &["delete", "-n", "touchstone", object],
        ] {
            assert_refused(&world.by(ROOT, change), words);
        }
        // A new one is refused as it is asked for, whether one is there or not.
        world.refused(ROOT, &["create"], &copied(&world.cluster, object), words);
        // Who deletes a namespace deletes what is in it, and does nothing else.
        let namespaces = with_every_right("system:serviceaccount:kube-system:namespace-controller");
        let delete = ["delete", "-n", "touchstone", object, "--dry-run=server"];
        let delete = [&namespaces[..], &delete].concat();
        world.by(ROOT, &delete).succeeded();
        let annotate = ["annotate", "-n", "touchstone", object, "a=b"];
        let annotate = [&namespaces[..], &annotate].concat();
        assert_refused(&world.by(ROOT, &annotate), words);
        world
            .by(OPERATOR, &["annotate", "-n", "touchstone", object, "a=b"])
            .succeeded();
    }
    // Where none is there yet, none is laid.
    world
        .by(
            OPERATOR,
            &["delete", "-n", "touchstone", "secret/touchstone-ca"],
        )
        .succeeded();
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "touchstone-ca", "namespace": "touchstone" },
    });
    world.refused(ROOT, &["create"], &secret, words);
    // What has another name, or stands in another namespace, is nobody's business. The signer's own rights end there.
    let elsewhere = ["create", "configmap", "touchstone-trust-bundle"];
    world.by(ROOT, &elsewhere).succeeded();
    let create = ["create", "configmap", "other", "-n", "touchstone"];
    world.by(ROOT, &create).succeeded();
    let ran = world.by(
        SIGNER,
        &["delete", "configmap", "other", "-n", "touchstone"],
    );
    assert_refused(&ran, "forbidden");
    let ran = world.by(SIGNER, &["get", "secrets", "-n", "touchstone"]);
    assert_refused(&ran, "forbidden");
}

#[test]
fn an_operator_restores_the_record_by_the_role_in_deploy_and_opens_no_other_secret() {
    let Some(world) = World::start() else {
        return;
    };
    let role = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/operators.yaml");
    world.cluster.kubectl_ok(["apply", "-f", role]);
    let record = [
        "get",
        "-n",
        "touchstone",
        "secret/touchstone-ca",
        "-o",
        "json",
    ];
    world.cluster.wait_until("the rights count", |_| {
        world.by(OLGA, &record).code == Some(0)
    });
    let read = world.by(OLGA, &record).succeeded();
    let mut backup: Value = serde_json::from_str(&read.stdout).expect("JSON");
    let metadata = backup["metadata"].as_object_mut().expect("metadata");
    // What docs/operations.md takes out.
    for field in [
        "resourceVersion",
        "uid",
        "creationTimestamp",
        "managedFields",
    ] {
        metadata.remove(field);
    }
    let delete = ["delete", "-n", "touchstone", "secret/touchstone-ca"];
    world.by(OLGA, &delete).succeeded();
    let restore = ["apply", "--server-side"];
    world.refused(ROOT, &restore, &backup, "touchstone-operators");
    world.send(OLGA, &restore, &backup).succeeded();
    let restored: Value =
        serde_json::from_str(&world.by(OLGA, &record).succeeded().stdout).expect("JSON");
    assert_eq!(restored["data"], backup["data"]);

    backup["metadata"]["name"] = "other".into();
    world.refused(OLGA, &restore, &backup, "forbidden");
    world.refused(OLGA, &["create"], &backup, "forbidden");
    let ran = world.by(OLGA, &["get", "secrets", "-n", "touchstone"]);
    assert!(
        ran.code != Some(0) && ran.stderr.contains("forbidden"),
        "{ran}"
    );
}
/// What a create of this object would send.
fn copied(cluster: &Cluster, object: &str) -> Value {
    let printed = cluster.kubectl_ok(["get", "-n", "touchstone", object, "-o", "json"]);
    let mut copy: Value = serde_json::from_str(&printed).expect("kubectl prints JSON");
    for set_by_the_server in ["resourceVersion", "uid", "creationTimestamp"] {
        copy["metadata"][set_by_the_server] = Value::Null;
    }
    copy
}
