//! `touchstone key`: the keys on a YubiKey.

use super::{CardArgs, ManagementArgs, PinArgs};
use crate::card::Algorithm;
use clap::{Args, Subcommand, ValueEnum, ValueHint};
use std::path::PathBuf;
use touchstone_common::attestation::{PinPolicy, Slot, TouchPolicy};

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
