//! A standalone as a process, and an engineer whose requests it answers.

use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec},
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::PostParams,
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;
use touchstone_common::{
    claims::{Claims, Reason},
    csr::{self, Draft},
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
    name::{ClusterName, GroupName, UserName},
};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_touchstone-signer");
pub(crate) const GROUP: &str = "jit:oncall:payments";
pub(crate) const REASON: &str = "INC-4211 checkout latency";
pub(crate) const USER: &str = "alice@example.com";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder with a policy in it, a standalone on it, and the key that the policy knows.
pub(crate) struct Place {
    key: SoftwareKey,
    running: Option<Child>,
    temp: TempDir,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(running) = &mut self.running {
            let _ = running.kill();
            let _ = running.wait();
        }
    }
}

impl Place {
    pub(crate) fn new() -> Self {
        let temp = tempfile::tempdir().unwrap();
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let spki = hex::encode(key.public_key().spki_sha256());
        let policy = format!(
            r#"
apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
defaults: {{ ttl: 30m, maxTTL: 1h, key: {{ attested: false }} }}
users:
  - {{ name: "{USER}", teams: [payments], keys: [ {{ spki: "sha256:{spki}" }} ], usernames: [touchstone-admin] }}
rules:
  - name: payments on call
    who: {{ teams: [payments] }}
    groups: ["{GROUP}"]
    decision: auto
"#
        );
        fs::write(temp.path().join("policy.yaml"), policy).unwrap();
        Self {
            key,
            running: None,
            temp,
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    /// The program with nothing of the machine's own settings of traces.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command
            .env_remove("RUST_LOG")
            .env("OTEL_BSP_SCHEDULE_DELAY", "100")
            .args(["standalone", "--listen", "127.0.0.1:0", "--data"])
            .arg(self.path("data"))
            .arg("--policy")
            .arg(self.path("policy.yaml"))
            .arg("--ready-file")
            .arg(self.path("ready.json"))
            .stdin(Stdio::null());
        command
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(&mut self, command: &mut Command) {
        let log = fs::File::create(self.path("log")).unwrap();
        let child = command
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.running = Some(child);
        let end = Instant::now() + PATIENCE;
        while !self.path("ready.json").exists() {
            let ended = self.running.as_mut().unwrap().try_wait().unwrap();
            assert!(
                ended.is_none() && Instant::now() < end,
                "{ended:?}: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// Stops it; how long that took.
    pub(crate) async fn stop(&mut self) -> (ExitStatus, Duration) {
        let mut running = self.running.take().unwrap();
        let begin = Instant::now();
        let id = rustix::process::Pid::from_child(&running);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        loop {
            if let Some(status) = running.try_wait().unwrap() {
                return (status, begin.elapsed());
            }
            assert!(
                begin.elapsed() < PATIENCE,
                "it does not stop: {}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asks for a group, under the name that `touchstone login` gives a request; the request at its end.
    pub(crate) async fn ask(&self, group: &str) -> CertificateSigningRequest {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let kubeconfig = Kubeconfig::read_from(self.path("data/admin.kubeconfig")).unwrap();
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = Client::try_from(config.unwrap()).unwrap();
        let requests = Api::<CertificateSigningRequest>::all(client);
        let mut request = self.request(group);
        request = requests
            .create(&PostParams::default(), &request)
            .await
            .unwrap();
        let end = Instant::now() + PATIENCE;
        let is_closed = |request: &CertificateSigningRequest| {
            request.status.as_ref().is_some_and(|status| {
                let conditions = status.conditions.iter().flatten();
                let mut ended = conditions.filter(|it| it.type_ != "Approved");
                status.certificate.is_some() || ended.next().is_some()
            })
        };
        while !is_closed(&request) {
            assert!(Instant::now() < end, "{request:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
            request = requests.get(&request.name_any()).await.unwrap();
        }
        request
    }

    fn request(&self, group: &str) -> CertificateSigningRequest {
        let mut nonce = [0; 32];
        aws_lc_rs::rand::fill(&mut nonce).unwrap();
        let now = Timestamp::now();
        let user = UserName::parse(USER).unwrap();
        let generate_name = csr::generate_name(&user);
        let draft = Draft {
            user,
            groups: vec![GroupName::parse(group).unwrap()],
            claims: Claims {
                cluster: ClusterName::parse("prod").unwrap(),
                ttl: "30m".parse().unwrap(),
                reason: Reason::parse(REASON).unwrap(),
                nonce,
                issued_at: Timestamp::from_second(now.as_second()).unwrap(),
                read_token_sha256: None,
            },
            evidence: None,
        };
        let pem = csr::to_pem(&draft.sign(&self.key).unwrap());
        let mut request = CertificateSigningRequest::default();
        request.metadata.generate_name = Some(generate_name);
        request.spec = CertificateSigningRequestSpec {
            expiration_seconds: Some(1800),
            request: ByteString(pem.into_bytes()),
            signer_name: "touchstone.dev/client".into(),
            usages: Some(vec!["client auth".into()]),
            ..CertificateSigningRequestSpec::default()
        };
        request
    }
}
