//! An embedded API with a signer on it, and engineers with software keys.

use aws_lc_rs::rand;
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::UserInfo,
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition,
            CertificateSigningRequestSpec,
        },
        events::v1::Event as KubernetesEvent,
    },
};
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
    runtime::watcher,
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use touchstone_apiserver::{ADMINISTRATORS, ApiServer, Config, Nobody, SIGNER};
use touchstone_common::{
    attestation::Roots,
    claims::{Claims, Reason},
    csr::{self, Draft},
    key::{KeyAlgorithm, PublicKey, SigningKey, SoftwareKey},
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};
use touchstone_signer::{
    audit::{AuditLog, Event, FILE_NAME},
    ca::{
        authority::Authority,
        bootstrap::{self, Founded},
        key::KeyPlace,
        record::Binding,
        rotation::{ClusterAlone, Parts as RotationParts, Rotation},
        settings::CaSettings,
    },
    clock::{ApiClock, Clock},
    controller::{Context, Parts},
    data_dir::DataDir,
    grant::{Grant, Phase},
    lease::Leadership,
    metrics::Metrics,
    reload::PolicyFile,
    service::{Service, evidence_cache},
    signers::{OwnCa, Signers},
};

pub(crate) const SIGNER_NAME: &str = "touchstone.dev/client";
pub(crate) const GROUP: &str = "jit:oncall:payments";
/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Lets one engineer into one group.
pub(crate) fn policy(engineer: &Engineer) -> String {
    let key = hex::encode(engineer.public_key().spki_sha256());
    format!(
        r#"
apiVersion: touchstone.dev/v1
kind: Policy
cluster: prod
defaults: {{ ttl: 30m, maxTTL: 1h, key: {{ attested: false }} }}
users:
  - {{ name: "{user}", teams: [payments], keys: [ {{ spki: "sha256:{key}" }} ] }}
rules:
  - name: payments on call
    who: {{ teams: [payments] }}
    groups: ["{GROUP}"]
    decision: auto
"#,
        user = engineer.user
    )
}

/// The machine's clock, which panics when it is told to.
#[derive(Debug, Default)]
pub(crate) struct TestClock {
    armed: AtomicBool,
}

impl TestClock {
    /// The next one who asks panics.
    pub(crate) fn panic_at_next_call(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
}

impl Clock for TestClock {
    fn now(&self) -> Timestamp {
        assert!(
            !self.armed.swap(false, Ordering::SeqCst),
            "the clock was told to panic"
        );
        Timestamp::now()
    }
}

/// Someone with a key in software.
pub(crate) struct Engineer {
    pub(crate) user: UserName,
    key: SoftwareKey,
}

/// A request that was signed.
pub(crate) struct Request {
    pub(crate) pem: String,
    pub(crate) nonce: [u8; 32],
    pub(crate) groups: Vec<GroupName>,
    pub(crate) ttl: Ttl,
}

impl Engineer {
    pub(crate) fn new(user: &str) -> Self {
        Self {
            user: UserName::parse(user).unwrap(),
            key: SoftwareKey::generate(KeyAlgorithm::P256).unwrap(),
        }
    }

    pub(crate) fn public_key(&self) -> &PublicKey {
        self.key.public_key()
    }

    pub(crate) fn request(&self, groups: &[&str]) -> Request {
        let mut nonce = [0; 32];
        rand::fill(&mut nonce).unwrap();
        let groups: Vec<_> = groups
            .iter()
            .map(|g| GroupName::parse(g).unwrap())
            .collect();
        let ttl: Ttl = "30m".parse().unwrap();
        let now = Timestamp::now();
        let draft = Draft {
            user: self.user.clone(),
            groups: groups.clone(),
            claims: Claims {
                cluster: ClusterName::parse("prod").unwrap(),
                ttl,
                reason: Reason::parse("INC-4211 checkout latency").unwrap(),
                nonce,
                issued_at: Timestamp::from_second(now.as_second()).unwrap(),
                read_token_sha256: None,
            },
            evidence: None,
        };
        Request {
            pem: csr::to_pem(&draft.sign(&self.key).unwrap()),
            nonce,
            groups,
            ttl,
        }
    }
}

pub(crate) struct World {
    pub(crate) founded: Founded,
    pub(crate) clock: Arc<TestClock>,
    api: ApiServer,
    audit: AuditLog,
    data: Arc<DataDir>,
    /// Where the running signer answers who watches over it.
    monitor: Option<SocketAddr>,
    signer: Option<Running>,
    // Last: everything else lives in it.
    temp: TempDir,
}

struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), touchstone_signer::error::Error>>,
}

impl World {
    pub(crate) async fn start(engineer: &Engineer) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDir::open(&temp.path().join("data")).unwrap());
        let clock = Arc::new(TestClock::default());
        let founded = bootstrap::open(&data, clock.now()).unwrap();
        let audit = AuditLog::open(&data.file(FILE_NAME), clock.now()).unwrap();
        std::fs::write(temp.path().join("policy.yaml"), policy(engineer)).unwrap();
        let api_clock: Arc<dyn Clock> = Arc::new(touchstone_signer::clock::SystemClock);
        let api = ApiServer::open(Config {
            database: data.file(bootstrap::DATABASE),
            client_cas: Vec::new(),
            anonymous: Arc::new(Nobody),
            approvers: Arc::new(Nobody),
            clock: Arc::new(ApiClock(api_clock)),
        })
        .unwrap();
        let mut world = Self {
            founded,
            clock,
            api,
            audit,
            data,
            monitor: None,
            signer: None,
            temp,
        };
        world.restart().await;
        world
    }

    pub(crate) async fn restart(&mut self) {
        let policy =
            PolicyFile::open(&self.temp.path().join("policy.yaml"), Roots::yubico()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        self.monitor = Some(listener.local_addr().unwrap());
        let service = Service {
            audit: self.audit.clone(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            evidence: evidence_cache(),
            front: None,
            metrics: Arc::default(),
            metrics_listener: Some(listener),
            policy,
            leadership: Leadership::alone(),
            rotation: Some(self.rotation()),
            client_ca: None,
        };
        let shutdown = CancellationToken::new();
        let client = self.client("touchstone-signer", SIGNER);
        let (ready, is_ready) = oneshot::channel();
        let token = shutdown.clone();
        let task = tokio::spawn(async move {
            service
                .run(client, token, move || {
                    let _ = ready.send(());
                })
                .await
        });
        is_ready.await.expect("the signer starts");
        self.signer = Some(Running { shutdown, task });
    }

    /// What the running signer says at `path` to who watches over it: the whole answer.
    pub(crate) async fn monitor(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.monitor.unwrap()).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: signer\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    /// Runs a controller whose audit log is another one.
    pub(crate) async fn run_with_audit(
        &self,
        path: &Path,
        metrics: &Arc<Metrics>,
    ) -> JoinHandle<()> {
        let policy =
            PolicyFile::open(&self.temp.path().join("policy.yaml"), Roots::yubico()).unwrap();
        let context = Arc::new(Context::new(Parts {
            client: self.client("touchstone-signer", SIGNER),
            audit: AuditLog::open(path, self.clock.now()).unwrap(),
            clock: Arc::clone(&self.clock) as Arc<dyn Clock>,
            evidence: evidence_cache(),
            front_account: None,
            leadership: Leadership::alone(),
            metrics: Arc::clone(metrics),
            signers: Signers {
                own: Some(OwnCa {
                    name: SIGNER_NAME.into(),
                    authority: self.authority().await,
                }),
                cluster: None,
            },
            snapshot: policy.subscribe(),
        }));
        tokio::spawn(async move {
            let _policy = policy;
            context.run(CancellationToken::new(), || {}).await.unwrap();
        })
    }

    fn rotation(&self) -> RotationParts {
        RotationParts {
            founded: Some(bootstrap::open(&self.data, self.clock.now()).unwrap()),
            settings: CaSettings::usual(KeyPlace::Secret),
            binding: Binding {
                cluster: "prod".into(),
                uid: "world".into(),
            },
            namespace: "default".into(),
            signer_name: SIGNER_NAME.into(),
            data: Arc::clone(&self.data),
            endpoints: Vec::new(),
            trust: Arc::new(ClusterAlone),
            leadership: Leadership::alone(),
        }
    }

    /// What signs, by the record.
    async fn authority(&self) -> watch::Receiver<Arc<Authority>> {
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        let client = self.client("touchstone-signer", SIGNER);
        let (audit, metrics) = (self.audit.clone(), Arc::default());
        let rotation = Rotation::open(client, self.rotation(), audit, clock, metrics);
        rotation.await.unwrap().subscribe()
    }

    /// Stops the signer in good order.
    pub(crate) async fn stop(&mut self) {
        let signer = self.signer.take().unwrap();
        signer.shutdown.cancel();
        signer.task.await.unwrap().unwrap();
    }

    /// Ends the signer wherever it is.
    pub(crate) async fn cut_off(&mut self) {
        let signer = self.signer.take().unwrap();
        signer.task.abort();
        assert!(signer.task.await.unwrap_err().is_cancelled());
    }

    fn client(&self, user: &str, group: &str) -> Client {
        let identity = UserInfo {
            username: Some(user.into()),
            groups: Some(vec![group.into(), "system:authenticated".into()]),
            ..UserInfo::default()
        };
        self.api.client(identity, "default")
    }

    pub(crate) fn administrator(&self) -> Client {
        self.client("admin", ADMINISTRATORS)
    }

    fn requests(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.client("admin", ADMINISTRATORS))
    }

    pub(crate) fn trust_bundle(&self) -> String {
        self.founded.trust_bundle()
    }

    pub(crate) fn audit_path(&self) -> PathBuf {
        self.data.file(FILE_NAME)
    }

    pub(crate) fn write_policy(&self, text: &str) {
        std::fs::write(self.temp.path().join("policy.yaml"), text).unwrap();
    }

    /// What the audit log says.
    pub(crate) fn audit(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(self.data.file(FILE_NAME)).unwrap();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    pub(crate) async fn create(
        &self,
        engineer: &Engineer,
        name: &str,
        pem: &str,
    ) -> CertificateSigningRequest {
        self.create_for(SIGNER_NAME, engineer, name, pem).await
    }

    pub(crate) async fn create_for(
        &self,
        signer_name: &str,
        engineer: &Engineer,
        name: &str,
        pem: &str,
    ) -> CertificateSigningRequest {
        self.create_annotated(signer_name, engineer, name, pem, None)
            .await
    }

    pub(crate) async fn create_annotated(
        &self,
        signer_name: &str,
        engineer: &Engineer,
        name: &str,
        pem: &str,
        annotations: Option<BTreeMap<String, String>>,
    ) -> CertificateSigningRequest {
        let api: Api<CertificateSigningRequest> =
            Api::all(self.client(engineer.user.as_str(), ADMINISTRATORS));
        let mut request = CertificateSigningRequest::default();
        request.metadata.name = Some(name.into());
        request.metadata.annotations = annotations;
        request.spec = CertificateSigningRequestSpec {
            expiration_seconds: Some(1800),
            request: ByteString(pem.as_bytes().to_vec()),
            signer_name: signer_name.into(),
            usages: Some(vec!["client auth".into()]),
            ..CertificateSigningRequestSpec::default()
        };
        api.create(&PostParams::default(), &request).await.unwrap()
    }

    /// Creates a request and waits until it is at its end.
    pub(crate) async fn submit(
        &self,
        engineer: &Engineer,
        name: &str,
        pem: &str,
    ) -> CertificateSigningRequest {
        self.create(engineer, name, pem).await;
        self.wait(name).await
    }

    /// Waits until a request carries a certificate or was closed.
    pub(crate) async fn wait(&self, name: &str) -> CertificateSigningRequest {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut events = std::pin::pin!(watcher(self.requests(), config));
        let closed = async {
            while let Some(event) = events.next().await {
                if let Ok(watcher::Event::Apply(request) | watcher::Event::InitApply(request)) =
                    event
                    && is_closed(&request)
                {
                    return request;
                }
            }
            panic!("the watch ended")
        };
        match tokio::time::timeout(PATIENCE, closed).await {
            Ok(request) => request,
            Err(_) => panic!("{name} was not closed: {:?}", self.get(name).await),
        }
    }

    pub(crate) async fn get(&self, name: &str) -> CertificateSigningRequest {
        self.requests().get(name).await.unwrap()
    }

    pub(crate) async fn delete(&self, name: &str) {
        self.requests()
            .delete(name, &DeleteParams::default())
            .await
            .unwrap();
    }

    pub(crate) async fn add_condition(
        &self,
        name: &str,
        condition: CertificateSigningRequestCondition,
    ) {
        let mut request = self.get(name).await;
        request
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default()
            .push(condition);
        self.requests()
            .replace_subresource("approval", name, &PostParams::default(), &request)
            .await
            .unwrap();
    }

    pub(crate) async fn put_certificate(&self, name: &str, pem: &[u8]) {
        let mut request = self.get(name).await;
        request.status.get_or_insert_default().certificate = Some(ByteString(pem.to_vec()));
        self.requests()
            .replace_subresource("status", name, &PostParams::default(), &request)
            .await
            .unwrap();
    }

    /// Takes an annotation away.
    pub(crate) async fn remove_annotation(&self, name: &str, annotation: &str) {
        let patch = json!({ "metadata": { "annotations": { annotation: null } } });
        self.requests()
            .patch(name, &PatchParams::default(), &Patch::Merge(patch))
            .await
            .unwrap();
    }

    /// An annotation, once it is there.
    pub(crate) async fn annotation(&self, name: &str, annotation: &str) -> String {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = self.get(name).await.annotations().get(annotation) {
                return value.clone();
            }
            assert!(Instant::now() < end, "{name} has no {annotation}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes annotations as fast as it can, until the request is at its end.
    pub(crate) async fn annotate_until_closed(&self, name: &str) {
        for n in 0u64.. {
            let patch =
                json!({ "metadata": { "annotations": { "example.com/n": n.to_string() } } });
            match self
                .requests()
                .patch(name, &PatchParams::default(), &Patch::Merge(patch))
                .await
            {
                Ok(request) if is_closed(&request) => return,
                // Not created yet.
                Ok(_) | Err(_) => tokio::time::sleep(Duration::from_micros(300)).await,
            }
        }
    }

    pub(crate) async fn grants(&self) -> Vec<Grant> {
        let api: Api<Grant> = Api::all(self.client("admin", ADMINISTRATORS));
        api.list(&ListParams::default()).await.unwrap().items
    }

    /// A grant, once it is at its end.
    pub(crate) async fn settled_grant(&self, name: &str) -> Grant {
        let api: Api<Grant> = Api::all(self.client("admin", ADMINISTRATORS));
        let end = Instant::now() + PATIENCE;
        loop {
            let grant = api.get(name).await.unwrap();
            if grant.phase() != Phase::Intent {
                return grant;
            }
            assert!(Instant::now() < end, "{name} stays open: {grant:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn all_grants_settle(&self, count: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let grants = self.grants().await;
            assert_eq!(grants.len(), count);
            if grants.iter().all(|grant| grant.phase() == Phase::Issued) {
                return;
            }
            assert!(Instant::now() < end, "some grants stay open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The events on a request, once there is one.
    pub(crate) async fn events(&self, request: &str) -> Vec<KubernetesEvent> {
        let api: Api<KubernetesEvent> =
            Api::namespaced(self.client("admin", ADMINISTRATORS), "default");
        let end = Instant::now() + PATIENCE;
        loop {
            let mut events = api.list(&ListParams::default()).await.unwrap().items;
            events
                .retain(|e| e.regarding.as_ref().and_then(|r| r.name.as_deref()) == Some(request));
            if !events.is_empty() {
                return events;
            }
            assert!(Instant::now() < end, "{request} has no events");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until something is so.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so() {
            assert!(Instant::now() < end, "{what} did not come");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn is_closed(request: &CertificateSigningRequest) -> bool {
    let certified = request
        .status
        .as_ref()
        .is_some_and(|status| status.certificate.is_some());
    certified || condition(request, "Denied").is_some() || condition(request, "Failed").is_some()
}

pub(crate) fn condition<'a>(
    request: &'a CertificateSigningRequest,
    kind: &str,
) -> Option<&'a CertificateSigningRequestCondition> {
    assert!(!request.name_any().is_empty());
    request
        .status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)
}
