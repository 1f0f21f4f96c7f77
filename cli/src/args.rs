//! The command line. What several commands share and the commands of a login stand here, the others by subject.

mod approval;
mod ca;
mod config;
mod grants;
mod key;
mod kubectl;

pub use approval::{Approve, ApproverArgs, Deny, Requests, Verdict};
pub use ca::{CaCommand, CaRootCommand, CaRootInit, CaSign, CaVerify, CeremonyArgs};
pub use config::{ConfigCommand, SetCluster};
pub use grants::{Grants, GrantsArgs, Revoke};
pub use key::{
    KeyAttest, KeyCommand, KeyEnrol, KeyGenerate, KeyList, KeySetup, KeyUnblock, NewKey,
    NewPinPolicy, NewTouchPolicy, PersonArgs, RootArgs,
};
pub use kubectl::{
    Credential, Doctor, Exec, Kubectl, PinCache, Proxy, ProxySession, RunArgs, Setup, WantedArgs,
};

use crate::error::Exit;
use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use std::{fmt::Write as _, path::PathBuf, time::Duration};
use touchstone_common::{attestation::Slot, ttl::Ttl};

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
    /// Show who has access now, why, until when, and who approved
    Grants(Grants),
    /// Revoke a grant: end what it opened, as far as that can be ended
    Revoke(Revoke),
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
    /// Hold the ceremonies of the root: make it, have it sign an issuing CA, check what was done
    #[command(subcommand)]
    Ca(CaCommand),
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
    /// The signer to ask, where it is not the one configured for the cluster
    #[arg(long, value_name = "NAME", conflicts_with = "resume")]
    pub signer: Option<String>,
    /// How long the certificate shall live
    #[arg(long, default_value = "30m")]
    pub ttl: Ttl,
    /// Why: for the policy, the approvers and the record
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Make a key in memory for this login instead, without a YubiKey; only where the policy takes any key. P-256 unless
    /// KIND is given
    #[arg(
        long,
        value_name = "KIND",
        value_enum,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "p256",
        conflicts_with_all = ["slot", "no_card_write", "no_wait", "resume", "serial", "pin_file", "management_key_file"]
    )]
    pub software_key: Option<SoftwareKind>,
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
    /// How long to wait for a decision; by default 5 minutes, and for approvals as long as the policy lets the request wait
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub timeout: Option<Duration>,
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

/// A kind of key that is made in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SoftwareKind {
    /// A key of Edwards' curve
    Ed25519,
    /// A key of NIST's curve
    P256,
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
