//! The connections of a listener: accepted, limited, spoken HTTP with over TLS, and ended. Who serves what on them is a
//! [`Host`]'s business: the embedded API and the front door are two.

use std::{convert::Infallible, io, net::IpAddr, sync::Arc, time::Duration};

use axum::{body::Body, extract::Request, response::Response};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls::{ServerConfig, ServerConnection};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    address::{Address, Tally},
    opening::Opening,
};

/// After how long a silent HTTP/2 connection is asked whether it lives. One that is in the middle of a head counts as silent.
const SILENT: Duration = Duration::from_secs(20);
/// How long it may take to say so.
const ALIVE_WITHIN: Duration = Duration::from_secs(10);
/// The most bytes of a head, over HTTP/2.
const HEAD_BYTES: u32 = 16 * 1024;
/// How long connections may take to finish when the server stops, or when they have lasted for as long as they may.
const DRAIN: Duration = Duration::from_secs(5);
/// Streams that a client opened and reset before they were looked at, or made the server reset: a connection with more is
/// closed (CVE-2023-44487, CVE-2025-8671).
const RESET_STREAMS: usize = 20;

/// What a listener gives its clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Connections at once of clients whom nobody knows: they leave room for the others.
    pub(crate) strangers: usize,
    /// Of those, and of connections that have not said who they are, at once from one address.
    pub(crate) from_one_address: usize,
    /// How long a TLS handshake may take.
    pub(crate) handshake: Duration,
    /// How long the head of a request may take, and how long an HTTP/1 connection may rest between two.
    pub(crate) head: Duration,
    /// Requests at once on one HTTP/2 connection.
    pub(crate) streams: u32,
    /// How long a connection may last, if not for ever.
    pub(crate) age: Option<Duration>,
}

/// Who serves the connections of a listener.
pub(crate) trait Host: Clone + Send + Sync + 'static {
    /// What is known of a client.
    type Guest: Clone + Send + Sync + 'static;

    /// How to speak TLS with the next client.
    fn tls(&self) -> Arc<ServerConfig>;

    /// Who came, once TLS is spoken.
    fn greet(&self, address: Address, tls: &ServerConnection) -> Self::Guest;

    /// Whether it is someone whom nobody knows.
    fn is_stranger(&self, guest: &Self::Guest) -> bool;

    /// Answers a request.
    fn answer(&self, guest: Self::Guest, request: Request)
    -> impl Future<Output = Response> + Send;
}

/// Serves until `shutdown` is cancelled, then lets requests finish. `stopped` is called in between.
///
/// # Errors
/// When the listener fails.
pub(crate) async fn serve<H: Host>(
    host: H,
    limits: Limits,
    listener: TcpListener,
    shutdown: CancellationToken,
    stopped: impl FnOnce(),
) -> io::Result<()> {
    let connections = Arc::new(Semaphore::new(limits.connections));
    let gate = Gate {
        host,
        limits,
        strangers: Arc::new(Semaphore::new(limits.strangers)),
        addresses: Tally::new(limits.from_one_address),
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
            (Ok((stream, from)), Ok(slot)) => {
                let gate = gate.clone();
                tracker.spawn(async move {
                    gate.connection(stream, from.ip()).await;
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
            (Err(error), _) => return Err(error),
            (Ok(_), Err(_)) => break,
        }
    }
    drop(listener);
    stopped();
    tracker.close();
    if timeout(DRAIN, tracker.wait()).await.is_err() {
        tracing::warn!("some connections did not finish in time");
    }
    Ok(())
}

/// What each connection passes.
#[derive(Clone)]
struct Gate<H> {
    host: H,
    limits: Limits,
    strangers: Arc<Semaphore>,
    addresses: Tally,
    shutdown: CancellationToken,
}

impl<H: Host> Gate<H> {
    async fn connection(self, stream: TcpStream, from: IpAddr) {
        let limits = self.limits;
        let address = Address::from(from);
        let Some(place) = self.addresses.take(address) else {
            return;
        };
        // Small answers should not wait for one another.
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(self.host.tls());
        let stream = match timeout(limits.handshake, acceptor.accept(stream)).await {
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
        let guest = self.host.greet(address, stream.get_ref().1);
        // Many people whom we know may sit behind one address.
        let _places = if self.host.is_stranger(&guest) {
            match self.strangers.try_acquire() {
                Ok(slot) => Some((place, slot)),
                Err(_) => return,
            }
        } else {
            drop(place);
            None
        };
        let host = self.host.clone();
        let service =
            hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
                let (host, guest) = (host.clone(), guest.clone());
                let request = request.map(Body::new);
                async move { Ok::<_, Infallible>(host.answer(guest, request).await) }
            });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_buf_size(64 * 1024);
        builder
            .http2()
            .timer(TokioTimer::new())
            .keep_alive_interval(SILENT)
            .keep_alive_timeout(ALIVE_WITHIN)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(HEAD_BYTES)
            .max_pending_accept_reset_streams(RESET_STREAMS)
            .max_local_error_reset_streams(RESET_STREAMS);
        let connection =
            builder.serve_connection(TokioIo::new(Opening::new(stream, limits.head)), service);
        tokio::pin!(connection);
        let old = async {
            match limits.age {
                Some(age) => tokio::time::sleep(age).await,
                None => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
            () = old => {
                connection.as_mut().graceful_shutdown();
                match timeout(DRAIN, connection).await {
                    Ok(result) => result,
                    Err(_) => return,
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(error = &*error, "a connection ended");
        }
    }
}
