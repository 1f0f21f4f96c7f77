//! `touchstone ca root init`: a root whose key never leaves the card it was made in.

use super::{
    Ceremony, CeremonyError, Places, card_key, confirm, passphrase, proven, warn_of_software,
};
use crate::{
    args::CaRootInit,
    card::{Algorithm, CardError, KeySlot, signer},
    command::{
        key::{generate, list},
        management_access, open, roots,
    },
    error::Error,
    file, interrupt,
    output::Output,
};
use std::path::Path;
use touchstone_common::{
    attestation::{PinPolicy, Roots, TouchPolicy},
    ceremony::{Makes, SignedWith},
    certificate::CaCertificate,
    key::{KeyAlgorithm, PublicKey, SigningKey as _, SoftwareKey},
};
use zeroize::Zeroizing;

/// `touchstone ca root init`.
pub(in crate::command) fn init(args: &CaRootInit, output: Output) -> Result<(), Error> {
    let places = Places::free(&args.ceremony)?;
    let ceremony = Ceremony::read(&args.ceremony, None)?;
    let Makes::Root { algorithm } = ceremony.plan.makes() else {
        return Ok(());
    };
    let roots = roots(&args.ceremony.roots.attestation_root, &[])?;
    match &args.ceremony.insecure_software_root {
        Some(path) => in_file(args, &ceremony, &places, path, algorithm, &roots, output),
        None => on_card(args, &ceremony, &places, algorithm, &roots, output),
    }
}

fn in_file(
    args: &CaRootInit,
    ceremony: &Ceremony,
    places: &Places,
    path: &Path,
    algorithm: KeyAlgorithm,
    roots: &Roots,
    output: Output,
) -> Result<(), Error> {
    warn_of_software(output);
    if std::fs::symlink_metadata(path).is_ok() {
        return Err(CeremonyError::Exists(path.to_owned()).into());
    }
    let failed = |source| CeremonyError::Key {
        path: path.to_owned(),
        source,
    };
    let key = SoftwareKey::generate(algorithm).map_err(failed)?;
    let words = ceremony.words(key.public_key(), "a key in a file");
    confirm(
        &args.ceremony,
        &words,
        ceremony.plan.name().as_str(),
        output,
    )?;
    if args.ceremony.dry_run {
        return ceremony.report(places, None, output);
    }
    let passphrase = passphrase::new(&args.ceremony, args.no_passphrase, output)?;
    let record = ceremony.sign(
        &key,
        SignedWith::InsecureSoftwareKey,
        None,
        roots,
        |error| CeremonyError::Sign(error).into(),
    )?;
    let pem = match &passphrase {
        Some(passphrase) => key.to_encrypted_pem(passphrase).map(Zeroizing::new),
        None => key.to_pkcs8_pem(),
    }
    .map_err(failed)?;
    let _whole = interrupt::shield();
    file::create(path, pem.as_bytes()).map_err(|source| Error::File {
        verb: "write",
        path: path.to_owned(),
        source,
    })?;
    if let Err(error) = places.write(&record) {
        let _ = file::remove(path);
        return Err(error);
    }
    ceremony.report(places, Some(&record), output)
}

fn on_card(
    args: &CaRootInit,
    ceremony: &Ceremony,
    places: &Places,
    algorithm: KeyAlgorithm,
    roots: &Roots,
    output: Output,
) -> Result<(), Error> {
    let shared = open(args.ceremony.card.serial)?;
    let slot = KeySlot::from(args.ceremony.slot);
    let serial = signer::lock(&shared).serial();
    let unsigned =
        format!("slot {slot} holds a new key without a certificate: run it again with --overwrite");
    let (pin, public_key, attestation) = {
        let mut card = signer::lock(&shared);
        let card = &mut *card;
        let old_key = card.key(slot)?;
        let old_certificate = card.certificate(slot)?;
        let mut replaces = String::new();
        if old_key.is_some() || old_certificate.is_some() {
            let what = list::in_words(slot, old_key.as_ref(), old_certificate.as_deref());
            if !args.overwrite {
                return Err(Error::SlotOccupied {
                    slot: slot.to_string(),
                    serial,
                    what,
                });
            }
            replaces = format!("; replaces {what}, which is then gone for ever");
        }
        if args.ceremony.dry_run {
            generate::no_factory_secrets(card)?;
        } else {
            generate::refuse_factory_secrets(&args.ceremony.pin, card, output)?;
        }
        generate::warn_of_eucleak(
            card.firmware(),
            "make a root that is to last for years on a newer YubiKey",
            output,
        );
        let name = ceremony.plan.name().as_str();
        let words = format!(
            "Makes the root {name:?}, {algorithm}, valid until {}, in slot {slot} of YubiKey {serial}{replaces}.",
            ceremony.validity.not_after
        );
        confirm(&args.ceremony, &words, name, output)?;
        if args.ceremony.dry_run {
            return ceremony.report(places, None, output);
        }
        let pin = crate::command::verified_pin(card, &args.ceremony.pin)?;
        generate::refuse_untold_factory_secrets(card, &pin)?;
        card.authenticate(&management_access(&args.management)?)?;
        let made = {
            let _whole = interrupt::shield();
            let kind = match algorithm {
                KeyAlgorithm::P256 => Algorithm::P256,
                _ => Algorithm::P384,
            };
            let made = card.generate(slot, kind, PinPolicy::Always, TouchPolicy::Always)?;
            if old_certificate.is_some() {
                // It belongs to the key that is gone.
                card.write_certificate(slot, None)?;
            }
            made
        };
        interrupt::last_words(Some(unsigned.clone()));
        let key = PublicKey::from_spki_der(&made)
            .map_err(|_| CardError::Malformed("the new public key"))?;
        let attestation =
            proven(card, &args.ceremony, &key, roots).inspect_err(|_| output.warn(&unsigned))?;
        (pin, key, attestation)
    };
    let words = ceremony.words(&public_key, &format!("slot {slot} of YubiKey {serial}"));
    output.progress(words.trim_end());
    let key = card_key(&shared, &args.ceremony, pin, output)?;
    let signed_with = SignedWith::YubiKey {
        serial,
        slot: args.ceremony.slot,
    };
    let record = ceremony
        .sign(&key, signed_with, Some(attestation), roots, Error::from)
        .inspect_err(|_| output.warn(&unsigned))?;
    let _whole = interrupt::shield();
    places
        .write(&record)
        .inspect_err(|_| output.warn(&unsigned))?;
    interrupt::last_words(None);
    let root = CaCertificate::from_pem(record.certificate.as_bytes())?;
    signer::lock(&shared)
        .write_certificate(slot, Some(root.der()))
        .inspect_err(|_| {
            output.warn(
                "the root was made and its files are written; only the slot lacks the certificate",
            );
        })?;
    ceremony.report(places, Some(&record), output)
}
