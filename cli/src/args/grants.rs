//! `touchstone grants` and `revoke`: who has access, and who no longer.

use super::{ApproverArgs, CardArgs, PinArgs};
use clap::Args;
use touchstone_common::attestation::Slot;

/// Where Grants are read, and with which key where no kubeconfig is configured.
#[derive(Clone, Debug, Args)]
pub struct GrantsArgs {
    /// The cluster; may be left out when one is configured
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
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

impl GrantsArgs {
    /// As an approver works, under the name that is configured.
    #[must_use]
    pub fn approver(&self) -> ApproverArgs {
        ApproverArgs {
            cluster: self.cluster.clone(),
            user: None,
            signer: None,
            slot: self.slot,
            card: self.card.clone(),
            pin: self.pin.clone(),
        }
    }
}

/// `grants`.
#[derive(Debug, Args)]
pub struct Grants {
    /// Only this user's
    #[arg(long, value_name = "NAME")]
    pub user: Option<String>,
    /// Only those with this group
    #[arg(long, value_name = "GROUP")]
    pub group: Option<String>,
    /// Also those that ended or came to nothing
    #[arg(long)]
    pub all: bool,
    /// The cluster.
    #[command(flatten)]
    pub from: GrantsArgs,
}

/// `revoke`.
#[derive(Debug, Args)]
pub struct Revoke {
    /// The grant, as `touchstone grants` names it
    pub name: String,
    /// Why, for the record
    #[arg(long, default_value = "", hide_default_value = true)]
    pub reason: String,
    /// Show what would end and what would not, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// The cluster.
    #[command(flatten)]
    pub from: GrantsArgs,
}
