//! `touchstone status`: reads files and the clock, and asks the proxies that run.

use super::logout::{clusters_with_a_proxy, is_plain};
use crate::{
    args::Status,
    credential::{Credential, CredentialError, Store},
    error::Error,
    output::{Output, pairs},
    proxy::control::{self, ProxyStatus},
    software::SoftwareCertificate,
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
    /// Null for a key in memory, as the slot and the path.
    yubikey: Option<u32>,
    slot: Option<&'a str>,
    software_key: Option<&'a str>,
    request: &'a str,
    certificate_path: Option<String>,
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
    let proxies = proxies(args, &store, &credentials);
    let proxy_of = |cluster: &str| {
        let mut proxies = proxies.iter();
        proxies.find(|(name, _)| name == cluster).map(|(_, p)| p)
    };
    let kept = credentials
        .iter()
        .map(|credential| show(credential, &store, proxy_of(&credential.cluster), now));
    let in_memory = proxies.iter().filter_map(|(cluster, proxy)| {
        let software = proxy.software_key.as_ref()?;
        Some(show_software(cluster, software, proxy, now))
    });
    let shown: Vec<Shown<'_>> = kept.chain(in_memory).collect();
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

/// The proxies of the clusters in question. One that does not answer counts as none: touchstone doctor says what is wrong
/// with it.
fn proxies(args: &Status, store: &Store, credentials: &[Credential]) -> Vec<(String, ProxyStatus)> {
    let mut names = match &args.cluster {
        Some(cluster) => vec![cluster.clone()],
        None => clusters_with_a_proxy(store),
    };
    names.extend(credentials.iter().map(|one| one.cluster.clone()));
    names.sort();
    names.dedup();
    let names = names.into_iter().filter(|name| is_plain(name));
    let status = |name: String| {
        let proxy = control::status(store, &name).unwrap_or_default()?;
        Some((name, proxy))
    };
    names.filter_map(status).collect()
}

fn show_software<'a>(
    cluster: &'a str,
    software: &'a SoftwareCertificate,
    proxy: &ProxyStatus,
    now: Timestamp,
) -> Shown<'a> {
    let left = software.not_after.duration_since(now).as_secs();
    Shown {
        cluster,
        user: &software.user,
        groups: &software.groups,
        not_before: software.not_before,
        not_after: software.not_after,
        seconds_left: left.max(0),
        valid: software.not_before <= now && now <= software.not_after,
        serial_number: &software.serial_number,
        fingerprint: &software.fingerprint,
        yubikey: None,
        slot: None,
        software_key: Some(&software.algorithm),
        request: &software.request,
        certificate_path: None,
        proxy: Some(proxy.clone()),
    }
}

fn show<'a>(
    credential: &'a Credential,
    store: &Store,
    proxy: Option<&ProxyStatus>,
    now: Timestamp,
) -> Shown<'a> {
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
        yubikey: Some(credential.yubikey),
        slot: Some(&credential.slot),
        software_key: None,
        request: &credential.request,
        certificate_path: Some(
            store
                .certificate_path(&credential.cluster)
                .display()
                .to_string(),
        ),
        proxy: proxy.cloned(),
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
            match (shown.slot, shown.yubikey, shown.software_key) {
                (Some(slot), Some(yubikey), _) => format!("slot {slot} of YubiKey {yubikey}"),
                (_, _, kind) => format!("{}, in memory only", kind.unwrap_or_default()),
            },
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
