//! The listener on loopback: TLS 1.3, a throwaway key, and only those clients that were given a certificate.

use super::{
    Proxy, ProxyError,
    clients::Client,
    forward,
    local::{LocalEndpoint, ServerCertificate},
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use jiff::{SignedDuration, Timestamp};
use rustls::{
    ServerConfig,
    crypto::CryptoProvider,
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::PrivateKeyDer;
use std::{
    convert::Infallible,
    fmt,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};

/// How long a client may take to prove itself.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// How many may be at it at once: anyone on this machine can begin.
const HANDSHAKES: usize = 256;
/// How long a client may take to send a head, and how large it may be.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
const MAX_HEAD: usize = 64 * 1024;
/// The streams of one client's connection.
const STREAMS: u32 = 1000;
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
/// What streams have to end in once the proxy or the client's certificate does.
const END_WITHIN: Duration = Duration::from_secs(3);
/// A server certificate with less than this left is replaced.
const RESERVE: SignedDuration = SignedDuration::from_hours(24);

/// TLS as it is spoken here.
pub(super) fn tls(
    proxy: &Proxy,
    endpoint: LocalEndpoint,
    provider: Arc<CryptoProvider>,
) -> Result<TlsAcceptor, ProxyError> {
    let served = Served::new(endpoint, Arc::clone(&provider))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(Arc::clone(proxy.clients()) as Arc<_>)
        .with_cert_resolver(Arc::new(served));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Every connection proves its key anew.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Takes clients until the proxy ends.
pub(super) async fn serve(proxy: Arc<Proxy>, listener: TcpListener, tls: TlsAcceptor) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = proxy.ending().cancelled() => return,
        };
        let Ok((tcp, _)) = accepted else {
            // Out of descriptors, most likely.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(turn) = Arc::clone(&handshakes).try_acquire_owned() else {
            continue;
        };
        let (proxy, tls) = (Arc::clone(&proxy), tls.clone());
        tokio::spawn(async move {
            let shaken = tokio::time::timeout(HANDSHAKE_WITHIN, accept(&proxy, tcp, tls)).await;
            drop(turn);
            match shaken {
                Ok(Some((client, tls))) => talk(&proxy, client, tls).await,
                Ok(None) | Err(_) => tracing::info!("refused a connection"),
            }
        });
    }
}

async fn accept(
    proxy: &Proxy,
    tcp: TcpStream,
    tls: TlsAcceptor,
) -> Option<(Client, TlsStream<TcpStream>)> {
    tcp.set_nodelay(true).ok()?;
    let stream = tls.accept(tcp).await.ok()?;
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let client = proxy.clients().client(certificate)?;
    Some((client, stream))
}

/// Serves one client until it, its certificate or the proxy ends.
async fn talk(proxy: &Arc<Proxy>, client: Client, stream: TlsStream<TcpStream>) {
    let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let over = {
        let (proxy, until) = (Arc::clone(proxy), client.not_after);
        async move {
            tokio::select! {
                () = super::wall_clock(until) => {}
                () = proxy.ending().cancelled() => {}
            }
        }
    };
    let service = {
        let proxy = Arc::clone(proxy);
        service_fn(move |request: http::Request<Incoming>| {
            let (proxy, client) = (Arc::clone(&proxy), client.clone());
            async move { Ok::<_, Infallible>(forward::answer(&proxy, &client, request).await) }
        })
    };
    // Two protocols, two types, one course.
    macro_rules! drive {
        ($connection:expr) => {{
            let mut connection = pin!($connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => Some(ended),
                () = over => None,
            };
            let ended = match ended {
                Some(ended) => ended,
                None => {
                    connection.as_mut().graceful_shutdown();
                    match tokio::time::timeout(END_WITHIN, connection).await {
                        Ok(ended) => ended,
                        Err(_) => Ok(()),
                    }
                }
            };
            tracing::debug!(?ended, "a client left");
        }};
    }
    if speaks_http2 {
        drive!(
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX))
                .serve_connection(TokioIo::new(stream), service)
        );
    } else {
        drive!(
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_WITHIN)
                .max_buf_size(MAX_HEAD)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
        );
    }
}

/// The server's certificate of the moment.
struct Served {
    endpoint: LocalEndpoint,
    provider: Arc<CryptoProvider>,
    current: Mutex<(Arc<CertifiedKey>, Timestamp)>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

impl Served {
    fn new(endpoint: LocalEndpoint, provider: Arc<CryptoProvider>) -> Result<Self, ProxyError> {
        let current = certified(&endpoint, &provider)?;
        Ok(Self {
            endpoint,
            provider,
            current: Mutex::new(current),
        })
    }
}

fn certified(
    endpoint: &LocalEndpoint,
    provider: &CryptoProvider,
) -> Result<(Arc<CertifiedKey>, Timestamp), ProxyError> {
    let ServerCertificate {
        certificate,
        key,
        not_after,
    } = endpoint.server_certificate()?;
    let key = provider
        .key_provider
        .load_private_key(PrivateKeyDer::Pkcs8(key))?;
    Ok((
        Arc::new(CertifiedKey::new(vec![certificate], key)),
        not_after,
    ))
}

impl ResolvesServerCert for Served {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An address has no name: whoever names one was led here by something else.
        if hello.server_name().is_some() {
            return None;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.1.duration_since(Timestamp::now()) < RESERVE
            && let Ok(renewed) = certified(&self.endpoint, &self.provider)
        {
            *current = renewed;
        }
        Some(Arc::clone(&current.0))
    }
}
