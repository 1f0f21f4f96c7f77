//! Reading the published bundle from a cluster.

use super::{
    Bundle,
    published::{self, CONFIG_MAP, KEY, PublishedError},
};
use crate::{
    controller::code,
    credentials::{Credentials, CredentialsError},
};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{Api, Client};
use std::time::Duration;

/// How long one question to the API may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// The namespace whose UID stands for the cluster.
const SYSTEM: &str = "kube-system";

/// A cluster, and the namespace that the bundle is in.
#[derive(Clone)]
pub struct Source {
    client: Client,
    namespace: String,
}

/// Why there is no bundle to take. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Nothing is published.
    #[error(
        "read the published trust bundle: there is no ConfigMap {CONFIG_MAP} in the namespace {namespace}"
    )]
    Absent {
        /// The namespace.
        namespace: String,
    },
    /// It was published for another cluster.
    #[error(
        "use the published trust bundle: it is of the cluster with the UID {found}, and this one has {here}"
    )]
    Foreign {
        /// Whose it is.
        found: String,
        /// The UID of this cluster's `kube-system`.
        here: String,
    },
    /// The way to the cluster.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The API.
    #[error("{doing}")]
    Kubernetes {
        /// What was tried.
        doing: &'static str,
        /// What came back.
        source: Box<kube::Error>,
    },
    /// What is published is no bundle.
    #[error(transparent)]
    Published(#[from] PublishedError),
    /// The API does not answer.
    #[error("{doing}: the API server did not answer within {} s", PATIENCE.as_secs())]
    Silent {
        /// What was tried.
        doing: &'static str,
    },
}

impl SourceError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> String {
        match self {
            Self::Absent { .. } => {
                "start the signer, which publishes it, or name its namespace with --namespace".into()
            }
            Self::Foreign { .. } => {
                "let the signer of this cluster publish it again: this one came from a backup or by a wrong kubeconfig".into()
            }
            Self::Credentials(error) => error.remedy().into(),
            Self::Kubernetes { source, .. } if matches!(code(source), Some(401 | 403)) => {
                "give this account the rights of deploy/bundle-sync/rbac.yaml, and name the bundle's namespace with --namespace".into()
            }
            Self::Kubernetes { .. } | Self::Silent { .. } => {
                "check that the API server runs and can be reached from here".into()
            }
            Self::Published(error) => error.remedy(),
        }
    }

    /// Whether it is the API or the way to it, and not what is published.
    #[must_use]
    pub fn is_of_the_api(&self) -> bool {
        match self {
            Self::Credentials(_) | Self::Kubernetes { .. } | Self::Silent { .. } => true,
            Self::Absent { .. } | Self::Foreign { .. } | Self::Published(_) => false,
        }
    }
}

impl Source {
    /// Where the API is. Reads the kubeconfig anew: certificates in it are replaced while this program runs.
    ///
    /// # Errors
    /// When there is no usable kubeconfig or service account.
    pub async fn open(
        credentials: &Credentials,
        namespace: Option<&str>,
    ) -> Result<Self, SourceError> {
        let config = credentials.config().await?;
        let namespace = credentials.namespace(namespace, &config);
        let client = crate::api::client(config).map_err(kubernetes("connect"))?;
        Ok(Self { client, namespace })
    }

    /// The ConfigMaps of the namespace, to watch.
    #[must_use]
    pub fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What is published, if it is whole and of this cluster.
    ///
    /// # Errors
    /// When the API does not answer, or there is no such bundle.
    pub async fn read(&self) -> Result<Bundle, SourceError> {
        let doing = "read the published trust bundle";
        let maps = self.config_maps();
        let map = ask(doing, maps.get_opt(CONFIG_MAP)).await?;
        let map = map.ok_or_else(|| SourceError::Absent {
            namespace: self.namespace.clone(),
        })?;
        let pem = map.data.as_ref().and_then(|data| data.get(KEY));
        let bundle = published::read(&map.metadata, pem.map(String::as_str))?;
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let system = ask("read the namespace kube-system", namespaces.get(SYSTEM)).await?;
        let here = system.metadata.uid.unwrap_or_default();
        if bundle.binding().uid != here {
            return Err(SourceError::Foreign {
                found: bundle.binding().uid.clone(),
                here,
            });
        }
        Ok(bundle)
    }
}

async fn ask<T>(
    doing: &'static str,
    question: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, SourceError> {
    match tokio::time::timeout(PATIENCE, question).await {
        Ok(answer) => answer.map_err(kubernetes(doing)),
        Err(_) => Err(SourceError::Silent { doing }),
    }
}

fn kubernetes(doing: &'static str) -> impl FnOnce(kube::Error) -> SourceError {
    move |source| SourceError::Kubernetes {
        doing,
        source: Box::new(source),
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Source")
            .field("namespace", &self.namespace)
            .finish_non_exhaustive()
    }
}
