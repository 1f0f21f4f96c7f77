//! Whom a piece of work talks to: told how it goes, told when the card waits, asked for the PIN.
//!
//! A command talks to the person at its terminal ([`Person`]); the proxy to whoever waits for its answer.

use crate::{
    card::{Card, CardError},
    error::Error,
    output::Output,
    pin::{Pin, PinError, PinSource},
    touch::Notice,
};

/// Someone to talk to.
pub trait Talk: Notice {
    /// Says how things go.
    fn progress(&self, text: &str);

    /// Says what must not be missed.
    fn warn(&self, text: &str);

    /// Asks for the PIN of a YubiKey.
    ///
    /// # Errors
    /// When nobody gives one.
    fn pin(&self, serial: u32, tries_left: Option<u8>) -> Result<Pin, PinError>;

    /// The card took a PIN, or did not.
    fn judged(&self, _pin: &Pin, _right: bool) {}
}

/// Asks for the PIN and spends one try on it.
///
/// # Errors
/// When there is none, or the card refuses it.
pub fn verified_pin(card: &mut dyn Card, talk: &dyn Talk) -> Result<Pin, Error> {
    let tries_left = card.pin_state()?.tries_left;
    if tries_left == Some(0) {
        return Err(CardError::PinLocked.into());
    }
    let pin = talk.pin(card.serial(), tries_left)?;
    let verified = card.verify_pin(&pin);
    // A card that went away has not judged.
    if matches!(
        verified,
        Ok(()) | Err(CardError::WrongPin { .. } | CardError::PinLocked)
    ) {
        talk.judged(&pin, verified.is_ok());
    }
    verified?;
    Ok(pin)
}

/// The person at a command's terminal.
#[derive(Clone, Debug)]
pub struct Person {
    output: Output,
    pin: PinSource,
}

impl Person {
    /// Talks through `output`, and takes the PIN from `pin`.
    #[must_use]
    pub fn new(output: Output, pin: PinSource) -> Self {
        Self { output, pin }
    }
}

impl Notice for Person {
    fn waiting(&self) {
        self.output.waiting();
    }

    fn over(&self) {
        self.output.over();
    }
}

impl Talk for Person {
    fn progress(&self, text: &str) {
        self.output.progress(text);
    }

    fn warn(&self, text: &str) {
        self.output.warn(text);
    }

    fn pin(&self, serial: u32, tries_left: Option<u8>) -> Result<Pin, PinError> {
        self.pin.pin(serial, tries_left)
    }
}
