//! `run`: the signer for a Kubernetes cluster.

use super::{DEFAULT_SIGNER_NAME, SignerOptions, cluster::ClusterOptions};
use crate::{
    api,
    ca::{bootstrap, key::KeyPlace, record::Binding, rotation},
    client_ca::ClientCa,
    clock::{Clock, SystemClock},
    controller::code,
    credentials::Credentials,
    data_dir::{self, DataDir},
    error::Error,
    front::{self, Front, FrontOptions},
    grant::Grant,
    lease::{self, Candidate, LeaseDuration},
    metrics::Metrics,
    reload::{self, PolicyFile},
    service::{Service, evidence_cache},
    signers::{SignerName, SignerNames},
};
use clap::Args;
use hyper::http::uri::InvalidUri;
use k8s_openapi::api::{certificates::v1::CertificateSigningRequest, core::v1::Namespace};
use kube::{Api, Client, Config, api::ListParams};
use serde_json::json;
use std::{fs, path::Path, sync::Arc};
use tokio_util::sync::CancellationToken;

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    pub(super) signer: SignerOptions,
    #[command(flatten)]
    cluster: ClusterOptions,
    /// A signer name that is answered; requests of any other are left alone. Under kubernetes.io/kube-apiserver-client
    /// kube-controller-manager signs what is approved, under any other name Touchstone's own CA; both can be given
    #[arg(long = "signer-name", value_name = "NAME", default_value = DEFAULT_SIGNER_NAME)]
    signer_names: Vec<SignerName>,
    #[command(flatten)]
    front: FrontOptions,
    /// How long the lease lasts after its last renewal: another replica takes over after so long
    #[arg(long, value_name = "TIME", default_value = "15s")]
    lease_duration: LeaseDuration,
    /// What this replica is called in the lease; the name of the machine or pod otherwise
    #[arg(long, value_name = "NAME")]
    pub(super) replica: Option<String>,
}

impl Run {
    /// `replica` is what this process is called in the lease.
    pub(super) async fn run(self, replica: String) -> Result<(), Error> {
        super::choose_crypto();
        let options = self.signer;
        let found = self.cluster.find().await?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let policy = PolicyFile::open(
            &options.policy,
            reload::attestation_roots(&options.attestation_root)?,
        )?;
        let names = SignerNames::of(&self.signer_names).map_err(Error::SecondCa)?;
        let settings = match names.own() {
            Some(_) => Some(options.ca_settings(KeyPlace::Secret)?),
            None if options.ca_settings.is_some() => return Err(Error::NoCa),
            None => None,
        };
        let cluster = policy.subscribe().borrow().policy.cluster().to_string();
        let data = Arc::new(DataDir::open(&options.data)?);
        if let Some(ready) = &options.ready_file {
            // Of an earlier process: it says nothing of this one. Not before the lock: one that still runs is ready.
            let _ = fs::remove_file(ready);
        }
        let founded = match &settings {
            Some(settings) => rotation::found(&data, settings, clock.now())?,
            None => None,
        };
        let audit = options.audit_log(&data, clock.now())?;
        let (client, server) = connect(found.config.clone())?;
        check(&client, &names).await?;
        let client_ca = match names.has_cluster() {
            true => Some(Arc::new(ClientCa::open(client.clone()).await?)),
            false => None,
        };
        let evidence = evidence_cache();
        let front = front::Parts {
            client: client.clone(),
            clock: Arc::clone(&clock),
            evidence: Arc::clone(&evidence),
            signer_names: names.iter().map(str::to_owned).collect(),
            snapshot: policy.subscribe(),
        };
        let front = Front::open(self.front, front).await?;
        let metrics = match names.own() {
            Some(_) => Metrics::new(),
            None => Metrics::without_ca(),
        };
        let metrics = Arc::new(match front.as_ref().map(Front::face) {
            Some(face) => metrics.with_front(&face.metrics),
            None => metrics,
        });
        let (candidate, leadership) = Candidate::new(
            client.clone(),
            &found.namespace,
            replica,
            self.lease_duration,
            Arc::clone(&clock),
            Arc::clone(&metrics),
        );
        let fenced =
            lease::fenced(&found.config, leadership.clone()).map_err(|source| Error::Api {
                doing: "connect",
                source: Box::new(source),
            })?;
        let rotation = match (names.own(), settings) {
            (Some(name), Some(settings)) => Some(rotation::Parts {
                founded,
                binding: Binding {
                    cluster,
                    uid: cluster_uid(&client).await?,
                },
                namespace: found.namespace,
                signer_name: name.to_owned(),
                data: Arc::clone(&data),
                endpoints: endpoints(&found.config, &settings.endpoints)?,
                trust: Arc::new(rotation::ClusterAlone),
                leadership: leadership.clone(),
                settings,
            }),
            (Some(_) | None, _) => None,
        };
        let metrics_listener = options.listen_for_metrics().await?;
        let shutdown = super::shutdown_by_signal()?;
        let resign = CancellationToken::new();
        let standing = tokio::spawn(candidate.run(resign.clone()));
        let service = Service {
            audit,
            clock,
            evidence,
            front: front.as_ref().map(Front::face),
            metrics,
            metrics_listener,
            policy,
            leadership,
            rotation,
            client_ca,
        };
        let ready_file = options.ready_file;
        let data_path = data.path().to_owned();
        let front_address = front.as_ref().and_then(Front::address);
        let working = service.run(fenced, shutdown.clone(), || {
                tracing::info!(server, "ready");
                if let Some(path) = &ready_file {
                    let content = json!({
                        "server": server,
                        "frontDoor": front_address.map(|address| format!("https://{address}")),
                        "pid": std::process::id(),
                        "data": data_path,
                    });
                    if let Err(error) = data_dir::write_atomic(path, format!("{content}\n").as_bytes()) {
                        tracing::error!(error = %crate::controller::chain(&error), "the ready file was not written");
                    }
                }
        });
        let working = async {
            let result = working.await;
            // Only now that nothing is written any more; and not as late as the front door's last guest goes.
            resign.cancel();
            let _ = standing.await;
            result
        };
        let result = beside(front, working, shutdown).await;
        if let Some(ready) = &ready_file {
            let _ = fs::remove_file(ready);
        }
        result
    }
}

/// Runs the signer with its front door, if it has one, until one of them ends.
async fn beside(
    front: Option<Front>,
    working: impl Future<Output = Result<(), Error>>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let Some(front) = front else {
        return working.await;
    };
    let close = shutdown.child_token();
    let mut working = std::pin::pin!(working);
    let mut serving = std::pin::pin!(front.run(close.clone()));
    tokio::select! {
        worked = &mut working => {
            close.cancel();
            let served = serving.await;
            worked.and(served)
        }
        served = &mut serving => {
            shutdown.cancel();
            let worked = working.await;
            served.and(worked)
        }
    }
}

/// What this process is called in the lease: no other is called so, ever.
pub(super) fn replica(named: Option<String>) -> Result<String, Error> {
    let name = named.unwrap_or_else(|| {
        let system = rustix::system::uname();
        system.nodename().to_string_lossy().into_owned()
    });
    let mark = bootstrap::random::<8>()?;
    Ok(format!("{name}_{}", hex::encode(mark)))
}

/// What a kubeconfig says.
pub(super) async fn config(path: &Path, context: Option<String>) -> Result<Config, Error> {
    let credentials = Credentials::new(Some(path.to_owned()), context);
    Ok(credentials.config().await?)
}

/// A client of the cluster, and its address.
pub(super) fn connect(config: Config) -> Result<(Client, String), Error> {
    let server = config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned();
    let client = api::client(config).map_err(|source| Error::Api {
        doing: "connect",
        source: Box::new(source),
    })?;
    Ok((client, server))
}

/// The API servers at which a CA proves itself: those named, or the one that the signer talks to.
fn endpoints(config: &Config, named: &[String]) -> Result<Vec<Config>, Error> {
    if named.is_empty() {
        return Ok(vec![config.clone()]);
    }
    let at = |url: &String| {
        let cluster_url = url.parse().map_err(|error: InvalidUri| Error::Endpoint {
            url: url.clone(),
            message: error.to_string(),
        })?;
        let mut endpoint = config.clone();
        endpoint.cluster_url = cluster_url;
        Ok(endpoint)
    };
    named.iter().map(at).collect()
}

/// What tells a cluster from every other: the UID of its `kube-system` namespace.
pub(super) async fn cluster_uid(client: &Client) -> Result<String, Error> {
    let namespace = Api::<Namespace>::all(client.clone())
        .get_metadata("kube-system")
        .await
        .map_err(|error| Error::Api {
            doing: "read the namespace kube-system",
            source: Box::new(error),
        })?;
    let uid = namespace.metadata.uid.filter(|uid| !uid.is_empty());
    uid.ok_or(Error::ClusterUnknown)
}

/// Whether the cluster has what the controller needs: better told now than from a loop of warnings.
async fn check(client: &Client, names: &SignerNames) -> Result<(), Error> {
    let one = ListParams::default().limit(1);
    match Api::<Grant>::all(client.clone()).list(&one).await {
        Ok(_) => {}
        Err(error) if code(&error) == Some(404) => return Err(Error::GrantsMissing),
        Err(error) => {
            return Err(Error::Api {
                doing: "list the grants",
                source: Box::new(error),
            });
        }
    }
    let requests = Api::<CertificateSigningRequest>::all(client.clone());
    for name in names.iter() {
        let ours = one.clone().fields(&format!("spec.signerName={name}"));
        requests.list(&ours).await.map_err(|error| Error::Api {
            doing: "list the certificate signing requests",
            source: Box::new(error),
        })?;
    }
    Ok(())
}
