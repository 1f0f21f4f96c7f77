//! `ca status`: every CA, what is due, and what stands in the way.

use super::{picture, place::Place};
use crate::{
    ca::{
        bootstrap, days_left, fingerprint,
        lifecycle::{Ca, Due, Lifecycle, State, Step, Why},
        record::Record,
    },
    command::{Output, print, print_json},
    error::Error,
};
use jiff::{Timestamp, Unit};
use serde_json::{Value, json};
use std::path::Path;
use touchstone_common::certificate::CaCertificate;

/// How many moves are shown.
const MOVES: usize = 5;

pub(super) async fn run(place: &Place, output: Output, now: Timestamp) -> Result<(), Error> {
    let read = match place.open().await {
        Ok(open) => open.read().await,
        Err(error) => Err(error),
    };
    let record = match (read, &place.data) {
        (Ok(read), _) => read.record,
        (Err(Error::CaRecordMissing), Some(data)) if data.join(bootstrap::FOLDER).exists() => {
            return founded(data, output, now);
        }
        (Err(error), _) => return Err(error),
    };
    match output {
        Output::Json => print_json(&json(&record, now)),
        Output::Table => print(&text(&record, now)),
    }
}

/// A CA that `ca init` made and no signer uses yet.
fn founded(data: &Path, output: Output, now: Timestamp) -> Result<(), Error> {
    let (root, issuing) = bootstrap::certificates(data)?;
    let bundle = data.join(bootstrap::TRUST_BUNDLE);
    match output {
        Output::Json => print_json(&json!({
            "root": certificate_json(&root, now),
            "issuing": certificate_json(&issuing, now),
            "trustBundle": bundle,
        })),
        Output::Table => print(&founded_text(&root, &issuing, now)),
    }
}

fn founded_text(root: &CaCertificate, issuing: &CaCertificate, now: Timestamp) -> String {
    let mut text = format!(
        "{:<9}{:<22}{:<11}{}\n",
        "CA", "EXPIRES", "DAYS LEFT", "FINGERPRINT"
    );
    for (name, certificate) in [("root", root), ("issuing", issuing)] {
        text.push_str(&format!(
            "{name:<9}{:<22}{:<11}{}\n",
            certificate.validity().not_after.to_string(),
            days_left(certificate, now),
            fingerprint(certificate.der())
        ));
    }
    text.push_str("Not in use yet: no signer has started here\n");
    text
}

fn certificate_json(certificate: &CaCertificate, now: Timestamp) -> Value {
    let validity = certificate.validity();
    json!({
        "name": certificate.common_name(),
        "fingerprint": fingerprint(certificate.der()),
        "notBefore": validity.not_before,
        "notAfter": validity.not_after,
        "daysLeft": days_left(certificate, now),
    })
}

fn json(record: &Record, now: Timestamp) -> Value {
    let lifecycle = record.lifecycle();
    let cas: Vec<Value> = lifecycle
        .cas()
        .iter()
        .map(|ca| ca_json(record, ca, now))
        .collect();
    let roots: Vec<Value> = record
        .roots()
        .iter()
        .map(|root| certificate_json(root, now))
        .collect();
    json!({
        "cluster": record.binding().cluster,
        "settings": lifecycle.schedule().settings(),
        "active": lifecycle.active().map(|ca| ca.id().to_string()),
        "roots": roots,
        "cas": cas,
        "due": lifecycle.agenda(now),
        "asked": lifecycle.asked(),
        "held": lifecycle.held(),
        "lastSafeMoment": lifecycle.last_safe_moment(),
        "overdue": lifecycle.is_overdue(now),
        "blocked": record.blocked(),
        "bundleRevision": lifecycle.trust_changes(),
        "seen": lifecycle.seen(),
        "moves": lifecycle.journal(),
    })
}

fn ca_json(record: &Record, ca: &Ca, now: Timestamp) -> Value {
    let material = record.material(ca.id());
    let certificate = material.and_then(|material| material.certificate.as_ref());
    json!({
        "id": ca.id().to_string(),
        "state": ca.state(),
        "root": ca.root(),
        "made": ca.made(),
        "published": ca.published(),
        "activated": ca.activated(),
        "retired": ca.retired(),
        "leavesEnd": ca.leaves_end(),
        "removed": ca.removed(),
        "distrusted": ca.distrusted(),
        "key": material.and_then(|material| material.key.as_ref()).map(ToString::to_string),
        "certificate": certificate.map(|certificate| certificate_json(certificate, now)),
    })
}

fn text(record: &Record, now: Timestamp) -> String {
    let lifecycle = record.lifecycle();
    let binding = record.binding();
    let mut text = format!(
        "cluster {}, issuing CAs signed by {}\n\n{}\n",
        binding.cluster,
        match lifecycle.schedule().settings().root {
            crate::ca::lifecycle::Root::Ceremony => "the security team's root",
            crate::ca::lifecycle::Root::None => "themselves",
            crate::ca::lifecycle::Root::Own => "the root in the data directory",
        },
        picture::draw(lifecycle, now)
    );
    text.push_str(&table(record));
    if !record.roots().is_empty() {
        text.push_str("\nRoots in the trust bundle\n");
    }
    for root in record.roots() {
        let end = root.validity().not_after;
        text.push_str(&format!("  {}  until {end}\n", root.common_name()));
    }
    text.push_str(&agenda(lifecycle, now));
    if let Some(blocked) = record.blocked() {
        text.push_str(&format!(
            "\nBLOCKED since {}: could not {}: failed to {}\n  {}\n",
            blocked.since, blocked.step, blocked.why, blocked.remedy
        ));
    }
    if lifecycle.is_overdue(now) {
        text.push_str("\nOVERDUE: a step is late. Past the active CA's end nothing is signed\n");
    }
    text.push_str("\nLast moves\n");
    for one in lifecycle.journal().iter().rev().take(MOVES) {
        text.push_str(&format!("  {}  {} {}\n", second(one.at), one.ca, one.to));
    }
    text
}

fn table(record: &Record) -> String {
    let mut text = format!(
        "{:<8}{:<15}{:<22}{:<22}{}\n",
        "CA", "STATE", "SIGNS SINCE", "EXPIRES", "KEY"
    );
    for ca in record.lifecycle().cas() {
        if ca.state() == State::Removed && ca.distrusted().is_none() {
            continue;
        }
        let time = |time: Option<Timestamp>| time.map_or("-".to_owned(), second);
        let key = record
            .material(ca.id())
            .and_then(|material| material.key.as_ref())
            .map_or("destroyed".to_owned(), ToString::to_string);
        let state = match ca.distrusted() {
            Some(_) => "distrusted",
            None => ca.state().name(),
        };
        text.push_str(&format!(
            "{:<8}{:<15}{:<22}{:<22}{}\n",
            ca.id().to_string(),
            state,
            time(ca.activated()),
            time(ca.lifetime().map(|it| it.not_after)),
            key
        ));
    }
    text
}

/// What is due, in words.
pub(super) fn agenda(lifecycle: &Lifecycle, now: Timestamp) -> String {
    if let Some(held) = lifecycle.held() {
        return format!(
            "\nHELD since {}: nothing moves by itself. Go on with: touchstone-signer ca rotate\n",
            second(held)
        );
    }
    let mut text = "\nDue\n".to_owned();
    for due in lifecycle.agenda(now) {
        text.push_str(&format!("  {}\n", words(&due, now)));
    }
    text
}

fn words(due: &Due, now: Timestamp) -> String {
    let what = match due.step {
        Step::Activate(ca) => format!("{ca} takes over"),
        Step::AskRoot(ca) => format!("the security team is asked for the certificate of {ca}"),
        Step::AwaitRoot(ca) => format!(
            "the security team signs {ca}: touchstone-signer ca request, touchstone ca sign, touchstone-signer ca import"
        ),
        Step::Discard(ca) => format!("{ca} is discarded"),
        Step::Prepare => "the next CA is prepared".into(),
        Step::Publish(ca) => format!("{ca} enters the trust bundle"),
        Step::Remove(ca) => format!("{ca} leaves the trust bundle, its key is destroyed"),
    };
    let why = match due.why {
        Why::ActiveEnds => ", since the active CA nears its end",
        Why::Asked => ", as asked",
        Why::LeavesEnded => ", its last certificate having ended",
        Why::NothingSigns => ", since no CA signs",
        Why::Schedule => "",
        Why::Useless => ", since its dates do not fit the time",
    };
    let when = if due.at <= now {
        "now".to_owned()
    } else {
        second(due.at)
    };
    format!("{when:<22}{what}{why}")
}

fn second(time: Timestamp) -> String {
    time.round(Unit::Second).unwrap_or(time).to_string()
}
