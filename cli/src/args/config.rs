//! `touchstone config`: where the clusters are and whom to trust.

use super::RootArgs;
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;

/// Commands for the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Add or replace a cluster
    SetCluster(Box<SetCluster>),
    /// List the clusters
    List,
    /// Show a cluster
    Show {
        /// Its name
        name: String,
    },
    /// Remove a cluster
    Remove {
        /// Its name
        name: String,
    },
}

/// `config set-cluster`.
#[derive(Debug, Args)]
pub struct SetCluster {
    /// A name of your choice: the one the policy has for the cluster
    pub name: String,
    /// URL of the API server, https://host:port; a front door's does for login alone
    #[arg(
        long,
        value_name = "URL",
        required_unless_present = "kubeconfig",
        conflicts_with = "kubeconfig"
    )]
    pub server: Option<String>,
    /// The CA of the server's certificate (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "server")]
    pub ca: Option<PathBuf>,
    /// Reach the cluster as this kubeconfig says, with the credential in it
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Its context; by default the current one
    #[arg(long, requires = "kubeconfig")]
    pub context: Option<String>,
    /// URL of the front door, where login asks without a credential; all else is asked of the cluster
    #[arg(long, value_name = "URL", requires = "front_door_ca")]
    pub front_door: Option<String>,
    /// The CA of the front door's certificate (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "front_door")]
    pub front_door_ca: Option<PathBuf>,
    /// The root that issued certificates must chain to (PEM)
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub trust_bundle: PathBuf,
    /// The signer
    #[arg(long, value_name = "NAME")]
    pub signer_name: Option<String>,
    /// Your user name there
    #[arg(long)]
    pub user: Option<String>,
    /// Attestation roots.
    #[command(flatten)]
    pub roots: RootArgs,
}
