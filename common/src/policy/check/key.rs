//! Key conditions: what a rule says over what the defaults say.

use super::{Check, Finding, Position};
use crate::{
    attestation::{Firmware, Slot},
    key::KeyAlgorithm,
    policy::{
        key::{Algorithms, DeviceCondition, KeyCondition, Pin, Touch},
        wire,
    },
};

/// What one `key:` says.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyParts {
    attested: Option<bool>,
    enrolled: Option<(bool, Position)>,
    algorithms: Option<Algorithms>,
    touch: Option<Touch>,
    pin: Option<Pin>,
    min_firmware: Option<Firmware>,
    slots: Option<Vec<Slot>>,
    /// The first thing said that only an attestation can prove.
    needs_attestation: Option<(&'static str, Position)>,
}

impl KeyParts {
    /// What holds where `self` is said over `defaults`.
    pub(super) fn over(&self, defaults: &Self) -> KeyCondition {
        let attested = self.attested.or(defaults.attested).unwrap_or(true);
        KeyCondition {
            algorithms: self.algorithms.clone().or(defaults.algorithms.clone()),
            // Never by default: the rule itself says it.
            enrolled: self.enrolled.is_none_or(|(enrolled, _)| enrolled),
            device: attested.then(|| DeviceCondition {
                touch: self.touch.or(defaults.touch).unwrap_or(Touch::Always),
                pin: self.pin.or(defaults.pin).unwrap_or(Pin::Once),
                min_firmware: self.min_firmware.or(defaults.min_firmware),
                slots: self.slots.clone().or(defaults.slots.clone()),
            }),
        }
    }

    /// Where these are defaults, `enrolled: false`: what it gives up is given up rule by rule.
    pub(super) fn enrols_nobody(&self) -> Option<Finding> {
        let (_, position) = self.enrolled.filter(|(enrolled, _)| !enrolled)?;
        Some(Finding {
            position: Some(position),
            message: "`enrolled: false` is no default: say it in each rule that takes any key"
                .to_owned(),
        })
    }

    /// `attested: false` beside something that only an attestation can prove, or `enrolled: false` without it.
    pub(super) fn contradiction(&self, defaults: &Self) -> Option<Finding> {
        let attested = self.attested.or(defaults.attested).unwrap_or(true);
        if let (true, Some((false, position))) = (attested, self.enrolled) {
            return Some(Finding {
                position: Some(position),
                message: "`enrolled: false` takes any key, also one that no YubiKey vouches for: say `attested: false` beside it"
                    .to_owned(),
            });
        }
        let (key, position) = self.needs_attestation.filter(|_| !attested)?;
        Some(Finding {
            position: Some(position),
            message: format!(
                "{key} can only be proven by an attestation, and `attested: false` asks for none"
            ),
        })
    }
}

impl Check {
    pub(super) fn key_parts(&mut self, wire: &wire::Key) -> KeyParts {
        let mut parts = KeyParts {
            attested: wire.attested.as_ref().map(|at| at.value),
            enrolled: wire.enrolled.as_ref().map(|at| (at.value, at.position)),
            ..KeyParts::default()
        };
        let mut needs = |key, position| {
            parts.needs_attestation.get_or_insert((key, position));
        };
        if let Some(at) = wire.touch.as_ref() {
            needs("touch", at.position);
            parts.touch = Some(match at.value {
                wire::Touch::Always => Touch::Always,
                wire::Touch::Cached => Touch::Cached,
                wire::Touch::Never => Touch::Never,
            });
        }
        if let Some(at) = wire.pin.as_ref() {
            needs("pin", at.position);
            parts.pin = Some(match at.value {
                wire::Pin::Always => Pin::Always,
                wire::Pin::Never => Pin::Never,
                wire::Pin::Once => Pin::Once,
            });
        }
        if let Some(at) = wire.min_firmware.as_ref() {
            needs("minFirmware", at.position);
            let what = format!("{:?}", super::shown(&at.value));
            parts.min_firmware = self.ok(at, &what, at.value.parse());
        }
        if let Some(at) = wire.slots.as_ref() {
            needs("slots", at.position);
            let mut slots = Vec::new();
            for slot in &at.value {
                let what = format!("{:?}", super::shown(&slot.value));
                slots.extend(self.ok(slot, &what, slot.value.parse::<Slot>()));
            }
            self.not_empty("slots", at.position, at.value.len());
            parts.slots = Some(slots);
        }
        if let Some(at) = wire.algorithms.as_ref() {
            self.not_empty("algorithms", at.position, at.value.len());
            parts.algorithms = Some(Algorithms(
                at.value.iter().copied().map(algorithm).collect(),
            ));
        }
        parts
    }

    pub(super) fn not_empty(&mut self, key: &str, position: Position, length: usize) {
        if length == 0 {
            self.find(
                Some(position),
                format!("{key} is an empty list, which nothing meets"),
            );
        }
    }
}

pub(in crate::policy) fn algorithm(wire: wire::Algorithm) -> KeyAlgorithm {
    match wire {
        wire::Algorithm::Ed25519 => KeyAlgorithm::Ed25519,
        wire::Algorithm::P256 => KeyAlgorithm::P256,
        wire::Algorithm::P384 => KeyAlgorithm::P384,
        wire::Algorithm::Rsa2048 => KeyAlgorithm::Rsa { bits: 2048 },
        wire::Algorithm::Rsa3072 => KeyAlgorithm::Rsa { bits: 3072 },
        wire::Algorithm::Rsa4096 => KeyAlgorithm::Rsa { bits: 4096 },
    }
}
