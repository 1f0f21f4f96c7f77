//! A cluster, three CAs, and the programs that publish and follow.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use touchstone_common::certificate::{self, CaCertificate};
use touchstone_signer::{
    bundle::{
        Bundle,
        file::{self, Existing},
        publish::{PublishError, Published, Publisher},
    },
    ca::record::Binding,
};
use touchstone_tests::{
    child::program,
    cluster::{Cluster, Setup, kubectl},
    engineer::Ran,
    policy::policy,
};

/// Where `deploy/components/own-ca/bundle.yaml` lets the signer's account publish.
const DEPLOYED: &str = "touchstone";
/// On the embedded API, which has a signer that publishes in it, one that nobody else writes in.
const UNUSED: &str = "bundle-test";
pub(crate) const MAP: &str = "configmap/touchstone-trust-bundle";
pub(crate) const CLUSTER_TRUST_BUNDLE: &str =
    "clustertrustbundle/touchstone.dev:client:trust-bundle";
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// The exit code of a bundle that is not taken.
pub(crate) const REFUSED: i32 = 8;
/// The exit code of an API that is away.
pub(crate) const API: i32 = 7;

/// A CA made with openssl, so that no code under test vouches for itself, and a client certificate under it.
pub(crate) struct Ca {
    pub(crate) name: &'static str,
    pub(crate) certificate: String,
    pub(crate) leaf: String,
    pub(crate) leaf_key: String,
}

pub(crate) struct World {
    pub(crate) cluster: Cluster,
    /// `old`, `new` and `cluster`.
    pub(crate) cas: [Ca; 3],
    /// The UID of `kube-system`.
    pub(crate) uid: String,
    /// What stands in kube-apiserver's file from the start.
    pub(crate) first: Option<String>,
    /// Where the test publishes.
    pub(crate) namespace: &'static str,
    runtime: tokio::runtime::Runtime,
}

impl World {
    pub(crate) fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let mut cluster = Cluster::start(&Setup {
            policy: policy(&[]),
            attestation_roots: Vec::new(),
        });
        let namespace = if cluster.is_embedded() {
            cluster.kubectl_ok(["create", "namespace", UNUSED]);
            UNUSED
        } else {
            // The test publishes in its place.
            cluster.kill_signer();
            for object in [MAP, CLUSTER_TRUST_BUNDLE] {
                cluster.kubectl_ok(["delete", "--ignore-not-found", "-n", DEPLOYED, object]);
            }
            DEPLOYED
        };
        let uid =
            cluster.kubectl_ok(["get", "ns", "kube-system", "-o", "jsonpath={.metadata.uid}"]);
        let folder = cluster.dir().join("cas");
        fs::create_dir(&folder).expect("make a folder");
        let cas = ["old", "new", "cluster"].map(|name| Ca::make(&folder, name));
        let first = cluster.files().client_ca.as_deref().map(text);
        Self {
            cluster,
            cas,
            uid,
            first,
            namespace,
            runtime: tokio::runtime::Runtime::new().expect("start a runtime"),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        self.cluster.dir()
    }

    /// The file that kube-apiserver reads; where there is none, one that stands for it.
    pub(crate) fn client_ca_file(&self) -> PathBuf {
        let path = self.cluster.files().client_ca.clone();
        path.unwrap_or_else(|| self.dir().join("client-ca.crt"))
    }

    pub(crate) fn bundle(&self, revision: u64, cas: &[&Ca]) -> Bundle {
        let binding = Binding {
            cluster: "demo".into(),
            uid: self.uid.clone(),
        };
        let pem: String = cas.iter().map(|ca| ca.certificate.as_str()).collect();
        Bundle::from_pem(binding, revision, pem.as_bytes()).expect("a bundle")
    }

    /// Publishes with the rights of the signer's account.
    pub(crate) fn publish(&self, bundle: &Bundle) -> Published {
        self.try_publish(bundle).expect("publish the bundle")
    }

    pub(crate) fn try_publish(&self, bundle: &Bundle) -> Result<Published, PublishError> {
        self.runtime.block_on(async {
            let kubeconfig = self.cluster.kubeconfig_of("touchstone-signer");
            let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
            let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
                .await
                .expect("a kubeconfig");
            let client = Client::try_from(config).expect("a client");
            Publisher::new(client, self.namespace, "touchstone.dev/client")
                .publish(bundle)
                .await
        })
    }

    /// Writes the ConfigMap as someone would who may: with these data, and annotations that fit them but for `changes`.
    pub(crate) fn forge(&self, revision: u64, pem: &str, changes: &[(&str, &str)]) {
        let sha256 = sha256(pem);
        let mut annotations = json!({
            "touchstone.dev/cluster": "demo",
            "touchstone.dev/cluster-uid": self.uid,
            "touchstone.dev/trust-revision": revision.to_string(),
            "touchstone.dev/trust-sha256": sha256,
        });
        for (name, value) in changes {
            annotations[format!("touchstone.dev/{name}")] = Value::from(*value);
        }
        self.patch(
            &json!({ "metadata": { "annotations": annotations }, "data": { "ca.crt": pem } }),
        );
    }

    pub(crate) fn patch(&self, patch: &Value) {
        let patch = patch.to_string();
        self.cluster.kubectl_ok([
            "patch",
            "-n",
            self.namespace,
            MAP,
            "--type=merge",
            "-p",
            &patch,
        ]);
    }

    pub(crate) fn delete_config_map(&self) {
        self.cluster
            .kubectl_ok(["delete", "-n", self.namespace, MAP]);
    }

    /// `bundle sync` with the rights of a node's account.
    pub(crate) fn sync(&self, file: &Path) -> Command {
        let mut command = self.sync_with(&self.cluster.kubeconfig_of("touchstone-bundle-sync"));
        command.arg("--out").arg(file);
        command
    }

    pub(crate) fn sync_with(&self, kubeconfig: &Path) -> Command {
        let mut command = sync(kubeconfig);
        command.args(["--namespace", self.namespace]);
        command
    }

    pub(crate) fn once(&self, file: &Path, arguments: &[&str]) -> Ran {
        Ran::of(self.sync(file).arg("--once").args(arguments))
    }

    pub(crate) fn show(&self) -> Ran {
        let mut command = Command::new(program("touchstone-signer"));
        command
            .args(["bundle", "show", "--output", "json"])
            .args(["--namespace", self.namespace, "--kubeconfig"])
            .arg(self.cluster.kubeconfig_of("touchstone-bundle-sync"));
        Ran::of(&mut command)
    }

    /// Waits until the running kube-apiserver knows, or does not know any more, who holds a certificate of `ca`. The
    /// embedded API reads no file.
    pub(crate) fn wait_until_believed(&self, ca: &Ca, believed: bool) {
        if self.cluster.is_embedded() {
            return;
        }
        let files = self.cluster.files();
        let kubeconfig = self.dir().join(format!("holder-of-{}.kubeconfig", ca.name));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{ "name": "test", "cluster": { "server": files.server, "certificate-authority": files.server_ca } }],
            "contexts": [{ "name": "test", "context": { "cluster": "test", "user": "test" } }],
            "users": [{ "name": "test", "user": {
                "client-certificate-data": STANDARD.encode(&ca.leaf),
                "client-key-data": STANDARD.encode(&ca.leaf_key),
            } }],
        });
        fs::write(&kubeconfig, config.to_string()).expect("write a kubeconfig");
        let asks = || {
            let output = kubectl(&kubeconfig)
                .args(["auth", "whoami"])
                .output()
                .expect("run kubectl");
            let text = String::from_utf8_lossy(&output.stdout).into_owned()
                + &String::from_utf8_lossy(&output.stderr);
            (output.status.success() && text.contains("holder"), text)
        };
        let end = Instant::now() + PATIENCE;
        loop {
            let (is_known, text) = asks();
            if is_known == believed {
                return;
            }
            assert!(
                Instant::now() < end,
                "the holder of a certificate of {}: believed should be {believed}: {text}",
                ca.name
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Ca {
    fn make(folder: &Path, name: &'static str) -> Self {
        let at = |kind: &str| folder.join(format!("{name}.{kind}"));
        let read = |kind: &str| fs::read_to_string(at(kind)).expect("openssl wrote it");
        let key = [
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
        ];
        openssl(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-days",
                    "30",
                    "-subj",
                    &format!("/CN={name}"),
                ])
                .args(["-addext", "keyUsage=critical,keyCertSign"])
                .args(key)
                .arg("-keyout")
                .arg(at("ca.key"))
                .arg("-out")
                .arg(at("ca.pem")),
        );
        openssl(
            Command::new("openssl")
                .args([
                    "req",
                    "-x509",
                    "-days",
                    "1",
                    "-subj",
                    "/CN=holder/O=nobodies",
                ])
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .args(["-addext", "extendedKeyUsage=clientAuth"])
                .args(key)
                .arg("-CA")
                .arg(at("ca.pem"))
                .arg("-CAkey")
                .arg(at("ca.key"))
                .arg("-keyout")
                .arg(at("leaf.key"))
                .arg("-out")
                .arg(at("leaf.pem")),
        );
        Self {
            name,
            certificate: read("ca.pem"),
            leaf: read("leaf.pem"),
            leaf_key: read("leaf.key"),
        }
    }
}

/// `bundle sync`, without a file and a namespace.
pub(crate) fn sync(kubeconfig: &Path) -> Command {
    let mut command = Command::new(program("touchstone-signer"));
    command
        .args(["bundle", "sync", "--kubeconfig"])
        .arg(kubeconfig)
        .env("RUST_LOG", "info");
    command
}

fn openssl(command: &mut Command) {
    let output = command.output().expect("run openssl");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn sha256(text: &str) -> String {
    use sha2::{Digest as _, Sha256};
    hex::encode(Sha256::digest(text))
}

pub(crate) fn text(file: &Path) -> String {
    fs::read_to_string(file).expect("read the file")
}

/// The revision that a file says it has.
pub(crate) fn revision(file: &Path) -> Option<u64> {
    match file::read(file).expect("read the file") {
        Existing::Content(content) => content.published.map(|bundle| bundle.revision()),
        _ => None,
    }
}

/// Whether a CA is in a file, as any reader of PEM sees it; the file is never without one.
pub(crate) fn holds(file: &Path, ca: &Ca) -> bool {
    let certificates = certificate::from_pem_bundle(text(file).as_bytes()).expect("a bundle");
    assert!(!certificates.is_empty());
    let wanted = CaCertificate::from_pem(ca.certificate.as_bytes()).expect("a CA");
    certificates.iter().any(|der| der == wanted.der())
}
