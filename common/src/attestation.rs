//! What a YubiKey's attestation proves about a key, once it has been verified up to a pinned root.

use crate::{evidence::Evidence, key::PublicKey};
use jiff::Timestamp;
use std::fmt;

/// Firmware version, ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Firmware {
    /// Major.
    pub major: u8,
    /// Minor.
    pub minor: u8,
    /// Patch.
    pub patch: u8,
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A PIV slot that may hold an engineer's key: 9a, 9c, 82 to 95. Never 9e or f9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u8);

impl Slot {
    /// The slot of this number.
    #[must_use]
    pub fn new(number: u8) -> Option<Self> {
        matches!(number, 0x9a | 0x9c | 0x82..=0x95).then_some(Self(number))
    }

    /// Its number, such as 0x9a.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// When the card asks for the PIN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PinPolicy {
    /// For every signature.
    Always,
    /// Biometric match once per session, or the PIN.
    MatchOnce,
    /// Biometric match for every signature, or the PIN.
    MatchAlways,
    /// Never.
    Never,
    /// Once per session.
    Once,
}

/// When the card asks for a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TouchPolicy {
    /// For every signature.
    Always,
    /// For a signature more than 15 seconds after the last touch.
    Cached,
    /// Never.
    Never,
}

/// A key that a verified attestation speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attested {
    /// The YubiKey's serial number.
    pub serial: u32,
    /// Its firmware.
    pub firmware: Firmware,
    /// The slot the key was made in.
    pub slot: Slot,
    /// When the PIN is asked.
    pub pin_policy: PinPolicy,
    /// When a touch is asked.
    pub touch_policy: TouchPolicy,
    /// The attested key.
    pub public_key: PublicKey,
    /// Whether the chain ends in a root that an operator configured, not Yubico's.
    pub test_root: bool,
}

/// The roots that attestations are verified against.
#[derive(Clone, Debug)]
pub struct Roots {
    _private: (),
}

/// Why evidence was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// The chain does not end in a configured root.
    #[error("the chain does not end in a trusted attestation root")]
    UnknownRoot,
}

impl Roots {
    /// Yubico's pinned roots and intermediates, nothing else.
    #[must_use]
    pub fn yubico() -> Self {
        todo!()
    }

    /// Adds a root that the operator configured: the virtual YubiKey's.
    ///
    /// # Errors
    /// When the PEM is not exactly one self-signed CA certificate.
    pub fn with_test_root(self, pem: &[u8]) -> Result<Self, AttestationError> {
        todo!("{pem:?}")
    }
}

/// Verifies evidence at `now`, and that it speaks of `key`.
///
/// # Errors
/// When any link, extension, date or the key is not as the design asks.
pub fn verify(
    evidence: &Evidence,
    key: &PublicKey,
    roots: &Roots,
    now: Timestamp,
) -> Result<Attested, AttestationError> {
    todo!("{evidence:?} {key:?} {roots:?} {now}")
}
