//! `touchstone key generate`: never over a key without being told, never behind factory secrets.

use super::{Enrolment, list, setup};
use crate::{
    args::{KeyGenerate, PinArgs},
    card::{Card, KeySlot, ManagementAccess, pin_policy_in_words, signer, touch_policy_in_words},
    command::{management_access, open, verified_pin},
    error::Error,
    interrupt,
    output::Output,
    pin::Pin,
    terminal::Terminal,
};
use serde::Serialize;
use touchstone_common::{
    attestation::{Firmware, PinPolicy, TouchPolicy},
    key::PublicKey,
};

/// EUCLEAK (Yubico advisory YSA-2024-03): elliptic-curve keys of older firmware can be cloned by who holds the key.
const EUCLEAK_FIXED_IN: Firmware = Firmware {
    major: 5,
    minor: 7,
    patch: 0,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made {
    serial: u32,
    firmware: String,
    slot: String,
    algorithm: String,
    spki: String,
    attested: bool,
    enrolment: Enrolment,
}

/// `touchstone key generate`.
pub(in crate::command) fn run(args: &KeyGenerate, output: Output) -> Result<(), Error> {
    let card = open(args.card.serial)?;
    let mut card = signer::lock(&card);
    let card = &mut *card;
    let slot = KeySlot::from(args.slot);
    let serial = card.serial();

    let old_key = card.key(slot)?;
    let old_certificate = card.certificate(slot)?;
    if old_key.is_some() || old_certificate.is_some() {
        let what = list::in_words(slot, old_key.as_ref(), old_certificate.as_deref());
        if !args.overwrite {
            return Err(Error::SlotOccupied {
                slot: slot.to_string(),
                serial,
                what,
            });
        }
        output.progress(&format!("Slot {slot} holds {what}: it will be replaced."));
    }

    let verified = refuse_factory_secrets(&args.pin, card, output)?;
    if args.management.management_key_file.is_none() && verified.is_none() {
        let pin = verified_pin(card, &args.pin)?;
        refuse_untold_factory_secrets(card, &pin)?;
    }
    card.authenticate(&management_access(&args.management)?)?;

    let pin_policy = PinPolicy::from(args.pin_policy);
    let touch_policy = TouchPolicy::from(args.touch_policy);
    output.progress(&format!(
        "Making the key in slot {slot} of YubiKey {serial}…"
    ));
    let spki = {
        let _whole = interrupt::shield();
        let spki = card.generate(slot, args.algorithm.into(), pin_policy, touch_policy)?;
        if old_certificate.is_some() {
            // It belongs to the key that is gone.
            card.write_certificate(slot, None)?;
        }
        spki
    };
    let key = PublicKey::from_spki_der(&spki)
        .map_err(|_| crate::card::CardError::Malformed("the new public key"))?;
    let evidence = super::evidence(card, args.slot)?;
    let attested = super::verify(&evidence, &key, &args.roots.attestation_root)?;
    if let Err(error) = &attested {
        output.warn(&format!(
            "the key was made, but its attestation does not verify here: {error}. A signer that does not trust its root refuses it."
        ));
    }
    let firmware = card.firmware();
    if args.algorithm != crate::args::NewKey::Rsa2048 {
        warn_of_eucleak(
            firmware,
            "policies refuse them below 5.7.0 by default",
            output,
        );
    }
    output.progress(&format!(
        "Made: asks for the PIN {}, for a touch {}.",
        pin_policy_in_words(Some(pin_policy)),
        touch_policy_in_words(Some(touch_policy)),
    ));
    output.progress("To enrol it, propose these lines for the policy's users:\n");
    let made = Made {
        serial,
        firmware: firmware.to_string(),
        slot: slot.to_string(),
        algorithm: crate::card::Algorithm::from(args.algorithm).to_string(),
        spki: super::spki_text(&key),
        attested: attested.is_ok(),
        enrolment: Enrolment::new(&args.person, serial, &key)?,
    };
    output.data(&made, |made| made.enrolment.yaml())
}

/// Refuses factory secrets; on a terminal, offers to change them first. `Some` when the PIN was verified on the way.
pub(in crate::command) fn refuse_factory_secrets(
    args: &PinArgs,
    card: &mut dyn Card,
    output: Output,
) -> Result<Option<setup::Verified>, Error> {
    let refused = match no_factory_secrets(card) {
        Err(refused @ Error::FactorySecrets { .. }) => refused,
        known => return known.map(|()| None),
    };
    if args.pin_file.is_some() {
        return Err(refused);
    }
    let Ok(mut terminal) = Terminal::open("touchstone key setup") else {
        return Err(refused);
    };
    terminal.say(&format!("{refused}."))?;
    if !terminal.confirm("Change them now?")? {
        return Err(refused);
    }
    setup::interactive(card, &mut terminal, output).map(Some)
}

/// Refuses a card with secrets of the factory, and offers nothing.
pub(in crate::command) fn no_factory_secrets(card: &mut dyn Card) -> Result<(), Error> {
    let which = list::factory_secrets(&card.secrets()?);
    if which.is_empty() {
        return Ok(());
    }
    Err(Error::FactorySecrets {
        serial: card.serial(),
        which,
    })
}

/// Says that elliptic-curve keys of old firmware can be cloned, and what that means for this one.
pub(in crate::command) fn warn_of_eucleak(firmware: Firmware, meaning: &str, output: Output) {
    if firmware < EUCLEAK_FIXED_IN {
        output.warn(&format!(
            "elliptic-curve keys of firmware {firmware} can be cloned by who holds the YubiKey (EUCLEAK); {meaning}."
        ));
    }
}

/// Firmware before 5.3 does not tell. The PIN that was typed shows itself, and the management key may be tried: it has
/// no retry counter. Of the PUK nothing can be known without spending a try.
pub(in crate::command) fn refuse_untold_factory_secrets(
    card: &mut dyn Card,
    pin: &Pin,
) -> Result<(), Error> {
    if card.pin_state()?.factory.is_some() {
        return Ok(());
    }
    let mut which = Vec::new();
    if pin.is_factory() {
        which.push("PIN");
    }
    if card.authenticate(&ManagementAccess::Factory).is_ok() {
        which.push("management key");
    }
    if which.is_empty() {
        return Ok(());
    }
    Err(Error::FactorySecrets {
        serial: card.serial(),
        which,
    })
}
