//! The front door: engineers without a credential of the cluster ask here, over HTTPS. Their request is judged by the key
//! that signed it, then created in the cluster by the signer's own account. What [`crate::review`] trusts of that is
//! `spec.username` alone, which the API server sets.

mod certificate;

pub use certificate::FrontTlsError;

use crate::{
    anonymous::{ByKey, KEY_SERIAL, Taken},
    clock::Clock,
    controller::chain,
    error::Error,
    metrics::FrontMetrics,
    review::{self, EvidenceCache, Snapshot},
};
use certificate::{CertificateFiles, Change};
use clap::Args;
use k8s_openapi::{
    ByteString,
    api::{authentication::v1::SelfSubjectReview, certificates::v1::CertificateSigningRequestSpec},
};
use kube::{Api, Client, api::PostParams};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use touchstone_apiserver::{
    Admitted, Doorkeeper, FrontConfig, FrontDoor, FrontOutcome, Reader, Refusal,
};
use touchstone_common::csr;

/// The annotation that says for whom the front door created a request. For people: whoever may annotate a request can
/// write it.
pub(crate) const CREATED_FOR: &str = "touchstone.dev/created-for";
/// How often the files of the certificate are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where the front door is.
#[derive(Debug, Args)]
pub struct FrontOptions {
    /// Take attested requests of engineers without credentials of the cluster here, over HTTPS; without it, nowhere
    #[arg(
        long,
        value_name = "ADDRESS",
        requires = "front_cert",
        requires = "front_key"
    )]
    pub front_listen: Option<String>,
    /// The certificate that is shown there, PEM, leaf first; read again when it changes
    #[arg(long, value_name = "FILE", requires = "front_listen")]
    pub front_cert: Option<PathBuf>,
    /// Its private key, PEM, which nobody but its owner and group may read; read again when it changes
    #[arg(long, value_name = "FILE", requires = "front_listen")]
    pub front_key: Option<PathBuf>,
}

/// What a front door works with, beside its files.
pub struct Parts {
    /// A client of its own: it creates requests whoever leads.
    pub client: Client,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Evidence that was verified before.
    pub evidence: Arc<EvidenceCache>,
    /// The signer names that requests are taken for.
    pub signer_names: Vec<String>,
    /// The policy in force.
    pub snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// What the rest of the signer knows of its front door.
#[derive(Clone, Debug)]
pub struct Face {
    /// What the API server calls the signer's account: `spec.username` of what the front door creates.
    pub account: String,
    /// What is counted.
    pub metrics: FrontMetrics,
}

/// A front door that is about to open.
pub struct Front {
    door: FrontDoor,
    face: Face,
    files: CertificateFiles,
    listener: TcpListener,
}

impl Front {
    /// Prepares the front door, if there is to be one.
    ///
    /// # Errors
    /// When its certificate cannot be used, its address not listened on, or the cluster does not say who asks.
    pub async fn open(options: FrontOptions, parts: Parts) -> Result<Option<Self>, Error> {
        // The command line has all three or none.
        let (Some(address), Some(certificate), Some(key)) =
            (options.front_listen, options.front_cert, options.front_key)
        else {
            return Ok(None);
        };
        let (files, tls) = CertificateFiles::open(certificate, key)?;
        let face = Face {
            account: account(&parts.client).await?,
            metrics: FrontMetrics::default(),
        };
        let door = FrontDoor::new(FrontConfig {
            requests: Api::all(parts.client),
            account: face.account.clone(),
            signer_names: parts.signer_names.clone(),
            doorkeeper: Arc::new(ByEnrolledKey {
                by_key: ByKey {
                    clock: parts.clock,
                    evidence: parts.evidence,
                    signer_names: parts.signer_names,
                    snapshot: parts.snapshot,
                    taken: Taken::default(),
                },
                metrics: face.metrics.clone(),
            }),
            tls,
        })
        .map_err(|error| files.unusable(error))?;
        let listener = crate::command::listen("--front-listen", &address).await?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(account = face.account, "front door: https://{address}");
        }
        Ok(Some(Self {
            door,
            face,
            files,
            listener,
        }))
    }

    /// What the rest of the signer knows of it.
    #[must_use]
    pub fn face(&self) -> Face {
        self.face.clone()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> Option<std::net::SocketAddr> {
        self.listener.local_addr().ok()
    }

    /// Serves until `shutdown`.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), Error> {
        let Self {
            door,
            face,
            files,
            listener,
        } = self;
        let serving = door.serve(listener, shutdown);
        tokio::select! {
            served = serving => served.map_err(|error| Error::FrontServe(Box::new(error))),
            never = renew(files, &door, &face.metrics) => match never {},
        }
    }
}

/// Looks at the files of the certificate for ever. One that cannot be used leaves the last good one in place.
async fn renew(
    mut files: CertificateFiles,
    door: &FrontDoor,
    metrics: &FrontMetrics,
) -> std::convert::Infallible {
    let mut ticks = tokio::time::interval(LOOK_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let refused = match files.look() {
            Change::None => continue,
            Change::Read(tls) => match door.set_certificate(&tls) {
                Ok(()) => {
                    tracing::info!("the front door has a new certificate");
                    None
                }
                Err(error) => Some(files.unusable(error)),
            },
            Change::Unreadable(error) => Some(error),
        };
        metrics.certificate_refused(refused.is_some());
        if let Some(error) = refused {
            tracing::error!(
                error = %chain(&error),
                "the front door's new certificate cannot be used: the last good one stays"
            );
        }
    }
}

/// What the API server calls whose credentials a client has.
async fn account(client: &Client) -> Result<String, Error> {
    let review = Api::<SelfSubjectReview>::all(client.clone())
        .create(&PostParams::default(), &SelfSubjectReview::default())
        .await
        .map_err(|error| Error::Api {
            doing: "ask who the signer is",
            source: Box::new(error),
        })?;
    let username = review
        .status
        .and_then(|status| status.user_info)
        .and_then(|user| user.username)
        .filter(|username| !username.is_empty());
    username.ok_or(Error::AccountUnknown)
}

/// Takes requests by their key, as the embedded API does of those who show no credential.
struct ByEnrolledKey {
    by_key: ByKey,
    metrics: FrontMetrics,
}

impl Doorkeeper for ByEnrolledKey {
    fn admit(&self, spec: &CertificateSigningRequestSpec) -> Result<Admitted, Refusal> {
        let admission = self.by_key.admission(spec)?;
        // The signer would deny it: better said at once than kept for an hour.
        let usages = spec.usages.as_deref().unwrap_or_default();
        review::fits(usages, spec.expiration_seconds, admission.ttl).map_err(|denial| Refusal {
            message: denial.message,
        })?;
        Ok(Admitted {
            key: admission.key_serial.to_string(),
            generate_name: csr::generate_name(&admission.user),
            annotations: BTreeMap::from([
                (CREATED_FOR.to_owned(), admission.user.to_string()),
                (KEY_SERIAL.to_owned(), admission.key_serial.to_string()),
            ]),
            spec: CertificateSigningRequestSpec {
                expiration_seconds: spec.expiration_seconds,
                request: ByteString(spec.request.0.clone()),
                signer_name: spec.signer_name.clone(),
                usages: spec.usages.clone(),
                ..CertificateSigningRequestSpec::default()
            },
            reader: Reader {
                username: admission.user.to_string(),
                token_sha256: admission.read_token_sha256,
            },
        })
    }

    fn reader(&self, request: &[u8]) -> Option<Reader> {
        let (user, token_sha256) = review::reader(request)?;
        Some(Reader {
            username: user.to_string(),
            token_sha256,
        })
    }

    fn count(&self, outcome: FrontOutcome) {
        self.metrics.count(outcome);
    }
}
