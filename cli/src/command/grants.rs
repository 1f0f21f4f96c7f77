//! `touchstone grants`: who has access now, since when, why, until when, and who approved.

use super::{approver::Approver, status::span};
use crate::{
    args::Grants,
    error::Error,
    grants::{self, Grant, Wanted},
    output::{Output, table},
};
use jiff::{SignedDuration, Timestamp};

/// `touchstone grants`.
pub(super) fn run(args: &Grants, output: Output) -> Result<(), Error> {
    let approver_args = args.from.approver();
    let approver = Approver::open(&approver_args, output)?;
    approver.pass(SignedDuration::from_mins(10))?;
    let wanted = Wanted {
        user: args.user.as_deref(),
        group: args.group.as_deref(),
        all: args.all,
    };
    let now = Timestamp::now();
    let grants = approver.wait_for(grants::list(approver.connection(), &wanted, now))?;
    if grants.is_empty() {
        output.progress(if args.all {
            "There is no such grant."
        } else {
            "Nobody has access by a grant. Those that ended are shown with --all."
        });
    }
    output.data(&grants, |grants| text(grants, now))
}

fn text(grants: &[Grant], now: Timestamp) -> String {
    if grants.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = grants.iter().map(|grant| row(grant, now)).collect();
    table(
        &[
            "NAME",
            "USER",
            "GROUPS",
            "REASON",
            "RULE",
            "APPROVED BY",
            "SINCE",
            "LEFT",
            "STATE",
        ],
        &rows,
    )
}

fn row(grant: &Grant, now: Timestamp) -> Vec<String> {
    let since = grant.since.map_or_else(String::new, |since| {
        span(now.duration_since(since).as_secs().max(0))
    });
    let left = grant
        .until
        .map(|until| until.duration_since(now).as_secs())
        .filter(|left| *left >= 0)
        .map_or_else(String::new, span);
    let why = match &grant.message {
        Some(message) if grant.reason.is_empty() => message.clone(),
        _ => grant.reason.clone(),
    };
    vec![
        grant.name.clone(),
        grant.user.clone(),
        grant.groups.join(", "),
        why,
        grant.rules.join(", "),
        approved_by(grant),
        since,
        left,
        state(grant),
    ]
}

fn state(grant: &Grant) -> String {
    match &grant.revoked_by {
        Some(by) => format!("{}, revoked by {by}", grant.state.word()),
        None => grant.state.word().to_owned(),
    }
}

fn approved_by(grant: &Grant) -> String {
    let mut names = grant.approvers.clone();
    if grant.unsigned_approval {
        names.push("someone who did not sign".to_owned());
    }
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::State;

    fn grant() -> Grant {
        Grant {
            name: "g-1".into(),
            state: State::Live,
            user: "alice".into(),
            groups: vec!["a".into(), "b".into()],
            reason: "INC-1 checkout".into(),
            rules: vec!["payments".into()],
            approvers: vec!["bob".into()],
            unsigned_approval: true,
            key_serial: Some(7),
            request: "touchstone-alice-x".into(),
            since: Some("2026-07-01T10:00:00Z".parse().unwrap()),
            until: Some("2026-07-01T10:30:00Z".parse().unwrap()),
            bindings: Vec::new(),
            fingerprint: None,
            revoked_by: None,
            revocation_reason: None,
            revoked_at: None,
            uid: None,
            message: None,
        }
    }

    #[test]
    fn a_list_says_who_has_access_why_by_whom_and_for_how_long_still() {
        let now = "2026-07-01T10:10:00Z".parse().unwrap();
        assert_eq!(
            text(&[grant()], now),
            "NAME  USER   GROUPS  REASON          RULE      APPROVED BY                    SINCE  LEFT  STATE\n\
             g-1   alice  a, b    INC-1 checkout  payments  bob, someone who did not sign  10m    20m   live\n"
        );
    }

    #[test]
    fn what_ended_or_failed_says_so() {
        let now = "2026-07-01T11:00:00Z".parse().unwrap();
        let ended = Grant {
            state: State::Ended,
            ..grant()
        };
        assert!(text(&[ended], now).contains("  1h           ended\n"));
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        let now = "2026-07-01T10:10:00Z".parse().unwrap();
        let grant = Grant {
            reason: "x\u{1b}[2J\ng-2  mallory".into(),
            user: "\u{202e}ecila".into(),
            ..grant()
        };
        let text = text(&[grant], now);
        assert!(text.contains("x?[2J?g-2"), "{text:?}");
        assert!(
            text.contains("?ecila") && text.lines().count() == 2,
            "{text:?}"
        );
    }
}
