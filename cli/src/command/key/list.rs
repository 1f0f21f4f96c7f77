//! `touchstone key list`: what is in the YubiKeys, in plain words.

use crate::{
    args::KeyList,
    card::{
        Card, CardError, KeySlot, Origin, SlotKey, pin_policy_in_words, touch_policy_in_words,
        yubikey,
    },
    error::Error,
    output::{Output, one_line, table},
};
use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;
use touchstone_common::key::PublicKey;
use x509_cert::der::Decode as _;

/// A YubiKey and its keys, as `--output json` has it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedCard {
    serial: u32,
    firmware: String,
    pin_tries_left: Option<u8>,
    factory_secrets: Vec<&'static str>,
    keys: Vec<ListedKey>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedKey {
    slot: String,
    algorithm: Option<String>,
    pin_policy: Option<String>,
    touch_policy: Option<String>,
    #[serde(skip)]
    words: (&'static str, &'static str),
    origin: Option<&'static str>,
    spki: Option<String>,
    certificate: Option<ListedCertificate>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ListedCertificate {
    subject: String,
    issuer: String,
    not_after: Option<Timestamp>,
}

/// `touchstone key list`.
pub(in crate::command) fn run(args: &KeyList, output: Output) -> Result<(), Error> {
    let cards = match args.card.serial {
        Some(serial) => vec![yubikey::open(Some(serial))?],
        None => yubikey::open_all()?,
    };
    let listed: Vec<ListedCard> = cards
        .into_iter()
        .map(|mut card| list(&mut card))
        .collect::<Result<_, _>>()?;
    output.data(&listed, |cards| {
        cards.iter().map(text).collect::<Vec<_>>().join("\n")
    })
}

fn list(card: &mut dyn Card) -> Result<ListedCard, CardError> {
    let secrets = card.secrets()?;
    let mut keys = Vec::new();
    for slot in KeySlot::all() {
        let key = card.key(slot)?;
        // Of a card that tells its keys, a certificate without one is of no use.
        if key.is_none() && secrets.pin.factory.is_some() {
            continue;
        }
        let certificate = card.certificate(slot)?;
        if key.is_some() || certificate.is_some() {
            keys.push(listed_key(slot, key.as_ref(), certificate.as_deref()));
        }
    }
    Ok(ListedCard {
        serial: card.serial(),
        firmware: card.firmware().to_string(),
        pin_tries_left: secrets.pin.tries_left,
        factory_secrets: factory_secrets(&secrets),
        keys,
    })
}

/// Which secrets are known to be the factory's.
pub(in crate::command) fn factory_secrets(secrets: &crate::card::Secrets) -> Vec<&'static str> {
    [
        ("PIN", secrets.pin),
        ("PUK", secrets.puk),
        ("management key", secrets.management_key),
    ]
    .into_iter()
    .filter(|(_, state)| state.factory == Some(true))
    .map(|(name, _)| name)
    .collect()
}

fn listed_key(slot: KeySlot, key: Option<&SlotKey>, certificate: Option<&[u8]>) -> ListedKey {
    ListedKey {
        slot: slot.to_string(),
        algorithm: key.map(|key| key.algorithm.to_string()),
        pin_policy: key
            .and_then(|key| key.pin_policy)
            .map(|policy| policy.to_string()),
        touch_policy: key
            .and_then(|key| key.touch_policy)
            .map(|policy| policy.to_string()),
        words: (
            pin_policy_in_words(key.and_then(|key| key.pin_policy)),
            touch_policy_in_words(key.and_then(|key| key.touch_policy)),
        ),
        origin: key.and_then(|key| key.origin).map(|origin| match origin {
            Origin::Generated => "generated",
            Origin::Imported => "imported",
        }),
        spki: key
            .and_then(|key| key.spki.as_deref())
            .and_then(|spki| PublicKey::from_spki_der(spki).ok())
            .map(|key| super::spki_text(&key)),
        certificate: certificate.map(listed_certificate),
    }
}

fn listed_certificate(der: &[u8]) -> ListedCertificate {
    match x509_cert::Certificate::from_der(der) {
        Ok(certificate) => {
            let tbs = certificate.tbs_certificate();
            let end = tbs.validity().not_after.to_unix_duration().as_secs();
            ListedCertificate {
                subject: one_line(&tbs.subject().to_string()),
                issuer: one_line(&tbs.issuer().to_string()),
                not_after: i64::try_from(end)
                    .ok()
                    .and_then(|end| Timestamp::from_second(end).ok()),
            }
        }
        Err(_) => ListedCertificate {
            subject: "unreadable".to_owned(),
            issuer: "unreadable".to_owned(),
            not_after: None,
        },
    }
}

/// What is in a slot, in a line: for those who are about to overwrite it.
pub(in crate::command) fn in_words(
    slot: KeySlot,
    key: Option<&SlotKey>,
    certificate: Option<&[u8]>,
) -> String {
    let listed = listed_key(slot, key, certificate);
    let key = match (&listed.algorithm, listed.origin) {
        (Some(algorithm), Some(origin)) => format!(
            "{} {algorithm} key ({origin}; PIN {}, touch {})",
            article(algorithm),
            listed.words.0,
            listed.words.1
        ),
        (Some(algorithm), None) => format!("{} {algorithm} key", article(algorithm)),
        (None, _) => "no key that it tells of".to_owned(),
    };
    match listed.certificate {
        Some(certificate) => format!(
            "{key} and the certificate {}",
            certificate_in_words(&certificate)
        ),
        None => key,
    }
}

fn article(algorithm: &str) -> &'static str {
    // "an Ed25519", "an RSA", "an X25519"; "a P-256".
    if algorithm.starts_with('p') {
        "a"
    } else {
        "an"
    }
}

fn certificate_in_words(certificate: &ListedCertificate) -> String {
    match certificate.not_after {
        Some(end) => {
            let shown = end.to_zoned(TimeZone::system()).strftime("%F %R %Z");
            let tense = if end < Timestamp::now() {
                "ended"
            } else {
                "until"
            };
            format!("{} ({tense} {shown})", certificate.subject)
        }
        None => certificate.subject.clone(),
    }
}

fn text(card: &ListedCard) -> String {
    let mut text = format!("YubiKey {}, firmware {}", card.serial, card.firmware);
    match card.pin_tries_left {
        Some(0) => text.push_str(", PIN locked"),
        Some(n) if n < 3 => text.push_str(&format!(", {n} PIN tries left")),
        Some(_) | None => {}
    }
    text.push('\n');
    if !card.factory_secrets.is_empty() {
        text.push_str(&format!(
            "  still the factory's: {} (touchstone key setup)\n",
            card.factory_secrets.join(", ")
        ));
    }
    if card.keys.is_empty() {
        text.push_str("  no keys (touchstone key generate)\n");
        return text;
    }
    let rows: Vec<Vec<String>> = card
        .keys
        .iter()
        .map(|key| {
            vec![
                format!("  {}", key.slot),
                key.algorithm
                    .clone()
                    .unwrap_or_else(|| "unknown".to_owned()),
                key.words.0.to_owned(),
                key.words.1.to_owned(),
                key.certificate
                    .as_ref()
                    .map_or_else(|| "none".to_owned(), certificate_in_words),
            ]
        })
        .collect();
    text.push_str(&table(
        &[
            "  SLOT",
            "KEY",
            "ASKS FOR PIN",
            "ASKS FOR TOUCH",
            "CERTIFICATE",
        ],
        &rows,
    ));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::card::Algorithm;
    use touchstone_common::attestation::{PinPolicy, TouchPolicy};

    #[test]
    fn a_key_without_certificate_is_listed_all_the_same() {
        let slot = KeySlot::all().next().unwrap();
        let key = SlotKey {
            algorithm: Algorithm::P256,
            spki: None,
            pin_policy: Some(PinPolicy::Once),
            touch_policy: Some(TouchPolicy::Always),
            origin: Some(Origin::Generated),
        };
        let shown = text(&ListedCard {
            serial: 12_345_678,
            firmware: "5.7.1".to_owned(),
            pin_tries_left: Some(2),
            factory_secrets: vec!["PUK"],
            keys: vec![listed_key(slot, Some(&key), None)],
        });
        assert_eq!(
            shown,
            "YubiKey 12345678, firmware 5.7.1, 2 PIN tries left\n  still the factory's: PUK (touchstone key setup)\n  SLOT  KEY   ASKS FOR PIN      ASKS FOR TOUCH       CERTIFICATE\n  9a    p256  once per session  for every signature  none\n"
        );
    }
}
