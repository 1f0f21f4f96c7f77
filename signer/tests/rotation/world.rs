//! An embedded API behind TLS, a clock that is moved by hand, and a signer whose writes are counted, refused or its last.

use crate::{
    cut::Cut,
    leaf::Leaf,
    softhsm::{self, Token},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{authentication::v1::UserInfo, core::v1::Secret},
};
use kube::{
    Api, Client, Config,
    api::{DeleteParams, PostParams},
};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use touchstone_apiserver::{
    ADMINISTRATORS, ApiServer, CaKind, ClientCa, Config as ApiConfig, Nobody, SIGNER, ServerTls,
};
use touchstone_common::key::{KeyAlgorithm, SoftwareKey};
use touchstone_signer::{
    audit::{AuditLog, FILE_NAME},
    bundle::Bundle,
    ca::{
        authority::Authority,
        bootstrap, endpoint,
        key::{KeyPlace, SecretFile, TokenSettings},
        lifecycle::{Length, Root, Schedule, Settings},
        record::{Binding, Record},
        rotation::{self, Parts, Rotation, RotationError, Trust},
        settings::CaSettings,
        store,
    },
    clock::{ApiClock, Clock},
    data_dir::DataDir,
    lease::Leadership,
    metrics::Metrics,
};

/// How long CAs are kept after their last leaf, in seconds of the clock.
pub(crate) const KEEP: i64 = 60;
/// How far the clock goes between two looks.
const TICK: i64 = 50;
/// How far the clock goes between two looks while it is wrong.
const LOOK: i64 = 600;
/// More than a quarter has.
const MAX_TICKS: u32 = 400;
const QUARTER: Settings = Settings {
    root: Root::Own,
    lifetime: Length::seconds(1200),
    activate_every: Length::seconds(900),
    prepare_after: Length::seconds(700),
    publish_before: Length::seconds(140),
    keep_after_last_leaf: Length::seconds(KEEP as u32),
    longest_leaf: Length::seconds(60),
};

/// A quarter of a month, for clocks that go wrong by a day and by a year.
pub(crate) const MONTH: Settings = Settings {
    root: Root::None,
    lifetime: Length::days(30),
    activate_every: Length::days(15),
    prepare_after: Length::days(9),
    publish_before: Length::days(3),
    keep_after_last_leaf: Length::days(1),
    longest_leaf: Length::days(1),
};

/// What someone does to the record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spoil {
    Empty,
    Truncated,
    OtherCluster,
    KeyOfAnother,
    Deleted,
}

#[derive(Debug)]
struct HandClock(Mutex<Timestamp>);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

struct Trusting {
    api: Arc<ApiServer>,
    is_frozen: Arc<AtomicBool>,
}

impl Trust for Trusting {
    fn trust(&self, bundle: Option<&Bundle>) -> Result<(), String> {
        // An API server that does not hear of another bundle.
        if self.is_frozen.load(Ordering::SeqCst) {
            return Ok(());
        }
        let cas: Vec<ClientCa> = bundle
            .map(|bundle| ClientCa {
                certificates_pem: bundle.to_pem().into_bytes(),
                kind: CaKind::Engineers,
            })
            .into_iter()
            .collect();
        self.api.set_client_cas(&cas).map_err(|it| it.to_string())
    }
}

pub(crate) struct World {
    api: Arc<ApiServer>,
    audit: AuditLog,
    clock: Arc<HandClock>,
    data: Arc<DataDir>,
    endpoint: Config,
    is_away: Arc<AtomicBool>,
    is_frozen: Arc<AtomicBool>,
    keys: KeyPlace,
    leaves: Vec<Leaf>,
    metrics: Arc<Metrics>,
    settings: Settings,
    /// How far the clock goes between two looks, in seconds.
    tick: i64,
    died: Arc<Notify>,
    rotations: Vec<Rotation>,
    server: JoinHandle<()>,
    // Last: everything else lives in it.
    temp: TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl World {
    /// With keys in files.
    pub(crate) async fn new(root: Root) -> Self {
        Self::with_keys(root, None).await
    }

    /// By other settings, with as many seconds between two looks.
    pub(crate) async fn with(settings: Settings, tick: i64) -> Self {
        let mut world = Self::new(settings.root).await;
        (world.settings, world.tick) = (settings, tick);
        world
    }

    /// With keys in a token, or in files.
    pub(crate) async fn with_keys(root: Root, token: Option<&Token>) -> Self {
        // Another one in the same process chose the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let temp = tempfile::tempdir().unwrap();
        let data = Arc::new(DataDir::open(&temp.path().join("data")).unwrap());
        let clock = Arc::new(HandClock(Mutex::new(Timestamp::now())));
        let shared = Arc::clone(&clock) as Arc<dyn Clock>;
        let api = Arc::new(
            ApiServer::open(ApiConfig {
                database: temp.path().join("api.db"),
                client_cas: Vec::new(),
                anonymous: Arc::new(Nobody),
                approvers: Arc::new(Nobody),
                clock: Arc::new(ApiClock(shared)),
            })
            .unwrap(),
        );
        let names = endpoint::ServerNames::new(None, &[]);
        let server = endpoint::server(&data, &names, Timestamp::now()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut endpoint = Config::new(format!("https://{address}").parse().unwrap());
        let ca = pem::parse(&server.ca_pem).unwrap();
        endpoint.root_cert = Some(vec![ca.contents().to_vec()]);
        let tls = ServerTls {
            certificate_chain_pem: server.certificate_pem.into_bytes(),
            private_key_pem: zeroize::Zeroizing::new(server.private_key_pem.as_bytes().to_vec()),
        };
        let serving = Arc::clone(&api);
        let server = tokio::spawn(async move {
            let _ = serving.serve(listener, tls, CancellationToken::new()).await;
        });
        let audit = temp.path().join(FILE_NAME);
        let keys = match token {
            Some(token) => in_token(token),
            None => KeyPlace::File {
                folder: data.file("keys"),
                passphrase: None,
            },
        };
        Self {
            api,
            audit: AuditLog::open(&audit, clock.now()).unwrap(),
            clock,
            data,
            endpoint,
            is_away: Arc::default(),
            is_frozen: Arc::default(),
            keys,
            leaves: Vec::new(),
            metrics: Arc::default(),
            settings: Settings { root, ..QUARTER },
            tick: TICK,
            died: Arc::default(),
            rotations: Vec::new(),
            server,
            temp,
        }
    }

    /// Without a root, its first CA signing.
    pub(crate) async fn with_an_active_ca() -> Self {
        let mut world = Self::new(Root::None).await;
        world.begin().await;
        world
    }

    /// Starts the signer and waits for its first CA.
    pub(crate) async fn begin(&mut self) {
        self.start(Cut::Never).await;
        let is_active = |record: &Record| record.lifecycle().active().is_some();
        self.go_until("ca-1 is active", is_active).await;
    }

    /// Starts the signer in place of the one that was there.
    pub(crate) async fn start(&mut self, cut: Cut) {
        self.rotations.clear();
        let died = Arc::clone(&self.died);
        let opening = self.open(cut);
        tokio::select! {
            rotation = opening => self.rotations.push(rotation.unwrap()),
            () = died.notified() => {}
        }
    }

    pub(crate) async fn start_another(&mut self) {
        let other = self.open(Cut::Never).await.unwrap();
        self.rotations.push(other);
    }

    /// The signer's next start is with a data directory that has nothing in it.
    pub(crate) fn lose_the_data_directory(&mut self) {
        let other = self.temp.path().join("another");
        self.data = Arc::new(DataDir::open(&other).unwrap());
    }

    pub(crate) async fn try_start(&self) -> Result<(), RotationError> {
        self.open(Cut::Never).await.map(|_| ())
    }

    fn open(&self, cut: Cut) -> impl Future<Output = Result<Rotation, RotationError>> + use<> {
        let schedule = Schedule::new(self.settings);
        let settings = CaSettings {
            schedule: schedule.unwrap(),
            ..CaSettings::usual(self.keys.clone())
        };
        let parts = Parts {
            founded: rotation::found(&self.data, &settings, self.clock.now()).unwrap(),
            settings,
            binding: binding(),
            namespace: "default".into(),
            signer_name: "touchstone.dev/client".into(),
            data: Arc::clone(&self.data),
            endpoints: vec![self.endpoint.clone()],
            trust: Arc::new(Trusting {
                api: Arc::clone(&self.api),
                is_frozen: Arc::clone(&self.is_frozen),
            }),
            leadership: Leadership::alone(),
        };
        let (audit, metrics) = (self.audit.clone(), Arc::clone(&self.metrics));
        let clock = Arc::clone(&self.clock) as Arc<dyn Clock>;
        Rotation::open(self.client(cut), parts, audit, clock, metrics)
    }

    fn client(&self, cut: Cut) -> Client {
        let inner = self.identified("touchstone-signer", SIGNER);
        cut.client(inner, &self.died, &self.is_away)
    }

    fn identified(&self, user: &str, group: &str) -> Client {
        let identity = UserInfo {
            username: Some(user.into()),
            groups: Some(vec![group.into(), "system:authenticated".into()]),
            ..UserInfo::default()
        };
        self.api.client(identity, "default")
    }

    /// One look of every signer.
    pub(crate) async fn look(&mut self) -> Result<(), RotationError> {
        let looks = self.rotations.iter_mut().map(Rotation::look);
        for result in futures::future::join_all(looks).await {
            result?;
        }
        Ok(())
    }

    /// Lets time pass and everyone work until `is_over`; leaves are signed and used all the way.
    pub(crate) async fn go_until(&mut self, what: &str, is_over: impl Fn(&Record) -> bool) {
        for _ in 0..MAX_TICKS {
            self.look().await.unwrap();
            self.use_leaves().await;
            if is_over(&self.record().await) {
                return;
            }
            self.advance(self.tick);
        }
        panic!(
            "{what}: it never came to this: {:#?}",
            self.record().await.lifecycle()
        );
    }

    /// Whether the signer died before the first CA was gone.
    pub(crate) async fn go_until_it_dies(&mut self) -> bool {
        let died = Arc::clone(&self.died);
        if self.rotations.is_empty() {
            return true;
        }
        for _ in 0..MAX_TICKS {
            let is_dead = tokio::select! {
                biased;
                () = died.notified() => true,
                looked = self.look() => {
                    looked.unwrap();
                    false
                }
            };
            if is_dead {
                self.rotations.clear();
                return true;
            }
            self.use_leaves().await;
            let record = self.record().await;
            let first = record.lifecycle().cas().first();
            if first.is_some_and(|ca| ca.removed().is_some()) {
                return false;
            }
            self.advance(self.tick);
        }
        panic!("the quarter has no end");
    }

    /// Every signer signs what it may, and every living leaf authenticates.
    async fn use_leaves(&mut self) {
        let now = self.clock.now();
        for rotation in &self.rotations {
            let authority: Arc<Authority> = Arc::clone(&rotation.subscribe().borrow());
            if let Ok(signing) = authority.may_sign(now) {
                self.leaves.push(Leaf::of(&signing, now));
            }
        }
        self.leaves.retain(|leaf| leaf.not_after >= now);
        let mut checked: BTreeMap<&str, &Leaf> = BTreeMap::new();
        for leaf in &self.leaves {
            // The oldest of each CA.
            checked.entry(&leaf.ca).or_insert(leaf);
        }
        for leaf in checked.into_values() {
            leaf.authenticates(&self.endpoint).await;
        }
    }

    /// Whether openssl believes the newest leaf, with no more than the trust bundle of the moment.
    pub(crate) fn openssl_verifies_the_newest_leaf(&self) {
        let folder = self.data.path();
        let (leaf, bundle) = (
            folder.join("leaf.pem"),
            folder.join(bootstrap::TRUST_BUNDLE),
        );
        fs::write(&leaf, &self.leaves.last().unwrap().pem).unwrap();
        let at = self.clock.now().as_second().to_string();
        let mut openssl = Command::new("openssl");
        openssl.args(["verify", "-x509_strict", "-attime", &at, "-CAfile"]);
        softhsm::run(openssl.arg(bundle).arg("-untrusted").arg(&leaf).arg(&leaf));
    }

    pub(crate) fn advance(&self, seconds: i64) {
        let mut now = self.clock.0.lock().unwrap();
        *now = now.checked_add(SignedDuration::from_secs(seconds)).unwrap();
    }

    /// The clock is wrong by so many seconds for some looks, and then right again. What was signed before it is in
    /// people's hands all the while; what was signed meanwhile is nobody's.
    pub(crate) async fn be_wrong_for(&mut self, seconds: i64, looks: u32) {
        let theirs = std::mem::take(&mut self.leaves);
        self.advance(seconds);
        for _ in 0..looks {
            // A clock that is wrong may make steps impossible; it must not make them harmful.
            let _ = self.look().await;
            self.use_leaves().await;
            self.advance(LOOK);
        }
        self.advance(-seconds);
        self.leaves = theirs;
    }

    /// Every living leaf authenticates at this moment.
    pub(crate) async fn nobody_is_cut_off(&self) {
        let now = self.clock.now();
        let living = self.leaves.iter().filter(|leaf| leaf.not_after >= now);
        assert!(living.clone().count() > 0, "somebody works");
        for leaf in living {
            leaf.authenticates(&self.endpoint).await;
        }
    }

    pub(crate) async fn advance_to_the_end_of_the_active_ca(&mut self, seconds: i64) {
        let record = self.record().await;
        let end = record
            .lifecycle()
            .active()
            .unwrap()
            .lifetime()
            .unwrap()
            .not_after;
        let end = end.checked_add(SignedDuration::from_secs(seconds)).unwrap();
        while self.clock.now() < end {
            let left = end.duration_since(self.clock.now()).as_secs().max(1);
            self.advance(left.min(TICK));
            self.look().await.unwrap();
        }
    }

    pub(crate) fn freeze_trust(&self, is_frozen: bool) {
        self.is_frozen.store(is_frozen, Ordering::SeqCst);
        if !is_frozen {
            // It hears of the bundle of the moment.
            let file = fs::read(self.data.file(bootstrap::TRUST_BUNDLE)).unwrap();
            let ca = ClientCa {
                certificates_pem: file,
                kind: CaKind::Engineers,
            };
            self.api.set_client_cas(&[ca]).unwrap();
        }
    }

    pub(crate) fn cut_off(&self, is_away: bool) {
        self.is_away.store(is_away, Ordering::SeqCst);
    }

    /// Keys are made in this token from now on.
    pub(crate) async fn move_keys_to(&mut self, token: &Token) {
        self.keys = in_token(token);
        self.start(Cut::Never).await;
    }

    pub(crate) async fn set_root(&mut self, root: Root) {
        self.settings.root = root;
        self.start(Cut::Never).await;
    }

    pub(crate) fn may_sign(&self) -> bool {
        let rotation = self.rotations.first().unwrap();
        let authority = Arc::clone(&rotation.subscribe().borrow());
        authority.may_sign(self.clock.now()).is_ok()
    }

    pub(crate) fn metrics(&self) -> String {
        self.metrics.encode()
    }

    fn secrets(&self) -> Api<Secret> {
        Api::default_namespaced(self.identified("admin", ADMINISTRATORS))
    }

    pub(crate) async fn raw_record(&self) -> Option<Vec<u8>> {
        let secret = self.secrets().get_opt(store::SECRET).await.unwrap()?;
        secret
            .data
            .and_then(|mut data| Some(data.remove("record.json")?.0))
    }

    pub(crate) async fn record(&self) -> Record {
        Record::from_json(&self.raw_record().await.unwrap(), Some(&binding())).unwrap()
    }

    /// Spoils the record; what stood there.
    pub(crate) async fn spoil(&self, how: Spoil) -> Secret {
        let secret = self.secrets().get(store::SECRET).await.unwrap();
        let text = String::from_utf8(self.raw_record().await.unwrap()).unwrap();
        let spoiled = match how {
            Spoil::Deleted => {
                let secrets = self.secrets();
                secrets
                    .delete(store::SECRET, &DeleteParams::default())
                    .await
                    .unwrap();
                return secret;
            }
            Spoil::Empty => String::new(),
            Spoil::Truncated => text.split_at(text.len() / 2).0.to_owned(),
            Spoil::OtherCluster => text.replace("\"world\"", "\"elsewhere\""),
            Spoil::KeyOfAnother => {
                // The active CA's key file is another's: seen by whoever opens it.
                let path = fs::read_dir(self.data.file("keys"))
                    .unwrap()
                    .next()
                    .unwrap();
                let path = path.unwrap().path();
                let other = path.with_file_name("other.pem");
                let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
                fs::copy(&path, &other).unwrap();
                fs::write(&other, key.to_pkcs8_pem().unwrap().as_bytes()).unwrap();
                text.replace(path.to_str().unwrap(), other.to_str().unwrap())
            }
        };
        let mut other = secret.clone();
        other.data = Some(BTreeMap::from([(
            "record.json".to_owned(),
            ByteString(spoiled.into_bytes()),
        )]));
        self.secrets()
            .replace(store::SECRET, &PostParams::default(), &other)
            .await
            .unwrap();
        secret
    }

    pub(crate) async fn restore(&self, mut whole: Secret) {
        whole.metadata.resource_version = None;
        whole.metadata.uid = None;
        let secrets = self.secrets();
        let _ = secrets
            .delete(store::SECRET, &DeleteParams::default())
            .await;
        secrets
            .create(&PostParams::default(), &whole)
            .await
            .unwrap();
        let other = self.data.file("keys").join("other.pem");
        let _ = fs::remove_file(other);
    }

    pub(crate) fn trust_bundle_file(&self) -> String {
        fs::read_to_string(self.data.file(bootstrap::TRUST_BUNDLE)).unwrap()
    }

    /// The one key there is cannot be removed as a file any more; where it was.
    pub(crate) fn put_a_folder_in_place_of_the_key(&self) -> PathBuf {
        let mut keys = fs::read_dir(self.data.file("keys")).unwrap();
        let key = keys.next().unwrap().unwrap().path();
        fs::remove_file(&key).unwrap();
        fs::create_dir(&key).unwrap();
        key
    }

    /// How many keys of issuing CAs there are on disk.
    pub(crate) fn key_files(&self) -> usize {
        let made = fs::read_dir(self.data.file("keys")).map_or(0, Iterator::count);
        let adopted = self.data.file("ca/issuing/key.pem").exists();
        made + usize::from(adopted)
    }
}

fn in_token(token: &Token) -> KeyPlace {
    KeyPlace::Pkcs11(TokenSettings {
        module: softhsm::MODULE.into(),
        token: token.label().into(),
        serial: None,
        pin: SecretFile {
            file: token.pin_file().into(),
        },
    })
}

fn binding() -> Binding {
    Binding {
        cluster: "prod".into(),
        uid: "world".into(),
    }
}
