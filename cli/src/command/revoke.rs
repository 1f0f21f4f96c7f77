//! `touchstone revoke`: marks a grant revoked, waits until the signer took back what it can, and says what nobody can take
//! back.

mod bindings;

use super::{approver::Approver, status};
use crate::{
    args::Revoke,
    config::Reach,
    error::Error,
    grants::{self, Grant, State},
    output::{Output, one_line, pairs},
    submit,
    terminal::Terminal,
};
use bindings::Opened;
use jiff::Timestamp;
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use kube::{Api, api::PostParams};
use serde::Serialize;
use std::time::Duration;
use touchstone_common::claims::Reason;

/// How long the signer may take.
const SIGNER_WITHIN: Duration = Duration::from_secs(20);
/// The pause between two looks.
const PAUSE: Duration = Duration::from_millis(300);

/// Why a grant was not revoked, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum RevokeError {
    /// The person said no to the question.
    #[error("nothing was revoked")]
    Declined,
    /// It opens nothing any more.
    #[error("grant {name} opens nothing any more: it {how}")]
    Over {
        /// Its name.
        name: String,
        /// What became of it.
        how: &'static str,
    },
    /// The signer did not act.
    #[error(
        "grant {name} is marked as revoked, but the signer has not removed its RoleBindings within {} s", SIGNER_WITHIN.as_secs()
    )]
    Unheeded {
        /// Its name.
        name: String,
        /// What removes them by hand.
        by_hand: Vec<String>,
    },
}

impl RevokeError {
    /// What the user can do.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        match self {
            Self::Declined => None,
            Self::Over { .. } => Some("touchstone grants shows what is in force".to_owned()),
            Self::Unheeded { by_hand, .. } => Some(if by_hand.is_empty() {
                "see whether touchstone-signer runs, and whether it may watch grants".to_owned()
            } else {
                format!(
                    "see whether touchstone-signer runs; until then, by hand: {}",
                    by_hand.join("; ")
                )
            }),
        }
    }
}

/// What was revoked and what was not, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Report<'a> {
    grant: &'a Grant,
    dry_run: bool,
    /// RoleBindings of the grant, `NAMESPACE/NAME`: they are removed.
    removed: Vec<String>,
    /// Until when its certificate is valid all the same.
    valid_until: Option<Timestamp>,
    /// What other bindings still open to its holder.
    still_open: &'a Opened,
}

/// `touchstone revoke`.
pub(super) fn run(args: &Revoke, output: Output) -> Result<(), Error> {
    if !submit::is_object_name(&args.name) {
        return Err(Error::Usage(format!(
            "{:?} is not a grant's name: touchstone grants shows them",
            one_line(&args.name)
        )));
    }
    let reason = Reason::parse(&args.reason)?;
    let approver_args = args.from.approver();
    let approver = Approver::open(&approver_args, output)?;
    if matches!(approver.cluster().reach(), Reach::Server { .. }) {
        return Err(Error::Usage(format!(
            "who revokes is known by a credential: reach {} with a kubeconfig (touchstone config set-cluster {} --kubeconfig FILE …)",
            approver.cluster().name(),
            approver.cluster().name()
        )));
    }
    let connection = approver.connection();
    let grant = approver.wait_for(grants::get(connection, &args.name))?;
    let over = |how| RevokeError::Over {
        name: args.name.clone(),
        how,
    };
    match grant.state {
        State::Ended => return Err(over("ended").into()),
        State::Failed => return Err(over("came to nothing").into()),
        State::Live | State::Intent | State::Revoked | State::Unreadable => {}
    }
    let open = approver.wait_for(async { Ok(bindings::of(connection, &grant).await) })?;
    let shown = sheet(&grant, &open);
    let report = |grant: &Grant, dry_run| {
        let report = Report {
            grant,
            dry_run,
            removed: grant.role_bindings().collect(),
            valid_until: grant.until,
            still_open: &open,
        };
        output.data(&report, said)
    };
    if args.dry_run {
        output.progress(shown.trim_end());
        return report(&grant, true);
    }
    if grant.revoked_by.is_none() {
        if args.yes {
            output.progress(shown.trim_end());
        } else {
            let mut terminal = Terminal::open("--yes")?;
            terminal.say(&shown)?;
            if !terminal.confirm("Revoke this grant?")? {
                return Err(RevokeError::Declined.into());
            }
        }
        let by = approver.wait_for(me(&approver))?;
        approver.wait_for(grants::revoke(connection, &grant, &by, reason.as_str()))?;
    }
    let done = approver.wait_for(heeded(&approver, &args.name))?;
    match done {
        Some(done) => report(&done, false),
        None => Err(RevokeError::Unheeded {
            name: args.name.clone(),
            by_hand: grant
                .role_bindings()
                .filter_map(|binding| {
                    let (namespace, name) = binding.split_once('/')?;
                    Some(bindings::delete(namespace, name))
                })
                .collect(),
        }
        .into()),
    }
}

/// Under which name Kubernetes knows who asks.
async fn me(approver: &Approver<'_>) -> Result<String, Error> {
    let connection = approver.connection();
    let api: Api<SelfSubjectReview> = Api::all(connection.client());
    let review = connection
        .within(api.create(&PostParams::default(), &SelfSubjectReview::default()))
        .await?;
    let user = review.status.and_then(|status| status.user_info);
    Ok(user.and_then(|user| user.username).unwrap_or_default())
}

/// The grant once the signer has acted on it; `None`: it has not in time.
async fn heeded(approver: &Approver<'_>, name: &str) -> Result<Option<Grant>, Error> {
    let end = tokio::time::Instant::now() + SIGNER_WITHIN;
    loop {
        let grant = grants::get(approver.connection(), name).await?;
        if grant.revoked_at.is_some() {
            return Ok(Some(grant));
        }
        if tokio::time::Instant::now() >= end {
            return Ok(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What whoever revokes has to see before they do.
fn sheet(grant: &Grant, open: &Opened) -> String {
    let mut rows = vec![
        ("grant", grant.name.clone()),
        ("user", grant.user.clone()),
        ("groups", grant.groups.join(", ")),
        ("reason", format!("{:?}", grant.reason)),
    ];
    let until = grant.until.map_or_else(
        || "not known: its certificate may be on its way".to_owned(),
        status::in_local_time,
    );
    let bindings: Vec<String> = grant.role_bindings().collect();
    rows.push((
        "ends now",
        match bindings.as_slice() {
            [] => "nothing: this grant has no RoleBindings of its own".to_owned(),
            some => format!("RoleBinding {}", some.join(", ")),
        },
    ));
    rows.push((
        "does not end",
        format!("the certificate, until {until}: Kubernetes knows no revocation"),
    ));
    rows.push((
        "and",
        "exec, port-forward and watches that are open: nobody closes them before the certificate ends".to_owned(),
    ));
    rows.extend(
        open.lines()
            .into_iter()
            .enumerate()
            .map(|(number, line)| (if number == 0 { "stays open" } else { "and" }, line)),
    );
    pairs(&rows)
}

fn said(report: &Report<'_>) -> String {
    let mut rows = vec![(
        if report.dry_run {
            "would revoke"
        } else {
            "revoked"
        },
        report.grant.name.clone(),
    )];
    if let Some(by) = &report.grant.revoked_by {
        rows.push(("by", by.clone()));
    }
    rows.push((
        if report.dry_run {
            "would remove"
        } else {
            "removed"
        },
        match report.removed.as_slice() {
            [] => "nothing".to_owned(),
            some => format!("RoleBinding {}", some.join(", ")),
        },
    ));
    if let Some(until) = report.valid_until {
        rows.push(("still valid until", status::in_local_time(until)));
    }
    pairs(&rows)
}
