//! A real etcd and kube-apiserver on loopback, as the envtest convention has them, and the signer beside them.

use super::{CA_SETTINGS, Cluster, Files, START_LIMIT, Setup, kubectl, signer_program};
use crate::child::Running;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Command,
};
use tempfile::TempDir;

/// Who may talk to the control plane before they have a certificate: name and groups, as its token file lists them.
const PEOPLE: &[(&str, &str)] = &[
    ("admin", "system:masters"),
    ("touchstone-signer", "signers"),
    ("alice@example.com", "engineers"),
    ("bob@example.com", "engineers,touchstone-approvers"),
    ("mallory@example.com", "engineers"),
    ("touchstone-bundle-sync", "nodes"),
];

/// What a suite's engineers may do with their own credentials.
const RBAC: &str = r#"
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: touchstone-requesters }
rules:
  - { apiGroups: [certificates.k8s.io], resources: [certificatesigningrequests], verbs: [create, get, list, watch] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: touchstone-requesters }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: touchstone-requesters }
subjects: [ { apiGroup: rbac.authorization.k8s.io, kind: Group, name: engineers } ]
"#;

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
    /// The kubeconfig of one of [`PEOPLE`].
    pub(super) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.join(format!("{user}.kubeconfig"))
    }
}

pub(super) fn start(assets: &Path, dir: TempDir, policy: PathBuf, setup: Setup) -> Cluster {
    let data = dir.path().join("data");
    let output = signer_program()
        .args(["ca", "init", "--data"])
        .arg(&data)
        .output()
        .expect("run the signer");
    assert!(
        output.status.success(),
        "make the CA: {}",
        String::from_utf8_lossy(&output.stderr)
    );

    // In a folder of its own, for what keeps it up to date.
    let client_ca = dir.path().join("client-ca/bundle.pem");
    fs::create_dir(dir.path().join("client-ca")).expect("make a folder");
    fs::copy(data.join("trust-bundle.pem"), &client_ca).expect("copy the trust bundle");
    let control_plane = start_control_plane(assets, dir.path(), &client_ca);
    let files = Files {
        server: control_plane.server.clone(),
        server_ca: dir.path().join("apiserver/apiserver.crt"),
        trust_bundle: data.join("trust-bundle.pem"),
        admin_kubeconfig: control_plane.kubeconfig("admin"),
        policy,
        data,
        client_ca: Some(client_ca),
    };
    apply(&files.admin_kubeconfig, dir.path(), "requesters.yaml", RBAC);
    // The signer has the permissions that deploy/ gives it and no others: one that is missing fails the suites.
    apply(
        &files.admin_kubeconfig,
        dir.path(),
        "rbac.yaml",
        include_str!("../../../deploy/rbac.yaml"),
    );
    apply(
        &files.admin_kubeconfig,
        dir.path(),
        "bundle.yaml",
        include_str!("../../../deploy/bundle.yaml"),
    );
    apply(
        &files.admin_kubeconfig,
        dir.path(),
        "approvers.yaml",
        include_str!("../../../deploy/approvers.yaml"),
    );
    for (name, manifest) in [
        ("grants.yaml", include_str!("../../../deploy/grants.yaml")),
        ("bundle.yaml", include_str!("../../../deploy/bundle.yaml")),
        (
            "bundle-sync.yaml",
            include_str!("../../../deploy/bundle-sync/rbac.yaml"),
        ),
    ] {
        apply(&files.admin_kubeconfig, dir.path(), name, manifest);
    }
    let crd = signer_program().arg("crd").output().expect("print the CRD");
    apply(
        &files.admin_kubeconfig,
        dir.path(),
        "crd.yaml",
        &String::from_utf8_lossy(&crd.stdout),
    );
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

    let (signer, files) = start_signer(&control_plane, dir.path(), &setup, &files);
    Cluster {
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
        .arg("--kubeconfig")
        .arg(control_plane.kubeconfig("touchstone-signer"));
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

    let [private, public] = service_account_keys(dir);

    let etcd_client = free_port();
    let etcd_peer = free_port();
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

    let port = free_port();
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
            .arg("--token-auth-file")
            .arg(&token_file),
        &dir.join("apiserver.log"),
    );
    let certificate = dir.join("apiserver/apiserver.crt");
    apiserver.wait_until(START_LIMIT, "its certificate", || certificate.is_file());
    for (name, _) in PEOPLE {
        write_kubeconfig(dir, name, &server, &certificate);
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
fn write_kubeconfig(dir: &Path, user: &str, server: &str, certificate: &Path) {
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": user,
        "clusters": [{ "name": "test", "cluster": { "server": server, "certificate-authority": certificate } }],
        "users": [{ "name": user, "user": { "token": format!("token-of-{user}") } }],
        "contexts": [{ "name": user, "context": { "cluster": "test", "user": user } }],
    });
    fs::write(
        dir.join(format!("{user}.kubeconfig")),
        kubeconfig.to_string(),
    )
    .expect("write a kubeconfig");
}

fn apply(kubeconfig: &Path, dir: &Path, name: &str, manifest: &str) {
    let path = dir.join(name);
    fs::write(&path, manifest).expect("write a manifest");
    let output = kubectl(kubeconfig)
        .args(["apply", "-f"])
        .arg(&path)
        .output()
        .expect("run kubectl");
    assert!(
        output.status.success(),
        "apply {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
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

/// A port that was free a moment ago: etcd and kube-apiserver cannot tell which port 0 became.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("find a free port")
        .port()
}
