//! `audit show`: the log as a table for people, or the records that are looked for as they are.

use super::Source;
use crate::{
    audit::{Event, stream::Record},
    command::{Output, print},
    error::Error,
};
use clap::Args;
use jiff::{Span, Timestamp, civil::Date, tz::TimeZone};
use std::{collections::HashMap, mem};
use touchstone_common::name::is_plain;

/// `audit show`.
#[derive(Debug, Args)]
pub struct Show {
    #[command(flatten)]
    source: Source,
    /// Only what is about this user, or about requests that they created
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only what is about this grant
    #[arg(long, value_name = "NAME")]
    grant: Option<String>,
    /// Only since then: 2h, 7d, 2026-11-24 or a time, in UTC
    #[arg(long, value_name = "WHEN", value_parser = since)]
    since: Option<Timestamp>,
    /// A table for people; or the records themselves, one JSON object a line
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// A moment: so long ago, a day's begin, or a time.
fn since(text: &str) -> Result<Timestamp, String> {
    let midnight = || {
        let date: Date = text.parse().ok()?;
        let midnight = date.to_zoned(TimeZone::UTC).ok()?;
        Some(midnight.timestamp())
    };
    let ago = || {
        let span: Span = text.parse().ok()?;
        let now = Timestamp::now().to_zoned(TimeZone::UTC);
        Some(now.checked_sub(span).ok()?.timestamp())
    };
    let time = text.parse::<Timestamp>().ok();
    time.or_else(midnight)
        .or_else(ago)
        .ok_or_else(|| "not a time such as 2h, 7d, 2026-11-24 or 2026-11-24T14:00:00Z".to_owned())
}

/// What is known of grants and requests from the records before: later ones name them only.
#[derive(Default)]
struct People {
    by_grant: HashMap<String, String>,
}

/// A record in words.
struct Row {
    kind: &'static str,
    user: String,
    grant: String,
    what: String,
}

impl Show {
    pub(super) fn run(self) -> Result<(), Error> {
        let mut people = People::default();
        let mut printed = Ok(());
        let mut block = String::new();
        if self.output == Output::Table {
            block.push_str(&line("TIME", "KIND", "USER", "GRANT", "WHAT"));
        }
        let read = self.source.read(None, |record| {
            let row = people.row(&record.event);
            if printed.is_err() || !self.wants(record, &row) {
                return;
            }
            match self.output {
                Output::Json => {
                    block.push_str(record.line);
                    block.push('\n');
                }
                Output::Table => {
                    let time = record.time.strftime("%FT%TZ").to_string();
                    block.push_str(&line(&time, row.kind, &row.user, &row.grant, &row.what));
                }
            }
            // A log may be larger than memory.
            if block.len() > 1 << 16 {
                printed = print(&mem::take(&mut block));
            }
        });
        printed?;
        print(&block)?;
        read.map(drop)
    }

    fn wants(&self, record: &Record<'_>, row: &Row) -> bool {
        let creator = request_of(&record.event).map(|request| request.creator.as_str());
        self.since.is_none_or(|since| record.time >= since)
            && self.grant.as_ref().is_none_or(|grant| row.grant == *grant)
            && self
                .user
                .as_ref()
                .is_none_or(|user| row.user == *user || creator == Some(user))
    }
}

fn request_of(event: &Event) -> Option<&crate::audit::RequestRef> {
    match event {
        Event::Denied { request, .. }
        | Event::Failed { request, .. }
        | Event::ForeignApproval { request, .. }
        | Event::ForeignCertificate { request, .. }
        | Event::Issued { request, .. }
        | Event::Waiting { request, .. } => Some(request),
        Event::Intent(intent) => Some(&intent.request),
        _ => None,
    }
}

impl People {
    fn row(&mut self, event: &Event) -> Row {
        if let Event::Intent(intent) = event {
            self.by_grant
                .insert(intent.grant.clone(), intent.user.clone());
        }
        let of = |grant: &str| self.by_grant.get(grant).cloned().unwrap_or_default();
        let row = |kind, user: &str, grant: &str, what: String| Row {
            kind,
            user: user.to_owned(),
            grant: grant.to_owned(),
            what,
        };
        match event {
            Event::CaMoved {
                ca,
                from,
                to,
                cause,
                ..
            } => {
                let from = from.as_deref().unwrap_or("nothing");
                row(
                    "caMoved",
                    "",
                    "",
                    format!("{ca}: {from} to {to}, by {cause}"),
                )
            }
            Event::Denied {
                request,
                verdict,
                message,
            } => {
                let what = format!("{}: {verdict}: {message}", request.csr);
                row("denied", &request.creator, "", what)
            }
            Event::Failed {
                request,
                grant,
                message,
            } => {
                let grant = grant.as_deref().unwrap_or_default();
                let user = match of(grant) {
                    user if user.is_empty() => request.creator.clone(),
                    user => user,
                };
                row(
                    "failed",
                    &user,
                    grant,
                    format!("{}: {message}", request.csr),
                )
            }
            Event::ForeignApproval { request, message } => {
                let what = format!("{} was approved by someone else: {message}", request.csr);
                row("foreignApproval", &request.creator, "", what)
            }
            Event::ForeignCertificate { request, sha256 } => {
                let what = format!("{} carries {sha256}, which is not ours", request.csr);
                row("foreignCertificate", &request.creator, "", what)
            }
            Event::Intent(intent) => {
                let mut what = format!(
                    "{} for {} s by {}",
                    intent.groups.join(", "),
                    intent.ttl_seconds,
                    intent.rules.join(", ")
                );
                if !intent.approvers.is_empty() {
                    what.push_str(&format!(", approved by {}", intent.approvers.join(", ")));
                }
                if !intent.reason.is_empty() {
                    what.push_str(&format!(": {}", intent.reason));
                }
                row("intent", &intent.user, &intent.grant, what)
            }
            Event::Issued {
                grant,
                fingerprint,
                not_after,
                ..
            } => {
                let what = format!("until {not_after}, X509SHA256={fingerprint}");
                row("issued", &of(grant), grant, what)
            }
            Event::PolicyLoaded { sha256, generation } => row(
                "policyLoaded",
                "",
                "",
                format!("generation {generation}, {sha256}"),
            ),
            Event::PolicyRefused { message } => row("policyRefused", "", "", message.clone()),
            Event::Resumed {} => row("resumed", "", "", "could not be written before".into()),
            Event::Revoked {
                grant,
                user,
                by,
                reason,
                ..
            } => row("revoked", user, grant, format!("by {by}: {reason}")),
            Event::Rotated { file, after } => {
                row("rotated", "", "", format!("file {file}, after {after}"))
            }
            Event::Started {
                version,
                signer_name,
                ..
            } => row("started", "", "", format!("{version}, for {signer_name}")),
            Event::Stopped {} => row("stopped", "", "", String::new()),
            Event::Torn { file, bytes, .. } => {
                row("torn", "", "", format!("{bytes} bytes set aside in {file}"))
            }
            Event::Unbound { grant, bindings } => {
                let what = format!("{bindings} RoleBindings removed");
                row("unbound", &of(grant), grant, what)
            }
            Event::Waiting { request, message } => {
                let what = format!("{}: {message}", request.csr);
                row("waiting", &request.creator, "", what)
            }
        }
    }
}

/// A line of the table. The widths are those of what usually stands there: a log is printed as it is read.
fn line(time: &str, kind: &str, user: &str, grant: &str, what: &str) -> String {
    let text = format!("{time:<20}  {kind:<12}  {user:<24}  {grant:<34}  {what}");
    let plain = text
        .trim_end()
        .chars()
        .map(|c| if is_plain(c) { c } else { '?' });
    plain.chain(['\n']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_a_day_or_so_long_ago() {
        assert_eq!(
            since("2026-11-24").unwrap().to_string(),
            "2026-11-24T00:00:00Z"
        );
        assert_eq!(
            since("2026-11-24T14:00:00+02:00").unwrap().to_string(),
            "2026-11-24T12:00:00Z"
        );
        for ago in ["2h", "90m", "7d"] {
            assert!(since(ago).unwrap() < Timestamp::now(), "{ago}");
        }
        for text in ["", "yesterday", "-"] {
            assert!(since(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_others_wrote_cannot_drive_the_terminal_or_begin_a_line() {
        let event = Event::Revoked {
            grant: "g-1".into(),
            user: "alice".into(),
            by: "mallory\u{1b}[2J".into(),
            reason: "x\n2026-01-01  issued\u{202e}".into(),
            not_after: None,
        };
        let row = People::default().row(&event);
        let line = line("t", row.kind, &row.user, &row.grant, &row.what);
        assert_eq!(line.matches('\n').count(), 1);
        assert!(
            line.contains("mallory?[2J: x?2026-01-01  issued?"),
            "{line:?}"
        );
    }
}
