//! Which cluster a command is for.

use super::run::connect;
use crate::{credentials::Credentials, error::Error};
use clap::Args;
use kube::{Client, Config};
use std::path::PathBuf;

/// Which cluster, and which namespace of it.
#[derive(Debug, Args)]
pub struct ClusterOptions {
    /// The cluster, and credentials for it; in a pod, its service account otherwise
    #[arg(long, value_name = "FILE")]
    kubeconfig: Option<PathBuf>,
    /// Which of the kubeconfig's contexts; its current one otherwise
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    context: Option<String>,
    /// Where the CA's record and the trust bundle are; otherwise `touchstone`, and in a pod its own namespace
    #[arg(long, value_name = "NAME")]
    namespace: Option<String>,
}

/// A cluster that was found.
pub(super) struct Found {
    pub(super) config: Config,
    pub(super) namespace: String,
}

impl ClusterOptions {
    pub(super) fn credentials(&self) -> Credentials {
        Credentials::new(self.kubeconfig.clone(), self.context.clone())
    }

    /// The namespace, where one is named.
    pub(super) fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    pub(super) async fn find(&self) -> Result<Found, Error> {
        let credentials = self.credentials();
        let config = credentials.config().await?;
        let namespace = credentials.namespace(self.namespace(), &config);
        Ok(Found { config, namespace })
    }
}

impl Found {
    pub(super) fn client(&self) -> Result<Client, Error> {
        connect(self.config.clone()).map(|(client, _)| client)
    }
}
