//! `touchstone status`: reads files and the clock, and asks the proxies that run.

use crate::{
    args::Status,
    credential::{Credential, CredentialError, Store},
    error::Error,
    output::{Output, pairs},
    proxy::control::{self, ProxyStatus},
};
use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde::Serialize;
use std::{env, fs};

/// A certificate, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    cluster: &'a str,
    user: &'a str,
    groups: &'a [String],
    not_before: Timestamp,
    not_after: Timestamp,
    seconds_left: i64,
    valid: bool,
    serial_number: &'a str,
    fingerprint: &'a str,
    yubikey: u32,
    slot: &'a str,
    request: &'a str,
    certificate_path: String,
    proxy: Option<ProxyStatus>,
}

/// `touchstone status`.
pub(super) fn run(args: &Status, output: Output) -> Result<(), Error> {
    let store = Store::open()?;
    let credentials = match &args.cluster {
        Some(cluster) => store.credential(cluster)?.into_iter().collect(),
        None => store.credentials()?,
    };
    let now = Timestamp::now();
    let shown: Vec<Shown<'_>> = credentials
        .iter()
        .map(|credential| show(credential, &store, now))
        .collect();
    output.data(&shown, |shown| {
        shown
            .iter()
            .map(|one| text(one, now))
            .collect::<Vec<_>>()
            .join("\n")
    })?;
    if shown.iter().any(|one| one.valid) {
        return Ok(());
    }
    Err(match credentials.as_slice() {
        [only] => CredentialError::Ended {
            cluster: only.cluster.clone(),
            ended: only.not_after,
        },
        _ => CredentialError::None {
            what: "valid certificate",
            cluster: args.cluster.clone(),
        },
    }
    .into())
}

fn show<'a>(credential: &'a Credential, store: &Store, now: Timestamp) -> Shown<'a> {
    let left = credential.not_after.duration_since(now).as_secs();
    Shown {
        cluster: &credential.cluster,
        user: &credential.user,
        groups: &credential.groups,
        not_before: credential.not_before,
        not_after: credential.not_after,
        seconds_left: left.max(0),
        valid: credential.not_before <= now && now <= credential.not_after,
        serial_number: &credential.serial,
        fingerprint: &credential.fingerprint,
        yubikey: credential.yubikey,
        slot: &credential.slot,
        request: &credential.request,
        certificate_path: store
            .certificate_path(&credential.cluster)
            .display()
            .to_string(),
        // None that answers counts as none: touchstone doctor says what is wrong with it.
        proxy: control::status(store, &credential.cluster).unwrap_or_default(),
    }
}

fn text(shown: &Shown<'_>, now: Timestamp) -> String {
    let end = in_local_time(shown.not_after);
    let life = if shown.valid {
        format!("{end} ({} left)", span(shown.seconds_left))
    } else if now < shown.not_before {
        format!(
            "{end}, but it begins only at {}",
            in_local_time(shown.not_before)
        )
    } else {
        format!("ended {end}")
    };
    let mut rows = vec![
        ("cluster", shown.cluster.to_owned()),
        ("user", shown.user.to_owned()),
        ("groups", shown.groups.join(", ")),
        ("valid until", life),
        ("valid from", in_local_time(shown.not_before)),
        ("serial number", shown.serial_number.to_owned()),
        ("fingerprint", shown.fingerprint.to_owned()),
        (
            "key",
            format!("slot {} of YubiKey {}", shown.slot, shown.yubikey),
        ),
    ];
    if let Some(proxy) = &shown.proxy {
        rows.push(("proxy", format!("{}, process {}", proxy.listens, proxy.pid)));
        rows.push(("carried", carried(proxy)));
    }
    pairs(&rows)
}

/// What went through a proxy.
fn carried(proxy: &ProxyStatus) -> String {
    format!(
        "{} requests, {} bytes up, {} bytes down, {} open, {} signatures of the card",
        proxy.requests,
        proxy.bytes_sent,
        proxy.bytes_received,
        proxy.open_streams,
        proxy.signatures
    )
}

/// As people read it.
pub(crate) fn in_local_time(time: Timestamp) -> String {
    time.to_zoned(local_zone()).strftime("%F %T %Z").to_string()
}

/// By the system's own file where it has one: looking a zone up by its name walks the whole zone database first.
fn local_zone() -> TimeZone {
    let file = match env::var_os("TZ") {
        Some(_) => None,
        None => fs::read("/etc/localtime").ok(),
    };
    file.and_then(|rules| TimeZone::tzif("Local", &rules).ok())
        .unwrap_or_else(TimeZone::system)
}

/// `29m 59s`.
pub(in crate::command) fn span(seconds: i64) -> String {
    format!("{:#}", SignedDuration::from_secs(seconds))
}
