//! The front door of another API: attested requests come in here without a credential of that API, are judged, and are
//! created there by the account that the front door has. Whoever made one reads it back with its one-time token. Nothing
//! else is served, and nothing that a client sends reaches the other API but the request that the key signed.

mod answers;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::{extract::Request, response::Response};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestSpec,
};
use kube::Api;
use rustls::{
    ServerConfig, ServerConnection,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::sync::CancellationToken;

use crate::{
    address::{Address, Tally},
    config::{Refusal, ServerTls},
    connections::{self, Host, Limits},
    judging::Judging,
    quota::{Quota, Rate},
    server::ServeError,
    tls,
};

/// What clients get. All of them are strangers.
const LIMITS: Limits = Limits {
    connections: 512,
    strangers: 512,
    from_one_address: 64,
    handshake: Duration::from_secs(5),
    head: Duration::from_secs(10),
    streams: 16,
    // Longer than a watch.
    age: Some(Duration::from_secs(600)),
};
/// Requests that are worked on at once, watches aside.
const IN_FLIGHT: usize = 64;
/// Of those, from one address.
const IN_FLIGHT_FROM_ONE_ADDRESS: usize = 16;
/// Requests whose evidence is judged at once: strangers get two cores' worth at most.
const JUDGED: usize = 2;
/// Watches at once.
const WATCHES: usize = 256;
/// Requests of any kind from one address.
const FROM_ONE_ADDRESS: Rate = Rate {
    at_once: 240,
    every: Duration::from_millis(250),
};
/// Requests that one key signs: each is kept in the cluster for up to a day.
const BY_ONE_KEY: Rate = Rate {
    at_once: 20,
    every: Duration::from_secs(15),
};
/// Refusals that are logged; more of them are only counted.
const LOGGED: Rate = Rate {
    at_once: 50,
    every: Duration::from_secs(1),
};

/// What the front door judges by. Both are called off the async threads and may take a millisecond of CPU.
pub trait Doorkeeper: Send + Sync {
    /// Judges the spec of a request as the client sent it.
    ///
    /// # Errors
    /// The reason, as the client is to read it.
    fn admit(&self, spec: &CertificateSigningRequestSpec) -> Result<Admitted, Refusal>;

    /// Who may read back the request with these bytes (`spec.request`); `None` when nobody may.
    fn reader(&self, request: &[u8]) -> Option<Reader>;

    /// Counts what became of a request to the front door.
    fn count(&self, outcome: FrontOutcome);
}

/// What is created for someone whose request was taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Admitted {
    /// Names the key: what one key asks is limited together.
    pub key: String,
    /// Becomes `metadata.generateName`.
    pub generate_name: String,
    /// Become `metadata.annotations`: for people. Nothing that is decided may depend on them.
    pub annotations: BTreeMap<String, String>,
    /// Becomes `spec`; what the API server sets there is left empty.
    pub spec: CertificateSigningRequestSpec,
    /// Who may read it back.
    pub reader: Reader,
}

/// Who may read a request back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// The name that the request's key is enrolled for.
    pub username: String,
    /// SHA-256 of the 32 bytes that, as a bearer token, read the request.
    pub token_sha256: [u8; 32],
}

/// What became of a request to the front door.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontOutcome {
    /// It was created.
    Created,
    /// The cluster did not do what was asked of it.
    Failed,
    /// It came from someone who has no turn, or there was no room.
    Limited,
    /// It was read or watched.
    Read,
    /// It was not taken, or asked for what is not served.
    Refused,
}

/// What a front door is made of.
pub struct FrontConfig {
    /// Requests of the cluster, as the front door's own account reaches them.
    pub requests: Api<CertificateSigningRequest>,
    /// What the cluster calls that account: `spec.username` of what it creates.
    pub account: String,
    /// The signer names that requests are taken for.
    pub signer_names: Vec<String>,
    /// Judges.
    pub doorkeeper: Arc<dyn Doorkeeper>,
    /// Its first certificate.
    pub tls: ServerTls,
}

/// The front door of another API.
#[derive(Clone)]
pub struct FrontDoor {
    shared: Arc<Shared>,
    tls: Arc<ServerConfig>,
}

/// What all answers share.
struct Shared {
    requests: Api<CertificateSigningRequest>,
    account: String,
    signer_names: Vec<String>,
    doorkeeper: Arc<dyn Doorkeeper>,
    certificate: Certificate,
    in_flight: Semaphore,
    in_flight_by_address: Tally,
    judging: Judging,
    watches: Arc<Semaphore>,
    by_address: Quota<Address>,
    by_key: Quota<String>,
    logged: Quota<()>,
    shutdown: CancellationToken,
}

impl FrontDoor {
    /// Prepares to serve.
    ///
    /// # Errors
    /// When the certificate and its key can't be used.
    pub fn new(config: FrontConfig) -> Result<Self, ServeError> {
        let certificate = Certificate::new(&config.tls)?;
        let tls = tls::front_config(Arc::new(certificate.clone())).map_err(ServeError::tls)?;
        Ok(Self {
            shared: Arc::new(Shared {
                requests: config.requests,
                account: config.account,
                signer_names: config.signer_names,
                doorkeeper: config.doorkeeper,
                certificate,
                in_flight: Semaphore::new(IN_FLIGHT),
                in_flight_by_address: Tally::new(IN_FLIGHT_FROM_ONE_ADDRESS),
                judging: Judging::new(JUDGED),
                watches: Arc::new(Semaphore::new(WATCHES)),
                by_address: Quota::new(FROM_ONE_ADDRESS),
                by_key: Quota::new(BY_ONE_KEY),
                logged: Quota::new(LOGGED),
                shutdown: CancellationToken::new(),
            }),
            tls: Arc::new(tls),
        })
    }

    /// Shows new connections another certificate.
    ///
    /// # Errors
    /// When it and its key can't be used; the old one stays then.
    pub fn set_certificate(&self, tls: &ServerTls) -> Result<(), ServeError> {
        self.shared.certificate.replace(tls)
    }

    /// Serves until `shutdown` is cancelled, then lets requests finish.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let ended = &self.shared.shutdown;
        connections::serve(self.clone(), LIMITS, listener, shutdown, || ended.cancel())
            .await
            .map_err(ServeError::Listen)
    }
}

impl Host for FrontDoor {
    type Guest = Address;

    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }

    fn greet(&self, address: Address, _tls: &ServerConnection) -> Address {
        address
    }

    fn is_stranger(&self, _guest: &Address) -> bool {
        true
    }

    async fn answer(&self, address: Address, request: Request) -> Response {
        answers::handle(Arc::clone(&self.shared), address, request).await
    }
}

/// The certificate of the moment.
#[derive(Clone, Debug)]
struct Certificate(Arc<RwLock<Arc<CertifiedKey>>>);

impl Certificate {
    fn new(tls: &ServerTls) -> Result<Self, ServeError> {
        let key = tls::certified_key(tls).map_err(ServeError::tls)?;
        Ok(Self(Arc::new(RwLock::new(Arc::new(key)))))
    }

    fn replace(&self, tls: &ServerTls) -> Result<(), ServeError> {
        let key = tls::certified_key(tls).map_err(ServeError::tls)?;
        // One pointer is changed: a panic elsewhere leaves it sound.
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(key);
        Ok(())
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(
            &self.0.read().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

impl fmt::Debug for FrontDoor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontDoor").finish_non_exhaustive()
    }
}
