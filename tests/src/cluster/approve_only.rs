//! What stands beside a cluster in which Touchstone only approves: kube-controller-manager, and where the API is embedded the
//! signer that approves, with a front door. The signer in the embedded API is there for its API alone.

use super::{BOTH, Cluster, START_LIMIT, signer_program};
use crate::{
    child::Running,
    controller_manager::{ClusterCa, ControllerManager},
    openssl,
};
use serde_json::Value;
use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};
use touchstone_common::csr::KUBE_APISERVER_CLIENT;

/// Under which its own CA signs, where the embedded API's signer has the usual name.
pub(super) const OWN_NAME: &str = "both.example.com/client";

/// kube-controller-manager, and the signer if it is another than the cluster's.
#[derive(Debug)]
pub(super) struct Beside {
    signer: Option<Running>,
    controller_manager: Option<ControllerManager>,
}

impl Beside {
    /// What the signer wrote, if it is another than the cluster's.
    pub(super) fn output(&self) -> Option<String> {
        self.signer.as_ref().map(Running::output)
    }

    pub(super) fn stop_controller_manager(&mut self) {
        self.controller_manager = None;
    }

    pub(super) fn start_controller_manager(&mut self, ca: &ClusterCa, kubeconfig: &Path) {
        self.controller_manager = Some(ControllerManager::start(ca, kubeconfig));
    }
}

/// Starts what is missing.
pub(super) fn start(cluster: &mut Cluster, ca: &ClusterCa) {
    let signer = cluster.is_embedded().then(|| approver(cluster, ca));
    cluster.approve_only = Some(Beside {
        signer,
        controller_manager: None,
    });
    cluster.start_controller_manager();
}

fn approver(cluster: &mut Cluster, ca: &ClusterCa) -> Running {
    let folder = cluster.dir().join("approve-only");
    fs::create_dir(&folder).expect("make a folder");
    let path = |name: &str| folder.join(name);
    // kube-apiserver publishes its `--client-ca-file` so.
    let from = format!("--from-file=client-ca-file={}", ca.certificate().display());
    cluster.kubectl_ok([
        "create",
        "configmap",
        "extension-apiserver-authentication",
        "--namespace",
        "kube-system",
        &from,
    ]);
    cluster.kubectl_ok(["create", "namespace", "touchstone"]);
    let extensions = [
        "subjectAltName=IP:127.0.0.1",
        "basicConstraints=critical,CA:FALSE",
    ];
    openssl::self_signed(&path("tls.key"), &path("tls.crt"), "/CN=front", &extensions);
    fs::set_permissions(path("tls.key"), Permissions::from_mode(0o600)).expect("change the mode");
    let mut command = signer_program();
    command
        .args(["run", "--signer-name", KUBE_APISERVER_CLIENT])
        .arg("--kubeconfig")
        .arg(&cluster.files.admin_kubeconfig)
        .arg("--policy")
        .arg(&cluster.files.policy)
        .arg("--data")
        .arg(path("data"))
        .arg("--ready-file")
        .arg(path("ready.json"))
        .args(["--metrics-listen", "127.0.0.1:0"])
        .args(["--front-listen", "127.0.0.1:0", "--front-cert"])
        .arg(path("tls.crt"))
        .arg("--front-key")
        .arg(path("tls.key"));
    let both = cluster.dir().join(BOTH).exists();
    if both {
        command.args(["--signer-name", OWN_NAME]);
    }
    for root in &cluster.setup.attestation_roots {
        command.arg("--attestation-root").arg(root);
    }
    let mut signer = Running::start("touchstone-signer run", &mut command, &path("signer.log"));
    let ready = path("ready.json");
    signer.wait_until(START_LIMIT, "readiness", || ready.is_file());
    let ready: Value = serde_json::from_slice(&fs::read(&ready).expect("the ready file"))
        .expect("the ready file is JSON");
    cluster.files.server = ready["frontDoor"].as_str().expect("an address").to_owned();
    cluster.files.server_ca = path("tls.crt");
    cluster.files.data = path("data");
    cluster.files.trust_bundle = match both {
        true => ca.beside(&path("data").join("trust-bundle.pem")),
        false => ca.certificate(),
    };
    signer
}
