//! What the errors of the yubikey and pcsc packages mean, and who else may hold the card.

use crate::card::CardError;
use ::yubikey::Error as YkError;
use std::{fs, path::Path};

pub(super) fn puk_error(error: YkError, new: &'static str) -> CardError {
    match error {
        YkError::PinLocked | YkError::WrongPin { tries: 0 } => CardError::PukLocked,
        YkError::WrongPin { tries } => CardError::WrongPuk { tries_left: tries },
        YkError::GenericError => CardError::NewSecretRefused(new),
        error => other(error),
    }
}

pub(super) fn other(error: YkError) -> CardError {
    translate(error, Some(CardError::Removed))
}

/// `gone` is what a missing card means: nothing is there yet, or it was there and is no more.
pub(super) fn translate(error: YkError, gone: Option<CardError>) -> CardError {
    use pcsc::Error as P;
    match error {
        YkError::PcscError { inner: Some(inner) } => match inner {
            P::NoReadersAvailable => gone.unwrap_or_else(nothing_found),
            P::NoService | P::ServiceStopped => CardError::NoService {
                installed: ["/usr/sbin/pcscd", "/usr/bin/pcscd", "/sbin/pcscd"]
                    .iter()
                    .any(|path| Path::new(path).exists()),
            },
            P::RemovedCard
            | P::ResetCard
            | P::NoSmartcard
            | P::UnpoweredCard
            | P::UnknownReader
            | P::ReaderUnavailable
            | P::UnresponsiveCard
            | P::CommError
            | P::CommDataLost
            | P::NotTransacted
            | P::InvalidHandle => gone.unwrap_or(CardError::NoCard),
            P::SharingViolation => CardError::Busy { holder: holder() },
            inner => CardError::Pcsc(inner.to_string()),
        },
        YkError::PinLocked => CardError::PinLocked,
        YkError::AuthenticationError => CardError::NotAllowed,
        error => CardError::Pcsc(error.to_string()),
    }
}

pub(super) fn pcsc_error(error: pcsc::Error) -> CardError {
    other(YkError::PcscError { inner: Some(error) })
}

/// No reader shows a YubiKey. When one is on the USB bus all the same, another program took it from pcscd.
pub(super) fn nothing_found() -> CardError {
    let on_the_bus = fs::read_dir("/sys/bus/usb/devices")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|device| fs::read_to_string(device.path().join("idVendor")).ok())
        .any(|vendor| vendor.trim() == "1050");
    match holder() {
        Some(name) if on_the_bus => CardError::Busy { holder: Some(name) },
        Some(_) | None => CardError::NoCard,
    }
}

/// The first running program that is known to take YubiKeys for itself.
pub(super) fn holder() -> Option<String> {
    const KNOWN: [&str; 5] = [
        "scdaemon",
        "ykman",
        "ykman-gui",
        "yubikey-agent",
        "pkcs11-tool",
    ];
    let running: Vec<String> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|process| fs::read_to_string(process.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    KNOWN
        .iter()
        .find(|known| running.iter().any(|name| name == *known))
        .map(|known| (*known).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_service_is_told_from_a_missing_card() {
        let service = YkError::PcscError {
            inner: Some(pcsc::Error::NoService),
        };
        assert!(matches!(other(service), CardError::NoService { .. }));
        let removed = YkError::PcscError {
            inner: Some(pcsc::Error::RemovedCard),
        };
        assert_eq!(other(removed), CardError::Removed);
    }
}
