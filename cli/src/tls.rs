//! TLS whose client signature is made by the YubiKey.

mod target;

pub use target::Target;

use crate::{
    api::{self, ApiError},
    card::{
        CardError,
        signer::{CardKey, Scheme},
    },
    config::Reach,
    error::Error,
};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use kube::{Client, client::Body};
use rustls::{
    SignatureAlgorithm, SignatureScheme,
    client::ResolvesClientCert,
    sign::{CertifiedKey, Signer, SigningKey},
};
use rustls_pki_types::CertificateDer;
use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};
use tokio_rustls::TlsConnector;
use touchstone_common::key::{KeyAlgorithm, PublicKey};

/// Where a card's failure is left for who asked for the handshake: rustls passes on only text.
type Failure = Arc<Mutex<Option<CardError>>>;

/// A key that signs for TLS, with an error that says what became of the card.
pub trait TlsKey: fmt::Debug + Send + Sync {
    /// The public half.
    fn public_key(&self) -> &PublicKey;

    /// Signs a message with a scheme of its algorithm.
    ///
    /// # Errors
    /// When the card is gone, not touched in time, or refuses.
    fn sign_with(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, CardError>;
}

impl TlsKey for CardKey {
    fn public_key(&self) -> &PublicKey {
        CardKey::public_key(self)
    }

    fn sign_with(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, CardError> {
        CardKey::sign_with(self, scheme, message)
    }
}

/// A certificate chain and the card's key that goes with it.
#[derive(Debug)]
pub struct Identity {
    certified: Arc<CertifiedKey>,
    failure: Failure,
}

impl Identity {
    /// The chain (PEM, leaf first) with its key.
    ///
    /// # Errors
    /// When the chain is not PEM.
    pub fn new(key: Arc<dyn TlsKey>, chain_pem: &str) -> Result<Self, ApiError> {
        let chain = pem::parse_many(chain_pem)
            .map_err(|error| ApiError::Config(format!("the kept certificate: {error}")))?
            .into_iter()
            .map(|block| CertificateDer::from(block.into_contents()))
            .collect();
        let failure = Failure::default();
        let key = Certified {
            key,
            failure: Arc::clone(&failure),
        };
        Ok(Self {
            certified: Arc::new(CertifiedKey::new(chain, Arc::new(key))),
            failure,
        })
    }

    /// What the card said when it did not sign, once.
    #[must_use]
    pub fn failure(&self) -> Option<CardError> {
        self.failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        offered: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        self.certified
            .key
            .choose_scheme(offered)
            .map(|_| Arc::clone(&self.certified))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Certified {
    key: Arc<dyn TlsKey>,
    failure: Failure,
}

impl Certified {
    fn schemes(&self) -> &'static [SignatureScheme] {
        match self.key.public_key().algorithm() {
            KeyAlgorithm::Ed25519 => &[SignatureScheme::ED25519],
            KeyAlgorithm::P256 => &[SignatureScheme::ECDSA_NISTP256_SHA256],
            KeyAlgorithm::P384 => &[SignatureScheme::ECDSA_NISTP384_SHA384],
            // TLS 1.3 knows only the first; TLS 1.2 servers may know only the second.
            KeyAlgorithm::Rsa { .. } => &[
                SignatureScheme::RSA_PSS_SHA256,
                SignatureScheme::RSA_PKCS1_SHA256,
            ],
        }
    }
}

impl SigningKey for Certified {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        let scheme = *self
            .schemes()
            .iter()
            .find(|scheme| offered.contains(scheme))?;
        Some(Box::new(TlsSigner {
            key: Arc::clone(&self.key),
            failure: Arc::clone(&self.failure),
            scheme,
        }))
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        match self.key.public_key().algorithm() {
            KeyAlgorithm::Ed25519 => SignatureAlgorithm::ED25519,
            KeyAlgorithm::P256 | KeyAlgorithm::P384 => SignatureAlgorithm::ECDSA,
            KeyAlgorithm::Rsa { .. } => SignatureAlgorithm::RSA,
        }
    }
}

#[derive(Debug)]
struct TlsSigner {
    key: Arc<dyn TlsKey>,
    failure: Failure,
    scheme: SignatureScheme,
}

impl Signer for TlsSigner {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        let scheme = if self.scheme == SignatureScheme::RSA_PSS_SHA256 {
            Scheme::RsaPss
        } else {
            Scheme::Certificate
        };
        self.key.sign_with(scheme, message).map_err(|error| {
            let text = error.to_string();
            *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
            rustls::Error::General(text)
        })
    }

    fn scheme(&self) -> SignatureScheme {
        self.scheme
    }
}

/// A client of one API server that authenticates with the card.
pub struct Connector {
    client: Client,
    target: Arc<Target>,
    identity: Arc<Identity>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("server", &self.target.server())
            .finish_non_exhaustive()
    }
}

impl Connector {
    /// Prepares a client; nothing is sent yet, and the card signs when the first request is.
    ///
    /// # Errors
    /// When the CA or the kubeconfig cannot be used.
    pub async fn new(reach: &Reach, identity: Arc<Identity>) -> Result<Self, ApiError> {
        let target = Arc::new(Target::new(reach).await?);
        let mut tls = target.client_config(&identity)?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        // A resumed session would not be signed by the card.
        tls.resumption = rustls::client::Resumption::disabled();
        let connector = TlsConnector::from(Arc::new(tls));
        let service = tower::service_fn({
            let target = Arc::clone(&target);
            move |request: http::Request<Body>| {
                let (connector, target) = (connector.clone(), Arc::clone(&target));
                async move { send(connector, &target, request).await }
            }
        });
        Ok(Self {
            client: Client::new(service, "default"),
            target,
            identity,
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// URL of the server.
    #[must_use]
    pub fn server(&self) -> &str {
        self.target.server()
    }

    /// An answer, or why there is none: the card's failure before the connection's.
    ///
    /// # Errors
    /// When the card does not sign or the server does not answer.
    pub async fn answer<T>(
        &self,
        work: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        work.await.map_err(|error| match self.identity.failure() {
            Some(failure) => failure.into(),
            None => api::translate(self.server(), error).into(),
        })
    }
}

async fn send(
    connector: TlsConnector,
    target: &Target,
    mut request: http::Request<Body>,
) -> Result<http::Response<Full<Bytes>>, tower::BoxError> {
    let stream = target.connect().await?;
    // No limit on the handshake: it waits for a touch, which has its own.
    let stream = connector.connect(target.name(), stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let value = http::HeaderValue::from_str(target.authority())?;
    request.headers_mut().insert(http::header::HOST, value);
    let answer = async {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, api::MAX_ANSWER).collect().await?;
        Ok(http::Response::from_parts(head, body.to_bytes().into()))
    };
    tokio::time::timeout(api::ANSWER_WITHIN, answer).await?
}
