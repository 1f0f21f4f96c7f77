//! A cluster with a signer on it: the embedded API server, or a real control plane where `KUBEBUILDER_ASSETS` names one.
//!
//! The suites use [`Cluster`] and do not know which it is.

mod approve_only;
mod embedded;
mod envtest;

use crate::{
    child::{Running, program},
    controller_manager::{self, ClusterCa},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use touchstone_common::csr::KUBE_APISERVER_CLIENT;

/// How long a server may take until it is ready, on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How long something that takes a moment may take, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The signer's CA settings in a cluster's folder, if any.
const CA_SETTINGS: &str = "ca.yaml";

/// The folder of the cluster's client CA in a cluster's folder, if kube-controller-manager signs there.
const CLUSTER_CA: &str = "cluster-ca";

/// In a cluster's folder, if Touchstone's own CA signs as well.
const BOTH: &str = "both";

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The policy file's text.
    pub policy: String,
    /// The attestation roots, beside Yubico's, that the signer trusts.
    pub attestation_roots: Vec<PathBuf>,
}

impl Setup {
    /// The same with copies of the attestation roots: the signer reads them at each start, when their folder may be gone.
    fn with_roots_in(&self, folder: &Path) -> Self {
        let copy = |(number, root): (usize, &PathBuf)| {
            let kept = folder.join(format!("attestation-root-{number}.pem"));
            fs::copy(root, &kept).expect("copy an attestation root");
            kept
        };
        Self {
            policy: self.policy.clone(),
            attestation_roots: self
                .attestation_roots
                .iter()
                .enumerate()
                .map(copy)
                .collect(),
        }
    }
}

/// A running API server and signer.
#[derive(Debug)]
pub struct Cluster {
    // Dropped in this order: the signer goes before its API server, both before their folder.
    approve_only: Option<approve_only::Beside>,
    signer: Option<Running>,
    control_plane: Option<envtest::ControlPlane>,
    setup: Setup,
    files: Files,
    dir: TempDir,
}

/// Where clients find it.
#[derive(Clone, Debug)]
pub struct Files {
    /// Such as `https://127.0.0.1:4711`.
    pub server: String,
    /// The CA of the server's own certificate, PEM.
    pub server_ca: PathBuf,
    /// What engineers' certificates chain to, PEM.
    pub trust_bundle: PathBuf,
    /// A kubeconfig that may do all.
    pub admin_kubeconfig: PathBuf,
    /// The signer's data directory.
    pub data: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// What kube-apiserver has as `--client-ca-file`, and reads again when it changes; nothing where the API is embedded.
    pub client_ca: Option<PathBuf>,
}

impl Cluster {
    /// Starts one.
    ///
    /// # Panics
    /// When it does not get ready; what it printed is in the message.
    #[must_use]
    pub fn start(setup: &Setup) -> Self {
        Self::start_with_ca(setup, None)
    }

    /// Starts one with CA settings, YAML.
    ///
    /// # Panics
    /// When it does not get ready; what it printed is in the message.
    #[must_use]
    pub fn start_with_ca(setup: &Setup, ca_settings: Option<&str>) -> Self {
        Self::start_in(new_folder(), setup, ca_settings)
    }

    /// Starts one where kube-controller-manager signs what Touchstone approves. `touchstone` is led to the API server, or
    /// where the API is embedded to a front door before it.
    ///
    /// # Panics
    /// When it does not get ready; what it printed is in the message.
    #[must_use]
    pub fn start_approve_only(setup: &Setup) -> Self {
        Self::start_with_controller_manager(new_folder(), setup)
    }

    /// As [`Cluster::start_approve_only`], with Touchstone's own CA beside it, under its own signer name, which is the one
    /// that `touchstone` asks.
    ///
    /// # Panics
    /// When it does not get ready; what it printed is in the message.
    #[must_use]
    pub fn start_with_both(setup: &Setup) -> Self {
        let dir = new_folder();
        fs::write(dir.path().join(BOTH), "").expect("write a mark");
        Self::start_with_controller_manager(dir, setup)
    }

    fn start_with_controller_manager(dir: TempDir, setup: &Setup) -> Self {
        let ca = ClusterCa::make(&dir.path().join(CLUSTER_CA));
        let mut cluster = Self::start_in(dir, setup, None);
        approve_only::start(&mut cluster, &ca);
        cluster
    }

    /// The cluster's client CA, where kube-controller-manager signs.
    #[must_use]
    pub fn cluster_ca(&self) -> Option<ClusterCa> {
        let folder = self.dir.path().join(CLUSTER_CA);
        folder.is_dir().then(|| ClusterCa::at(&folder))
    }

    /// Stops kube-controller-manager: what is approved stays unsigned.
    pub fn stop_controller_manager(&mut self) {
        if let Some(beside) = &mut self.approve_only {
            beside.stop_controller_manager();
        }
    }

    /// Starts it again.
    pub fn start_controller_manager(&mut self) {
        let kubeconfig = self.kubeconfig_of(controller_manager::ACCOUNT);
        if let (Some(ca), Some(beside)) = (self.cluster_ca(), &mut self.approve_only) {
            beside.start_controller_manager(&ca, &kubeconfig);
        }
    }

    fn start_in(dir: TempDir, setup: &Setup, ca_settings: Option<&str>) -> Self {
        let policy = dir.path().join("policy.yaml");
        fs::write(&policy, &setup.policy).expect("write the policy");
        if let Some(settings) = ca_settings {
            fs::write(dir.path().join(CA_SETTINGS), settings).expect("write the CA settings");
        }
        let setup = setup.with_roots_in(dir.path());
        match std::env::var_os("KUBEBUILDER_ASSETS").filter(|path| !path.is_empty()) {
            Some(assets) => envtest::start(Path::new(&assets), dir, policy, setup),
            None => embedded::start(dir, policy, setup),
        }
    }

    /// Whether it is the embedded API server: some promises are its own.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.control_plane.is_none()
    }

    /// Where clients find it.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// The kubeconfig of an account that `deploy/` gives rights to; the administrator's where the API is embedded.
    #[must_use]
    pub fn kubeconfig_of(&self, account: &str) -> PathBuf {
        match &self.control_plane {
            Some(control_plane) => control_plane.kubeconfig(account),
            None => self.files.admin_kubeconfig.clone(),
        }
    }

    /// What kube-apiserver recorded of each call, JSON Lines; nothing where the API is embedded.
    #[must_use]
    pub fn api_audit_log(&self) -> Option<PathBuf> {
        self.control_plane.as_ref().map(|it| it.audit_log())
    }

    /// A folder that goes when the cluster does.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The signer's process id; `None` while it does not run.
    #[must_use]
    pub fn signer_id(&self) -> Option<u32> {
        self.signer.as_ref().map(Running::id)
    }

    /// What the signer wrote so far.
    #[must_use]
    pub fn signer_output(&self) -> String {
        let of_approver = self
            .approve_only
            .as_ref()
            .and_then(approve_only::Beside::output);
        of_approver.unwrap_or_else(|| {
            self.signer
                .as_ref()
                .map(Running::output)
                .unwrap_or_default()
        })
    }

    /// Ends the signer with SIGKILL, as a power cut would.
    ///
    /// # Panics
    /// When it had ended by itself: that is a finding.
    pub fn kill_signer(&mut self) {
        let mut signer = self.signer.take().expect("the signer runs");
        let status = signer.kill().expect("kill the signer");
        assert!(
            status.code().is_none(),
            "the signer had ended by itself ({status}):\n{}",
            signer.output()
        );
    }

    /// Starts the signer again on the same data, and on the embedded API server the API with it.
    pub fn start_signer(&mut self) {
        let (signer, files) = match &self.control_plane {
            Some(control_plane) => {
                envtest::start_signer(control_plane, self.dir.path(), &self.setup, &self.files)
            }
            None => embedded::start_signer(self.dir.path(), &self.setup, &self.files.policy),
        };
        self.signer = Some(signer);
        self.files = files;
    }

    /// Runs real kubectl as the administrator.
    ///
    /// # Panics
    /// When kubectl cannot be started.
    pub fn kubectl<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Output {
        kubectl(&self.files.admin_kubeconfig)
            .args(arguments)
            .output()
            .expect("run kubectl")
    }

    /// Runs real kubectl as the administrator and takes what it prints.
    ///
    /// # Panics
    /// When it fails.
    pub fn kubectl_ok<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> String {
        let output = self.kubectl(arguments);
        assert!(
            output.status.success(),
            "kubectl failed: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Sends a request as `user` would, without `touchstone`.
    ///
    /// # Panics
    /// When it is not taken.
    pub fn submit(&self, user: &str, csr_pem: &str) {
        let answer = self.try_submit(user, csr_pem);
        assert!(
            answer.contains("\"CertificateSigningRequest\""),
            "the request is not taken: {answer}"
        );
    }

    /// Sends a request as `user` would; what the API server answers.
    ///
    /// # Panics
    /// When the client cannot be started.
    #[must_use]
    pub fn try_submit(&self, user: &str, csr_pem: &str) -> String {
        self.send(user, &request(csr_pem))
    }

    /// Sends a CertificateSigningRequest as `user` would, and waits for what becomes of it: `Issued`, the message of the
    /// condition that ended it, or the words with which the API server did not take it.
    ///
    /// # Panics
    /// When nothing becomes of it.
    #[must_use]
    pub fn verdict_on(&self, user: &str, request: &serde_json::Value) -> String {
        let answer = self.send(user, request);
        let Ok(created) = serde_json::from_str::<serde_json::Value>(&answer) else {
            return answer;
        };
        if created["kind"] != "CertificateSigningRequest" {
            return answer;
        }
        let name = created["metadata"]["name"]
            .as_str()
            .expect("a name")
            .to_owned();
        let mut verdict = None;
        let end = Instant::now() + PATIENCE;
        while verdict.is_none() {
            assert!(
                Instant::now() < end,
                "nothing became of {name}; the signer wrote:\n{}",
                self.signer_output()
            );
            let read: serde_json::Value =
                serde_json::from_str(&self.kubectl_ok(["get", "csr", &name, "-o", "json"]))
                    .expect("kubectl prints JSON");
            let ended = |condition: &&serde_json::Value| condition["type"] != "Approved";
            verdict = if read["status"]["certificate"].is_string() {
                Some("Issued".to_owned())
            } else {
                let conditions = read["status"]["conditions"].as_array();
                conditions
                    .into_iter()
                    .flatten()
                    .find(ended)
                    .map(|condition| condition["message"].to_string())
            };
        }
        verdict.unwrap_or_default()
    }

    fn send(&self, user: &str, request: &serde_json::Value) -> String {
        let mut client = match &self.control_plane {
            Some(control_plane) => {
                let mut kubectl = kubectl(&control_plane.kubeconfig(user));
                kubectl.args(["create", "-o", "json", "-f", "-"]);
                kubectl
            }
            None => {
                let mut curl = Command::new("curl");
                curl.args(["--silent", "--show-error", "--max-time", "20"]);
                curl.args([
                    "--header",
                    "Content-Type: application/json",
                    "--data-binary",
                    "@-",
                ]);
                curl.arg("--cacert").arg(&self.files.server_ca);
                curl.arg(format!(
                    "{}/apis/certificates.k8s.io/v1/certificatesigningrequests",
                    self.files.server
                ));
                curl
            }
        };
        let output = with_input(&mut client, &request.to_string());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        // Pretty or not is the server's choice.
        text(&output.stdout).replace("\": \"", "\":\"") + &text(&output.stderr)
    }

    /// Waits until the cluster looks as `ready` wants it.
    ///
    /// # Panics
    /// When it does not in time; the signer's output is in the message.
    pub fn wait_until(&self, what: &str, ready: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !ready(self) {
            assert!(
                Instant::now() < end,
                "waited in vain until {what}; the signer wrote:\n{}",
                self.signer_output()
            );
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// The arguments of `touchstone config set-cluster` that lead `user` to this cluster.
    #[must_use]
    pub fn client_arguments(&self, user: &str) -> Vec<String> {
        let path = |p: &Path| p.display().to_string();
        let mut arguments = match &self.control_plane {
            Some(control_plane) => {
                vec![
                    "--kubeconfig".to_owned(),
                    path(&control_plane.kubeconfig(user)),
                    "--context".to_owned(),
                    user.to_owned(),
                ]
            }
            None => vec![
                "--server".to_owned(),
                self.files.server.clone(),
                "--ca".to_owned(),
                path(&self.files.server_ca),
            ],
        };
        arguments.extend(["--trust-bundle".to_owned(), path(&self.files.trust_bundle)]);
        let signer_name = match (self.cluster_ca(), self.dir.path().join(BOTH).exists()) {
            (Some(_), false) => KUBE_APISERVER_CLIENT,
            (Some(_), true) if self.is_embedded() => approve_only::OWN_NAME,
            (Some(_) | None, _) => "touchstone.dev/client",
        };
        arguments.extend(["--signer-name", signer_name].map(str::to_owned));
        arguments
    }
}

fn new_folder() -> TempDir {
    tempfile::Builder::new()
        .prefix("touchstone-cluster-")
        .tempdir()
        .expect("make a temporary folder")
}

/// A CertificateSigningRequest of thirty minutes for client auth.
#[must_use]
pub fn manifest(name: &str, signer_name: &str, csr_pem: &str) -> serde_json::Value {
    let mut request = manifest_generated("", signer_name, csr_pem);
    request["metadata"] = serde_json::json!({ "name": name });
    request
}

/// A CertificateSigningRequest for our signer, of a name that the API server makes.
#[must_use]
pub fn request(csr_pem: &str) -> serde_json::Value {
    manifest_generated("touchstone-test-", "touchstone.dev/client", csr_pem)
}

fn manifest_generated(prefix: &str, signer_name: &str, csr_pem: &str) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": { "generateName": prefix },
        "spec": {
            "request": STANDARD.encode(csr_pem),
            "signerName": signer_name,
            "expirationSeconds": 1800,
            "usages": ["client auth"],
        },
    })
}

/// Runs a command to its end with `input` on its standard input.
fn with_input(command: &mut Command, input: &str) -> Output {
    let child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = child.unwrap_or_else(|error| panic!("run {command:?}: {error}"));
    // Dropped at the end of the statement, which closes it.
    child
        .stdin
        .take()
        .expect("a pipe")
        .write_all(input.as_bytes())
        .expect("write the input");
    child.wait_with_output().expect("wait for a client")
}

/// kubectl with `kubeconfig`, and nothing of the user's own.
#[must_use]
pub fn kubectl(kubeconfig: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("KUBECTL").unwrap_or_else(|| "kubectl".into()));
    command
        .env("KUBECONFIG", kubeconfig)
        .env(
            "HOME",
            kubeconfig.parent().unwrap_or(Path::new("/nonexistent")),
        )
        .arg("--request-timeout=20s");
    command
}

/// The signer's program.
fn signer_program() -> Command {
    let mut command = Command::new(program("touchstone-signer"));
    command.env("RUST_LOG", "info,touchstone=debug");
    command
}
