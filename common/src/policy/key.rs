//! What a rule asks of the key that signs the request.

use super::evaluate::{KeyFacts, Tie};
use crate::{
    attestation::{Firmware, PinPolicy, Slot, TouchPolicy},
    key::KeyAlgorithm,
};
use std::fmt;

/// A checked condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyCondition {
    pub(crate) algorithms: Option<Algorithms>,
    /// Whether the key must be enrolled; else it is enough that Kubernetes knows who asks.
    pub(crate) enrolled: bool,
    /// What the attestation must say; `None`: no attestation is asked for, and so nothing that only it can tell.
    pub(crate) device: Option<DeviceCondition>,
}

/// What the attestation must say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceCondition {
    pub(crate) touch: Touch,
    pub(crate) pin: Pin,
    /// `None`: [`Firmware::EUCLEAK_FIXED`] for elliptic curves, any for RSA.
    pub(crate) min_firmware: Option<Firmware>,
    pub(crate) slots: Option<Vec<Slot>>,
}

/// Touch policies, the weakest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Touch {
    Never,
    Cached,
    Always,
}

/// PIN policies, the weakest first. A fingerprint match counts as the PIN: it falls back to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Pin {
    Never,
    Once,
    Always,
}

/// The kinds of key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Algorithms(pub(crate) Vec<KeyAlgorithm>);

/// Which parts of a condition do not hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeyFailures {
    pub(crate) algorithm: bool,
    pub(crate) attested: bool,
    pub(crate) enrolled: bool,
    pub(crate) touch: bool,
    pub(crate) pin: bool,
    pub(crate) firmware: bool,
    pub(crate) slot: bool,
}

impl From<TouchPolicy> for Touch {
    fn from(policy: TouchPolicy) -> Self {
        match policy {
            TouchPolicy::Always => Self::Always,
            TouchPolicy::Cached => Self::Cached,
            TouchPolicy::Never => Self::Never,
        }
    }
}

impl From<PinPolicy> for Pin {
    fn from(policy: PinPolicy) -> Self {
        match policy {
            PinPolicy::Always | PinPolicy::MatchAlways => Self::Always,
            PinPolicy::MatchOnce | PinPolicy::Once => Self::Once,
            PinPolicy::Never => Self::Never,
        }
    }
}

impl DeviceCondition {
    /// The oldest firmware for a key of this kind; `None`: any.
    pub(crate) fn oldest_firmware(&self, algorithm: KeyAlgorithm) -> Option<Firmware> {
        self.min_firmware.or(match algorithm {
            KeyAlgorithm::Ed25519 | KeyAlgorithm::P256 | KeyAlgorithm::P384 => {
                Some(Firmware::EUCLEAK_FIXED)
            }
            KeyAlgorithm::Rsa { .. } => None,
        })
    }
}

impl KeyCondition {
    pub(crate) fn check(&self, key: &KeyFacts<'_>) -> KeyFailures {
        let mut failures = KeyFailures {
            algorithm: self
                .algorithms
                .as_ref()
                .is_some_and(|a| !a.0.contains(&key.algorithm)),
            enrolled: match key.tie {
                Tie::Creator => self.enrolled,
                Tie::Enrolled => false,
                Tie::Nothing => true,
            },
            ..KeyFailures::default()
        };
        match (&self.device, key.attested) {
            (None, _) => {}
            // Without evidence nothing is known of the rest: one failure says it all.
            (Some(_), None) => failures.attested = true,
            (Some(device), Some(attested)) => {
                failures.touch = Touch::from(attested.touch_policy) < device.touch;
                failures.pin = Pin::from(attested.pin_policy) < device.pin;
                failures.firmware = device
                    .oldest_firmware(key.algorithm)
                    .is_some_and(|oldest| attested.firmware < oldest);
                failures.slot = device
                    .slots
                    .as_ref()
                    .is_some_and(|slots| !slots.contains(&attested.slot));
            }
        }
        failures
    }
}

/// A kind of key as policies write it.
pub(crate) fn algorithm_name(algorithm: KeyAlgorithm) -> String {
    match algorithm {
        KeyAlgorithm::Ed25519 => "ed25519".into(),
        KeyAlgorithm::P256 => "p256".into(),
        KeyAlgorithm::P384 => "p384".into(),
        KeyAlgorithm::Rsa { bits } => format!("rsa{bits}"),
    }
}

impl fmt::Display for Algorithms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.0.iter().map(|a| algorithm_name(*a)).collect();
        f.write_str(&names.join(", "))
    }
}

impl fmt::Display for Touch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Cached => "cached",
            Self::Never => "never",
        })
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Always => "always",
            Self::Never => "never",
            Self::Once => "once",
        })
    }
}
