//! The admission policies of `deploy/`, tried by people whom RBAC refuses nothing, or whose role is for something else. On a
//! real control plane: the embedded API has rules of its own.

use serde_json::{Value, json};
use std::{fs, path::Path};
use touchstone_tests::{
    card_key::CardKey,
    cluster::{Cluster, Setup, kubectl, request},
    engineer::Ran,
    openssl,
    policy::{GRANTED, MANUAL, policy},
};

const ALICE: &str = "alice@example.com";
/// Approves, by role and by policy.
const BOB: &str = "bob@example.com";
/// An administrator of the cluster, in `system:masters`, who is no operator of Touchstone.
const ROOT: &str = "root@example.com";
/// An administrator who is.
const OPERATOR: &str = "admin";
const SIGNER: &str = "touchstone-signer";

struct World {
    key: CardKey,
    cluster: Cluster,
}

impl World {
    /// Nothing where the API is embedded.
    fn start() -> Option<Self> {
        if std::env::var_os("KUBEBUILDER_ASSETS").is_none_or(|path| path.is_empty()) {
            return None;
        }
        let key = CardKey::generate(12_345_678);
        let dir = tempfile::tempdir().expect("a temporary folder");
        let root = dir.path().join("root.pem");
        fs::write(&root, key.attestation_root()).expect("write the root");
        let user = format!(
            "  - {{ name: {ALICE}, teams: [payments], keys: [ {{ serial: 12345678 }} ] }}\n"
        );
        let cluster = Cluster::start(&Setup {
            policy: policy(&[user]),
            attestation_roots: vec![root],
        });
        Some(Self { key, cluster })
    }

    fn pem(&self, group: &str, nonce: u8) -> String {
        let now = jiff::Timestamp::now();
        self.key.request("demo", ALICE, group, [nonce; 32], now)
    }

    /// kubectl as `user`.
    fn by(&self, user: &str, arguments: &[&str]) -> Ran {
        Ran::of(kubectl(&self.cluster.kubeconfig_of(user)).args(arguments))
    }

    /// kubectl as `user`, with an object in a file at the end.
    fn send(&self, user: &str, arguments: &[&str], object: &Value) -> Ran {
        let file = self.cluster.dir().join("sent.json");
        fs::write(&file, object.to_string()).expect("write a manifest");
        let file = file.to_str().expect("a plain name");
        self.by(user, &[arguments, &["-f", file]].concat())
    }

    #[track_caller]
    fn refused(&self, user: &str, arguments: &[&str], object: &Value, words: &str) {
        let ran = self.send(user, arguments, object);
        assert_ne!(ran.code, Some(0), "{ran}");
        assert!(ran.stderr.contains(words), "{words:?} is missing in {ran}");
    }

    /// A request of alice's that waits for approval: its name.
    fn waiting(&self) -> String {
        let object = request(&self.pem(MANUAL, 1));
        let created = self
            .send(ALICE, &["create", "-o", "json"], &object)
            .succeeded();
        let created: Value = serde_json::from_str(&created.stdout).expect("JSON");
        let name = created["metadata"]["name"].as_str().expect("a name");
        self.cluster.wait_until("it waits", |_| {
            self.read(name)["metadata"]["annotations"]["touchstone.dev/waiting-for"].is_string()
        });
        name.to_owned()
    }

    fn read(&self, name: &str) -> Value {
        let printed = self.cluster.kubectl_ok(["get", "csr", name, "-o", "json"]);
        serde_json::from_str(&printed).expect("kubectl prints JSON")
    }
}

/// Where a subresource of a request is.
fn path(name: &str, subresource: &str) -> String {
    format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/{subresource}")
}

fn condition(kind: &str) -> Value {
    json!([{ "type": kind, "status": "True", "reason": "x", "message": "x" }])
}

#[test]
fn what_could_never_be_granted_is_refused_before_it_is_stored() {
    let Some(world) = World::start() else {
        return;
    };
    let good = request(&world.pem(GRANTED, 1));
    let with = |pointer: &[&str], value: Value| {
        let mut changed = good.clone();
        let mut place = &mut changed;
        for key in pointer {
            place = &mut place[*key];
        }
        *place = value;
        changed
    };
    let large = format!("{}{}", world.pem(GRANTED, 1), "\n".repeat(22_528));
    let annotated = |key: &str| with(&["metadata", "annotations"], json!({ key: "x" }));
    let owner = json!([{ "apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": "1" }]);
    for (changed, words) in [
        (
            with(&["spec", "expirationSeconds"], Value::Null),
            "600 to 86400",
        ),
        (
            with(&["spec", "expirationSeconds"], 86_401.into()),
            "600 to 86400",
        ),
        (
            with(&["spec", "usages"], json!(["client auth", "server auth"])),
            "spec.usages",
        ),
        (
            with(&["spec", "usages"], json!(["client auth", "client auth"])),
            "spec.usages",
        ),
        (
            with(&["spec", "usages"], json!(["digital signature"])),
            "spec.usages",
        ),
        (request(&large), "22528 bytes"),
        (annotated("touchstone.dev/waiting-for"), "annotations"),
        (annotated("approval.touchstone.dev/x"), "annotations"),
        (
            with(&["metadata", "finalizers"], json!(["a.example/b"])),
            "finalizers",
        ),
        (with(&["metadata", "ownerReferences"], owner), "owners"),
    ] {
        world.refused(ALICE, &["create"], &changed, words);
        world.refused(ROOT, &["create"], &changed, words);
    }
    // An account of the cluster, with every right: as whom an administrator acts.
    for account in ["system:serviceaccount:default:default", "system:node:n"] {
        let arguments = ["create", "--as", account, "--as-group", "system:masters"];
        world.refused(ROOT, &arguments, &good, "not for accounts of the cluster");
    }
    // Of another signer name, none of this holds.
    let mut foreign = annotated("touchstone.dev/waiting-for");
    foreign["spec"]["signerName"] = "example.com/other".into();
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
    let name = world.waiting();
    for verb in ["approve", "deny"] {
        let ran = world.by(ROOT, &["certificate", verb, &name]);
        assert!(
            ran.code != Some(0) && ran.stderr.contains("only touchstone-signer"),
            "{ran}"
        );
    }
    // A certificate of an attacker's own CA, and no certificate but the word that there will be none.
    let planted = world.cluster.dir().join("planted.pem");
    let key = world.cluster.dir().join("planted.key");
    openssl::self_signed(&key, &planted, "/CN=root/O=system:masters", &[]);
    let replace = |user: &str, subresource: &str, change: &dyn Fn(&mut Value)| {
        let mut changed = world.read(&name);
        change(&mut changed);
        let path = path(&name, subresource);
        world.send(user, &["replace", "--raw", &path], &changed)
    };
    let certificate = json!(base64(&planted));
    let plant = |changed: &mut Value| changed["status"]["certificate"] = certificate.clone();
    let fail = |changed: &mut Value| changed["status"]["conditions"] = condition("Failed");
    let label = |changed: &mut Value| changed["metadata"]["labels"] = json!({ "a": "b" });
    for change in [&plant as &dyn Fn(&mut Value), &fail] {
        for user in [ROOT, OPERATOR] {
            let ran = replace(user, "status", change);
            assert!(
                ran.code != Some(0) && ran.stderr.contains("only touchstone-signer"),
                "{ran}"
            );
        }
    }
    // Two policies refuse this, and the API server names the one whose answer it had first.
    for user in [ROOT, OPERATOR] {
        let ran = replace(user, "status", &label);
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
    let ran = replace(OPERATOR, "approval", &both);
    assert!(
        ran.code != Some(0) && ran.stderr.contains("no labels"),
        "{ran}"
    );
    let approve = |changed: &mut Value| changed["status"]["conditions"] = condition("Approved");
    replace(OPERATOR, "approval", &approve).succeeded();
}

#[test]
fn what_is_asked_stays_as_it_was_asked_and_only_statements_are_added() {
    let Some(world) = World::start() else {
        return;
    };
    let name = world.waiting();
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
            let ran = patch(user, &json!({ "metadata": change }));
            assert!(
                ran.code != Some(0) && ran.stderr.contains(words),
                "{words:?}: {ran}"
            );
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
            let ran = world.by(ROOT, change);
            assert!(ran.code != Some(0) && ran.stderr.contains(words), "{ran}");
        }
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
    // What has another name is nobody's business, and the signer's own rights end at the name.
    let create = ["create", "configmap", "other", "-n", "touchstone"];
    world.by(ROOT, &create).succeeded();
    let ran = world.by(
        SIGNER,
        &["delete", "configmap", "other", "-n", "touchstone"],
    );
    assert!(
        ran.code != Some(0) && ran.stderr.contains("forbidden"),
        "{ran}"
    );
    let ran = world.by(SIGNER, &["get", "secrets", "-n", "touchstone"]);
    assert!(
        ran.code != Some(0) && ran.stderr.contains("forbidden"),
        "{ran}"
    );
}

fn base64(file: &Path) -> String {
    base64_of(&fs::read(file).expect("read a file"))
}

fn base64_of(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
