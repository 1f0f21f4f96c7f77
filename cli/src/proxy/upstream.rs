//! The API server's side: one HTTP/2 connection for all ordinary requests, and one HTTP/1.1 connection for each upgrade.
//!
//! Each new connection costs a signature, unless it resumes the TLS session of an earlier one. So connections are made one
//! after the other, are shared up to what the server allows, and another one is opened only when none gets free.

mod tickets;

use super::{keeper::Keeper, trouble::Trouble};
use crate::{
    api,
    error::{Error, Exit},
    talk::Talk,
    tls::{Identity, Target},
};
use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared},
};
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::client::Resumption;
use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tickets::Tickets;
use tokio::{net::TcpStream, runtime::Handle, sync::Notify};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::sync::CancellationToken;

/// A handshake that takes longer has failed: kube-apiserver gives one 32 s, a card 15 s for the touch.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(32);
/// The streams of a connection until the server has said how many it allows (RFC 9113 section 6.5.2: no fewer than 100).
const STREAMS: usize = 100;
/// How long a request waits for room on the connections that are there before another is opened.
const ROOM_WITHIN: Duration = Duration::from_secs(1);
/// What one stream may be ahead of its reader.
const STREAM_WINDOW: u32 = 1 << 20;
/// All streams together: a reader that stands still must not stop the others.
const CONNECTION_WINDOW: u32 = 128 << 20;
/// The most bytes of an answer's headers.
const MAX_HEADERS: u32 = 256 * 1024;
/// A connection that does not answer a ping is dead: half open, or from before the machine slept.
const PING_EVERY: Duration = Duration::from_secs(30);
const PONG_WITHIN: Duration = Duration::from_secs(15);

/// What a request's body may be.
pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The connections that one certificate opens.
pub(super) struct Upstream<B> {
    target: Arc<Target>,
    identity: Arc<Identity>,
    keeper: Arc<Keeper>,
    ordinary: TlsConnector,
    upgrades: TlsConnector,
    tickets: Arc<Tickets>,
    pool: Mutex<Vec<Arc<Connection<B>>>>,
    dial: Mutex<Option<Dial>>,
    one_handshake: Arc<tokio::sync::Mutex<()>>,
    room: Notify,
    freed: AtomicUsize,
    ended: CancellationToken,
    open: Arc<AtomicUsize>,
}

type Dial = Shared<BoxFuture<'static, Result<(), Trouble>>>;

/// One HTTP/2 connection.
struct Connection<B> {
    sender: http2::SendRequest<B>,
    streams: AtomicUsize,
    most: Arc<AtomicUsize>,
}

/// Room for one stream on a connection.
pub(super) struct Lease<B: Body + Send + Unpin + 'static> {
    upstream: Arc<Upstream<B>>,
    connection: Arc<Connection<B>>,
}

impl<B: Body + Send + Unpin + 'static> Drop for Lease<B> {
    fn drop(&mut self) {
        self.connection.streams.fetch_sub(1, Ordering::AcqRel);
        self.upstream.freed.fetch_add(1, Ordering::AcqRel);
        self.upstream.room.notify_one();
    }
}

/// A request that got no answer, and whether the server cannot have seen it.
pub(super) enum Unanswered<B> {
    Unsent(Box<Request<B>>),
    Failed(Trouble),
}

impl<B> Upstream<B>
where
    B: Body<Error = BoxError> + Send + Unpin + 'static,
    B::Data: Send,
{
    /// Prepares; nothing is opened yet.
    ///
    /// # Errors
    /// When TLS cannot be set up, or the chain is none.
    pub(super) fn new(
        target: Arc<Target>,
        keeper: Arc<Keeper>,
        chain_pem: &str,
        ended: CancellationToken,
        open: Arc<AtomicUsize>,
    ) -> Result<Self, Trouble> {
        let key = Arc::<Keeper>::clone(&keeper);
        let identity = Arc::new(Identity::new(key, chain_pem)?);
        let tickets = Arc::new(Tickets::new());
        let mut tls = target.client_config(&identity)?;
        tls.resumption = Resumption::store(Arc::<Tickets>::clone(&tickets));
        let speaking = |protocol: &[u8]| {
            let mut tls = tls.clone();
            tls.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(tls))
        };
        Ok(Self {
            ordinary: speaking(b"h2"),
            upgrades: speaking(b"http/1.1"),
            target,
            identity,
            keeper,
            tickets,
            pool: Mutex::default(),
            dial: Mutex::default(),
            one_handshake: Arc::default(),
            room: Notify::new(),
            freed: AtomicUsize::new(0),
            ended,
            open,
        })
    }

    /// The server.
    pub(super) fn target(&self) -> &Target {
        &self.target
    }

    /// The card.
    pub(super) fn keeper(&self) -> &Arc<Keeper> {
        &self.keeper
    }

    fn pool(&self) -> MutexGuard<'_, Vec<Arc<Connection<B>>>> {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one request, on the connection that is there or on a new one.
    ///
    /// # Errors
    /// When there is no connection to be had; `talk` was told of the touch.
    pub(super) async fn lease(self: &Arc<Self>, talk: &Arc<dyn Talk>) -> Result<Lease<B>, Trouble> {
        let mut waited = false;
        loop {
            let mut room = pin!(self.room.notified());
            room.as_mut().enable();
            let there = match self.room_now() {
                Ok(lease) => return Ok(lease),
                Err(there) => there,
            };
            if there > 0 && !waited {
                let freed = self.freed.load(Ordering::Acquire);
                let in_vain = tokio::time::timeout(ROOM_WITHIN, room).await.is_err();
                // Where streams end, a turn comes; where none does, they are watches.
                waited = in_vain && freed == self.freed.load(Ordering::Acquire);
                continue;
            }
            tokio::select! {
                dialled = self.dial(talk) => {
                    dialled?;
                    waited = false;
                }
                () = room => {}
            }
        }
    }

    /// Sees to it that there is a connection.
    ///
    /// # Errors
    /// As [`Upstream::lease`].
    pub(super) async fn reach(self: &Arc<Self>, talk: &Arc<dyn Talk>) -> Result<(), Trouble> {
        if self.is_open() {
            return Ok(());
        }
        self.dial(talk).await
    }

    /// Whether there is a connection.
    pub(super) fn is_open(&self) -> bool {
        let pool = self.pool();
        pool.iter().any(|connection| !connection.sender.is_closed())
    }

    /// Room on a connection that is open; else how many are.
    fn room_now(self: &Arc<Self>) -> Result<Lease<B>, usize> {
        let mut pool = self.pool();
        pool.retain(|connection| !connection.sender.is_closed());
        let taken = |connection: &&Arc<Connection<B>>| {
            let most = connection.most.load(Ordering::Acquire);
            connection
                .streams
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |open| {
                    (open < most).then_some(open + 1)
                })
                .is_ok()
        };
        match pool.iter().find(taken) {
            Some(connection) => Ok(Lease {
                upstream: Arc::clone(self),
                connection: Arc::clone(connection),
            }),
            None => Err(pool.len()),
        }
    }

    /// The connection that is being opened, or a new one: it is opened even when whoever wanted it goes away, since
    /// someone may be reaching for the key already.
    fn dial(self: &Arc<Self>, talk: &Arc<dyn Talk>) -> Dial {
        let mut current = self.dial.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(dial) = &*current {
            return dial.clone();
        }
        let (upstream, talk) = (Arc::clone(self), Arc::clone(talk));
        let opening = tokio::spawn(async move {
            let opened = upstream.open_ordinary(talk).await;
            *upstream.dial.lock().unwrap_or_else(PoisonError::into_inner) = None;
            opened
        });
        let dial = async move {
            opening
                .await
                .unwrap_or_else(|_| Err(Error::TaskEnded("connecting to the server").into()))
        }
        .boxed()
        .shared();
        *current = Some(dial.clone());
        dial
    }

    async fn open_ordinary(self: &Arc<Self>, talk: Arc<dyn Talk>) -> Result<(), Trouble> {
        let stream = self.handshake(&self.ordinary, talk).await?;
        if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
            return Err(Trouble::unreachable(
                self.target.server(),
                "it does not speak HTTP/2",
            ));
        }
        let (sender, mut connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_max_send_streams(STREAMS)
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PONG_WITHIN)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(&error))?;
        let most = Arc::new(AtomicUsize::new(STREAMS));
        let alive = Alive::new(&self.open);
        tokio::spawn({
            let (most, ended) = (Arc::clone(&most), self.ended.clone());
            async move {
                let _alive = alive;
                let driven = poll_fn(|cx| {
                    most.store(connection.current_max_send_streams(), Ordering::Release);
                    Pin::new(&mut connection).poll(cx)
                });
                tokio::select! {
                    result = driven => tracing::debug!(?result, "a connection to the API server ended"),
                    () = ended.cancelled() => {}
                }
            }
        });
        self.pool().push(Arc::new(Connection {
            sender,
            streams: AtomicUsize::new(0),
            most,
        }));
        self.room.notify_waiters();
        Ok(())
    }

    /// A connection for one upgrade.
    ///
    /// # Errors
    /// As [`Upstream::lease`].
    pub(super) async fn open_for_upgrade(
        &self,
        talk: Arc<dyn Talk>,
    ) -> Result<http1::SendRequest<B>, Trouble> {
        let stream = self.handshake(&self.upgrades, talk).await?;
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(usize::try_from(MAX_HEADERS).unwrap_or(usize::MAX))
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.lost(&error))?;
        let alive = Alive::new(&self.open);
        let ended = self.ended.clone();
        tokio::spawn(async move {
            let _alive = alive;
            tokio::select! {
                result = connection.with_upgrades() => tracing::debug!(?result, "a connection for an upgrade ended"),
                () = ended.cancelled() => {}
            }
        });
        Ok(sender)
    }

    /// One at a time: the card signs one at a time, and each brings the ticket that the next one resumes with.
    async fn handshake(
        &self,
        connector: &TlsConnector,
        talk: Arc<dyn Talk>,
    ) -> Result<TlsStream<TcpStream>, Trouble> {
        let tcp = self
            .target
            .connect()
            .await
            .map_err(|error| Trouble::unreachable(self.target.server(), error.to_string()))?;
        let alone = Arc::clone(&self.one_handshake).lock_owned().await;
        let prepare = !self.tickets.can_resume().await;
        let (keeper, connector, name) = (
            Arc::clone(&self.keeper),
            connector.clone(),
            self.target.name(),
        );
        let runtime = Handle::current();
        // On a thread of its own: the signature blocks until the card is touched.
        let blocking = tokio::task::spawn_blocking(move || {
            let _alone = alone;
            keeper.talk_to(talk);
            if prepare {
                keeper.prepare()?;
            }
            let shaken = runtime.block_on(tokio::time::timeout(
                HANDSHAKE_WITHIN,
                connector.connect(name, tcp),
            ));
            Ok::<_, Error>(shaken.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
        });
        let shaken = blocking
            .await
            .map_err(|_| Error::TaskEnded("the card was signing"))??;
        shaken.map_err(|error| match self.identity.failure() {
            Some(failure) => failure.into(),
            None => {
                api::translate(self.target.server(), kube::Error::Service(Box::new(error))).into()
            }
        })
    }

    /// The server went away, in the words of whoever noticed.
    pub(super) fn lost(&self, error: &(dyn std::error::Error + 'static)) -> Trouble {
        Trouble::unreachable(self.target.server(), api::root_cause(error))
    }

    /// Closes what is open. Nothing can be opened any more.
    pub(super) fn close(&self) {
        self.ended.cancel();
        self.pool().clear();
    }
}

impl<B> Lease<B>
where
    B: Body<Error = BoxError> + Send + Unpin + 'static,
    B::Data: Send,
{
    /// Sends a request.
    ///
    /// # Errors
    /// The request itself, where the connection ended before it was sent.
    pub(super) async fn send(
        &self,
        request: Request<B>,
    ) -> Result<Response<Incoming>, Unanswered<B>> {
        let mut sender = self.connection.sender.clone();
        sender
            .try_send_request(request)
            .await
            .map_err(|mut error| match error.take_message() {
                Some(request) => Unanswered::Unsent(Box::new(request)),
                None => Unanswered::Failed(self.upstream.lost(error.error())),
            })
    }
}

/// Counts what is open while it lives.
pub(super) struct Alive(Arc<AtomicUsize>);

impl Alive {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(count))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// For what has no remedy but to try again.
pub(super) fn ended(cluster: &str) -> Trouble {
    Trouble::new(
        Exit::NotLoggedIn,
        format!("the certificate for {cluster} has ended"),
        Some(format!(
            "touchstone login --cluster {cluster} --group GROUP --reason \"WHY\""
        )),
    )
}
