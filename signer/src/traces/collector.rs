//! The collector, as the exporter's thread reaches it.
//!
//! Whatever is waited for here is waited for on that thread, by a runtime of its own: a name that is not resolved or an
//! answer that does not come keeps neither the signer's work waiting nor its end.

use super::{Endpoint, TracesError, exporter_variable};
use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::{ConfigBuilderExt as _, HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use std::{
    fmt,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::runtime::{Builder, Runtime};

/// How long the collector may take, where OTEL_EXPORTER_OTLP_TIMEOUT does not say.
const PATIENCE: Duration = opentelemetry_otlp::OTEL_EXPORTER_OTLP_TIMEOUT_DEFAULT;
/// The most bytes that are read of an answer, which says how many spans were refused.
const MOST: usize = 64 * 1024;

/// A collector. For the exporter's thread alone.
pub(super) struct Collector {
    authority: String,
    client: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    runtime: Runtime,
    timeout: Duration,
    voice: Mutex<Voice>,
}

impl Collector {
    pub(super) fn new(endpoint: &Endpoint) -> Result<Self, TracesError> {
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls(endpoint)?)
            .https_or_http()
            .enable_http1()
            .build();
        let timeout = exporter_variable("TIMEOUT").and_then(|text| text.parse().ok());
        Ok(Self {
            authority: endpoint.authority().to_owned(),
            client: Client::builder(TokioExecutor::new())
                // Nobody looks after a connection between two batches.
                .pool_max_idle_per_host(0)
                .build(connector),
            runtime: Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(TracesError::Start)?,
            timeout: timeout.map_or(PATIENCE, Duration::from_millis),
            voice: Mutex::default(),
        })
    }

    async fn ask(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let answer = self.client.request(request.map(Full::new)).await?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MOST).collect().await?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    fn tell(&self, trouble: Option<String>) {
        // Each use is one whole change.
        let mut voice = self.voice.lock().unwrap_or_else(PoisonError::into_inner);
        let collector = &self.authority;
        match voice.heard(trouble.is_some(), Instant::now()) {
            Some(Tell::Trouble) => tracing::warn!(
                collector,
                error = trouble,
                "traces do not reach the collector: they are dropped, and everything else goes on"
            ),
            Some(Tell::Over) => tracing::info!(collector, "traces reach the collector again"),
            None => {}
        }
    }
}

#[async_trait]
impl HttpClient for Collector {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The exporter's thread has no other runtime.
        let answer = self.runtime.block_on(async {
            match tokio::time::timeout(self.timeout, self.ask(request)).await {
                Ok(answer) => answer,
                Err(_) => Err("it did not answer in time".into()),
            }
        });
        let trouble = match &answer {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => Some(format!("it answers {}", answer.status())),
            Err(error) => Some(crate::controller::chain(error.as_ref())),
        };
        self.tell(trouble);
        answer
    }
}

impl fmt::Debug for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collector").finish_non_exhaustive()
    }
}

/// The collector's certificate is held against the file that the environment names, or what the machine trusts.
fn tls(endpoint: &Endpoint) -> Result<ClientConfig, TracesError> {
    let config = ClientConfig::builder();
    let config = match exporter_variable("CERTIFICATE").map(PathBuf::from) {
        _ if !endpoint.is_https() => config.with_root_certificates(RootCertStore::empty()),
        None => config.with_native_roots().map_err(TracesError::Roots)?,
        Some(path) => {
            let mut roots = RootCertStore::empty();
            let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect);
            let read: Vec<_> = read.map_err(|source| TracesError::Certificates {
                path: path.clone(),
                source,
            })?;
            for certificate in read {
                roots
                    .add(certificate)
                    .map_err(|source| TracesError::Certificate {
                        path: path.clone(),
                        source,
                    })?;
            }
            config.with_root_certificates(roots)
        }
    };
    Ok(config.with_no_client_auth())
}

/// How soon trouble is told again.
const AGAIN: Duration = Duration::from_secs(10 * 60);

/// What is told of the collector: its trouble from time to time, however often it comes and goes, and the end of what was
/// told.
#[derive(Debug, Default)]
struct Voice {
    /// When trouble was last told.
    told: Option<Instant>,
    /// Whether that stands.
    stands: bool,
}

/// What is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    Over,
    Trouble,
}

impl Voice {
    /// A batch was sent, or was not.
    fn heard(&mut self, is_trouble: bool, now: Instant) -> Option<Tell> {
        let is_due = || {
            self.told
                .is_none_or(|told| now.duration_since(told) >= AGAIN)
        };
        match is_trouble {
            true if is_due() => {
                self.told = Some(now);
                self.stands = true;
                Some(Tell::Trouble)
            }
            false if self.stands => {
                self.stands = false;
                Some(Tell::Over)
            }
            true | false => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_that_stays_or_comes_and_goes_is_told_once_in_ten_minutes() {
        let mut voice = Voice::default();
        let begin = Instant::now();
        let at = |seconds| begin + Duration::from_secs(seconds);
        assert_eq!(voice.heard(false, begin), None);
        assert_eq!(voice.heard(true, begin), Some(Tell::Trouble));
        assert_eq!(voice.heard(true, at(1)), None);
        assert_eq!(voice.heard(false, at(2)), Some(Tell::Over));
        for second in 3..599 {
            assert_eq!(voice.heard(second % 2 == 0, at(second)), None);
        }
        assert_eq!(voice.heard(true, at(600)), Some(Tell::Trouble));
    }
}
