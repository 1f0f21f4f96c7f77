//! How a cluster is reached: as a pod, with its service account, or with a kubeconfig.

use kube::config::{Config, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use std::path::PathBuf;

/// How a cluster is reached.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// As a pod, with its service account. Its token is replaced while this program runs, and so may be the API server's
    /// CA: `kube` reads both files again every minute.
    InCluster,
    /// With a kubeconfig.
    Kubeconfig {
        /// The file; read again at each connection.
        path: PathBuf,
        /// Which of its contexts; its current one otherwise.
        context: Option<String>,
    },
}

/// Why a cluster cannot be reached. Each message completes "failed to …".
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// This is no pod.
    #[error("find the cluster: this is no pod with a service account")]
    InCluster(#[source] InClusterError),
    /// The kubeconfig.
    #[error("use the kubeconfig {}", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: KubeconfigError,
    },
}

impl CredentialsError {
    /// What to do about it.
    #[must_use]
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::InCluster(_) => {
                "name a kubeconfig with --kubeconfig, or a standalone's data directory with --data"
            }
            Self::Kubeconfig { .. } => {
                "name a kubeconfig with --kubeconfig and one of its contexts with --context"
            }
        }
    }
}

impl Credentials {
    /// What a command line says: a pod's service account where it names no kubeconfig.
    #[must_use]
    pub fn new(kubeconfig: Option<PathBuf>, context: Option<String>) -> Self {
        match kubeconfig {
            None => Self::InCluster,
            Some(path) => Self::Kubeconfig { path, context },
        }
    }

    /// Where the API is, and as whom.
    ///
    /// # Errors
    /// When there is no usable kubeconfig or service account.
    pub async fn config(&self) -> Result<Config, CredentialsError> {
        match self {
            Self::InCluster => Config::incluster().map_err(CredentialsError::InCluster),
            Self::Kubeconfig { path, context } => {
                let options = KubeConfigOptions {
                    context: context.clone(),
                    ..KubeConfigOptions::default()
                };
                let at = |source| CredentialsError::Kubeconfig {
                    path: path.clone(),
                    source,
                };
                let kubeconfig = Kubeconfig::read_from(path).map_err(at)?;
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(at)
            }
        }
    }

    /// The namespace that is meant where none is named: in a pod, the service account's; the usual one otherwise.
    #[must_use]
    pub fn namespace(&self, named: Option<&str>, config: &Config) -> String {
        match (named, self) {
            (Some(named), _) => named.to_owned(),
            (None, Self::InCluster) => config.default_namespace.trim().to_owned(),
            (None, Self::Kubeconfig { .. }) => crate::bundle::NAMESPACE.to_owned(),
        }
    }
}
