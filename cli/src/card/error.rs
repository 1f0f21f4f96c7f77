//! What goes wrong with a card, and what to do about it.

use super::KeySlot;
use std::fmt;
use touchstone_common::attestation::Firmware;

/// Why the card did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CardError {
    /// Another program has the card to itself.
    #[error("another program holds the YubiKey{}", by(.holder.as_deref()))]
    Busy {
        /// Its name, where it could be found.
        holder: Option<String>,
    },
    /// The card answered what a YubiKey does not.
    #[error("the card's answer makes no sense: {0}")]
    Malformed(&'static str),
    /// The management key is not the card's.
    #[error("the card refused the management key")]
    ManagementKeyRefused,
    /// A new PIN or PUK that the card does not take.
    #[error("the card refused the new {0}")]
    NewSecretRefused(&'static str),
    /// No card in any reader.
    #[error("no YubiKey is plugged in")]
    NoCard,
    /// The slot is empty.
    #[error("slot {0} has no key")]
    NoKey(KeySlot),
    /// The PIN is needed, and could not be had.
    #[error("{0}")]
    NoPin(String),
    /// The card keeps no management key for whoever knows the PIN.
    #[error("this YubiKey keeps no management key behind its PIN")]
    NoProtectedManagementKey,
    /// The smart card service does not answer.
    #[error("the smart card service pcscd {}", if *.installed { "is not running" } else { "is not installed" })]
    NoService {
        /// Whether its program was found.
        installed: bool,
    },
    /// The key was not made on the card.
    #[error("the key in slot {0} was imported, so the card cannot attest it")]
    NotAttestable(KeySlot),
    /// The card wants the PIN or a touch first.
    #[error("the card wants the PIN or a touch before it signs")]
    NotAllowed,
    /// The slot's key is not the certificate's.
    #[error("slot {0} holds another key than the certificate is for")]
    OtherKey(KeySlot),
    /// A serial number that no card has.
    #[error("no YubiKey with serial {wanted} is plugged in; found {}", list(.found))]
    OtherSerial {
        /// The serial asked for.
        wanted: u32,
        /// What is there.
        found: Vec<u32>,
    },
    /// Anything else that the card service says.
    #[error("the smart card service says: {0}")]
    Pcsc(String),
    /// Too many wrong PINs.
    #[error("the PIN is locked after too many wrong tries")]
    PinLocked,
    /// Too many wrong PUKs.
    #[error("the PUK is locked after too many wrong tries")]
    PukLocked,
    /// Pulled out, or reset by another program.
    #[error("the YubiKey was pulled out (or reset by another program) while it was in use")]
    Removed,
    /// More than one card, and no serial number given.
    #[error("more than one YubiKey is plugged in: {}", list(.0))]
    Several(Vec<u32>),
    /// No one touched it.
    #[error("the YubiKey was not touched in time")]
    TouchTimeout,
    /// The firmware cannot do it.
    #[error("firmware {firmware} of this YubiKey does not support {what}")]
    Unsupported {
        /// What was asked.
        what: String,
        /// The card's firmware.
        firmware: Firmware,
    },
    /// Not the PIN.
    #[error("wrong PIN, {}", tries(*.tries_left))]
    WrongPin {
        /// Tries left.
        tries_left: u8,
    },
    /// Not the PUK.
    #[error("wrong PUK, {}", tries(*.tries_left))]
    WrongPuk {
        /// Tries left.
        tries_left: u8,
    },
}

impl CardError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::Busy { holder } => match holder.as_deref() {
                Some("scdaemon") => "gpgconf --kill scdaemon, then try again".to_owned(),
                Some(name) => format!("end {name} (or have it let go of the card), then try again"),
                None => "if you use GnuPG: gpgconf --kill scdaemon; otherwise end the program that uses the card".to_owned(),
            },
            Self::Malformed(_) => "unplug the YubiKey, plug it in again and retry".to_owned(),
            Self::ManagementKeyRefused => {
                "give the right key, in hex, with --management-key-file FILE".to_owned()
            }
            Self::NewSecretRefused(_) => {
                "use 6 to 8 characters that are not easy to guess, such as 739154".to_owned()
            }
            Self::NoCard => "plug in your YubiKey; if it is, check that its PIV application is enabled over USB (ykman info)".to_owned(),
            Self::NoKey(slot) => format!("touchstone key generate --slot {slot}"),
            Self::NoProtectedManagementKey => {
                "give the management key with --management-key-file FILE, or let the card keep one: touchstone key setup".to_owned()
            }
            Self::NoService { installed: true } => "sudo systemctl start pcscd".to_owned(),
            Self::NoService { installed: false } => {
                "sudo apt-get install pcscd (Debian, Ubuntu) or sudo dnf install pcsc-lite (Fedora)".to_owned()
            }
            Self::NotAttestable(slot) => format!("make a new key on the card: touchstone key generate --slot {slot} --overwrite"),
            Self::OtherKey(_) => "log in again: touchstone login".to_owned(),
            Self::OtherSerial { .. } => "plug that YubiKey in, or leave out --serial".to_owned(),
            Self::PinLocked => "touchstone key unblock (asks for the PUK), or ykman piv access unblock-pin".to_owned(),
            Self::PukLocked => "with PIN and PUK both locked only a reset helps, which destroys all PIV keys: ykman piv reset".to_owned(),
            Self::Removed => "plug it in and run the command again".to_owned(),
            Self::Several(_) => "say which one with --serial N, or unplug the others".to_owned(),
            Self::TouchTimeout => "run the command again and touch the gold contact when it blinks".to_owned(),
            Self::WrongPin { .. } | Self::WrongPuk { .. } => "try again; nothing is retried by itself".to_owned(),
            Self::NoPin(_) | Self::NotAllowed | Self::Pcsc(_) | Self::Unsupported { .. } => return None,
        })
    }
}

fn by(holder: Option<&str>) -> impl fmt::Display {
    holder.map_or_else(String::new, |name| format!(": {name}"))
}

fn tries(left: u8) -> String {
    match left {
        0 => "and it is now locked".to_owned(),
        1 => "1 try left before it locks".to_owned(),
        n => format!("{n} tries left"),
    }
}

fn list(serials: &[u32]) -> String {
    let texts: Vec<String> = serials.iter().map(ToString::to_string).collect();
    if texts.is_empty() {
        "none".to_owned()
    } else {
        texts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_try_is_spelled_out() {
        assert_eq!(
            CardError::WrongPin { tries_left: 1 }.to_string(),
            "wrong PIN, 1 try left before it locks"
        );
    }

    #[test]
    fn gpg_holding_the_card_is_named_with_the_command_that_frees_it() {
        let error = CardError::Busy {
            holder: Some("scdaemon".to_owned()),
        };
        assert!(error.to_string().ends_with(": scdaemon"));
        assert!(error.remedy().unwrap().contains("gpgconf --kill scdaemon"));
    }

    #[test]
    fn several_cards_are_listed_by_serial() {
        let error = CardError::Several(vec![1, 22]);
        assert_eq!(
            error.to_string(),
            "more than one YubiKey is plugged in: 1, 22"
        );
        assert!(error.remedy().unwrap().contains("--serial"));
    }
}
