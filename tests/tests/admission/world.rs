//! A cluster with a signer, and people who try what they may not.

use serde_json::{Value, json};
use std::fs;
use touchstone_tests::{
    card_key::CardKey,
    cluster::{Cluster, Setup, kubectl, request},
    engineer::Ran,
    openssl,
    policy::{MANUAL, policy},
};

pub(crate) const ALICE: &str = "alice@example.com";
/// Approves, by role and by policy.
pub(crate) const BOB: &str = "bob@example.com";
/// An administrator of the cluster, in `system:masters`, who is no operator of Touchstone.
pub(crate) const ROOT: &str = "root@example.com";
/// An administrator who is.
pub(crate) const OPERATOR: &str = "admin";
/// Under which Touchstone signs.
pub(crate) const OWN_NAME: &str = "touchstone.dev/client";
/// Under which neither Touchstone nor the cluster signs.
pub(crate) const FOREIGN_NAME: &str = "example.com/other";

/// A cluster with a signer, and alice's key in a card.
pub(crate) struct World {
    key: CardKey,
    pub(crate) cluster: Cluster,
}

impl World {
    /// Nothing where the API is embedded.
    pub(crate) fn start() -> Option<Self> {
        Self::on(Cluster::start)
    }

    /// One that is started so.
    pub(crate) fn on(start: impl FnOnce(&Setup) -> Cluster) -> Option<Self> {
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
        let cluster = start(&Setup {
            policy: policy(&[user]),
            attestation_roots: vec![root],
        });
        Some(Self { key, cluster })
    }

    pub(crate) fn pem(&self, group: &str, nonce: u8) -> String {
        let now = jiff::Timestamp::now();
        self.key.request("demo", ALICE, group, [nonce; 32], now)
    }

    /// kubectl as `user`.
    pub(crate) fn by(&self, user: &str, arguments: &[&str]) -> Ran {
        Ran::of(kubectl(&self.cluster.kubeconfig_of(user)).args(arguments))
    }

    /// kubectl as `user`, with an object in a file at the end.
    pub(crate) fn send(&self, user: &str, arguments: &[&str], object: &Value) -> Ran {
        let file = self.cluster.dir().join("sent.json");
        fs::write(&file, object.to_string()).expect("write a manifest");
        let file = file.to_str().expect("a plain name");
        self.by(user, &[arguments, &["-f", file]].concat())
    }

    #[track_caller]
    pub(crate) fn refused(&self, user: &str, arguments: &[&str], object: &Value, words: &str) {
        assert_refused(&self.send(user, arguments, object), words);
    }

    /// A request under this signer name, of a group that needs approval.
    pub(crate) fn manual(&self, signer_name: &str) -> Value {
        let mut object = request(&self.pem(MANUAL, 1));
        object["spec"]["signerName"] = signer_name.into();
        object
    }

    /// Has `user` create a request: its name.
    pub(crate) fn create(&self, user: &str, object: &Value) -> String {
        let created = self.send(user, &["create", "-o", "json"], object);
        let created: Value = serde_json::from_str(&created.succeeded().stdout).expect("JSON");
        let name = created["metadata"]["name"].as_str().expect("a name");
        name.to_owned()
    }

    /// A request of alice's that waits for approval: its name.
    pub(crate) fn waiting(&self, signer_name: &str) -> String {
        let name = self.create(ALICE, &self.manual(signer_name));
        self.cluster.wait_until("it waits", |_| {
            self.read(&name)["metadata"]["annotations"]["touchstone.dev/waiting-for"].is_string()
        });
        name
    }

    /// A certificate of an attacker's own CA, as it stands in a status.
    pub(crate) fn planted(&self) -> Value {
        let [key, planted] =
            ["planted.key", "planted.pem"].map(|name| self.cluster.dir().join(name));
        openssl::self_signed(&key, &planted, "/CN=root/O=system:masters", &[]);
        base64_of(&fs::read(planted).expect("read a certificate")).into()
    }

    /// `user` writes to a subresource of a request what `change` makes of it.
    pub(crate) fn replace(
        &self,
        user: &str,
        name: &str,
        subresource: &str,
        change: &dyn Fn(&mut Value),
    ) -> Ran {
        self.replace_as(&[], user, name, subresource, change)
    }

    /// The same for another account: kubectl's arguments say which.
    pub(crate) fn replace_as(
        &self,
        account: &[&str],
        user: &str,
        name: &str,
        subresource: &str,
        change: &dyn Fn(&mut Value),
    ) -> Ran {
        let mut changed = self.read(name);
        change(&mut changed);
        let path = path(name, subresource);
        let arguments = [account, &["replace", "--raw", &path]].concat();
        self.send(user, &arguments, &changed)
    }

    pub(crate) fn read(&self, name: &str) -> Value {
        let printed = self.cluster.kubectl_ok(["get", "csr", name, "-o", "json"]);
        serde_json::from_str(&printed).expect("kubectl prints JSON")
    }
}

/// Arguments by which kubectl of an administrator is another account, with every right.
pub(crate) fn with_every_right(account: &str) -> [&str; 4] {
    ["--as", account, "--as-group", "system:masters"]
}

#[track_caller]
pub(crate) fn assert_refused(ran: &Ran, words: &str) {
    assert_ne!(ran.code, Some(0), "{ran}");
    assert!(ran.stderr.contains(words), "{words:?} is missing in {ran}");
}

/// What could never be granted, of a request that could, and the words with which it is refused.
pub(crate) fn malformed(good: &Value, pem: &str) -> Vec<(Value, &'static str)> {
    let with = |pointer: &[&str], value: Value| {
        let mut changed = good.clone();
        let mut place = &mut changed;
        for key in pointer {
            place = &mut place[*key];
        }
        *place = value;
        changed
    };
    let annotated = |key: &str| with(&["metadata", "annotations"], json!({ key: "x" }));
    let large = request(&format!("{pem}{}", "\n".repeat(22_528)));
    let seconds = |seconds: Value| with(&["spec", "expirationSeconds"], seconds);
    let usages = |usages: &[&str]| with(&["spec", "usages"], json!(usages));
    vec![
        (seconds(Value::Null), "600 to 86400"),
        (seconds(86_401.into()), "600 to 86400"),
        (usages(&["client auth", "server auth"]), "spec.usages"),
        (usages(&["client auth", "client auth"]), "spec.usages"),
        (usages(&["digital signature"]), "spec.usages"),
        (
            with(&["spec", "request"], large["spec"]["request"].clone()),
            "22528 bytes",
        ),
        (annotated("touchstone.dev/waiting-for"), "annotations"),
        (annotated("approval.touchstone.dev/x"), "annotations"),
        (
            with(&["metadata", "finalizers"], json!(["a.example/b"])),
            "finalizers",
        ),
        (with(&["metadata", "ownerReferences"], owners()), "owners"),
    ]
}

/// Where a subresource of a request is.
pub(crate) fn path(name: &str, subresource: &str) -> String {
    format!("/apis/certificates.k8s.io/v1/certificatesigningrequests/{name}/{subresource}")
}

pub(crate) fn condition(kind: &str) -> Value {
    json!([{ "type": kind, "status": "True", "reason": "x", "message": "x" }])
}

pub(crate) fn owners() -> Value {
    json!([{ "apiVersion": "v1", "kind": "Namespace", "name": "default", "uid": "1" }])
}

/// The word that there will be no certificate.
pub(crate) fn fail(changed: &mut Value) {
    changed["status"]["conditions"] = condition("Failed");
}

/// A label that a request has not.
pub(crate) fn label(changed: &mut Value) {
    changed["metadata"]["labels"] = json!({ "a": "b" });
}

pub(crate) fn base64_of(bytes: &[u8]) -> String {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    STANDARD.encode(bytes)
}
