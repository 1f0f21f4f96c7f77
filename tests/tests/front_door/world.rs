//! A cluster whose signer has a front door, with a certificate that openssl made.

use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use touchstone_tests::{
    child::{Running, program},
    cluster::{Cluster, Setup},
    collector::Collector,
    engineer::{Engineer, Ran},
    openssl,
    policy::policy,
    port,
};

/// Where requests are.
pub(crate) const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// How long the signer may take until it is ready, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(90);
/// What the embedded API calls its administrator.
const ADMINISTRATOR: &str = "touchstone-admin";

/// A cluster and the signer with the front door.
pub(crate) struct World {
    // Dropped in this order: the signer goes before its API server.
    _signer: Running,
    pub(crate) cluster: Cluster,
    metrics: u16,
    server: String,
    attestation_roots: Vec<PathBuf>,
    /// Who gets the signer's traces.
    pub(crate) collector: Collector,
}

impl World {
    /// One whose policy has the engineer's key, and of whose front door `touchstone` knows.
    pub(crate) fn start(engineer: &Engineer) -> Self {
        Self::start_with_roots_of(engineer, &[])
    }

    /// One that also believes what the cards of others say of themselves.
    pub(crate) fn start_with_roots_of(engineer: &Engineer, others: &[&Engineer]) -> Self {
        let attestation_roots: Vec<_> = std::iter::once(&engineer)
            .chain(others)
            .map(|one| one.attestation_root())
            .collect();
        let mut cluster = Cluster::start(&Setup {
            policy: policy(&[engineer.enrolment("payments")]),
            attestation_roots: attestation_roots.clone(),
        });
        if cluster.is_embedded() {
            cluster.kubectl_ok(["create", "namespace", "front"]);
        } else {
            // The signer that `deploy/` describes, started again with a front door.
            let role = concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/../deploy/components/front-door/rbac.yaml"
            );
            cluster.kubectl_ok(["apply", "-f", role]);
            cluster.kill_signer();
        }
        make_certificate(&front(&cluster), "tls");
        let metrics = port::free();
        let collector = Collector::start();
        let ready = cluster.dir().join("front/ready.json");
        let mut command = command(&cluster, &attestation_roots);
        command
            .arg("--data")
            .arg(data(&cluster))
            .args(["--metrics-listen", &format!("127.0.0.1:{metrics}")])
            .args(["--otlp-endpoint", &collector.url()])
            .arg("--ready-file")
            .arg(&ready);
        let log = cluster.dir().join("front/signer.log");
        let mut signer = Running::start("touchstone-signer run", &mut command, &log);
        signer.wait_until(START_LIMIT, "readiness", || ready.is_file());
        let ready: Value = serde_json::from_slice(&fs::read(&ready).expect("the ready file"))
            .expect("the ready file is JSON");
        let server = ready["frontDoor"].as_str().expect("an address").to_owned();
        let world = Self {
            _signer: signer,
            cluster,
            metrics,
            server,
            attestation_roots,
            collector,
        };
        world.configure(engineer);
        world
    }

    /// Tells `touchstone` of the front door, under the name `demo`.
    pub(crate) fn configure(&self, engineer: &Engineer) {
        self.set_cluster(engineer, &["--server", &self.server, "--ca", &self.ca()]);
    }

    /// Tells `touchstone` of the API server, and of the front door beside it, with this CA.
    pub(crate) fn configure_beside(&self, engineer: &Engineer, front_door_ca: &str) {
        let files = self.cluster.files();
        let ca = files.server_ca.display().to_string();
        let api = ["--server", &files.server, "--ca", &ca];
        let front = [
            "--front-door",
            &self.server,
            "--front-door-ca",
            front_door_ca,
        ];
        self.set_cluster(engineer, &[api, front].concat());
    }

    fn set_cluster(&self, engineer: &Engineer, reach: &[&str]) {
        let bundle = data(&self.cluster).join("trust-bundle.pem");
        let bundle = bundle.display().to_string();
        let signer = signer_name(&self.cluster);
        let further = [
            "--trust-bundle",
            &bundle,
            "--signer-name",
            signer,
            "--user",
            engineer.user(),
        ];
        let set = ["config", "set-cluster", "demo"];
        engineer
            .run(set.iter().chain(reach).chain(&further))
            .succeeded();
    }

    /// Where the front door is.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// The CA of its certificate: itself.
    pub(crate) fn ca(&self) -> String {
        front(&self.cluster).join("tls.crt").display().to_string()
    }

    /// What the API server calls the signer's account.
    pub(crate) fn account(&self) -> String {
        if self.cluster.is_embedded() {
            return ADMINISTRATOR.to_owned();
        }
        let kubeconfig = self.cluster.kubeconfig_of("touchstone-signer");
        let mut whoami = touchstone_tests::cluster::kubectl(&kubeconfig);
        let said = Ran::of(whoami.args([
            "auth",
            "whoami",
            "-o",
            "jsonpath={.status.userInfo.username}",
        ]));
        said.succeeded().stdout
    }

    /// The kubeconfig of someone whom the cluster knows; nobody on the embedded API.
    pub(crate) fn as_user(&self, user: &str) -> Option<PathBuf> {
        (!self.cluster.is_embedded()).then(|| self.cluster.kubeconfig_of(user))
    }

    /// The requests of the signer name, oldest first.
    pub(crate) fn requests(&self) -> Vec<Value> {
        let selector = format!("spec.signerName={}", signer_name(&self.cluster));
        let list = self.cluster.kubectl_ok([
            "get",
            "csr",
            "-o",
            "json",
            "--sort-by=.metadata.creationTimestamp",
            "--field-selector",
            &selector,
        ]);
        let list: Value = serde_json::from_str(&list).expect("kubectl prints JSON");
        list["items"].as_array().expect("a list").clone()
    }

    /// What the front door answers a stranger: the code (0: no connection) and the body.
    pub(crate) fn curl(&self, path: &str, further: &[&str]) -> (u16, String) {
        let mut curl = Command::new("curl");
        curl.args([
            "--silent",
            "--max-time",
            "30",
            "--write-out",
            "\n%{http_code}",
        ])
        .args(["--header", "Content-Type: application/json", "--path-as-is"])
        .arg("--cacert")
        .arg(front(&self.cluster).join("tls.crt"))
        .args(further)
        .arg(format!("{}{path}", self.server));
        let said = Ran::of(&mut curl).stdout;
        let (body, code) = said.rsplit_once('\n').expect("a code");
        (code.parse().expect("a number"), body.to_owned())
    }

    /// What is counted.
    pub(crate) fn metrics(&self) -> String {
        let address = format!("http://127.0.0.1:{}/metrics", self.metrics);
        let mut curl = Command::new("curl");
        let said = Ran::of(curl.args(["--silent", "--show-error", "--max-time", "30", &address]));
        said.succeeded().stdout
    }

    /// A new certificate, and its key.
    pub(crate) fn renew(&self) {
        let front = front(&self.cluster);
        make_certificate(&front, "next");
        for kind in ["key", "crt"] {
            let [next, tls] = ["next", "tls"].map(|name| front.join(format!("{name}.{kind}")));
            fs::rename(next, tls).expect("put a new file in place");
        }
    }

    /// A new key beside the old certificate.
    pub(crate) fn renew_key_alone(&self) {
        let front = front(&self.cluster);
        make_certificate(&front, "half");
        fs::rename(front.join("half.key"), front.join("tls.key")).expect("put a file in place");
    }

    /// Lets everyone read the key.
    pub(crate) fn expose_key(&self) {
        let key = front(&self.cluster).join("tls.key");
        fs::set_permissions(key, Permissions::from_mode(0o644)).expect("change the mode");
    }

    /// Starts the signer once more, which does not come far.
    pub(crate) fn start_another(&self) -> Ran {
        let mut command = command(&self.cluster, &self.attestation_roots);
        let other = self.cluster.dir().join("front/other-data");
        Ran::of(command.arg("--data").arg(other))
    }
}

fn front(cluster: &Cluster) -> PathBuf {
    let front = cluster.dir().join("front");
    fs::create_dir_all(&front).expect("make a folder");
    front
}

fn data(cluster: &Cluster) -> PathBuf {
    if cluster.is_embedded() {
        front(cluster).join("data")
    } else {
        cluster.files().data.clone()
    }
}

fn signer_name(cluster: &Cluster) -> &'static str {
    if cluster.is_embedded() {
        "front.example.com/client"
    } else {
        "touchstone.dev/client"
    }
}

/// The signer with a front door.
fn command(cluster: &Cluster, attestation_roots: &[PathBuf]) -> Command {
    let files = cluster.files();
    let front = front(cluster);
    let mut command = Command::new(program("touchstone-signer"));
    command
        .arg("run")
        .arg("--kubeconfig")
        .arg(cluster.kubeconfig_of("touchstone-signer"))
        .arg("--policy")
        .arg(&files.policy)
        .args(["--signer-name", signer_name(cluster)])
        .args(["--front-listen", "127.0.0.1:0"])
        .arg("--front-cert")
        .arg(front.join("tls.crt"))
        .arg("--front-key")
        .arg(front.join("tls.key"));
    for root in attestation_roots {
        command.arg("--attestation-root").arg(root);
    }
    if cluster.is_embedded() {
        command.args(["--namespace", "front"]);
    }
    command
}

/// A self-signed certificate for loopback, and its key, 0600.
fn make_certificate(dir: &Path, name: &str) {
    let [key, certificate] = ["key", "crt"].map(|kind| dir.join(format!("{name}.{kind}")));
    let extensions = [
        "subjectAltName=IP:127.0.0.1",
        "basicConstraints=critical,CA:FALSE",
    ];
    openssl::self_signed(&key, &certificate, "/CN=front", &extensions);
    fs::set_permissions(key, Permissions::from_mode(0o600)).expect("change the mode");
}
