//! The PIN between two signatures: in locked memory while the certificate lives, or not at all.

use super::locked::Locked;
use crate::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Whether, and where, the PIN is kept.
#[derive(Debug, Default)]
pub(super) struct Pins {
    kept: Option<Mutex<Option<Locked>>>,
}

impl Pins {
    /// Keeps the PIN until [`Pins::wipe`].
    pub(super) fn kept() -> Self {
        Self {
            kept: Some(Mutex::default()),
        }
    }

    /// Keeps nothing.
    pub(super) fn never_kept() -> Self {
        Self { kept: None }
    }

    fn slot(&self) -> Option<MutexGuard<'_, Option<Locked>>> {
        let kept = self.kept.as_ref()?;
        Some(kept.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The PIN, if it is kept.
    pub(super) fn pin(&self) -> Option<Pin> {
        let slot = self.slot()?;
        let locked = slot.as_ref()?;
        Pin::parse(locked.expose()).ok()
    }

    /// Keeps a PIN that the card has taken. Memory that cannot be locked keeps none; the PIN is then asked for again.
    pub(super) fn keep(&self, pin: &Pin) {
        let Some(mut slot) = self.slot() else { return };
        let Some(locked) = Locked::new(pin.expose()) else {
            tracing::warn!("memory cannot be locked, so the PIN is not kept");
            return;
        };
        *slot = Some(locked);
    }

    /// Forgets it.
    pub(super) fn wipe(&self) {
        if let Some(mut slot) = self.slot() {
            *slot = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_kept_until_it_is_wiped() {
        let pins = Pins::kept();
        assert!(pins.pin().is_none());
        pins.keep(&Pin::parse(b"739154").unwrap());
        assert_eq!(pins.pin().unwrap().expose(), b"739154");
        assert!(!format!("{pins:?}").contains("739154"));
        pins.wipe();
        assert!(pins.pin().is_none());
    }

    #[test]
    fn without_a_cache_nothing_is_kept() {
        let pins = Pins::never_kept();
        pins.keep(&Pin::parse(b"739154").unwrap());
        assert!(pins.pin().is_none());
    }
}
