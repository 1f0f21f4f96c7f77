//! What brings kubectl to the key: `setup`, `kubectl`, `exec`, `doctor`, `proxy`, `credential`.

use super::{CardArgs, PinArgs, SoftwareKind};
use clap::{Args, ValueEnum, ValueHint};
use std::{ffi::OsString, fmt, path::PathBuf};
use touchstone_common::{attestation::Slot, ttl::Ttl};

/// `setup`.
#[derive(Debug, Args)]
pub struct Setup {
    /// A cluster, as `touchstone config list` names it; may be repeated; by default every one
    #[arg(long, value_name = "NAME")]
    pub cluster: Vec<String>,
    /// The file to change; by default the one that kubectl would change
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub kubeconfig: Option<PathBuf>,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Take the entries out again
    #[arg(long, conflicts_with_all = ["context_name", "ttl", "namespace", "set_current", "port", "plugin"])]
    pub remove: bool,
    /// Name of the context, for one cluster; by default touchstone-NAME
    #[arg(long, value_name = "CONTEXT")]
    pub context_name: Option<String>,
    /// Make it the current context
    #[arg(long)]
    pub set_current: bool,
    /// The context's namespace
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How long a certificate shall live that kubectl asks for [default: 30m]
    #[arg(long)]
    pub ttl: Option<Ttl>,
    /// The port of 127.0.0.1 that the cluster's proxy listens on from now on
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// Also link kubectl-touchstone into FOLDER, so that kubectl touchstone works; it must be on the PATH
    #[arg(long, value_name = "FOLDER", value_hint = ValueHint::DirPath)]
    pub plugin: Option<PathBuf>,
}

/// Where a program that is run shall find the cluster.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The cluster; may be left out when there is only one, or a certificate for only one
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The namespace, when nothing else is said
    #[arg(long, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// How long a certificate shall live that is asked for
    #[arg(long, default_value = "30m")]
    pub ttl: Ttl,
    /// Use the key of touchstone login --software-key, without the proxy
    #[arg(long)]
    pub software_key: bool,
}

/// `kubectl`.
#[derive(Debug, Args)]
pub struct Kubectl {
    /// Where.
    #[command(flatten)]
    pub run: RunArgs,
    /// kubectl's own arguments, behind --
    #[arg(trailing_var_arg = true, value_name = "ARGS")]
    pub arguments: Vec<OsString>,
}

/// `exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Where.
    #[command(flatten)]
    pub run: RunArgs,
    /// The program and its arguments, behind --
    #[arg(
        trailing_var_arg = true,
        required = true,
        value_name = "COMMAND",
        value_hint = ValueHint::CommandWithArguments
    )]
    pub command: Vec<OsString>,
}

/// `doctor`.
#[derive(Debug, Args)]
pub struct Doctor {
    /// Only this cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The slot your key is in, until a certificate says
    #[arg(long, default_value = "9a")]
    pub slot: Slot,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
}

/// How long the proxy keeps the PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PinCache {
    /// Not at all: it is asked for whenever the card wants it.
    Off,
    /// In locked memory, while the certificate lives.
    Session,
}

impl fmt::Display for PinCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Off => "off",
            Self::Session => "session",
        })
    }
}

/// How the proxy behaves.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Proxy")]
pub struct ProxySession {
    /// How long the proxy keeps the PIN
    #[arg(long, value_enum, default_value_t = PinCache::Session)]
    pub pin_cache: PinCache,
    /// Two minutes before the certificate ends, ask for the next one
    #[arg(long)]
    pub renew: bool,
    /// Let Impersonate-* headers (kubectl --as) pass
    #[arg(long)]
    pub allow_impersonation: bool,
}

/// What to ask for when no certificate will do.
#[derive(Clone, Debug, Args)]
pub struct WantedArgs {
    /// A group to ask for when there is no certificate that has it; by default those of the last one
    #[arg(long, value_name = "GROUP")]
    pub group: Vec<String>,
    /// Why, when there is no certificate; by default the reason of the last one
    #[arg(long)]
    pub reason: Option<String>,
    /// How long a certificate shall live
    #[arg(long, default_value = "30m")]
    pub ttl: Ttl,
    /// The slot your key is in, until a certificate says
    #[arg(long, default_value = "9a")]
    pub slot: Slot,
}

/// `proxy`.
#[derive(Debug, Args)]
pub struct Proxy {
    /// The cluster, as `touchstone config list` names it
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// Listen on this port of 127.0.0.1 from now on; a kubeconfig that names another needs touchstone setup again
    #[arg(long, value_name = "N")]
    pub port: Option<u16>,
    /// What to ask for.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// Run without a terminal, behind touchstone credential
    #[arg(long, hide = true)]
    pub detached: bool,
    /// How it behaves.
    #[command(flatten)]
    pub session: ProxySession,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
}

/// `credential`.
#[derive(Debug, Args)]
pub struct Credential {
    /// The cluster, as `touchstone config list` names it
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// Give kubectl a key that is in memory only, for the cluster itself instead of the proxy; made when there is none and
    /// --group says what for; only where the policy takes any key
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "p256",
        conflicts_with_all = ["slot", "serial", "pin_file", "pin_cache", "renew", "allow_impersonation"]
    )]
    pub software_key: Option<SoftwareKind>,
    /// What to ask for.
    #[command(flatten)]
    pub wanted: WantedArgs,
    /// How the proxy behaves that is started.
    #[command(flatten)]
    pub session: ProxySession,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
}
