//! A client that creates attested requests without a credential and watches each with its one-time token, over one
//! HTTP/2 connection.

#![expect(clippy::indexing_slicing, reason = "JSON that a server of ours wrote")]

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use touchstone_tests::cluster::Files;

const REQUESTS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
/// How long to wait when the server says that too many ask at once.
const PAUSE: Duration = Duration::from_millis(5);

/// One connection.
#[derive(Clone)]
pub(crate) struct Api {
    sender: http2::SendRequest<Full<Bytes>>,
    server: String,
}

/// A request that the server has taken.
pub(crate) struct Created {
    pub(crate) name: String,
    pub(crate) version: String,
    /// How often the server said that too many ask at once.
    pub(crate) turned_away: usize,
}

impl Api {
    /// TCP, TLS and HTTP/2 handshake.
    pub(crate) async fn connect(files: &Files) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(&files.server_ca).expect("the server's CA"))
            .expect("a root");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let address = files
            .server
            .strip_prefix("https://")
            .expect("an https URL")
            .trim_end_matches('/');
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("no delay");
        let (host, _) = address.rsplit_once(':').expect("a port");
        let name = ServerName::try_from(host.to_owned()).expect("a server name");
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .expect("the TLS handshake");
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("the HTTP/2 handshake");
        tokio::spawn(connection);
        Self {
            sender,
            server: files.server.trim_end_matches('/').to_owned(),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        token: Option<&[u8; 32]>,
        body: Vec<u8>,
    ) -> Response<Incoming> {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.server))
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = token {
            let bearer = format!("Bearer {}", URL_SAFE_NO_PAD.encode(token));
            request = request.header(header::AUTHORIZATION, bearer);
        }
        let request = request.body(Full::from(body)).expect("a request");
        self.sender
            .clone()
            .send_request(request)
            .await
            .expect("an answer")
    }

    /// Creates a request, trying again for as long as the server has no turn to give.
    pub(crate) async fn create(&self, csr_pem: &str) -> Created {
        let manifest = json!({
            "apiVersion": "certificates.k8s.io/v1",
            "kind": "CertificateSigningRequest",
            "metadata": { "generateName": "touchstone-alice-example-com-" },
            "spec": {
                "request": STANDARD.encode(csr_pem),
                "signerName": "touchstone.dev/client",
                "expirationSeconds": 1800,
                "usages": ["client auth"],
            },
        })
        .to_string()
        .into_bytes();
        let mut turned_away = 0;
        loop {
            let answer = self
                .send(Method::POST, REQUESTS, None, manifest.clone())
                .await;
            let status = answer.status();
            let body = answer.into_body().collect().await.expect("the body");
            if status == StatusCode::TOO_MANY_REQUESTS {
                turned_away += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let body: Value = serde_json::from_slice(&body.to_bytes()).expect("JSON");
            assert_eq!(status, StatusCode::CREATED, "{body}");
            let field = |name| body["metadata"][name].as_str().expect("text").to_owned();
            return Created {
                name: field("name"),
                version: field("resourceVersion"),
                turned_away,
            };
        }
    }

    /// Watches a request from its creation until its certificate is there.
    pub(crate) async fn watch_to_certificate(&self, created: &Created, token: &[u8; 32]) -> usize {
        let path = format!(
            "{REQUESTS}?watch=true&fieldSelector=metadata.name%3D{}&resourceVersion={}&timeoutSeconds=120",
            created.name, created.version
        );
        let mut turned_away = 0;
        let answer = loop {
            let answer = self.send(Method::GET, &path, Some(token), Vec::new()).await;
            if answer.status() != StatusCode::TOO_MANY_REQUESTS {
                break answer;
            }
            turned_away += 1;
            tokio::time::sleep(PAUSE).await;
        };
        assert_eq!(answer.status(), StatusCode::OK);
        let mut body = answer.into_body();
        let mut read = Vec::new();
        loop {
            let frame = body
                .frame()
                .await
                .expect("the watch goes on")
                .expect("a frame");
            read.extend_from_slice(frame.data_ref().expect("data"));
            while let Some(end) = read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = read.drain(..=end).collect();
                let event: Value = serde_json::from_slice(&line).expect("JSON");
                let status = &event["object"]["status"];
                if status["certificate"].is_string() {
                    return turned_away;
                }
                let conditions = status["conditions"].as_array().into_iter().flatten();
                let refused = conditions
                    .into_iter()
                    .any(|one| one["type"] == "Denied" || one["type"] == "Failed");
                assert!(!refused && event["type"] != "ERROR", "{event}");
            }
        }
    }
}
