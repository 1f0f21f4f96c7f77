//! The command line.

use crate::{card::Algorithm, error::Exit};
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::{
    ffi::OsString,
    fmt::{self, Write as _},
    path::PathBuf,
    time::Duration,
};
use touchstone_common::{
    attestation::{PinPolicy, Slot, TouchPolicy},
    ttl::Ttl,
};

/// Short-lived Kubernetes credentials on a key that never leaves your YubiKey.
///
/// Make a key once (touchstone key generate), have it enrolled, then ask for access when you need it:
///
///   touchstone login --cluster prod --group oncall-payments --reason "INC-4211 checkout latency"
#[derive(Debug, Parser)]
#[command(name = "touchstone", version, propagate_version = true, after_long_help = exit_codes(), max_term_width = 100)]
pub struct Cli {
    /// What goes for every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct Global {
    /// How data is printed on standard output
    #[arg(long, short, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    /// Say nothing but errors, warnings and what needs your hand
    #[arg(long, short, global = true)]
    pub quiet: bool,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For programs; field names are stable.
    Json,
    /// For people.
    Table,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, list, prove and enrol keys on your YubiKey
    #[command(subcommand)]
    Key(KeyCommand),
    /// Ask for a certificate: PIN, touch, verified, kept
    Login(Login),
    /// Show the requests that wait for approval
    Requests(Requests),
    /// Approve a request with your YubiKey
    Approve(Approve),
    /// Deny a request with your YubiKey
    Deny(Deny),
    /// Show the certificates you hold and how long they last
    Status(Status),
    /// Ask the API server who you are, over TLS signed by the YubiKey
    Whoami(Whoami),
    /// Forget a certificate
    Logout(Logout),
    /// Let plain kubectl use the YubiKey: write the kubeconfig
    Setup(Setup),
    /// Run kubectl on a cluster, without changing your kubeconfig
    Kubectl(Kubectl),
    /// Run a program on a cluster, such as helm, k9s or stern, without changing your kubeconfig
    Exec(Exec),
    /// Find out what does not work, and what to do about it
    Doctor(Doctor),
    /// Carry kubectl's requests to the API server, over TLS signed by the YubiKey
    Proxy(Proxy),
    /// Print a credential for kubectl, which runs this by itself; starts the proxy when none runs
    Credential(Credential),
    /// Say where the clusters are and whom to trust
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Print the completion script of a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    Man {
        /// Into this folder, which must be there
        #[arg(value_name = "FOLDER", value_hint = ValueHint::DirPath)]
        folder: PathBuf,
    },
}

/// Which card, and how to open it.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "YubiKey")]
pub struct CardArgs {
    /// Serial number of the YubiKey, when more than one is plugged in
    #[arg(long, value_name = "N")]
    pub serial: Option<u32>,
}

/// Where the PIN comes from.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "YubiKey")]
pub struct PinArgs {
    /// Read the PIN from the first line of FILE (- for standard input) instead of asking
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub pin_file: Option<PathBuf>,
}

/// Writing to the card.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "YubiKey")]
pub struct ManagementArgs {
    /// Management key in hex, from FILE; without it, the one that the card keeps behind the PIN
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub management_key_file: Option<PathBuf>,
}

/// Commands for keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make a key in a slot of the YubiKey and print its enrolment for the policy
    Generate(KeyGenerate),
    /// List the YubiKeys and the keys in their slots
    List(KeyList),
    /// Print the proof that a key was made in the YubiKey, after verifying it
    Attest(KeyAttest),
    /// Print the lines that enrol your key in the policy
    Enrol(KeyEnrol),
    /// Replace factory PIN, PUK and management key
    Setup(KeySetup),
    /// Set a new PIN with the PUK, after too many wrong tries
    Unblock(KeyUnblock),
}

/// `key generate`.
#[derive(Debug, Args)]
pub struct KeyGenerate {
    /// The slot: 9a, 9c, or 82 to 95
    #[arg(long, default_value = "9a")]
    pub slot: Slot,
    /// The kind of key (ed25519 needs firmware 5.7)
    #[arg(long, value_enum, default_value_t = NewKey::P256)]
    pub algorithm: NewKey,
    /// When the YubiKey asks for the PIN
    #[arg(long, value_enum, default_value_t = NewPinPolicy::Once)]
    pub pin_policy: NewPinPolicy,
    /// When the YubiKey asks for a touch
    #[arg(long, value_enum, default_value_t = NewTouchPolicy::Always)]
    pub touch_policy: NewTouchPolicy,
    /// Replace the key in the slot; the old key is gone for ever
    #[arg(long)]
    pub overwrite: bool,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Writing.
    #[command(flatten)]
    pub management: ManagementArgs,
    /// Attestation roots.
    #[command(flatten)]
    pub roots: RootArgs,
    /// Whose key.
    #[command(flatten)]
    pub person: PersonArgs,
}

/// `key list`.
#[derive(Debug, Args)]
pub struct KeyList {
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
}

/// Roots beside Yubico's.
#[derive(Clone, Debug, Args)]
pub struct RootArgs {
    /// Trust this attestation root too: PEM of a test YubiKey
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub attestation_root: Vec<PathBuf>,
}

/// Whose key, for the policy.
#[derive(Clone, Debug, Args)]
pub struct PersonArgs {
    /// Your user name as the policy knows it
    #[arg(long)]
    pub user: Option<String>,
    /// A team you are in; may be repeated
    #[arg(long)]
    pub team: Vec<String>,
}

/// `key attest`.
#[derive(Debug, Args)]
pub struct KeyAttest {
    /// The slot
    #[arg(long, default_value = "9a")]
    pub slot: Slot,
    /// Write the chain to FILE (PEM) instead of standard output
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: Option<PathBuf>,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// Attestation roots.
    #[command(flatten)]
    pub roots: RootArgs,
}

/// `key enrol`.
#[derive(Debug, Args)]
pub struct KeyEnrol {
    /// The slot
    #[arg(long, default_value = "9a")]
    pub slot: Slot,
    /// Whose key.
    #[command(flatten)]
    pub person: PersonArgs,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// Attestation roots.
    #[command(flatten)]
    pub roots: RootArgs,
}

/// `key setup`.
#[derive(Debug, Args)]
pub struct KeySetup {
    /// New PIN, from the first line of FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub new_pin_file: Option<PathBuf>,
    /// New PUK, from the first line of FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub new_puk_file: Option<PathBuf>,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Writing.
    #[command(flatten)]
    pub management: ManagementArgs,
}

/// `key unblock`.
#[derive(Debug, Args)]
pub struct KeyUnblock {
    /// Read the PUK from the first line of FILE instead of asking
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub puk_file: Option<PathBuf>,
    /// New PIN, from the first line of FILE
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub new_pin_file: Option<PathBuf>,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
}

/// `login`.
#[derive(Debug, Args)]
pub struct Login {
    /// The cluster, as `touchstone config list` names it
    #[arg(long, value_name = "NAME")]
    pub cluster: String,
    /// A group to ask for; may be repeated
    #[arg(long, value_name = "GROUP", required_unless_present = "resume")]
    pub group: Vec<String>,
    /// Your user name; by default the one configured for the cluster
    #[arg(long)]
    pub user: Option<String>,
    /// How long the certificate shall live
    #[arg(long, default_value = "30m")]
    pub ttl: Ttl,
    /// Why: for the policy, the approvers and the record
    #[arg(long, default_value = "")]
    pub reason: String,
    /// The slot your key is in
    #[arg(long, default_value = "9a")]
    pub slot: Slot,
    /// Leave the YubiKey's certificate object alone
    #[arg(long)]
    pub no_card_write: bool,
    /// Submit the request and return; --resume fetches the certificate later
    #[arg(long, conflicts_with = "resume")]
    pub no_wait: bool,
    /// Fetch the certificate of a request that was submitted before
    #[arg(long, conflicts_with_all = ["group", "user", "reason"])]
    pub resume: bool,
    /// How long to wait for a decision
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = duration)]
    pub timeout: Duration,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Writing.
    #[command(flatten)]
    pub management: ManagementArgs,
}

/// Where an approver works, and with which key.
#[derive(Clone, Debug, Args)]
pub struct ApproverArgs {
    /// The cluster; may be left out when one is configured
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Your user name; by default the one configured for the cluster
    #[arg(long)]
    pub user: Option<String>,
    /// The slot your key is in
    #[arg(long, default_value = "9a")]
    pub slot: Slot,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
}

/// `requests`.
#[derive(Debug, Args)]
pub struct Requests {
    /// Go on, and show what comes and goes
    #[arg(long)]
    pub watch: bool,
    /// The approver.
    #[command(flatten)]
    pub approver: ApproverArgs,
}

/// What `approve` and `deny` have in common.
#[derive(Debug, Args)]
pub struct Verdict {
    /// The request, as `touchstone requests` names it
    pub name: String,
    /// Do not ask before the card signs; the touch still is
    #[arg(long)]
    pub yes: bool,
    /// The approver.
    #[command(flatten)]
    pub approver: ApproverArgs,
}

/// `approve`.
#[derive(Debug, Args)]
pub struct Approve {
    /// What is said.
    #[command(flatten)]
    pub verdict: Verdict,
    /// What the record shall say beside your name
    #[arg(long, default_value = "")]
    pub comment: String,
}

/// `deny`.
#[derive(Debug, Args)]
pub struct Deny {
    /// What is said.
    #[command(flatten)]
    pub verdict: Verdict,
    /// Why: the engineer reads it
    #[arg(long)]
    pub comment: String,
}

/// `status`.
#[derive(Debug, Args)]
pub struct Status {
    /// Only this cluster
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
}

/// `whoami`.
#[derive(Debug, Args)]
pub struct Whoami {
    /// The cluster; may be left out when you hold one certificate
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
}

/// `logout`.
#[derive(Debug, Args)]
pub struct Logout {
    /// The cluster; may be left out when you hold one certificate
    #[arg(long, value_name = "NAME", conflicts_with = "all")]
    pub cluster: Option<String>,
    /// Every cluster
    #[arg(long)]
    pub all: bool,
    /// Also delete the certificate object in the YubiKey's slot, when it is this one; the key stays
    #[arg(long)]
    pub clear_card: bool,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Writing.
    #[command(flatten)]
    pub management: ManagementArgs,
}

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
    /// URL of the API server or front door, https://host:port
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

/// The kinds of key that can be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NewKey {
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
    /// RSA with 2048 bits.
    Rsa2048,
}

impl From<NewKey> for Algorithm {
    fn from(key: NewKey) -> Self {
        match key {
            NewKey::P256 => Self::P256,
            NewKey::P384 => Self::P384,
            NewKey::Ed25519 => Self::Ed25519,
            NewKey::Rsa2048 => Self::Rsa(2048),
        }
    }
}

/// PIN policies of a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NewPinPolicy {
    /// Once per session.
    Once,
    /// For every signature.
    Always,
    /// Never.
    Never,
}

impl From<NewPinPolicy> for PinPolicy {
    fn from(policy: NewPinPolicy) -> Self {
        match policy {
            NewPinPolicy::Once => Self::Once,
            NewPinPolicy::Always => Self::Always,
            NewPinPolicy::Never => Self::Never,
        }
    }
}

/// Touch policies of a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum NewTouchPolicy {
    /// For every signature.
    Always,
    /// Once, then not for 15 seconds.
    Cached,
    /// Never.
    Never,
}

impl From<NewTouchPolicy> for TouchPolicy {
    fn from(policy: NewTouchPolicy) -> Self {
        match policy {
            NewTouchPolicy::Always => Self::Always,
            NewTouchPolicy::Cached => Self::Cached,
            NewTouchPolicy::Never => Self::Never,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let span: jiff::SignedDuration = text
        .parse()
        .map_err(|_| "not a duration such as 90s or 5m".to_owned())?;
    Duration::try_from(span).map_err(|_| "a duration is not negative".to_owned())
}

/// The table at the end of `--help`.
fn exit_codes() -> String {
    let mut text = "Exit codes:\n".to_owned();
    for exit in Exit::ALL {
        // Writing to a string does not fail.
        let _ = writeln!(text, "  {:>3}  {}", exit.code(), exit.meaning());
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn long_help_lists_every_exit_code() {
        let help = Cli::command().render_long_help().to_string();
        for exit in Exit::ALL {
            assert!(help.contains(&exit.code().to_string()), "{exit:?}");
        }
    }

    #[test]
    fn slots_that_must_not_hold_an_engineers_key_are_refused() {
        for text in ["9d", "9e", "f9", "9b", "96", "81", "9", "09a", "0x9a", ""] {
            assert!(text.parse::<Slot>().is_err(), "{text}");
        }
        for text in ["9a", "9c", "82", "95"] {
            assert!(text.parse::<Slot>().is_ok(), "{text}");
        }
    }
}
