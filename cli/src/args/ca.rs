//! `touchstone ca`: the ceremonies of the root.

use super::{CardArgs, ManagementArgs, PinArgs, RootArgs};
use clap::{Args, Subcommand, ValueHint};
use std::path::PathBuf;
use touchstone_common::attestation::Slot;

/// Commands for the root's ceremonies.
#[derive(Debug, Subcommand)]
pub enum CaCommand {
    /// Make a root
    #[command(subcommand)]
    Root(CaRootCommand),
    /// Print the JSON Schema of ceremony files
    Schema,
    /// Sign an issuing CA's request with the root: one touch
    Sign(CaSign),
    /// Check a ceremony's record, and that files are the ones it speaks of
    Verify(CaVerify),
}

/// Commands for roots.
#[derive(Debug, Subcommand)]
pub enum CaRootCommand {
    /// Make a root's key on a YubiKey and its certificate, signed with one touch
    Init(CaRootInit),
}

/// What both ceremonies share.
#[derive(Debug, Args)]
pub struct CeremonyArgs {
    /// The ceremony file that was reviewed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plan: PathBuf,
    /// Write the certificate here (PEM), and the record beside it; nothing is replaced
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub out: PathBuf,
    /// Write the record to FILE; by default OUT with the ending .record.json
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub record: Option<PathBuf>,
    /// The slot of the root's key
    #[arg(long, default_value = "9c")]
    pub slot: Slot,
    /// Do not ask before signing
    #[arg(long)]
    pub yes: bool,
    /// Check and show everything, but sign and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// For trials only: the root's key is this file, not a YubiKey
    #[arg(long, value_name = "KEY", value_hint = ValueHint::FilePath)]
    pub insecure_software_root: Option<PathBuf>,
    /// Read the passphrase of that file from the first line of FILE (- for standard input) instead of asking
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "insecure_software_root")]
    pub passphrase_file: Option<PathBuf>,
    /// Which card.
    #[command(flatten)]
    pub card: CardArgs,
    /// The PIN.
    #[command(flatten)]
    pub pin: PinArgs,
    /// Attestation roots.
    #[command(flatten)]
    pub roots: RootArgs,
}

/// `ca root init`.
#[derive(Debug, Args)]
pub struct CaRootInit {
    /// What both ceremonies share.
    #[command(flatten)]
    pub ceremony: CeremonyArgs,
    /// Replace the key in the slot; the old key is gone for ever
    #[arg(long, conflicts_with = "insecure_software_root")]
    pub overwrite: bool,
    /// Leave the root's key file without a passphrase
    #[arg(
        long,
        requires = "insecure_software_root",
        conflicts_with = "passphrase_file"
    )]
    pub no_passphrase: bool,
    /// Writing.
    #[command(flatten)]
    pub management: ManagementArgs,
}

/// `ca sign`.
#[derive(Debug, Args)]
pub struct CaSign {
    /// What `touchstone-signer ca request` printed
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub request: PathBuf,
    /// The root's certificate
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub root: PathBuf,
    /// What both ceremonies share.
    #[command(flatten)]
    pub ceremony: CeremonyArgs,
}

/// `ca verify`.
#[derive(Debug, Args)]
pub struct CaVerify {
    /// The record
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub record: PathBuf,
    /// The certificate must be this one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub certificate: Option<PathBuf>,
    /// The request must be this one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub request: Option<PathBuf>,
    /// The ceremony file must be this one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub plan: Option<PathBuf>,
    /// The root must be this one
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub root: Option<PathBuf>,
    /// Attestation roots.
    #[command(flatten)]
    pub roots: RootArgs,
}
