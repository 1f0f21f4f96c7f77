//! `touchstone requests`, `approve` and `deny`: what waits, and the answer.

use super::{CardArgs, PinArgs};
use clap::Args;
use touchstone_common::attestation::Slot;

/// Where an approver works, and with which key.
#[derive(Clone, Debug, Args)]
pub struct ApproverArgs {
    /// The cluster; may be left out when one is configured
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Your user name; by default the one configured for the cluster
    #[arg(long)]
    pub user: Option<String>,
    /// The signer that was asked, where it is not the one configured for the cluster
    #[arg(long, value_name = "NAME")]
    pub signer: Option<String>,
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
