//! `touchstone-signer run` with a fault proxy between it and its API server: the embedded one, served by the test, or a real
//! control plane.

use crate::{controller_manager, invariants};
use jiff::Timestamp;
use k8s_openapi::{
    ByteString,
    api::{
        authentication::v1::UserInfo,
        certificates::v1::{
            CertificateSigningRequest, CertificateSigningRequestCondition,
            CertificateSigningRequestSpec,
        },
        coordination::v1::Lease,
    },
};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;
use tokio::{net::TcpListener, runtime::Runtime};
use tokio_util::sync::CancellationToken;
use touchstone_apiserver::{
    ADMINISTRATORS, ApiServer, CaKind, ClientCa, Config as ApiConfig, Nobody, SIGNER, ServerTls,
};
use touchstone_common::{
    certificate::Validity,
    csr::KUBE_APISERVER_CLIENT,
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
};
use touchstone_signer::{
    audit::Event,
    clock::{ApiClock, SystemClock},
    grant::{Grant, Phase},
};
use touchstone_tests::{
    card_key::CardKey,
    child::{Running, program},
    cluster::{Cluster, Setup},
    controller_manager::ClusterCa,
    engineer::Ran,
    fault_proxy::{Behind, Call, FaultProxy},
    policy::{GRANTED, policy},
    upstream::{self, Loopback},
};

/// Where the CA's record is.
pub(crate) const NAMESPACE: &str = "touchstone";
/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);
const ACCOUNT: &str = "touchstone-signer";

/// Someone with an attested key.
pub(crate) struct Engineer {
    pub(crate) user: &'static str,
    key: CardKey,
}

enum Server {
    Embedded(Arc<ApiServer>),
    Real(Box<Cluster>),
}

/// An API server, a proxy before it, a signer and two engineers.
pub(crate) struct World {
    // Dropped in this order: the signer goes before what it talks to.
    signer: Option<Running>,
    pub(crate) proxy: FaultProxy,
    server: Server,
    signer_name: &'static str,
    pub(crate) runtime: Runtime,
    pub(crate) alice: Engineer,
    pub(crate) dave: Engineer,
    data: PathBuf,
    policy: PathBuf,
    dir: TempDir,
}

impl Engineer {
    fn new(user: &'static str, serial: u32) -> Self {
        let key = CardKey::generate(serial);
        Self { user, key }
    }

    fn enrolment(&self, serial: u32) -> String {
        format!(
            "  - {{ name: {}, teams: [payments], keys: [ {{ serial: {serial} }} ] }}\n",
            self.user
        )
    }

    /// A request for a group, PEM.
    pub(crate) fn request(&self, group: &str) -> String {
        self.key
            .request("demo", self.user, group, [7; 32], Timestamp::now())
    }
}

impl World {
    /// All of it, but for the signer.
    pub(crate) fn start() -> Self {
        Self::start_for("touchstone.dev/client")
    }

    /// All of it, where kube-controller-manager signs.
    pub(crate) fn approving() -> Self {
        let mut world = Self::start_for(KUBE_APISERVER_CLIENT);
        if let Server::Embedded(api) = &world.server {
            let ca = ClusterCa::make(&world.dir.path().join("cluster-ca"));
            let client = world.embedded_client(api, "admin", ADMINISTRATORS);
            world
                .runtime
                .block_on(controller_manager::publish(client, &ca));
            let signer = Api::all(world.embedded_client(api, "controller-manager", SIGNER));
            world
                .runtime
                .spawn(controller_manager::sign_what_is_approved(signer, ca));
        }
        world.start_signer();
        world
    }

    fn start_for(signer_name: &'static str) -> Self {
        // Another test in the same process chose the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let runtime = Runtime::new().expect("a runtime");
        let dir = tempfile::Builder::new()
            .prefix("touchstone-faults-")
            .tempdir()
            .expect("make a temporary folder");
        let alice = Engineer::new("alice@example.com", 12_345_678);
        let dave = Engineer::new("dave@example.com", 87_654_321);
        let text = policy(&[alice.enrolment(12_345_678), dave.enrolment(87_654_321)]);
        let roots = [&alice, &dave].map(|engineer| {
            let root = dir.path().join(format!("{}.pem", engineer.user));
            fs::write(&root, engineer.key.attestation_root()).expect("write a root");
            root
        });
        let is_real = std::env::var_os("KUBEBUILDER_ASSETS").is_some_and(|it| !it.is_empty());
        let (server, behind, data, policy, token) = if is_real {
            real(&text, roots.to_vec(), signer_name)
        } else {
            embedded(&runtime, dir.path(), &text)
        };
        let proxy = FaultProxy::start(behind);
        let ca = dir.path().join("proxy-ca.pem");
        fs::write(&ca, proxy.ca_pem()).expect("write the proxy's CA");
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": { "server": proxy.url(), "certificate-authority": ca } }],
            "users": [{ "name": "it", "user": token.map_or(json!({}), |token| json!({ "token": token })) }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": "it" } }],
        });
        fs::write(dir.path().join("proxy.kubeconfig"), kubeconfig.to_string())
            .expect("write a kubeconfig");
        Self {
            signer: None,
            proxy,
            server,
            signer_name,
            runtime,
            alice,
            dave,
            data,
            policy,
            dir,
        }
    }

    /// All of it.
    pub(crate) fn with_signer() -> Self {
        let mut world = Self::start();
        world.start_signer();
        world
    }

    fn signer_command(&self) -> Command {
        let path = |name: &str| self.dir.path().join(name);
        let mut command = Command::new(program("touchstone-signer"));
        command
            .env("RUST_LOG", "info,touchstone=debug")
            .args(["run", "--metrics-listen", "127.0.0.1:0"])
            .args(["--signer-name", self.signer_name])
            .arg("--kubeconfig")
            .arg(path("proxy.kubeconfig"))
            .arg("--data")
            .arg(&self.data)
            .arg("--policy")
            .arg(&self.policy)
            .arg("--ready-file")
            .arg(path("ready.json"));
        for engineer in [&self.alice, &self.dave] {
            let root = path(&format!("{}.pem", engineer.user));
            command.arg("--attestation-root").arg(root);
        }
        command
    }

    pub(crate) fn start_signer(&mut self) {
        let ready = self.dir.path().join("ready.json");
        let _ = fs::remove_file(&ready);
        // Whoever was killed held it: what waiting for its end is like is not what these suites are about.
        let leases = self.namespaced::<Lease>();
        self.runtime.block_on(async {
            let all = leases.list(&ListParams::default()).await;
            for lease in all.expect("the leases") {
                let name = lease.name_any();
                let deleted = leases.delete(&name, &DeleteParams::default()).await;
                deleted.expect("delete a lease");
            }
        });
        let log = self.dir.path().join("signer.log");
        let mut signer = Running::start("touchstone-signer run", &mut self.signer_command(), &log);
        signer.wait_until(PATIENCE, "readiness", || ready.is_file());
        self.signer = Some(signer);
    }

    /// Starts a signer that does not stay: its exit code and what it wrote.
    pub(crate) fn try_signer(&self) -> (Option<i32>, String) {
        let log = self.dir.path().join("refused.log");
        let mut signer = Running::start("touchstone-signer run", &mut self.signer_command(), &log);
        let status = signer.wait(PATIENCE);
        (status.code(), signer.output())
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill_signer(&mut self) {
        let mut signer = self.signer.take().expect("the signer runs");
        let status = signer.kill().expect("kill the signer");
        assert!(status.code().is_none(), "{}", signer.output());
    }

    pub(crate) fn signer_output(&self) -> String {
        self.signer
            .as_ref()
            .map(Running::output)
            .unwrap_or_default()
    }

    /// A client that knows no proxy: `user`, with no more rights than an engineer.
    pub(crate) fn client(&self, user: &str) -> Client {
        match &self.server {
            Server::Embedded(api) => self.embedded_client(api, user, "engineers"),
            Server::Real(cluster) => self.client_with(&cluster.kubeconfig_of(user)),
        }
    }

    fn admin(&self) -> Client {
        match &self.server {
            Server::Embedded(api) => self.embedded_client(api, "admin", ADMINISTRATORS),
            Server::Real(cluster) => self.client_with(&cluster.files().admin_kubeconfig),
        }
    }

    fn embedded_client(&self, api: &ApiServer, user: &str, group: &str) -> Client {
        let identity = UserInfo {
            username: Some(user.into()),
            groups: Some(vec![group.into(), "system:authenticated".into()]),
            ..UserInfo::default()
        };
        let _runtime = self.runtime.enter();
        api.client(identity, "default")
    }

    fn client_with(&self, kubeconfig: &Path) -> Client {
        let kubeconfig = Kubeconfig::read_from(kubeconfig).expect("a kubeconfig");
        self.runtime.block_on(async {
            let options = KubeConfigOptions::default();
            let config = Config::from_custom_kubeconfig(kubeconfig, &options).await;
            Client::try_from(config.expect("a configuration")).expect("a client")
        })
    }

    /// Requests, as the operator sees and changes them.
    pub(crate) fn requests(&self) -> Api<CertificateSigningRequest> {
        Api::all(self.admin())
    }

    /// Requests, as another holder of the right to sign them.
    pub(crate) fn requests_as_signer(&self) -> Api<CertificateSigningRequest> {
        Api::all(match &self.server {
            Server::Embedded(api) => self.embedded_client(api, ACCOUNT, SIGNER),
            Server::Real(_) => self.client(ACCOUNT),
        })
    }

    /// Objects of the namespace that the CA's record is in, as the operator.
    pub(crate) fn namespaced<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.admin(), NAMESPACE)
    }

    pub(crate) fn grants(&self) -> Vec<Grant> {
        let grants: Api<Grant> = Api::all(self.admin());
        let list = self.runtime.block_on(grants.list(&ListParams::default()));
        list.expect("the grants").items
    }

    pub(crate) fn all(&self) -> Vec<CertificateSigningRequest> {
        let requests = self.requests();
        let list = self.runtime.block_on(requests.list(&ListParams::default()));
        list.expect("the requests").items
    }

    pub(crate) fn get(&self, name: &str) -> CertificateSigningRequest {
        let requests = self.requests();
        self.runtime
            .block_on(requests.get(name))
            .expect("the request")
    }

    pub(crate) fn delete(&self, name: &str) {
        let requests = self.requests();
        let deleted = self
            .runtime
            .block_on(requests.delete(name, &DeleteParams::default()));
        deleted.expect("delete the request");
    }

    /// Sends a request of an engineer for the group that the policy grants.
    pub(crate) fn submit(&self, engineer: &Engineer, name: &str) {
        self.submit_for(engineer, name, GRANTED);
    }

    /// Sends a request of an engineer.
    pub(crate) fn submit_for(&self, engineer: &Engineer, name: &str, group: &str) {
        let requests: Api<CertificateSigningRequest> = Api::all(self.client(engineer.user));
        let mut request = request(name, &engineer.request(group));
        request.spec.signer_name = self.signer_name.into();
        let created = self
            .runtime
            .block_on(requests.create(&PostParams::default(), &request));
        created.expect("the request is taken");
    }

    /// Waits until `is_so`.
    pub(crate) fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is_so(self) {
            assert!(
                Instant::now() < end,
                "waited in vain until {what}; the signer wrote:\n{}",
                self.signer_output()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Waits until this request has its certificate, and its grant says so.
    pub(crate) fn issued(&self, name: &str) {
        self.until(&format!("{name} is issued"), |world| {
            let request = world.get(name);
            let uid = request.uid();
            certificate(&request).is_some()
                && world.grants().iter().any(|grant| {
                    Some(&grant.spec.request.uid) == uid.as_ref() && grant.phase() == Phase::Issued
                })
        });
    }

    /// Waits until a request ended without a certificate; the condition that ended it.
    pub(crate) fn refused(&self, name: &str) -> CertificateSigningRequestCondition {
        self.until(&format!("{name} is refused"), |world| {
            refusal(&world.get(name)).is_some()
        });
        refusal(&self.get(name)).expect("it was there")
    }

    /// Waits until the signer says nothing more about requests; the calls that it made meanwhile and before.
    pub(crate) fn quiet(&self) -> Vec<Call> {
        let mut calls = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut still = 0;
        while still < 4 {
            assert!(Instant::now() < end, "it does not come to rest: {calls:#?}");
            thread::sleep(Duration::from_millis(100));
            let new: Vec<_> = self
                .proxy
                .take_calls()
                .into_iter()
                .filter(Call::is_of_a_request)
                .collect();
            still = if new.is_empty() { still + 1 } else { 0 };
            calls.extend(new);
        }
        calls
    }

    /// What the audit log says.
    pub(crate) fn audit(&self) -> Vec<Event> {
        let text = fs::read_to_string(self.data.join("audit.jsonl")).expect("read the audit log");
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    /// Checks what must be so whatever happened.
    pub(crate) fn check(&self) {
        Ran::of(
            Command::new(program("touchstone-signer"))
                .args(["audit", "verify", "--data"])
                .arg(&self.data),
        )
        .succeeded();
        invariants::check(&self.all(), &self.grants(), &self.audit());
    }

    /// The figure of a metric.
    pub(crate) fn metric(&self, name: &str) -> String {
        let output = self.signer_output();
        let url = output
            .lines()
            .filter_map(|line| line.split_once("http://"))
            .filter_map(|(_, rest)| rest.split_once("/metrics"))
            .next_back()
            .map(|(address, _)| format!("http://{address}/metrics"))
            .expect("the signer says where its metrics are");
        let curl = Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", &url])
            .output()
            .expect("run curl");
        let page = String::from_utf8_lossy(&curl.stdout).into_owned();
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in\n{page}"))
            .to_owned()
    }
}

/// The certificate that a request carries.
pub(crate) fn certificate(request: &CertificateSigningRequest) -> Option<&[u8]> {
    let certificate = request.status.as_ref()?.certificate.as_ref()?;
    Some(&certificate.0)
}

/// The condition that ended a request without a certificate.
pub(crate) fn refusal(
    request: &CertificateSigningRequest,
) -> Option<CertificateSigningRequestCondition> {
    let conditions = request.status.as_ref()?.conditions.as_ref()?;
    let ended = |it: &&CertificateSigningRequestCondition| it.type_ != "Approved";
    conditions.iter().find(ended).cloned()
}

pub(crate) fn request(name: &str, pem: &str) -> CertificateSigningRequest {
    let mut request = CertificateSigningRequest::default();
    request.metadata.name = Some(name.into());
    request.spec = CertificateSigningRequestSpec {
        expiration_seconds: Some(1800),
        request: ByteString(pem.as_bytes().to_vec()),
        signer_name: "touchstone.dev/client".into(),
        usages: Some(vec!["client auth".into()]),
        ..CertificateSigningRequestSpec::default()
    };
    request
}

type Place = (Server, Behind, PathBuf, PathBuf, Option<String>);

/// The embedded API server, behind TLS.
fn embedded(runtime: &Runtime, dir: &Path, policy: &str) -> Place {
    let data = dir.join("data");
    let made = Command::new(program("touchstone-signer"))
        .args(["ca", "init", "--data"])
        .arg(&data)
        .output()
        .expect("run the signer");
    assert!(made.status.success(), "{made:?}");
    let policy_file = dir.join("policy.yaml");
    fs::write(&policy_file, policy).expect("write the policy");

    let clients = upstream::ClientCa::new();
    let key = SoftwareKey::generate(KeyAlgorithm::P256).expect("make a key");
    let now = Timestamp::now();
    let hour = jiff::SignedDuration::from_hours(1);
    let validity = Validity {
        not_before: now - hour,
        not_after: now + hour,
    };
    let (chain, _) = clients.issue(key.public_key(), ACCOUNT, &["signers"], validity);
    let private = key.to_pkcs8_der().expect("the key").to_vec();
    let identity = (
        certificates(chain.as_bytes()),
        PrivateKeyDer::from(PrivatePkcs8KeyDer::from(private)),
    );

    let api = ApiServer::open(ApiConfig {
        database: dir.join("api.db"),
        client_cas: vec![ClientCa {
            certificates_pem: clients.pem().into_bytes(),
            kind: CaKind::Administrators,
        }],
        anonymous: Arc::new(Nobody),
        approvers: Arc::new(Nobody),
        clock: Arc::new(ApiClock(Arc::new(SystemClock))),
    });
    let api = Arc::new(api.expect("open the API"));
    let own = Loopback::new();
    let pem_of = |tag: &str, der: &[u8]| pem::encode(&pem::Pem::new(tag, der)).into_bytes();
    let tls = ServerTls {
        certificate_chain_pem: pem_of("CERTIFICATE", &own.certificate),
        private_key_pem: pem_of("PRIVATE KEY", &own.private_key).into(),
    };
    let listener = runtime.block_on(async {
        api.ensure_namespace(NAMESPACE).await.expect("a namespace");
        TcpListener::bind("127.0.0.1:0").await.expect("listen")
    });
    let address = listener.local_addr().expect("an address");
    let serving = Arc::clone(&api);
    runtime.spawn(async move {
        let _ = serving.serve(listener, tls, CancellationToken::new()).await;
    });
    let behind = Behind {
        address,
        roots: certificates(own.ca_pem.as_bytes()),
        identity: Some(identity),
    };
    (Server::Embedded(api), behind, data, policy_file, None)
}

/// A real control plane, whose own signer is ended: ours takes its place, with its account.
fn real(policy: &str, attestation_roots: Vec<PathBuf>, signer_name: &str) -> Place {
    let setup = Setup {
        policy: policy.to_owned(),
        attestation_roots,
    };
    let mut cluster = match signer_name {
        KUBE_APISERVER_CLIENT => Cluster::start_approve_only(&setup),
        _ => Cluster::start(&setup),
    };
    cluster.kill_signer();
    let files = cluster.files().clone();
    let address: SocketAddr = files
        .server
        .trim_start_matches("https://")
        .parse()
        .expect("an address");
    let kubeconfig = fs::read(cluster.kubeconfig_of(ACCOUNT)).expect("read a kubeconfig");
    let kubeconfig: Value = serde_json::from_slice(&kubeconfig).expect("JSON");
    let token = kubeconfig
        .pointer("/users/0/user/token")
        .and_then(Value::as_str)
        .expect("a token")
        .to_owned();
    let behind = Behind {
        address,
        roots: certificates(&fs::read(&files.server_ca).expect("read the server's CA")),
        identity: None,
    };
    let server = Server::Real(Box::new(cluster));
    (server, behind, files.data, files.policy, Some(token))
}

fn certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    let blocks = pem::parse_many(pem).expect("PEM");
    blocks
        .into_iter()
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect()
}
