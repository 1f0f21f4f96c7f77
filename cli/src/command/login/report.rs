//! What `touchstone login` prints.

use crate::{
    command::status,
    credential::{Credential, Store},
    error::Error,
    output::{Output, pairs},
};
use jiff::Timestamp;
use serde::Serialize;
use touchstone_common::grant::is_own_group;

/// A certificate, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct LoggedIn<'a> {
    cluster: &'a str,
    user: &'a str,
    groups: &'a [String],
    not_before: Timestamp,
    not_after: Timestamp,
    serial_number: &'a str,
    fingerprint: &'a str,
    yubikey: u32,
    slot: &'a str,
    request: &'a str,
    certificate_path: String,
    written_to_card: bool,
}

/// A request that waits, as `--output json` has it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Waiting<'a> {
    pub(super) cluster: &'a str,
    pub(super) request: &'a str,
}

/// Tells of a certificate that was kept.
pub(super) fn report(
    store: &Store,
    credential: &Credential,
    written_to_card: bool,
    output: Output,
) -> Result<(), Error> {
    let logged_in = LoggedIn {
        cluster: &credential.cluster,
        user: &credential.user,
        groups: &credential.groups,
        not_before: credential.not_before,
        not_after: credential.not_after,
        serial_number: &credential.serial,
        fingerprint: &credential.fingerprint,
        yubikey: credential.yubikey,
        slot: &credential.slot,
        request: &credential.request,
        certificate_path: store
            .certificate_path(&credential.cluster)
            .display()
            .to_string(),
        written_to_card,
    };
    output.data(&logged_in, |one| {
        let left = one.not_after.duration_since(Timestamp::now()).as_secs();
        let mut rows = vec![
            ("logged in to", one.cluster.to_owned()),
            ("as", one.user.to_owned()),
            ("groups", one.groups.join(", ")),
        ];
        if let Some(group) = one.groups.iter().find(|group| is_own_group(group)) {
            let words =
                "is this grant's own, bound until the certificate ends or the grant is revoked";
            rows.push(("of which", format!("{group} {words}")));
        }
        rows.extend([
            (
                "until",
                format!(
                    "{} ({} left)",
                    status::in_local_time(one.not_after),
                    status::span(left.max(0))
                ),
            ),
            ("certificate", one.certificate_path.clone()),
        ]);
        pairs(&rows)
    })
}
