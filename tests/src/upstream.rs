//! An API server of the suites' own, with what the embedded one does not serve: pods, whose containers are processes of
//! this machine, and streams to them over WebSocket and SPDY, as kubelet and kube-apiserver speak them.
//!
//! It asks for client certificates of its own CA, speaks HTTP/2 and HTTP/1.1, gives session tickets as Go does, and counts
//! what it sees. It enforces no authorization: whoever has a certificate may do all.

mod api;
mod identity;
mod portforward;
mod process;
mod spdy;
mod streams;
mod websocket;

pub use identity::{ClientCa, Loopback};

use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::HandshakeKind;
use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    pin::pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::broadcast,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How the server is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether it gives session tickets.
    pub tickets: bool,
    /// How many streams a connection may have.
    pub streams: u32,
    /// Whether it knows WebSockets; one that does not sends kubectl to SPDY.
    pub websockets: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            tickets: true,
            // As Go's server.
            streams: 250,
            websockets: true,
        }
    }
}

/// What it saw.
#[derive(Debug, Default)]
pub struct Seen {
    /// Handshakes that a client's key signed.
    pub full: AtomicU64,
    /// Handshakes that resumed an earlier one.
    pub resumed: AtomicU64,
    /// Requests whose head arrived.
    pub requests: AtomicU64,
    heads: Mutex<Vec<String>>,
    /// Connections that are open.
    pub open: AtomicU64,
}

impl Seen {
    /// The heads of all requests, a line each with method, path and header names.
    #[must_use]
    pub fn heads(&self) -> Vec<String> {
        let heads = self.heads.lock().unwrap_or_else(PoisonError::into_inner);
        heads.clone()
    }
}

/// A running server. It ends when dropped.
#[derive(Debug)]
pub struct Upstream {
    runtime: Option<Runtime>,
    address: SocketAddr,
    dir: tempfile::TempDir,
    client_ca: ClientCa,
    seen: Arc<Seen>,
    cut: broadcast::Sender<Cut>,
}

/// What happens to the connections that are open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// GOAWAY: what is open is finished.
    Gently,
    /// Closed as they are.
    Hard,
}

pub(crate) struct State {
    options: Options,
    seen: Arc<Seen>,
    objects: api::Objects,
}

impl Upstream {
    /// Starts one.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(options: Options) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("touchstone-upstream-")
            .tempdir()
            .expect("make a temporary folder");
        let client_ca = ClientCa::new();
        let (tls, server_ca) = identity::server(&client_ca, options.tickets);
        std::fs::write(dir.path().join("server-ca.pem"), server_ca).expect("write the CA");
        std::fs::write(dir.path().join("client-ca.pem"), client_ca.pem()).expect("write the CA");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("listen");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Seen::default());
        let (cut, _) = broadcast::channel(8);
        let state = Arc::new(State {
            options,
            seen: Arc::clone(&seen),
            objects: api::Objects::default(),
        });
        runtime.spawn(accept(listener, TlsAcceptor::from(tls), state, cut.clone()));
        Self {
            runtime: Some(runtime),
            address,
            dir,
            client_ca,
            seen,
            cut,
        }
    }

    /// Such as `https://127.0.0.1:4711`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The CA of its certificate.
    #[must_use]
    pub fn server_ca(&self) -> PathBuf {
        self.dir.path().join("server-ca.pem")
    }

    /// The CA of its clients' certificates.
    #[must_use]
    pub fn client_ca_file(&self) -> PathBuf {
        self.dir.path().join("client-ca.pem")
    }

    /// What makes its clients' certificates.
    #[must_use]
    pub fn client_ca(&self) -> &ClientCa {
        &self.client_ca
    }

    /// A folder that goes when it does.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What it saw so far.
    #[must_use]
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Ends, and leaves its files.
    pub fn end(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    /// Says GOAWAY on every connection.
    pub fn go_away(&self) {
        // Nobody hears it where nothing is open.
        let _ = self.cut.send(Cut::Gently);
    }

    /// Closes every connection in the middle of what it does.
    pub fn cut(&self) {
        let _ = self.cut.send(Cut::Hard);
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.end();
    }
}

async fn accept(
    listener: TcpListener,
    tls: TlsAcceptor,
    state: Arc<State>,
    cut: broadcast::Sender<Cut>,
) {
    while let Ok((tcp, _)) = listener.accept().await {
        let (tls, state) = (tls.clone(), Arc::clone(&state));
        let cuts = cut.subscribe();
        tokio::spawn(async move {
            let _ = tcp.set_nodelay(true);
            let Ok(stream) = tls.accept(tcp).await else {
                return;
            };
            let count = match stream.get_ref().1.handshake_kind() {
                Some(HandshakeKind::Resumed) => &state.seen.resumed,
                _ => &state.seen.full,
            };
            count.fetch_add(1, Ordering::SeqCst);
            state.seen.open.fetch_add(1, Ordering::SeqCst);
            serve(stream, &state, cuts).await;
            state.seen.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn serve(
    stream: TlsStream<TcpStream>,
    state: &Arc<State>,
    mut cuts: broadcast::Receiver<Cut>,
) {
    let (_, connection) = stream.get_ref();
    let who = connection
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|certificate| identity::read_client(certificate))
        .unwrap_or_default();
    let http2 = connection.alpn_protocol() == Some(b"h2");
    let service = service_fn(|mut request: http::Request<Incoming>| {
        let (state, who) = (Arc::clone(state), who.clone());
        request.extensions_mut().insert(who);
        async move {
            state.note(&request);
            Ok::<_, Infallible>(api::answer(&state, request).await)
        }
    });
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            loop {
                tokio::select! {
                    _ = connection.as_mut() => return,
                    cut = cuts.recv() => match cut {
                        Ok(Cut::Gently) => connection.as_mut().graceful_shutdown(),
                        Ok(Cut::Hard) | Err(_) => return,
                    },
                }
            }
        }};
    }
    if http2 {
        drive!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(state.options.streams)
                .serve_connection(TokioIo::new(stream), service)
        )
    } else {
        drive!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
        )
    }
}

impl State {
    fn note(&self, request: &http::Request<Incoming>) {
        self.seen.requests.fetch_add(1, Ordering::SeqCst);
        let names: Vec<&str> = request
            .headers()
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        let head = format!("{} {} {}", request.method(), request.uri(), names.join(","));
        self.seen
            .heads
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(head);
    }
}
