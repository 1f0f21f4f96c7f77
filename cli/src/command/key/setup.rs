//! `touchstone key setup` and `unblock`: no factory PIN, PUK or management key on a card that grants access.

use super::list::factory_secrets;
use crate::{
    args::{KeySetup, KeyUnblock, ManagementArgs},
    card::{Card, CardError, ManagementAccess, signer},
    command::open,
    error::Error,
    interrupt,
    output::Output,
    pin::{ManagementKey, Pin, PinSource, Puk, ask_new, secret_from_file},
    terminal::Terminal,
};
use serde::Serialize;

/// That the PIN was verified on this connection.
#[derive(Clone, Copy, Debug)]
pub(in crate::command) struct Verified;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Done {
    serial: u32,
    changed: Vec<&'static str>,
}

/// Where new values come from.
enum Source<'a> {
    Files(&'a KeySetup),
    Terminal(&'a mut Terminal),
}

/// `touchstone key setup`.
pub(in crate::command) fn run(args: &KeySetup, output: Output) -> Result<(), Error> {
    let card = open(args.card.serial)?;
    let mut card = signer::lock(&card);
    let card = &mut *card;
    let scripted =
        args.pin.pin_file.is_some() || args.new_pin_file.is_some() || args.new_puk_file.is_some();
    let changed = if scripted {
        change(card, &mut Source::Files(args), &args.management, output)?
    } else {
        let mut terminal = Terminal::open("--new-pin-file FILE --new-puk-file FILE")?;
        change(
            card,
            &mut Source::Terminal(&mut terminal),
            &args.management,
            output,
        )?
    };
    let done = Done {
        serial: card.serial(),
        changed,
    };
    output.data(&done, |done| match done.changed.as_slice() {
        [] => format!("YubiKey {}: nothing was left to change\n", done.serial),
        changed => format!("YubiKey {}: changed {}\n", done.serial, changed.join(", ")),
    })
}

/// Walks through the changes on the terminal; afterwards the PIN is verified.
pub(super) fn interactive(
    card: &mut dyn Card,
    terminal: &mut Terminal,
    output: Output,
) -> Result<Verified, Error> {
    let management = ManagementArgs {
        management_key_file: None,
    };
    change(card, &mut Source::Terminal(terminal), &management, output)?;
    Ok(Verified)
}

/// PIN, PUK, management key, in this order; what is no longer the factory's stays. Each step stands by itself, so an
/// interrupted setup goes on where it ended.
fn change(
    card: &mut dyn Card,
    source: &mut Source<'_>,
    management: &ManagementArgs,
    output: Output,
) -> Result<Vec<&'static str>, Error> {
    let secrets = card.secrets()?;
    if secrets.pin.factory.is_none() {
        return Err(CardError::Unsupported {
            what:
                "telling whether its PIN is the factory's (5.3 and later do); use ykman piv access"
                    .to_owned(),
            firmware: card.firmware(),
        }
        .into());
    }
    let mut changed = Vec::new();

    let pin = if secrets.pin.factory == Some(true) {
        let new = source.new_pin(card)?;
        let _whole = interrupt::shield();
        card.change_pin(None, &new)?;
        output.progress("PIN changed.");
        changed.push("PIN");
        new
    } else {
        source.current_pin(card, secrets.pin.tries_left)?
    };
    if secrets.puk.factory == Some(true) {
        let new = source.new_puk(card)?;
        let _whole = interrupt::shield();
        card.change_puk(None, &new)?;
        output.progress("PUK changed. Keep it where you find it when the PIN is locked.");
        changed.push("PUK");
    }
    card.verify_pin(&pin)?;
    let access = match (
        &management.management_key_file,
        secrets.management_key.factory,
    ) {
        (_, Some(true)) => Some(ManagementAccess::Factory),
        (Some(path), _) => Some(ManagementAccess::Given(ManagementKey::from_file(path)?)),
        (None, _) => None,
    };
    if let Some(access) = access {
        let _whole = interrupt::shield();
        card.authenticate(&access)?;
        card.protect_management_key()?;
        output.progress(
            "Management key replaced by a random one that the card keeps behind the PIN.",
        );
        changed.push("management key");
    }
    Ok(changed)
}

impl Source<'_> {
    fn new_pin(&mut self, card: &dyn Card) -> Result<Pin, Error> {
        match self {
            Self::Files(args) => match &args.new_pin_file {
                Some(path) => Ok(Pin::parse_new(&secret_from_file(path)?)?),
                None => Err(still_factory(card, "PIN")),
            },
            Self::Terminal(terminal) => Ok(ask_new(terminal, "PIN", Pin::parse_new)?),
        }
    }

    fn new_puk(&mut self, card: &dyn Card) -> Result<Puk, Error> {
        match self {
            Self::Files(args) => match &args.new_puk_file {
                Some(path) => Ok(Puk::parse_new(&secret_from_file(path)?)?),
                None => Err(still_factory(card, "PUK")),
            },
            Self::Terminal(terminal) => Ok(ask_new(terminal, "PUK", Puk::parse_new)?),
        }
    }

    /// The PIN that is no longer the factory's: named, or the one a run before this one set.
    fn current_pin(&mut self, card: &dyn Card, tries_left: Option<u8>) -> Result<Pin, Error> {
        let file = match self {
            Self::Files(args) => args.pin.pin_file.clone().or(args.new_pin_file.clone()),
            Self::Terminal(_) => None,
        };
        Ok(PinSource::new(file).pin(card.serial(), tries_left)?)
    }
}

fn still_factory(card: &dyn Card, what: &'static str) -> Error {
    Error::FactorySecrets {
        serial: card.serial(),
        which: vec![what],
    }
}

/// `touchstone key unblock`.
pub(in crate::command) fn unblock(args: &KeyUnblock, output: Output) -> Result<(), Error> {
    let card = open(args.card.serial)?;
    let mut card = signer::lock(&card);
    let mut terminal = None;
    let on_terminal = || -> Result<Terminal, Error> {
        Ok(Terminal::open("--puk-file FILE --new-pin-file FILE")?)
    };
    let puk = match &args.puk_file {
        Some(path) => Puk::parse(&secret_from_file(path)?)?,
        None => {
            let terminal = terminal.insert(on_terminal()?);
            Puk::parse(&terminal.secret(&format!("PUK of YubiKey {}: ", card.serial()))?)?
        }
    };
    let new = match &args.new_pin_file {
        Some(path) => Pin::parse_new(&secret_from_file(path)?)?,
        None => {
            let mut terminal = match terminal {
                Some(terminal) => terminal,
                None => on_terminal()?,
            };
            ask_new(&mut terminal, "PIN", Pin::parse_new)?
        }
    };
    card.unblock_pin(&puk, &new)?;
    let done = Done {
        serial: card.serial(),
        changed: vec!["PIN"],
    };
    if !factory_secrets(&card.secrets()?).is_empty() {
        output.warn("other secrets are still the factory's: touchstone key setup");
    }
    output.data(&done, |done| {
        format!("YubiKey {}: the PIN is set and unlocked\n", done.serial)
    })
}
