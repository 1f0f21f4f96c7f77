//! The smart card service, the YubiKey and the key in it.

use super::{Finding, within};
use crate::{
    args,
    card::{Algorithm, Card, CardError, Secrets, signer, yubikey},
    command::key,
    config::Config,
    credential::{Credential, Store},
    error::Error,
};
use jiff::Timestamp;
use std::time::Duration;
use touchstone_common::attestation::{self, Attested, Firmware, Roots, Slot};

/// A card answers in well under a second, unless another program has it.
const CARD_ANSWERS_WITHIN: Duration = Duration::from_secs(8);
/// Keys of elliptic curves can be cloned out of older ones (Yubico YSA-2024-03).
const NOT_CLONED_SINCE: Firmware = Firmware {
    major: 5,
    minor: 7,
    patch: 0,
};

/// What the card tells without a PIN.
struct Told {
    serial: u32,
    firmware: Firmware,
    secrets: Result<Secrets, CardError>,
    key: Result<(Algorithm, Result<Attested, Error>), CardError>,
}

pub(super) fn check(
    args: &args::Doctor,
    store: &Store,
    config: Option<&Config>,
    clusters: &[String],
) -> Vec<Finding> {
    // The YubiKey and the slot of the last login are the ones that count.
    let kept: Vec<Credential> = clusters
        .iter()
        .filter_map(|cluster| store.credential(cluster).ok().flatten())
        .collect();
    let last = kept.iter().max_by_key(|credential| credential.not_before);
    let serial = args
        .card
        .serial
        .or(last.map(|credential| credential.yubikey));
    let slot = last
        .and_then(|credential| credential.slot.parse().ok())
        .unwrap_or(args.slot);
    let configured: Vec<Vec<u8>> = clusters
        .iter()
        .filter_map(|cluster| config?.cluster(cluster).ok())
        .flat_map(|cluster| cluster.attestation_roots().to_vec())
        .collect();
    match within(CARD_ANSWERS_WITHIN, move || ask(serial, slot, &configured)) {
        None => vec![Finding::fail(
            "card",
            format!(
                "no answer within {} s: another program uses it, or it waits for a touch",
                CARD_ANSWERS_WITHIN.as_secs()
            ),
            "touch it if it blinks; else unplug it, plug it in again, and see which program uses it (gpgconf --kill scdaemon)",
        )],
        Some(Err(error)) => vec![Finding::error("card", error)],
        Some(Ok(told)) => findings(told, slot),
    }
}

fn ask(serial: Option<u32>, slot: Slot, roots: &[Vec<u8>]) -> Result<Told, CardError> {
    let mut card = yubikey::open(serial)?;
    Ok(Told {
        serial: card.serial(),
        firmware: card.firmware(),
        secrets: card.secrets(),
        key: signer::usable_key(&mut card, slot).map(|(key, public_key)| {
            let attested = || -> Result<Attested, Error> {
                let evidence = key::evidence(&mut card, slot)?;
                let mut trusted = Roots::yubico();
                for root in roots {
                    trusted = trusted.with_test_root(root)?;
                }
                let now = Timestamp::now();
                Ok(attestation::verify(&evidence, &public_key, &trusted, now)?)
            };
            let mut attested = attested;
            (key.algorithm, attested())
        }),
    })
}

fn findings(told: Told, slot: Slot) -> Vec<Finding> {
    let mut findings = vec![Finding::ok(
        "card",
        format!("YubiKey {}, firmware {}", told.serial, told.firmware),
    )];
    match &told.secrets {
        Ok(secrets) => findings.extend(secret_findings(secrets, told.serial)),
        Err(error) => findings.push(Finding::error("PIN", error.clone())),
    }
    let (algorithm, attested) = match told.key {
        Ok(key) => key,
        Err(error) => {
            findings.push(Finding::error("key", error));
            return findings;
        }
    };
    let clonable = told.firmware < NOT_CLONED_SINCE && !matches!(algorithm, Algorithm::Rsa(_));
    findings.push(if clonable {
        Finding::warn(
            "key",
            format!(
                "{algorithm} in slot {slot}; who holds a YubiKey of this firmware can clone such keys, and policies refuse them"
            ),
            "use a YubiKey of firmware 5.7 or later, or an RSA key: touchstone key generate --algorithm rsa2048",
        )
    } else {
        Finding::ok("key", format!("{algorithm} in slot {slot}"))
    });
    findings.push(match attested {
        Ok(attested) if attested.test_root => Finding::ok(
            "attestation",
            "verified up to a root that the configuration names, not Yubico's",
        ),
        Ok(_) => Finding::ok("attestation", "verified up to Yubico's root"),
        Err(error) => Finding::error("attestation", error),
    });
    findings
}

fn secret_findings(secrets: &Secrets, serial: u32) -> Vec<Finding> {
    let setup = format!("touchstone key setup --serial {serial}");
    [
        (
            "PIN",
            secrets.pin,
            format!("touchstone key unblock --serial {serial}"),
        ),
        (
            "PUK",
            secrets.puk,
            CardError::PukLocked.remedy().unwrap_or_default(),
        ),
        ("management key", secrets.management_key, String::new()),
    ]
    .into_iter()
    .map(
        |(name, state, unblock)| match (state.factory, state.tries_left) {
            // Tries of a management key are not counted.
            (_, Some(0)) if name != "management key" => {
                Finding::fail(name, "locked after too many wrong tries", unblock)
            }
            (Some(true), _) => {
                Finding::fail(name, "is the factory's, which everyone knows", &setup)
            }
            (None, _) => Finding::warn(
                name,
                "this firmware does not tell whether it is the factory's",
                "if in doubt, change it: ykman piv access",
            ),
            (Some(false), Some(left)) if left < 3 && name != "management key" => Finding::warn(
                name,
                format!("changed from the factory's; {left} tries left"),
                "a right one resets the count",
            ),
            (Some(false), _) => Finding::ok(name, "changed from the factory's"),
        },
    )
    .collect()
}
