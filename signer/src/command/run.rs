//! `run`: the signer for a Kubernetes cluster.

use super::SignerOptions;
use crate::{
    audit::{AuditLog, FILE_NAME},
    ca::bootstrap,
    clock::{Clock, SystemClock},
    controller::code,
    data_dir::{self, DataDir},
    error::Error,
    grant::Grant,
    reload::{self, PolicyFile},
    service::{Service, evidence_cache},
};
use clap::Args;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api, Client,
    api::ListParams,
    config::{Config, KubeConfigOptions, Kubeconfig},
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

/// `run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    signer: SignerOptions,
    /// The cluster, and the signer's credentials for it
    #[arg(long, value_name = "FILE")]
    kubeconfig: PathBuf,
    /// Which of the kubeconfig's contexts; its current one otherwise
    #[arg(long, value_name = "NAME")]
    context: Option<String>,
}

impl Run {
    pub(super) async fn run(self) -> Result<(), Error> {
        super::choose_crypto();
        let options = self.signer;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let policy = PolicyFile::open(
            &options.policy,
            reload::attestation_roots(&options.attestation_root)?,
        )?;
        let data = DataDir::open(&options.data)?;
        if let Some(ready) = &options.ready_file {
            // Of an earlier process: it says nothing of this one. Not before the lock: one that still runs is ready.
            let _ = fs::remove_file(ready);
        }
        let authority = Arc::new(bootstrap::open(&data, clock.now())?);
        let audit = AuditLog::open(&data.file(FILE_NAME), clock.now())?;
        let (client, server) = connect(&self.kubeconfig, self.context).await?;
        check(&client, &options.signer_name).await?;
        let metrics = options.listen_for_metrics().await?;
        let shutdown = super::shutdown_by_signal()?;
        let service = Service {
            audit,
            authority,
            clock,
            evidence: evidence_cache(),
            metrics,
            policy,
            signer_name: options.signer_name,
        };
        let ready_file = options.ready_file;
        let data_path = data.path().to_owned();
        let result = service
            .run(client, shutdown, || {
                tracing::info!(server, "ready");
                if let Some(path) = &ready_file {
                    let content = json!({ "server": server, "pid": std::process::id(), "data": data_path });
                    if let Err(error) = data_dir::write_atomic(path, format!("{content}\n").as_bytes()) {
                        tracing::error!(error = %crate::controller::chain(&error), "the ready file was not written");
                    }
                }
            })
            .await;
        if let Some(ready) = &ready_file {
            let _ = fs::remove_file(ready);
        }
        result
    }
}

/// A client of the cluster, and its address.
pub(super) async fn connect(
    path: &Path,
    context: Option<String>,
) -> Result<(Client, String), Error> {
    let at = |source| Error::Kubeconfig {
        path: path.to_owned(),
        source,
    };
    let kubeconfig = Kubeconfig::read_from(path).map_err(at)?;
    let options = KubeConfigOptions {
        context,
        ..KubeConfigOptions::default()
    };
    let config = Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(at)?;
    let server = config
        .cluster_url
        .to_string()
        .trim_end_matches('/')
        .to_owned();
    let client = Client::try_from(config).map_err(|source| Error::Api {
        doing: "connect",
        source: Box::new(source),
    })?;
    Ok((client, server))
}

/// Whether the cluster has what the controller needs: better told now than from a loop of warnings.
async fn check(client: &Client, signer_name: &str) -> Result<(), Error> {
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
    let ours = one.fields(&format!("spec.signerName={signer_name}"));
    Api::<CertificateSigningRequest>::all(client.clone())
        .list(&ours)
        .await
        .map_err(|error| Error::Api {
            doing: "list the certificate signing requests",
            source: Box::new(error),
        })?;
    Ok(())
}
