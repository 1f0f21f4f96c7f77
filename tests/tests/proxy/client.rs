//! A client of the proxy's listener that does what kubectl never would.

use crate::plugin;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _};
use std::{fs, io, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::Runtime,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use touchstone_tests::engineer::{Engineer, Ran};

pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// What a kubeconfig and the exec plugin give to kubectl.
#[derive(Clone)]
pub(crate) struct Loopback {
    pub(crate) port: u16,
    ca: Vec<u8>,
    certificate: Vec<u8>,
    key: Vec<u8>,
}

impl Loopback {
    /// Asks the plugin, which starts the proxy when none runs.
    pub(crate) fn of(engineer: &Engineer) -> Self {
        let printed = Ran::of(&mut plugin(engineer)).succeeded().stdout;
        let printed: serde_json::Value = serde_json::from_str(&printed).expect("JSON");
        let kept = fs::read(engineer.file("state/demo/loopback.json")).expect("the local identity");
        let kept: serde_json::Value = serde_json::from_slice(&kept).expect("JSON");
        let text = |value: &serde_json::Value| value.as_str().expect("text").as_bytes().to_vec();
        Self {
            port: u16::try_from(kept["port"].as_u64().expect("a port")).expect("a port"),
            ca: text(&kept["caPem"]),
            certificate: text(&printed["status"]["clientCertificateData"]),
            key: text(&printed["status"]["clientKeyData"]),
        }
    }

    /// The same without a certificate of its own, or with another's.
    pub(crate) fn showing(&self, identity: Option<(&str, &str)>) -> Self {
        let (certificate, key) = identity.unwrap_or_default();
        Self {
            certificate: certificate.as_bytes().to_vec(),
            key: key.as_bytes().to_vec(),
            ..self.clone()
        }
    }

    pub(crate) fn authority(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn tls(&self, protocol: &str) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        for ca in CertificateDer::pem_slice_iter(&self.ca) {
            roots.add(ca.expect("PEM")).expect("a CA");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions of TLS")
            .with_root_certificates(roots);
        let mut config = if self.certificate.is_empty() {
            builder.with_no_client_auth()
        } else {
            let chain = CertificateDer::pem_slice_iter(&self.certificate)
                .collect::<Result<Vec<_>, _>>()
                .expect("a certificate");
            let key = PrivateKeyDer::from_pem_slice(&self.key).expect("a key");
            builder
                .with_client_auth_cert(chain, key)
                .expect("an identity")
        };
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        config
    }

    pub(crate) async fn connect(&self, protocol: &str) -> io::Result<TlsStream<TcpStream>> {
        self.connect_as(protocol, "127.0.0.1").await
    }

    pub(crate) async fn connect_as(
        &self,
        protocol: &str,
        name: &str,
    ) -> io::Result<TlsStream<TcpStream>> {
        let tcp = TcpStream::connect(("127.0.0.1", self.port)).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        TlsConnector::from(Arc::new(self.tls(protocol)))
            .connect(name, tcp)
            .await
    }

    /// What the listener answers to these very bytes; empty when it closes without a word.
    pub(crate) fn raw(&self, protocol: &str, bytes: &[u8]) -> String {
        runtime().block_on(async {
            let Ok(mut stream) = self.connect(protocol).await else {
                return String::new();
            };
            // It may close before all is written.
            let _ = stream.write_all(bytes).await;
            let mut answer = Vec::new();
            let read = async {
                let mut piece = [0; 4096];
                while let Ok(length @ 1..) = stream.read(&mut piece).await {
                    answer.extend(&piece[..length]);
                }
            };
            let _ = tokio::time::timeout(Duration::from_secs(3), read).await;
            String::from_utf8_lossy(&answer).into_owned()
        })
    }

    /// Does something over one HTTP/2 connection.
    pub(crate) fn run<T>(&self, work: impl AsyncFnOnce(&Client) -> T) -> T {
        runtime().block_on(async {
            let stream = self.connect("h2").await.expect("connect to the proxy");
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(16 << 20)
                .handshake(TokioIo::new(stream))
                .await
                .expect("speak HTTP/2");
            tokio::spawn(connection);
            let client = Client {
                sender,
                authority: self.authority(),
            };
            work(&client).await
        })
    }
}

pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// One HTTP/2 connection to the proxy.
pub(crate) struct Client {
    sender: http2::SendRequest<Body>,
    authority: String,
}

impl Client {
    pub(crate) fn request(&self, path: &str) -> http::request::Builder {
        Request::builder().uri(format!("https://{}{path}", self.authority))
    }

    pub(crate) async fn send(
        &self,
        request: Request<Body>,
    ) -> hyper::Result<http::Response<Incoming>> {
        let mut sender = self.sender.clone();
        sender.ready().await?;
        sender.send_request(request).await
    }

    /// Status and body of a GET.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let request = self.request(path).body(empty()).expect("a request");
        let response = self.send(request).await.expect("an answer");
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body");
        (code, String::from_utf8_lossy(&body.to_bytes()).into_owned())
    }
}

pub(crate) fn empty() -> Body {
    full("")
}

pub(crate) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}
