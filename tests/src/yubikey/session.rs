//! What the card remembers until the power goes or another application is selected.

use std::time::{Duration, Instant};

/// A challenge that waits for its answer.
#[derive(Debug)]
pub(super) enum Challenge {
    /// The host must encrypt this.
    Encrypt(Vec<u8>),
    /// The host must have decrypted the card's witness to this.
    Witness(Vec<u8>),
}

/// Who was verified since PIV was selected.
#[derive(Debug, Default)]
pub(super) struct Session {
    /// The PIN was right.
    pub(super) pin: bool,
    /// The PIN was right and no private key was used since.
    pub(super) pin_fresh: bool,
    /// The management key was proven.
    pub(super) management: bool,
    pub(super) challenge: Option<Challenge>,
    last_touch: Option<Instant>,
}

/// How long a cached touch counts.
const TOUCH_KEPT: Duration = Duration::from_secs(15);

impl Session {
    pub(super) fn pin_verified(&mut self) {
        self.pin = true;
        self.pin_fresh = true;
    }

    pub(super) fn forget_pin(&mut self) {
        self.pin = false;
        self.pin_fresh = false;
    }

    pub(super) fn touched(&mut self, now: Instant) {
        self.last_touch = Some(now);
    }

    pub(super) fn touch_is_cached(&self, now: Instant) -> bool {
        self.last_touch
            .is_some_and(|then| now.saturating_duration_since(then) < TOUCH_KEPT)
    }
}
