//! The server: opened once, reached from this process or over TLS.

use std::{convert::Infallible, fmt, io, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::Request};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use k8s_openapi::api::authentication::v1::UserInfo;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use crate::{
    authentication::Source,
    client_certificate::{ClientCaError, ClientCas, Peer},
    config::{ClientCa, Config, ServerTls},
    handlers::{self, App},
    object,
    opening::Opening,
    resource,
    store::{Change, ChangeFn, Key, Store, StoreOpenError},
    tls::{self, TlsError},
};

/// Connections at once.
const CONNECTIONS: usize = 1024;
/// Connections at once of clients without a good certificate: they leave room for those who have one.
const STRANGERS: usize = 512;
/// How long a TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a silent HTTP/2 connection is asked whether it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(30);
/// How long connections may take to finish when the server stops.
const DRAIN: Duration = Duration::from_secs(5);
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
        let config = tls::server_config(tls::provider(), &tls)
            .map_err(|error: TlsError| ServeError::Tls(error.to_string(), Box::new(error)))?;
        drop(tls);
        let connections = Arc::new(Semaphore::new(CONNECTIONS));
        let gate = Gate {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            strangers: Arc::new(Semaphore::new(STRANGERS)),
            shutdown: shutdown.clone(),
        };
        let tracker = TaskTracker::new();
        loop {
            let slot = connections.clone().acquire_owned();
            let accepted = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = async {
                    // No slot, no accept: the backlog waits, and the clients with it.
                    let slot = slot.await;
                    (listener.accept().await, slot)
                } => accepted,
            };
            match accepted {
                (Ok((stream, _)), Ok(slot)) => {
                    let (server, gate) = (self.clone(), gate.clone());
                    tracker.spawn(async move {
                        server.connection(stream, gate).await;
                        drop(slot);
                    });
                }
                // Out of file descriptors, or the client was gone already: both pass.
                (Err(error), _) if listener.local_addr().is_ok() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "a connection was not accepted"
                    );
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                (Err(error), _) => return Err(ServeError::Listen(error)),
                (Ok(_), Err(_)) => break,
            }
        }
        drop(listener);
        self.app.shutdown.cancel();
        tracker.close();
        if timeout(DRAIN, tracker.wait()).await.is_err() {
            tracing::warn!("some connections did not finish in time");
        }
        Ok(())
    }

    async fn connection(&self, stream: TcpStream, gate: Gate) {
        // Small answers should not wait for one another.
        let _ = stream.set_nodelay(true);
        let stream = match timeout(HANDSHAKE_TIMEOUT, gate.acceptor.accept(stream)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "a TLS handshake failed"
                );
                return;
            }
            Err(_) => return,
        };
        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
        let chain = chain
            .iter()
            .map(|certificate| certificate.clone().into_owned())
            .collect();
        let peer = Arc::new(Peer::new(self.app.cas.clone(), chain));
        let _slot = if peer.is_holder(self.app.clock.now()) {
            None
        } else {
            match gate.strangers.try_acquire() {
                Ok(slot) => Some(slot),
                Err(_) => return,
            }
        };
        let source = Source::Network(peer);
        let router = self.router.clone();
        let service =
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let mut request: Request = request.map(Body::new);
                request.extensions_mut().insert(source.clone());
                let router = router.clone();
                async move {
                    router
                        .oneshot(request)
                        .await
                        .map_err(|never: Infallible| match never {})
                }
            });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .max_buf_size(64 * 1024);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .max_concurrent_streams(100)
            .max_header_list_size(16 * 1024);
        let connection =
            builder.serve_connection(TokioIo::new(Opening::new(stream, HEADER_TIMEOUT)), service);
        tokio::pin!(connection);
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = gate.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = result {
            tracing::debug!(error = &*error, "a connection ended");
        }
    }
}

/// What each connection passes.
#[derive(Clone)]
struct Gate {
    acceptor: TlsAcceptor,
    strangers: Arc<Semaphore>,
    shutdown: CancellationToken,
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
