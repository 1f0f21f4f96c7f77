//! A real etcd and kube-apiserver on loopback, as the envtest convention has them, and the signer beside them.

use super::{
    BOTH, CA_SETTINGS, CLUSTER_CA, Cluster, Files, START_LIMIT, Setup, kubectl, signer_program,
};
use crate::{
    child::Running,
    controller_manager::{self, ClusterCa},
    openssl, port,
};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use touchstone_common::csr::KUBE_APISERVER_CLIENT;

/// Who may talk to the control plane before they have a certificate: name and groups, as its token file lists them.
const PEOPLE: &[(&str, &str)] = &[
    // The suites play the operator and the approver of bare approvals as this one.
    (
        "admin",
        "system:masters,touchstone-operators,touchstone-kubernetes-approvers",
    ),
    // Whom RBAC refuses nothing, and who is nobody to Touchstone.
    (OUTSIDER, "system:masters"),
    // Each is in one group: what another gives as well would hide what is missing in it.
    ("alice@example.com", "touchstone-engineers"),
    ("bob@example.com", "touchstone-approvers"),
    ("carol@example.com", "touchstone-revokers"),
    ("dave@example.com", "touchstone-engineers"),
    ("mallory@example.com", "touchstone-engineers"),
    ("olga@example.com", "touchstone-operators"),
    ("touchstone-bundle-sync", "nodes"),
    (controller_manager::ACCOUNT, ""),
];

/// An administrator of the cluster who is no operator of Touchstone.
const OUTSIDER: &str = "root@example.com";

/// The signer's account, as `deploy/` has it.
const NAMESPACE: &str = "touchstone";
const SIGNER: &str = "touchstone-signer";

/// Where kube-apiserver records each call.
const AUDIT_LOG: &str = "audit.log";

/// Who did what, without the bodies.
const AUDIT_POLICY: &str = "
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: None
    users: [system:apiserver]
  - level: Metadata
";

/// Running etcd and kube-apiserver.
#[derive(Debug)]
pub(super) struct ControlPlane {
    // Dropped in this order: a kube-apiserver without its etcd only complains.
    _apiserver: Running,
    _etcd: Running,
    server: String,
    dir: PathBuf,
}

impl ControlPlane {
    /// The kubeconfig of one of [`PEOPLE`], or of the signer's service account.
    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{user}.kubeconfig"))
    }

    /// What kube-apiserver recorded of each call: JSON Lines.
    pub(super) fn audit_log(&self) -> PathBuf {
        self.dir.join(AUDIT_LOG)
    }

    /// Applies manifests as the administrator would.
    pub(super) fn apply(&self, how: &str, path: &Path) {
        let end = Instant::now() + START_LIMIT;
        loop {
            let output = kubectl(&self.kubeconfig("admin"))
                .args(["apply", "--server-side", how])
                .arg(path)
                .output()
                .expect("run kubectl");
            if output.status.success() {
                return;
            }
            // A new API server makes its own namespaces a moment after it is ready.
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(
                said.contains("not found") && Instant::now() < end,
                "apply {}: {said}",
                path.display()
            );
            thread::sleep(Duration::from_millis(200));
        }
    }

    /// Asks for a token as a pod's kubelet does, and writes it into a kubeconfig.
    fn issue_signer_token(&self) {
        let request = self.dir.join("token-request.json");
        let day = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": { "expirationSeconds": 86_400 },
        });
        fs::write(&request, day.to_string()).expect("write a token request");
        let output = kubectl(&self.kubeconfig("admin"))
            .args(["create", "--raw"])
            .arg(format!(
                "/api/v1/namespaces/{NAMESPACE}/serviceaccounts/{SIGNER}/token"
            ))
            .arg("-f")
            .arg(&request)
            .output()
            .expect("run kubectl");
        assert!(
            output.status.success(),
            "the signer's token: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let token = answer["status"]["token"].as_str().expect("a token");
        write_kubeconfig(&self.dir, SIGNER, &self.server, token);
    }

    /// What nobody may ask kube-controller-manager for.
    fn request_without_end(&self) -> Value {
        let request = self.dir.join("without-end.pem");
        openssl::request(&self.dir.join("without-end.key"), &request, "/O=x/CN=x");
        let pem = fs::read_to_string(request).expect("read the request");
        let mut request = super::manifest("x", KUBE_APISERVER_CLIENT, &pem);
        request["spec"]["expirationSeconds"] = Value::Null;
        request
    }

    /// Admission policies are in force a moment after they are made. The last of them refuses this.
    fn wait_for_admission(&self, overlay: &str) {
        let (what, refusal) = match overlay {
            "overlays/approve-only" => (self.request_without_end(), "spec.expirationSeconds"),
            _ => (forged_trust_bundle(), "touchstone-operators"),
        };
        let file = self.dir.join("refused.json");
        fs::write(&file, what.to_string()).expect("write a manifest");
        let end = Instant::now() + START_LIMIT;
        let kubeconfig = self.kubeconfig(OUTSIDER);
        loop {
            let output = kubectl(&kubeconfig)
                .args(["create", "--dry-run=server", "-f"])
                .arg(&file)
                .output()
                .expect("run kubectl");
            if String::from_utf8_lossy(&output.stderr).contains(refusal) {
                return;
            }
            assert!(
                Instant::now() < end,
                "the admission policies are not in force: {output:?}"
            );
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// What only the signer and operators may write.
fn forged_trust_bundle() -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "touchstone-trust-bundle", "namespace": NAMESPACE },
    })
}

/// A file of `deploy/`.
fn deployed(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(path)
}

/// The CA of the signer, made beforehand: what the API server believes from its start on.
fn own_ca(dir: &Path) -> PathBuf {
    let data = dir.join("data");
    let mut init = signer_program();
    init.args(["ca", "init", "--data"]).arg(&data);
    let ca_settings = dir.join(CA_SETTINGS);
    if ca_settings.exists() {
        init.arg("--ca-settings").arg(&ca_settings);
    }
    let output = init.output().expect("run the signer");
    assert!(
        output.status.success(),
        "make the CA: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    data.join("trust-bundle.pem")
}

pub(super) fn start(assets: &Path, dir: TempDir, policy: PathBuf, setup: Setup) -> Cluster {
    let cluster_ca = dir.path().join(CLUSTER_CA);
    let both = dir.path().join(BOTH).exists();
    let (trust_bundle, overlay) = match (cluster_ca.is_dir(), both) {
        (false, _) => (own_ca(dir.path()), "overlays/own-ca"),
        (true, false) => (
            ClusterCa::at(&cluster_ca).certificate(),
            "overlays/approve-only",
        ),
        (true, true) => {
            let own = own_ca(dir.path());
            let bundle = ClusterCa::at(&cluster_ca).beside(&own);
            (bundle, "overlays/both")
        }
    };

    // In a folder of its own, for what keeps it up to date.
    let client_ca = dir.path().join("client-ca/bundle.pem");
    fs::create_dir(dir.path().join("client-ca")).expect("make a folder");
    fs::copy(&trust_bundle, &client_ca).expect("copy the trust bundle");
    let control_plane = start_control_plane(assets, dir.path(), &client_ca);
    let files = Files {
        server: control_plane.server.clone(),
        server_ca: dir.path().join("apiserver/apiserver.crt"),
        trust_bundle,
        admin_kubeconfig: control_plane.kubeconfig("admin"),
        policy,
        data: dir.path().join("data"),
        client_ca: Some(client_ca),
    };
    // The signer has the permissions that deploy/ gives its service account and no others: one that is missing fails the
    // suites, one that is needless fails tests/tests/permissions.rs.
    control_plane.apply("-k", &deployed(overlay));
    if !cluster_ca.is_dir() {
        control_plane.apply("-f", &deployed("bundle-sync/rbac.yaml"));
    }
    let established = kubectl(&files.admin_kubeconfig)
        .args([
            "wait",
            "--for=condition=Established",
            "crd/grants.touchstone.dev",
            "--timeout=20s",
        ])
        .output()
        .expect("run kubectl");
    assert!(
        established.status.success(),
        "the CRD: {}",
        String::from_utf8_lossy(&established.stderr)
    );

    control_plane.issue_signer_token();
    control_plane.wait_for_admission(overlay);

    let (signer, files) = start_signer(&control_plane, dir.path(), &setup, &files);
    Cluster {
        approve_only: None,
        signer: Some(signer),
        control_plane: Some(control_plane),
        setup,
        files,
        dir,
    }
}

pub(super) fn start_signer(
    control_plane: &ControlPlane,
    dir: &Path,
    setup: &Setup,
    files: &Files,
) -> (Running, Files) {
    let ready = dir.join("ready.json");
    let _ = fs::remove_file(&ready);
    let mut command = signer_program();
    command
        .arg("run")
        // One that is killed is soon followed.
        .args(["--lease-duration", "3s"])
        .arg("--kubeconfig")
        .arg(control_plane.kubeconfig(SIGNER));
    command
        .arg("--data")
        .arg(&files.data)
        .arg("--policy")
        .arg(&files.policy)
        .arg("--ready-file")
        .arg(&ready);
    let ca_settings = dir.join(CA_SETTINGS);
    if ca_settings.exists() {
        command.arg("--ca-settings").arg(&ca_settings);
    }
    if dir.join(CLUSTER_CA).is_dir() {
        command.args(["--signer-name", KUBE_APISERVER_CLIENT]);
    }
    if dir.join(BOTH).exists() {
        command.args(["--signer-name", "touchstone.dev/client"]);
    }
    for root in &setup.attestation_roots {
        command.arg("--attestation-root").arg(root);
    }
    let mut signer = Running::start(
        "touchstone-signer run",
        &mut command,
        &dir.join("signer.log"),
    );
    signer.wait_until(START_LIMIT, "readiness", || ready.is_file());
    (signer, files.clone())
}

fn start_control_plane(assets: &Path, dir: &Path, client_ca: &Path) -> ControlPlane {
    let tokens: String = PEOPLE
        .iter()
        .enumerate()
        .map(|(index, (name, group))| format!("token-of-{name},{name},{index},\"{group}\"\n"))
        .collect();
    let token_file = dir.join("tokens.csv");
    fs::write(&token_file, tokens).expect("write the token file");

    let audit_policy = dir.join("audit-policy.yaml");
    fs::write(&audit_policy, AUDIT_POLICY).expect("write the audit policy");

    let [private, public] = service_account_keys(dir);

    let etcd_client = port::free();
    let etcd_peer = port::free();
    let etcd_url = format!("http://127.0.0.1:{etcd_client}");
    let peer_url = format!("http://127.0.0.1:{etcd_peer}");
    let mut etcd = Running::start(
        "etcd",
        Command::new(assets.join("etcd"))
            .arg("--data-dir")
            .arg(dir.join("etcd"))
            .args([
                "--listen-client-urls",
                &etcd_url,
                "--advertise-client-urls",
                &etcd_url,
            ])
            .args([
                "--listen-peer-urls",
                &peer_url,
                "--initial-advertise-peer-urls",
                &peer_url,
            ])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .arg("--unsafe-no-fsync"),
        &dir.join("etcd.log"),
    );
    etcd.wait_until(START_LIMIT, "its port", || {
        std::net::TcpStream::connect(("127.0.0.1", etcd_client)).is_ok()
    });

    let port = port::free();
    let server = format!("https://127.0.0.1:{port}");
    let mut apiserver = Running::start(
        "kube-apiserver",
        Command::new(assets.join("kube-apiserver"))
            .args([
                "--etcd-servers",
                &etcd_url,
                "--secure-port",
                &port.to_string(),
            ])
            .args([
                "--bind-address",
                "127.0.0.1",
                "--advertise-address",
                "127.0.0.1",
            ])
            .args([
                "--service-cluster-ip-range",
                "10.0.0.0/24",
                "--authorization-mode",
                "RBAC",
            ])
            .args(["--service-account-issuer", "https://touchstone.test"])
            .args([
                "--feature-gates=ClusterTrustBundle=true",
                "--runtime-config=certificates.k8s.io/v1beta1=true",
            ])
            .arg("--service-account-key-file")
            .arg(&public)
            .arg("--service-account-signing-key-file")
            .arg(&private)
            .arg("--cert-dir")
            .arg(dir.join("apiserver"))
            .arg("--client-ca-file")
            .arg(client_ca)
            .arg("--audit-policy-file")
            .arg(&audit_policy)
            .arg("--audit-log-path")
            .arg(dir.join(AUDIT_LOG))
            .arg("--token-auth-file")
            .arg(&token_file),
        &dir.join("apiserver.log"),
    );
    let certificate = dir.join("apiserver/apiserver.crt");
    apiserver.wait_until(START_LIMIT, "its certificate", || certificate.is_file());
    for (name, _) in PEOPLE {
        write_kubeconfig(dir, name, &server, &format!("token-of-{name}"));
    }
    let admin = dir.join("admin.kubeconfig");
    apiserver.wait_until(START_LIMIT, "readiness", || {
        kubectl(&admin)
            .args(["get", "--raw", "/readyz"])
            .output()
            .is_ok_and(|output| output.status.success())
    });
    ControlPlane {
        _apiserver: apiserver,
        _etcd: etcd,
        server,
        dir: dir.to_owned(),
    }
}

/// A kubeconfig with one context, named as its user.
fn write_kubeconfig(dir: &Path, user: &str, server: &str, token: &str) {
    let certificate = dir.join("apiserver/apiserver.crt");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": user,
        "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": certificate } }],
        "users": [{ "name": user, "user": { "token": token } }],
        "contexts": [{ "name": user, "context": { "cluster": "test", "user": user } }],
    });
    fs::write(
        dir.join(format!("{user}.kubeconfig")),
        kubeconfig.to_string(),
    )
    .expect("write a kubeconfig");
}

/// The pair that signs service account tokens: private, then public.
fn service_account_keys(dir: &Path) -> [PathBuf; 2] {
    let pair = ["service-account.key", "service-account.pub"].map(|name| dir.join(name));
    let [private, public] = &pair;
    let openssl = |command: &mut Command| {
        let output = command.output().expect("run openssl");
        assert!(output.status.success(), "make the service account key");
    };
    let curve = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    openssl(
        Command::new("openssl")
            .arg("genpkey")
            .args(curve)
            .arg("-out")
            .arg(private),
    );
    openssl(
        Command::new("openssl")
            .args(["pkey", "-pubout", "-in"])
            .arg(private)
            .arg("-out")
            .arg(public),
    );
    pair
}
