//! Stands between a signer and its API server, with TLS on both sides, and does to chosen calls what networks and busy API
//! servers do: answers late, twice, wrongly or not at all.

use crate::upstream::Loopback;
use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client, server, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::{Value, json};
use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    runtime::Runtime,
    sync::watch,
};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// How long a test waits for a call that it wants to stop, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// The API server behind it.
pub struct Behind {
    /// Where it listens.
    pub address: SocketAddr,
    /// What its certificate is verified with.
    pub roots: Vec<CertificateDer<'static>>,
    /// With which certificate and key the proxy comes, where clients have no other credential.
    pub identity: Option<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
}

/// One call of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Such as `PUT`.
    pub method: Method,
    /// Path and query.
    pub path: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

impl Call {
    /// Whether it follows changes.
    #[must_use]
    pub fn is_watch(&self) -> bool {
        self.path.contains("watch=")
    }

    /// Whether it is about a request, its grant, or an Event that tells of it: not the CA's record, the bundle or a lease.
    #[must_use]
    pub fn is_of_a_request(&self) -> bool {
        let kinds = ["certificatesigningrequests", "grants", "events"];
        !self.is_watch() && kinds.iter().any(|kind| self.path.contains(kind))
    }
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The API server never hears of it; this is the answer, with as many seconds of `Retry-After`.
    Answer(u16, Option<u32>),
    /// It is done, and the connection is cut before the answer.
    CutAfter,
    /// The API server never hears of it: the connection is cut.
    CutBefore,
    /// It is done, and half of the answer's body arrives.
    CutBody,
    /// It is done after a while.
    Delay(Duration),
    /// It is done twice; the second answer arrives.
    Duplicate,
    /// The API server never hears of it; the answer is a watch's whose first word is that its version is too old, which
    /// Kubernetes says with 200.
    Expire,
    /// It is done, and the answer waits for [`FaultProxy::release`].
    HoldAfter,
    /// It waits for [`FaultProxy::release`] before the API server hears of it, and then it does, whoever sent it lives or
    /// not: a write that arrives late.
    HoldBefore,
}

type Matches = Box<dyn Fn(&Call) -> bool + Send>;

struct Rule {
    matches: Matches,
    /// How many calls that match come before it.
    skip: usize,
    /// How many calls it is for.
    times: usize,
    fault: Fault,
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    rules: Vec<Rule>,
    held: usize,
    is_away: bool,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    address: SocketAddr,
    tls: TlsConnector,
    /// Counted up where all connections are cut.
    cut: watch::Sender<u64>,
    /// Counted up where what is held goes on.
    released: watch::Sender<u64>,
}

/// A running proxy. It ends when dropped.
pub struct FaultProxy {
    runtime: Option<Runtime>,
    address: SocketAddr,
    ca_pem: String,
    shared: Arc<Shared>,
}

type Body = UnsyncBoxBody<Bytes, io::Error>;

impl FaultProxy {
    /// Starts one on a port of its own.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn start(behind: Behind) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(behind.roots);
        let client = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_root_certificates(roots);
        let client = match behind.identity {
            Some((chain, key)) => client
                .with_client_auth_cert(chain, key)
                .expect("a client identity"),
            None => client.with_no_client_auth(),
        };
        let own = Loopback::new();
        let (chain, key) = own.for_tls();
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("a server identity");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let listener = runtime
            .block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
            .expect("listen");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            changed: Condvar::new(),
            address: behind.address,
            tls: TlsConnector::from(Arc::new(client)),
            cut: watch::Sender::default(),
            released: watch::Sender::default(),
        });
        let acceptor = TlsAcceptor::from(Arc::new(server));
        runtime.spawn(accept(listener, acceptor, Arc::clone(&shared)));
        Self {
            runtime: Some(runtime),
            address,
            ca_pem: own.ca_pem,
            shared,
        }
    }

    /// Such as `https://127.0.0.1:4711`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// The CA of its own certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// From now on, `fault` happens to the `nth` call that matches, from 1, and to as many after it as make `times`.
    pub fn spoil(
        &self,
        fault: Fault,
        nth: usize,
        times: usize,
        matches: impl Fn(&Call) -> bool + Send + 'static,
    ) {
        self.shared.state().rules.push(Rule {
            matches: Box::new(matches),
            skip: nth.saturating_sub(1),
            times,
            fault,
        });
    }

    /// Nothing more is spoilt, and what is held goes on.
    pub fn behave(&self) {
        self.shared.state().rules.clear();
        self.release();
    }

    /// What is held goes on; waits until it was done.
    ///
    /// # Panics
    /// When it is not done in time.
    pub fn release(&self) {
        self.shared.released.send_modify(|count| *count += 1);
        self.wait("what was held is done", |state| state.held == 0);
    }

    /// Waits until a call is held.
    ///
    /// # Panics
    /// When none is in time.
    pub fn wait_until_held(&self) {
        self.wait("a call is held", |state| state.held > 0);
    }

    fn wait(&self, what: &str, is_so: impl Fn(&State) -> bool) {
        let mut state = self.shared.state();
        let end = Instant::now() + PATIENCE;
        while !is_so(&state) {
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "waited in vain until {what}; seen: {:#?}",
                state.calls
            );
            let waited = self.shared.changed.wait_timeout(state, left);
            (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Cuts every connection, watches and all.
    pub fn cut(&self) {
        self.shared.cut.send_modify(|count| *count += 1);
    }

    /// Whether nobody gets through.
    pub fn set_away(&self, is_away: bool) {
        self.shared.state().is_away = is_away;
        if is_away {
            self.cut();
        }
    }

    /// All calls since the last time, in the order in which they arrived.
    #[must_use]
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.shared.state().calls)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What happens to this call.
    fn fault(&self, call: &Call) -> Option<Fault> {
        let mut state = self.state();
        state.calls.push(call.clone());
        let mut found = None;
        for rule in &mut state.rules {
            if rule.times == 0 || !(rule.matches)(call) {
                continue;
            }
            if rule.skip > 0 {
                rule.skip -= 1;
            } else if found.is_none() {
                rule.times -= 1;
                found = Some(rule.fault);
            }
        }
        found
    }

    /// Waits for [`FaultProxy::release`] before or after the call.
    async fn hold(&self, request: Request<Full<Bytes>>, first: bool) -> io::Result<Response<Body>> {
        let mut released = self.released.subscribe();
        let early = match first {
            true => Some(whole(self.forward(request.clone()).await?).await?),
            false => None,
        };
        self.state().held += 1;
        self.changed.notify_all();
        // The sender lives as long as this does.
        let _ = released.changed().await;
        let answer = match early {
            Some(answer) => Ok(answer),
            None => async { whole(self.forward(request).await?).await }.await,
        };
        self.state().held -= 1;
        self.changed.notify_all();
        let (head, body) = answer?;
        Ok(Response::from_parts(head, all(body)))
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |it| it.as_str());
        let call = Call {
            method: head.method.clone(),
            path: path.to_owned(),
        };
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let host = HeaderValue::from_str(&self.address.to_string()).map_err(io::Error::other)?;
        head.headers.insert(header::HOST, host);
        let request = || Request::from_parts(head.clone(), Full::new(body.clone()));
        match self.fault(&call) {
            None => self.forward(request()).await,
            Some(Fault::Answer(code, retry_after)) => Ok(refusal(code, retry_after)),
            Some(Fault::CutAfter) => {
                whole(self.forward(request()).await?).await?;
                Err(cut())
            }
            Some(Fault::CutBefore) => Err(cut()),
            Some(Fault::CutBody) => {
                let (head, body) = whole(self.forward(request()).await?).await?;
                Ok(Response::from_parts(head, half(&body)))
            }
            Some(Fault::Delay(pause)) => {
                tokio::time::sleep(pause).await;
                self.forward(request()).await
            }
            Some(Fault::Duplicate) => {
                whole(self.forward(request()).await?).await?;
                self.forward(request()).await
            }
            Some(Fault::Expire) => {
                let event = json!({ "type": "ERROR", "object": failure(410) });
                Ok(json_response(StatusCode::OK, format!("{event}\n")))
            }
            // In a task of its own, which lives on where the connection does not.
            Some(fault @ (Fault::HoldAfter | Fault::HoldBefore)) => {
                let (held, shared) = (request(), Arc::clone(&self));
                let holding = async move { shared.hold(held, fault == Fault::HoldAfter).await };
                tokio::spawn(holding).await.map_err(io::Error::other)?
            }
        }
    }

    /// Each call has a connection of its own: a fault of one is no other's.
    async fn forward(&self, request: Request<Full<Bytes>>) -> io::Result<Response<Body>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, stream).await?;
        let (mut sender, connection) = client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        tokio::spawn(connection);
        let response = sender
            .send_request(request)
            .await
            .map_err(io::Error::other)?;
        Ok(response.map(|body| body.map_err(io::Error::other).boxed_unsync()))
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        if shared.state().is_away {
            continue;
        }
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            let mut cut = shared.cut.subscribe();
            let served = async {
                let stream = tls.accept(stream).await?;
                let service = service_fn(|request| Arc::clone(&shared).answer(request));
                server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await
                    .map_err(io::Error::other)
            };
            // A connection that fails is what this is for.
            tokio::select! {
                _ = served => {}
                _ = cut.changed() => {}
            }
        });
    }
}

async fn whole(response: Response<Body>) -> io::Result<(http::response::Parts, Bytes)> {
    let (head, body) = response.into_parts();
    Ok((head, body.collect().await?.to_bytes()))
}

fn all(body: Bytes) -> Body {
    Full::new(body)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// The first half of a body, and then nothing, where the head says that there is more.
fn half(body: &Bytes) -> Body {
    let start = body.slice(..body.len() / 2);
    let frames = [Ok(hyper::body::Frame::data(start)), Err(cut())];
    http_body_util::StreamBody::new(futures::stream::iter(frames)).boxed_unsync()
}

fn cut() -> io::Error {
    io::ErrorKind::ConnectionReset.into()
}

/// A refusal in Kubernetes' words.
fn failure(code: u16) -> Value {
    let reason = match code {
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        503 => "ServiceUnavailable",
        _ => "InternalError",
    };
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "a fault that was asked for", "reason": reason, "code": code,
    })
}

fn refusal(code: u16, retry_after: Option<u32>) -> Response<Body> {
    let status = StatusCode::from_u16(code).expect("a status");
    let mut response = json_response(status, failure(code).to_string());
    if let Some(seconds) = retry_after {
        let headers = response.headers_mut();
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json_response(status: StatusCode, body: String) -> Response<Body> {
    let mut response = Response::new(all(body.into()));
    *response.status_mut() = status;
    let format = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, format);
    response
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
