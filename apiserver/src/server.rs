//! The server: opened once, reached from this process or over TLS.

use std::{convert::Infallible, fmt, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request, response::Response};
use k8s_openapi::api::authentication::v1::UserInfo;
use rustls::{ServerConfig, ServerConnection};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::{
    address::Address,
    authentication::Source,
    client_certificate::{ClientCaError, ClientCas, Peer},
    config::{ClientCa, Config, ServerTls},
    connections::{self, Host, Limits},
    handlers::{self, App},
    object, resource,
    store::{Change, ChangeFn, Key, Store, StoreOpenError},
    tls::{self, TlsError},
};

/// What clients get.
const LIMITS: Limits = Limits {
    connections: 1024,
    strangers: 512,
    from_one_address: 128,
    handshake: Duration::from_secs(10),
    head: Duration::from_secs(15),
    streams: 100,
    // A watch of an administrator goes on for as long as they look.
    age: None,
};
/// Namespaces that are there from the start.
const FIRST_NAMESPACES: [&str; 2] = ["default", "kube-system"];

/// Why the server can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A client CA is not one.
    #[error("take the client CAs")]
    ClientCas(#[source] SetClientCasError),
    /// The operating system gives no random bytes.
    #[error("make a UID")]
    Randomness(#[source] getrandom::Error),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreOpenError),
}

/// Why client CAs were not taken; the old ones stay.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct SetClientCasError(ClientCaError);

/// Why the server can't serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server's own certificate or key.
    #[error("prepare TLS: {0}")]
    Tls(String, #[source] Box<dyn std::error::Error + Send + Sync>),
    /// The store.
    #[error("write to the store: {0}")]
    Store(String),
    /// The listener.
    #[error("listen")]
    Listen(#[source] io::Error),
}

impl ServeError {
    pub(crate) fn tls(error: TlsError) -> Self {
        Self::Tls(error.to_string(), Box::new(error))
    }
}

/// The embedded Kubernetes API.
#[derive(Clone)]
pub struct ApiServer {
    app: Arc<App>,
    router: Router,
}

impl ApiServer {
    /// Opens the database and prepares to serve. One process a database: a second one is refused.
    ///
    /// # Errors
    /// When the database is in use, damaged or of a newer version, or a client CA is not one.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let cas = ClientCas::new(tls::provider(), &config.client_cas)
            .map_err(|error| OpenError::ClientCas(SetClientCasError(error)))?;
        let now = config.clock.now();
        let first = FIRST_NAMESPACES
            .iter()
            .map(|name| namespace(name, now))
            .collect::<Result<_, _>>()
            .map_err(OpenError::Randomness)?;
        let store = Store::open(&config.database, config.clock.clone(), first)?;
        let app = Arc::new(App::new(
            Arc::new(store),
            Arc::new(cas),
            config.anonymous,
            config.approvers,
            config.clock,
        ));
        let router = Router::new()
            .fallback(handlers::handle)
            .with_state(app.clone());
        Ok(Self { app, router })
    }

    /// A client in this process (to be made within a tokio runtime): no socket, no credential. Who it is stands in no request and can't be sent over the
    /// network; give it [`crate::SIGNER`] or [`crate::ADMINISTRATORS`] as a group.
    #[must_use]
    pub fn client(&self, identity: UserInfo, default_namespace: &str) -> kube::Client {
        let router = self.router.clone();
        let source = Source::InProcess(Arc::new(identity));
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(source.clone());
            router.clone().oneshot(request)
        });
        kube::Client::new(service, default_namespace)
    }

    /// Replaces the CAs whose client certificates authenticate. Open connections are judged anew on their next request.
    ///
    /// # Errors
    /// When one is not a CA; the old ones stay then.
    pub fn set_client_cas(&self, cas: &[ClientCa]) -> Result<(), SetClientCasError> {
        self.app.cas.replace(cas).map_err(SetClientCasError)
    }

    /// Deletes now what has ended (it is done every half minute anyway); returns how many objects.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn collect(&self) -> Result<usize, ServeError> {
        let failed = |error: crate::status::ApiError| ServeError::Store(error.message().to_owned());
        self.app.store.collect().await.map_err(failed)
    }

    /// Makes a namespace if it is not there.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn ensure_namespace(&self, name: &str) -> Result<(), ServeError> {
        let failed = |error: crate::status::ApiError| ServeError::Store(error.message().to_owned());
        let (key, make) = namespace(name, self.app.clock.now())
            .map_err(|error| ServeError::Store(error.to_string()))?;
        self.app
            .store
            .write(key, make)
            .await
            .map(|_| ())
            .map_err(failed)
    }

    /// Serves until `shutdown` is cancelled, then lets requests finish.
    ///
    /// # Errors
    /// When the certificate can't be used or the listener fails.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: ServerTls,
        shutdown: CancellationToken,
    ) -> Result<(), ServeError> {
        let config = tls::server_config(tls::provider(), &tls).map_err(ServeError::tls)?;
        drop(tls);
        let host = Served {
            server: self.clone(),
            tls: Arc::new(config),
        };
        let app = &self.app;
        connections::serve(host, LIMITS, listener, shutdown, || app.shutdown.cancel())
            .await
            .map_err(ServeError::Listen)
    }
}

/// The API on a listener.
#[derive(Clone)]
struct Served {
    server: ApiServer,
    tls: Arc<ServerConfig>,
}

impl Host for Served {
    type Guest = Arc<Peer>;

    fn tls(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.tls)
    }

    fn greet(&self, _address: Address, tls: &ServerConnection) -> Arc<Peer> {
        let chain = tls.peer_certificates().unwrap_or_default();
        let chain = chain
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        Arc::new(Peer::new(self.server.app.cas.clone(), chain))
    }

    fn is_stranger(&self, peer: &Arc<Peer>) -> bool {
        !peer.is_holder(self.server.app.clock.now())
    }

    async fn answer(&self, peer: Arc<Peer>, mut request: Request) -> Response {
        request.extensions_mut().insert(Source::Network(peer));
        let router = self.server.router.clone();
        let answer = router.oneshot(request).await;
        answer.unwrap_or_else(|never: Infallible| match never {})
    }
}

/// The change that makes a namespace if it is not there.
fn namespace(name: &str, now: jiff::Timestamp) -> Result<(Key, ChangeFn), getrandom::Error> {
    let mut new = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    object::stamp_new(&mut new, &object::new_uid()?, now, false);
    if let Some(namespaces) = resource::find_stored("namespaces") {
        (namespaces.prepare_create)(&mut new, &UserInfo::default());
    }
    let key = Key {
        store: "namespaces",
        namespace: String::new(),
        name: name.to_owned(),
    };
    let make: ChangeFn = Box::new(|current, _| {
        Ok(match current {
            Some(current) => Change::Keep(current.clone()),
            None => Change::Put(new, None),
        })
    });
    Ok((key, make))
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}
