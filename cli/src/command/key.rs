//! `touchstone key attest` and `enrol`; [`generate`], [`list`] and [`setup`] have their own files.

pub mod generate;
pub mod list;
pub mod setup;

use super::{open, roots};
use crate::{
    args::{KeyAttest, KeyEnrol, PersonArgs},
    card::{Card, CardError, signer},
    config::Config,
    error::Error,
    file,
    output::Output,
};
use jiff::Timestamp;
use serde::Serialize;
use std::path::PathBuf;
use touchstone_common::{
    attestation::{self, AttestationError, Attested, Slot},
    certificate,
    evidence::Evidence,
    key::PublicKey,
    name::UserName,
};

/// Where a user's name will stand until it is known.
const NAME_TO_FILL_IN: &str = "you@example.com";

/// What the card says in proof of the key in a slot.
pub(in crate::command) fn evidence(card: &mut dyn Card, slot: Slot) -> Result<Evidence, CardError> {
    Ok(Evidence {
        slot_certificate: card.attest(slot.into())?,
        intermediates: vec![card.attestation_certificate()?],
    })
}

/// The roots that were named, those of the configured clusters, and Yubico's. An unreadable configuration is no
/// hindrance here: then only what was named counts.
fn verify(
    evidence: &Evidence,
    key: &PublicKey,
    files: &[PathBuf],
) -> Result<Result<Attested, AttestationError>, Error> {
    let configured: Vec<Vec<u8>> = Config::load()
        .ok()
        .into_iter()
        .flat_map(|config| {
            let names: Vec<String> = config.clusters().map(|(name, _)| name.to_owned()).collect();
            names
                .into_iter()
                .filter_map(move |name| config.cluster(&name).ok())
        })
        .flat_map(|cluster| cluster.attestation_roots().to_vec())
        .collect();
    let roots = roots(files, &configured)?;
    Ok(attestation::verify(evidence, key, &roots, Timestamp::now()))
}

/// `touchstone key attest`.
pub(super) fn attest(args: &KeyAttest, output: Output) -> Result<(), Error> {
    let card = open(args.card.serial)?;
    let mut card = signer::lock(&card);
    let (_, key) = signer::usable_key(&mut *card, args.slot)?;
    let evidence = evidence(&mut *card, args.slot)?;
    let attested = verify(&evidence, &key, &args.roots.attestation_root)??;
    let chain: String = std::iter::once(&evidence.slot_certificate)
        .chain(&evidence.intermediates)
        .map(|der| certificate::to_pem(der))
        .collect();
    if let Some(path) = &args.out {
        file::replace(path, chain.as_bytes()).map_err(|source| Error::File {
            verb: "write",
            path: path.clone(),
            source,
        })?;
    }
    output.progress(&format!(
        "Verified: made in slot {} of YubiKey {} (firmware {}), {}.",
        attested.slot,
        attested.serial,
        attested.firmware,
        if attested.test_root {
            "by an attestation root that you named, not Yubico's"
        } else {
            "attested by Yubico"
        }
    ));
    if output.is_json() {
        return output.data(
            &Attestation {
                serial: attested.serial,
                firmware: attested.firmware.to_string(),
                slot: attested.slot.to_string(),
                spki: spki_text(&key),
                test_root: attested.test_root,
                chain_pem: chain,
            },
            |_| String::new(),
        );
    }
    if args.out.is_none() {
        output.text(&chain)?;
    }
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Attestation {
    serial: u32,
    firmware: String,
    slot: String,
    spki: String,
    test_root: bool,
    chain_pem: String,
}

/// `touchstone key enrol`.
pub(super) fn enrol(args: &KeyEnrol, output: Output) -> Result<(), Error> {
    let card = open(args.card.serial)?;
    let mut card = signer::lock(&card);
    let (_, key) = signer::usable_key(&mut *card, args.slot)?;
    let evidence = evidence(&mut *card, args.slot)?;
    verify(&evidence, &key, &args.roots.attestation_root)??;
    let enrolment = Enrolment::new(&args.person, card.serial(), &key)?;
    if enrolment.name == NAME_TO_FILL_IN {
        output.progress(
            "Put your user name in place of you@example.com (or give --user), then propose these lines for the policy's users:",
        );
    }
    output.data(&enrolment, Enrolment::yaml)
}

/// A user's entry in the policy.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Enrolment {
    name: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    teams: Vec<String>,
    keys: Vec<EnrolledKey>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct EnrolledKey {
    serial: u32,
    spki: String,
}

impl Enrolment {
    fn new(person: &PersonArgs, serial: u32, key: &PublicKey) -> Result<Self, Error> {
        let name = person.user.as_deref().unwrap_or(NAME_TO_FILL_IN);
        let name = UserName::parse(name).map_err(|source| Error::Name {
            what: "user name",
            text: name.to_owned(),
            source,
        })?;
        Ok(Self {
            name: name.as_str().to_owned(),
            teams: person.team.clone(),
            keys: vec![EnrolledKey {
                serial,
                spki: spki_text(key),
            }],
        })
    }

    /// One entry of the policy's `users`. A JSON string is a YAML string too.
    fn yaml(&self) -> String {
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        let mut text = format!("- name: {}\n", quoted(&self.name));
        if !self.teams.is_empty() {
            let teams: Vec<String> = self.teams.iter().map(|team| quoted(team)).collect();
            text.push_str(&format!("  teams: [{}]\n", teams.join(", ")));
        }
        text.push_str("  keys:\n");
        for key in &self.keys {
            text.push_str(&format!(
                "    - {{ serial: {}, spki: {} }}\n",
                key.serial,
                quoted(&key.spki)
            ));
        }
        text
    }
}

/// `sha256:` and the hash of the key, as the policy has it.
pub(super) fn spki_text(key: &PublicKey) -> String {
    format!("sha256:{}", hex::encode(key.spki_sha256()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrolment_is_an_entry_that_the_policy_takes() {
        let enrolment = Enrolment {
            name: "alice@example.com".to_owned(),
            teams: vec!["payments".to_owned(), "a: b".to_owned()],
            keys: vec![EnrolledKey {
                serial: 12_345_678,
                spki: "sha256:00ff".to_owned(),
            }],
        };
        let read: serde_json::Value = serde_saphyr::from_str(&enrolment.yaml()).unwrap();
        assert_eq!(
            read,
            serde_json::json!([serde_json::to_value(&enrolment).unwrap()])
        );
    }
}
