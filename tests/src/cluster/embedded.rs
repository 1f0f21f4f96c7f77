//! The embedded API server and the signer, in one process.

use super::{CA_SETTINGS, Cluster, Files, START_LIMIT, Setup, signer_program};
use crate::child::Running;
use std::{
    fs,
    path::{Path, PathBuf},
};
use tempfile::TempDir;

pub(super) fn start(dir: TempDir, policy: PathBuf, setup: Setup) -> Cluster {
    let (signer, files) = start_signer(dir.path(), &setup, &policy);
    Cluster {
        approve_only: None,
        signer: Some(signer),
        control_plane: None,
        setup,
        files,
        dir,
    }
}

pub(super) fn start_signer(dir: &Path, setup: &Setup, policy: &Path) -> (Running, Files) {
    let data = dir.join("data");
    let ready = dir.join("ready.json");
    // A ready file of the process before says nothing of this one.
    let _ = fs::remove_file(&ready);
    let mut command = signer_program();
    command
        .arg("standalone")
        .arg("--data")
        .arg(&data)
        .args(["--listen", "127.0.0.1:0"]);
    command
        .arg("--policy")
        .arg(policy)
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
        "touchstone-signer standalone",
        &mut command,
        &dir.join("signer.log"),
    );
    signer.wait_until(START_LIMIT, "readiness", || ready.is_file());

    let ready: serde_json::Value =
        serde_json::from_slice(&fs::read(&ready).expect("read the ready file"))
            .expect("the ready file is JSON");
    let server = ready["server"]
        .as_str()
        .expect("the ready file names the server")
        .to_owned();
    let files = Files {
        server,
        server_ca: data.join("server-ca.pem"),
        trust_bundle: data.join("trust-bundle.pem"),
        admin_kubeconfig: data.join("admin.kubeconfig"),
        policy: policy.to_owned(),
        data,
        client_ca: None,
    };
    (signer, files)
}
