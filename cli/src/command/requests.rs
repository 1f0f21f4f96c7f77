//! `touchstone requests`: what waits for approval.

use super::{approver::Approver, status::span};
use crate::{
    approval::{self, Waiting},
    args::Requests,
    error::Error,
    output::{Output, one_line, table},
};
use futures::StreamExt as _;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::{
    Api,
    api::{WatchEvent, WatchParams},
};
use serde::Serialize;
use std::{collections::BTreeMap, time::Duration};
use touchstone_common::{approval::Pass, name::GroupName};

/// How long one watch lasts before it is opened again.
const WATCH_FOR: u32 = 290;
/// The pause between two.
const PAUSE: Duration = Duration::from_secs(1);

/// A request that waits, as `--output json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'static str>,
    /// The user that the request is signed for; without a signature that verifies, nobody.
    user: Option<String>,
    created_by: String,
    groups: Vec<String>,
    ttl: Option<String>,
    reason: String,
    waits_for: Option<String>,
    created_at: Option<Timestamp>,
    waits_until: Option<Timestamp>,
    /// Why it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

impl From<&Waiting> for Row {
    fn from(waiting: &Waiting) -> Self {
        let request = waiting.signed.as_ref().ok();
        Self {
            name: waiting.name.clone(),
            event: None,
            user: request.map(|request| request.user().to_string()),
            created_by: waiting.creator.clone(),
            groups: request
                .into_iter()
                .flat_map(|request| request.groups())
                .map(|group: &GroupName| group.to_string())
                .collect(),
            ttl: waiting.ttl().map(|ttl| ttl.to_string()),
            reason: request
                .map(|request| request.claims().reason.to_string())
                .unwrap_or_default(),
            waits_for: waiting.waits_for.clone(),
            created_at: waiting.created,
            waits_until: waiting.until,
            problem: waiting.signed.as_ref().err().cloned(),
        }
    }
}

/// `touchstone requests`.
pub(super) fn run(args: &Requests, output: Output) -> Result<(), Error> {
    let approver = Approver::open(&args.approver, output)?;
    let validity = if args.watch {
        Pass::MAX_VALIDITY
    } else {
        SignedDuration::from_mins(10)
    };
    approver.pass(validity)?;
    approver.wait_for(async {
        if args.watch {
            watch(&approver, output).await
        } else {
            let (waiting, _) = list(&approver).await?;
            let rows: Vec<Row> = waiting.iter().map(Row::from).collect();
            if rows.is_empty() {
                output.progress("Nothing waits for approval.");
            }
            output.data(&rows, |rows| text(rows, Timestamp::now()))
        }
    })
}

async fn list(approver: &Approver<'_>) -> Result<(Vec<Waiting>, String), Error> {
    approval::list(approver.connection(), approver.cluster().signer_name()).await
}

fn text(rows: &[Row], now: Timestamp) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let since = |time: Option<Timestamp>| {
        time.map_or_else(String::new, |time| {
            span(now.duration_since(time).as_secs().max(0))
        })
    };
    let left = |time: Option<Timestamp>| {
        time.map_or_else(String::new, |time| {
            span(time.duration_since(now).as_secs().max(0))
        })
    };
    let cells: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.name.clone(),
                row.user.clone().unwrap_or_else(|| "unreadable".to_owned()),
                row.groups.join(", "),
                row.ttl.clone().unwrap_or_default(),
                row.problem.clone().unwrap_or_else(|| row.reason.clone()),
                row.waits_for.clone().unwrap_or_default(),
                since(row.created_at),
                left(row.waits_until),
            ]
        })
        .collect();
    table(
        &[
            "NAME",
            "USER",
            "GROUPS",
            "TTL",
            "REASON",
            "WAITS FOR",
            "SINCE",
            "LEFT",
        ],
        &cells,
    )
}

/// What is shown of what waits.
#[derive(Default)]
struct Board(BTreeMap<String, Row>);

impl Board {
    /// What there is to say of a request's present state.
    fn see(&mut self, waiting: &Waiting) -> Option<Row> {
        if !waiting.is_pending() {
            return self.lose(&waiting.name);
        }
        let row = Row::from(waiting);
        let before = self.0.insert(row.name.clone(), row.clone());
        let event = match before {
            None => "waits",
            Some(before) if before == row => return None,
            Some(_) => "changed",
        };
        Some(Row {
            event: Some(event),
            ..row
        })
    }

    fn lose(&mut self, name: &str) -> Option<Row> {
        self.0.remove(name).map(|row| Row {
            event: Some("gone"),
            ..row
        })
    }
}

async fn watch(approver: &Approver<'_>, output: Output) -> Result<(), Error> {
    let connection = approver.connection();
    let signer_name = approver.cluster().signer_name();
    let api: Api<CertificateSigningRequest> = Api::all(connection.client());
    let mut board = Board::default();
    let say = |row: Option<Row>| match row {
        None => Ok(()),
        Some(row) => output.data(&row, |row| line(row, Timestamp::now())),
    };
    loop {
        let (waiting, version) = list(approver).await?;
        let gone: Vec<String> = board
            .0
            .keys()
            .filter(|name| !waiting.iter().any(|one| &one.name == *name))
            .cloned()
            .collect();
        for name in gone {
            say(board.lose(&name))?;
        }
        for one in &waiting {
            say(board.see(one))?;
        }
        let parameters = WatchParams::default()
            .fields(&format!("spec.signerName={signer_name}"))
            .timeout(WATCH_FOR);
        // Whatever ends the watch, the next list says whether the server is there.
        if let Ok(events) = connection.within(api.watch(&parameters, &version)).await {
            let mut events = std::pin::pin!(events);
            while let Some(Ok(event)) = events.next().await {
                let row = match event {
                    WatchEvent::Added(request) | WatchEvent::Modified(request) => {
                        Waiting::read(&request).and_then(|waiting| board.see(&waiting))
                    }
                    WatchEvent::Deleted(request) => {
                        Waiting::read(&request).and_then(|waiting| board.lose(&waiting.name))
                    }
                    WatchEvent::Bookmark(_) => None,
                    WatchEvent::Error(_) => break,
                };
                say(row)?;
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// A line of a watch, for people.
fn line(row: &Row, now: Timestamp) -> String {
    let mut text = format!("{} {}", row.event.unwrap_or_default(), row.name);
    if row.event != Some("gone") {
        let user = row.user.as_deref().unwrap_or("unreadable");
        text.push_str(&format!(": {user}, {}", row.groups.join(", ")));
        if !row.reason.is_empty() {
            text.push_str(&format!(", {:?}", row.reason));
        }
        if let Some(what) = &row.waits_for {
            text.push_str(&format!("; waits for {what}"));
        }
        if let Some(until) = row.waits_until {
            let left = until.duration_since(now).as_secs().max(0);
            text.push_str(&format!("; {} left", span(left)));
        }
    }
    one_line(&text) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> Row {
        Row {
            name: "touchstone-alice-x".into(),
            event: None,
            user: Some("alice".into()),
            created_by: "alice".into(),
            groups: vec!["a".into(), "b".into()],
            ttl: Some("30m".into()),
            reason: "INC-1 checkout".into(),
            waits_for: Some("1 approval from team sre".into()),
            created_at: Some("2026-07-01T10:00:00Z".parse().unwrap()),
            waits_until: Some("2026-07-01T11:00:00Z".parse().unwrap()),
            problem: None,
        }
    }

    #[test]
    fn a_list_says_who_asks_what_it_waits_for_and_how_long_it_still_does() {
        let now = "2026-07-01T10:20:00Z".parse().unwrap();
        assert_eq!(
            text(&[row()], now),
            "NAME                USER   GROUPS  TTL  REASON          WAITS FOR                 SINCE  LEFT\n\
             touchstone-alice-x  alice  a, b    30m  INC-1 checkout  1 approval from team sre  20m    40m\n"
        );
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal() {
        let now = "2026-07-01T10:20:00Z".parse().unwrap();
        let row = Row {
            event: Some("waits"),
            waits_for: Some("nobody\u{1b}[2J\ngone touchstone-bob-y".into()),
            ..row()
        };
        for text in [line(&row, now), text(std::slice::from_ref(&row), now)] {
            assert!(!text.contains('\u{1b}'), "{text:?}");
            assert!(text.contains("nobody?[2J?gone"), "{text:?}");
        }
    }
}
