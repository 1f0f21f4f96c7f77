//! `touchstone ca sign`: the root signs an issuing CA, as it was reviewed, with one touch.

use super::{
    Ceremony, CeremonyError, Places, card_key, confirm, document, mismatch, passphrase, proven,
    warn_of_software,
};
use crate::{
    args::CaSign,
    card::{KeySlot, signer},
    command::{key::generate, open, roots, verified_pin},
    error::Error,
    interrupt,
    output::Output,
};
use touchstone_common::{
    ceremony::{IssuingRequest, SignedWith, check_root},
    certificate::CaCertificate,
    key::SigningKey as _,
};

/// `touchstone ca sign`.
pub(in crate::command) fn run(args: &CaSign, output: Output) -> Result<(), Error> {
    let places = Places::free(&args.ceremony)?;
    let request = IssuingRequest::from_pem(&document(&args.request, "request")?)
        .map_err(CeremonyError::Request)?;
    let root = CaCertificate::from_pem(&document(&args.root, "certificate")?)
        .map_err(|error| mismatch(format!("{} is no root: {error}", args.root.display())))?;
    check_root(&root).map_err(|error| mismatch(format!("{}: {error}", args.root.display())))?;
    let requested = request.public_key().clone();
    let root_key = root.public_key().clone();
    if requested == root_key {
        return Err(mismatch("the request's key is the root's own"));
    }
    let ceremony = Ceremony::read(&args.ceremony, Some((request, root)))?;
    let roots = roots(&args.ceremony.roots.attestation_root, &[])?;
    let name = ceremony.plan.name().as_str();

    if let Some(path) = &args.ceremony.insecure_software_root {
        warn_of_software(output);
        let key = passphrase::open(path, &args.ceremony)?;
        if key.public_key() != &root_key {
            return Err(mismatch("the key in the file is not the root's"));
        }
        confirm(
            &args.ceremony,
            &ceremony.words(&requested, "a key in a file"),
            name,
            output,
        )?;
        if args.ceremony.dry_run {
            return ceremony.report(&places, None, output);
        }
        let record = ceremony.sign(
            &key,
            SignedWith::InsecureSoftwareKey,
            None,
            &roots,
            |error| CeremonyError::Sign(error).into(),
        )?;
        let _whole = interrupt::shield();
        places.write(&record)?;
        return ceremony.report(&places, Some(&record), output);
    }

    let shared = open(args.ceremony.card.serial)?;
    let slot = KeySlot::from(args.ceremony.slot);
    let (serial, pin, attestation) = {
        let mut card = signer::lock(&shared);
        let card = &mut *card;
        let serial = card.serial();
        let (_, found) = signer::usable_key(card, args.ceremony.slot)?;
        if found != root_key {
            return Err(mismatch(format!(
                "slot {slot} of YubiKey {serial} holds another key than the root's"
            )));
        }
        if args.ceremony.dry_run {
            generate::no_factory_secrets(card)?;
        } else {
            generate::refuse_factory_secrets(&args.ceremony.pin, card, output)?;
        }
        let attestation = proven(card, &args.ceremony, &root_key, &roots)?;
        let signer = format!("slot {slot} of YubiKey {serial}");
        confirm(
            &args.ceremony,
            &ceremony.words(&requested, &signer),
            name,
            output,
        )?;
        if args.ceremony.dry_run {
            return ceremony.report(&places, None, output);
        }
        let pin = verified_pin(card, &args.ceremony.pin)?;
        (serial, pin, attestation)
    };
    let key = card_key(&shared, &args.ceremony, pin, output)?;
    let signed_with = SignedWith::YubiKey {
        serial,
        slot: args.ceremony.slot,
    };
    let record = ceremony.sign(&key, signed_with, Some(attestation), &roots, Error::from)?;
    let _whole = interrupt::shield();
    places.write(&record)?;
    ceremony.report(&places, Some(&record), output)
}
