//! Reaching a cluster's API server: over its own CA without a credential, or as a kubeconfig says.

use crate::{config::Reach, credential::ReadToken};
use http::{HeaderValue, header};
use http_body_util::Limited;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{self, connect::HttpConnector},
    rt::TokioExecutor,
};
use jiff::{Timestamp, fmt::rfc2822};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use std::{
    error::Error as StdError,
    io,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tower::{
    BoxError, Service, ServiceBuilder,
    util::{MapRequestLayer, MapResponseLayer},
};

/// How long a connection, or an answer to a single request, may take.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(20);

/// The most bytes that an answer may have. A watch that runs into it is opened again.
pub const MAX_ANSWER: usize = 4 << 20;

/// Why the API server could not be asked, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The server has no turn to give now.
    #[error("{server} takes no more requests at the moment")]
    Busy {
        /// URL.
        server: String,
        /// When it has one again, as it says.
        again: Duration,
    },
    /// A kubeconfig or certificate that cannot be used.
    #[error("{0}")]
    Config(String),
    /// The server's certificate begins later than now.
    #[error("{server} shows a certificate that begins in the future: this machine's clock is behind the server's{}", .minutes.map_or_else(String::new, |minutes| format!(" by {minutes} minutes or more")))]
    NotYetValid {
        /// URL.
        server: String,
        /// From now until it begins.
        minutes: Option<u64>,
    },
    /// The server says no.
    #[error("the API server refuses{}: {message}", .code.map_or_else(String::new, |code| format!(" ({code})")))]
    Refused {
        /// HTTP status.
        code: Option<u16>,
        /// Its words.
        message: String,
    },
    /// No answer.
    #[error("cannot reach {server}: {why}")]
    Unreachable {
        /// URL.
        server: String,
        /// Why.
        why: String,
    },
    /// The TLS handshake failed for the server's certificate.
    #[error("{server} is not the server it should be: {why}")]
    Untrusted {
        /// URL.
        server: String,
        /// Why.
        why: String,
    },
}

impl ApiError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(
            match self {
                Self::Busy { again, .. } => {
                    return Some(format!("try again in {} s", again.as_secs()));
                }
                Self::Config(_) => "check the cluster with touchstone config show NAME",
                Self::NotYetValid { .. } => "set the clock, for example: sudo timedatectl set-ntp true",
                Self::Refused {
                    code: Some(401), ..
                } => {
                    "the key may not be enrolled yet (touchstone key enrol), or the certificate has ended (touchstone status)"
                }
                Self::Refused {
                    code: Some(403), ..
                } => {
                    "the key may not be enrolled for this user (touchstone key enrol), or your own credential may not create requests"
                }
                Self::Refused { .. } => return None,
                Self::Unreachable { .. } => {
                    "check the network and the server's address (touchstone config show NAME)"
                }
                Self::Untrusted { .. } => {
                    "check that --ca of the cluster is the server's CA (touchstone config show NAME); if it is, and this machine's clock is right, someone may be in between"
                }
            }
            .to_owned(),
        )
    }
}

/// A connection to a cluster's API server.
#[derive(Clone)]
pub struct Connection {
    client: Client,
    server: String,
    bearer: Arc<OnceLock<HeaderValue>>,
}

impl Connection {
    /// Prepares a connection; nothing is sent yet.
    ///
    /// # Errors
    /// When the kubeconfig or the CA cannot be used.
    pub async fn new(reach: &Reach) -> Result<Self, ApiError> {
        let mut config = configuration(reach).await?;
        config.connect_timeout = Some(ANSWER_WITHIN);
        // A request that may have been taken is not sent again: its nonce is used up.
        config.default_retry = false;
        let server = server_of(&config);
        let bearer = Arc::new(OnceLock::<HeaderValue>::new());
        let layer = {
            let bearer = Arc::clone(&bearer);
            MapRequestLayer::new(move |mut request: http::Request<Body>| {
                if let Some(value) = bearer.get() {
                    request
                        .headers_mut()
                        .insert(header::AUTHORIZATION, value.clone());
                }
                request
            })
        };
        let namespace = config.default_namespace.clone();
        let client = ClientBuilder::new(transport(&config)?, namespace)
            .with_layer(&layer)
            .with_layer(&MapResponseLayer::new(
                |response: http::Response<Incoming>| {
                    response.map(|body| Limited::new(body, MAX_ANSWER))
                },
            ))
            .build();
        Ok(Self {
            client,
            server,
            bearer,
        })
    }

    /// The client.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// From here on, requests carry the token that reads one request back.
    pub fn read_with(&self, token: &ReadToken) {
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {}", token.expose())) {
            value.set_sensitive(true);
            // Set once for each login.
            let _ = self.bearer.set(value);
        }
    }

    /// From here on, requests carry an approver's pass.
    pub fn show_pass(&self, pass: &str) {
        if let Ok(mut value) = HeaderValue::from_str(&format!("Bearer {pass}")) {
            value.set_sensitive(true);
            // Set once for each command.
            let _ = self.bearer.set(value);
        }
    }

    /// Asks the server for its time: whether it is there, is the right one, and by how much the clocks differ.
    ///
    /// # Errors
    /// When it does not answer or is not trusted. A refusal is an answer.
    pub async fn server_time(&self) -> Result<Option<Timestamp>, ApiError> {
        let request = http::Request::get("/version")
            .body(Body::empty())
            .map_err(|error| ApiError::Config(error.to_string()))?;
        let response = self
            .within(async { self.client.send(request).await })
            .await?;
        Ok(response
            .headers()
            .get(header::DATE)
            .and_then(|date| date.to_str().ok())
            .and_then(http_date))
    }

    /// Waits for one answer, so long and no longer.
    ///
    /// # Errors
    /// As [`Connection::translate`].
    pub async fn within<T>(
        &self,
        work: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ApiError> {
        match tokio::time::timeout(ANSWER_WITHIN, work).await {
            Ok(result) => result.map_err(|error| self.translate(error)),
            Err(_) => Err(ApiError::Unreachable {
                server: self.server.clone(),
                why: format!("no answer within {} s", ANSWER_WITHIN.as_secs()),
            }),
        }
    }

    /// What an error of the client means to the user.
    #[must_use]
    pub fn translate(&self, error: kube::Error) -> ApiError {
        translate(&self.server, error)
    }
}

/// What kube's own client is made of, over connections that send at once. Without that, TCP holds a request's second part
/// back until the server has acknowledged the first, which Linux delays by 40 ms (RFC 1122 section 4.2.3.4).
fn transport(
    config: &Config,
) -> Result<
    impl Service<
        http::Request<Body>,
        Response = http::Response<Incoming>,
        Error = BoxError,
        Future: Send,
    > + Send
    + 'static,
    ApiError,
> {
    if let Some(proxy) = &config.proxy_url {
        return Err(ApiError::Config(format!(
            "the cluster is behind the proxy {proxy}, and touchstone cannot go through one"
        )));
    }
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(config.connect_timeout);
    let unusable = |error: kube::Error| ApiError::Config(root_cause(&error));
    let tls = config
        .rustls_https_connector_with_connector(tcp)
        .map_err(unusable)?;
    Ok(ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer().map_err(unusable)?)
        .layer(config.extra_headers_layer().map_err(unusable)?)
        .map_err(BoxError::from)
        .service(legacy::Client::builder(TokioExecutor::new()).build(tls)))
}

/// What an error of a client of `server` means to the user.
#[must_use]
pub fn translate(server: &str, error: kube::Error) -> ApiError {
    if let kube::Error::Api(status) = error {
        if status.code == 429 {
            let seconds = status
                .details
                .map_or(0, |details| details.retry_after_seconds);
            return ApiError::Busy {
                server: server.to_owned(),
                // Nobody is made to come back at once.
                again: Duration::from_secs(seconds.max(1).into()),
            };
        }
        return ApiError::Refused {
            code: Some(status.code).filter(|code| *code != 0),
            message: shortened(if status.message.is_empty() {
                &status.reason
            } else {
                &status.message
            }),
        };
    }
    let server = server.to_owned();
    let why = shortened(&root_cause(&error));
    match tls_error(&error) {
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYetContext {
            time,
            not_before,
        })) => ApiError::NotYetValid {
            server,
            minutes: Some(not_before.as_secs().saturating_sub(time.as_secs()) / 60),
        },
        Some(rustls::Error::InvalidCertificate(rustls::CertificateError::NotValidYet)) => {
            ApiError::NotYetValid {
                server,
                minutes: None,
            }
        }
        Some(rustls::Error::InvalidCertificate(_)) => ApiError::Untrusted { server, why },
        Some(_) | None if cut_off(&error) => ApiError::Unreachable {
            server,
            why: "the connection was closed in the middle of an answer".to_owned(),
        },
        Some(_) | None => ApiError::Unreachable { server, why },
    }
}

/// A server's words, as many as anyone reads.
fn shortened(text: &str) -> String {
    const MOST: usize = 1000;
    if text.chars().count() <= MOST {
        return text.to_owned();
    }
    text.chars().take(MOST).chain(['…']).collect()
}

/// Whether the connection was closed while more was expected.
fn cut_off(error: &(dyn StdError + 'static)) -> bool {
    chain(error).any(|error| {
        error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::UnexpectedEof)
            || error
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_incomplete_message)
    })
}

/// The configuration of a client that reaches a cluster.
///
/// # Errors
/// When the kubeconfig or the CA cannot be used.
pub async fn configuration(reach: &Reach) -> Result<Config, ApiError> {
    match reach {
        Reach::Kubeconfig { path, context } => {
            let kubeconfig = Kubeconfig::read_from(path)
                .map_err(|error| ApiError::Config(root_cause(&error)))?;
            let options = KubeConfigOptions {
                context: context.clone(),
                ..KubeConfigOptions::default()
            };
            Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|error| {
                    ApiError::Config(format!("{}: {}", path.display(), root_cause(&error)))
                })
        }
        Reach::Server { url, ca_pem } => {
            let uri = url
                .parse()
                .map_err(|_| ApiError::Config(format!("{url:?} is not a URL")))?;
            let mut config = Config::new(uri);
            let blocks = pem::parse_many(ca_pem)
                .map_err(|error| ApiError::Config(format!("the CA is not PEM: {error}")))?;
            config.root_cert = Some(
                blocks
                    .into_iter()
                    .filter(|block| block.tag() == "CERTIFICATE")
                    .map(pem::Pem::into_contents)
                    .collect(),
            );
            Ok(config)
        }
    }
}

/// The URL without its closing slash.
#[must_use]
pub fn server_of(config: &Config) -> String {
    config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned()
}

fn chain<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error| cause(*error))
}

fn cause<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    // An io::Error wraps what it carries without naming it as its source.
    match error
        .downcast_ref::<io::Error>()
        .and_then(io::Error::get_ref)
    {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

fn tls_error<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a rustls::Error> {
    chain(error).find_map(|error| error.downcast_ref::<rustls::Error>())
}

/// The innermost cause, which says most.
#[must_use]
pub fn root_cause(error: &(dyn StdError + 'static)) -> String {
    chain(error)
        .last()
        .map_or_else(|| error.to_string(), ToString::to_string)
}

/// The usual form of an HTTP date (RFC 9110, 5.6.7), which is also one of mail (RFC 5322).
fn http_date(text: &str) -> Option<Timestamp> {
    rfc2822::DateTimeParser::new().parse_timestamp(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_date_is_read() {
        assert_eq!(
            http_date("Sun, 06 Nov 1994 08:49:37 GMT"),
            Some("1994-11-06T08:49:37Z".parse().unwrap())
        );
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn a_server_that_has_no_turn_says_when_it_has_one() {
        let busy = |details: serde_json::Value| {
            let status = serde_json::from_value(serde_json::json!({
                "status": "Failure", "code": 429, "reason": "TooManyRequests", "message": "later", "details": details,
            }));
            translate("https://h", kube::Error::Api(status.unwrap()))
        };
        let told = busy(serde_json::json!({ "retryAfterSeconds": 17 }));
        assert_eq!(
            told.remedy().as_deref(),
            Some("try again in 17 s"),
            "{told}"
        );
        let untold = busy(serde_json::Value::Null);
        assert_eq!(untold.remedy().as_deref(), Some("try again in 1 s"));
    }

    #[test]
    fn a_wrong_server_certificate_is_told_from_a_lost_connection() {
        let wrapped = |error: rustls::Error| {
            let io = io::Error::new(io::ErrorKind::InvalidData, error);
            translate("https://h", kube::Error::Service(Box::new(io)))
        };
        let unknown = rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer);
        assert!(matches!(wrapped(unknown), ApiError::Untrusted { .. }));
        let lost = rustls::Error::DecryptError;
        assert!(matches!(wrapped(lost), ApiError::Unreachable { .. }));
    }
}
