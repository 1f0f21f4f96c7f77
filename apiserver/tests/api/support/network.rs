//! Asking over TLS: raw requests, and kubeconfig files.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use serde_json::{Value, json};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

use crate::support::pki::{Certified, Pki};

/// A connection that speaks HTTP/1.1.
pub(crate) struct Connection {
    sender: hyper::client::conn::http1::SendRequest<Full<Bytes>>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }
}

/// A TLS connection that shows this certificate, if any.
pub(crate) async fn tls(
    address: SocketAddr,
    ca: &Certified,
    shown: Option<&Certified>,
) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(address).await.unwrap();
    tls_over(stream, address.ip(), ca, shown).await
}

async fn tls_over(
    stream: TcpStream,
    server: IpAddr,
    ca: &Certified,
    shown: Option<&Certified>,
) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(ca.certificate.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match shown {
        None => builder.with_no_client_auth(),
        Some(shown) => builder
            .with_client_auth_cert(
                CertificateDer::pem_slice_iter(shown.certificate.as_bytes())
                    .map(Result::unwrap)
                    .collect(),
                PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    TlsConnector::from(Arc::new(config))
        .connect(ServerName::from(server), stream)
        .await
        .unwrap()
}

impl Connection {
    pub(crate) async fn open(
        address: SocketAddr,
        ca: &Certified,
        shown: Option<&Certified>,
    ) -> Self {
        Self::over(tls(address, ca, shown).await).await
    }

    /// From an address of one's own: all of 127.0.0.0/8 is loopback.
    pub(crate) async fn open_from(
        source: IpAddr,
        address: SocketAddr,
        ca: &Certified,
        shown: Option<&Certified>,
    ) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(source, 0)).unwrap();
        let stream = socket.connect(address).await.unwrap();
        Self::over(tls_over(stream, address.ip(), ca, shown).await).await
    }

    async fn over(stream: TlsStream<TcpStream>) -> Self {
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    pub(crate) async fn ask(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Answer {
        let mut request = http::Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost");
        if !headers.iter().any(|(name, _)| *name == "content-type") {
            request = request.header("content-type", "application/json");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.sender.ready().await.unwrap();
        let response = self
            .sender
            .send_request(request.body(Full::new(body.into())).unwrap())
            .await
            .unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        Answer {
            code: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.ask("GET", path, &[], "").await
    }

    pub(crate) async fn post(&mut self, path: &str, body: &impl serde::Serialize) -> Answer {
        self.ask("POST", path, &[], serde_json::to_vec(body).unwrap())
            .await
    }
}

/// A kubeconfig file, as JSON, which kubectl reads too.
pub(crate) fn kubeconfig(
    pki: &Pki,
    address: SocketAddr,
    ca: &Certified,
    shown: &Certified,
) -> PathBuf {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": STANDARD.encode(&ca.certificate),
        }}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {
            "client-certificate-data": STANDARD.encode(&shown.certificate),
            "client-key-data": STANDARD.encode(&shown.key),
        }}],
    });
    let path = pki.unique("kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    path
}
