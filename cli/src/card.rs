//! The card: what Touchstone needs of a YubiKey's PIV applet, behind one trait.
//!
//! [`yubikey`] is the only file that names the packages that talk to hardware. [`signer`] turns a slot into a
//! [`touchstone_common::key::SigningKey`].

pub mod error;
#[cfg(test)]
mod fake;
pub mod signer;
pub mod yubikey;

pub use error::CardError;

use crate::pin::{ManagementKey, Pin, Puk};
use std::fmt;
use touchstone_common::attestation::{Firmware, PinPolicy, Slot, TouchPolicy};

/// A PIV slot that can hold a key: 9a, 9c, 9d, 9e, 82 to 95.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeySlot(u8);

impl KeySlot {
    /// Every slot, in the order in which people look for them.
    pub fn all() -> impl Iterator<Item = Self> {
        [0x9a, 0x9c, 0x9d, 0x9e]
            .into_iter()
            .chain(0x82..=0x95)
            .map(Self)
    }

    /// Its number, such as 0x9a.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

impl From<Slot> for KeySlot {
    fn from(slot: Slot) -> Self {
        Self(slot.number())
    }
}

impl fmt::Display for KeySlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

/// What a slot's key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Ed25519; firmware 5.7 on.
    Ed25519,
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// RSA with so many bits.
    Rsa(u16),
    /// X25519, which cannot sign; firmware 5.7 on.
    X25519,
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ed25519 => f.write_str("ed25519"),
            Self::P256 => f.write_str("p256"),
            Self::P384 => f.write_str("p384"),
            Self::Rsa(bits) => write!(f, "rsa{bits}"),
            Self::X25519 => f.write_str("x25519"),
        }
    }
}

/// Whether a key was made on the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Made on the card; it can be attested.
    Generated,
    /// Brought from outside; copies may exist.
    Imported,
}

/// A key in a slot, as the card describes it. What firmware too old to tell leaves open is `None`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotKey {
    /// What kind of key.
    pub algorithm: Algorithm,
    /// The public half, as SubjectPublicKeyInfo DER.
    pub spki: Option<Vec<u8>>,
    /// When the PIN is asked.
    pub pin_policy: Option<PinPolicy>,
    /// When a touch is asked.
    pub touch_policy: Option<TouchPolicy>,
    /// Where it was made.
    pub origin: Option<Origin>,
}

/// The state of the PIN, the PUK or the management key. `None`: firmware before 5.3 does not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SecretState {
    /// Whether it is still the factory's.
    pub factory: Option<bool>,
    /// Tries left before it locks.
    pub tries_left: Option<u8>,
}

/// Which of the card's three secrets are still the factory's, and how many tries are left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Secrets {
    /// The PIN.
    pub pin: SecretState,
    /// The PIN unblocking key.
    pub puk: SecretState,
    /// The management key.
    pub management_key: SecretState,
}

/// What a slot is asked to sign, prepared as its algorithm needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSign {
    /// A message, whole: the card hashes it.
    Ed25519(Vec<u8>),
    /// A digest no longer than the curve's order.
    P256([u8; 32]),
    /// As above.
    P384([u8; 48]),
    /// A padded block exactly as long as the modulus.
    Rsa(Vec<u8>),
}

/// How to authenticate for writing to the card.
#[derive(Clone, Debug)]
pub enum ManagementAccess {
    /// The factory's management key.
    Factory,
    /// A key that the user keeps.
    Given(ManagementKey),
    /// The key that the card keeps for whoever knows the PIN; the PIN must have been verified.
    PinProtected,
}

/// A YubiKey's PIV applet.
///
/// An implementation must not reset the card when it is dropped: PIN and touch caches survive.
pub trait Card: Send {
    /// The serial number printed on its back.
    fn serial(&self) -> u32;

    /// Its firmware.
    fn firmware(&self) -> Firmware;

    /// The key in a slot, or `None` when it is empty.
    ///
    /// # Errors
    /// When the card cannot be asked.
    fn key(&mut self, slot: KeySlot) -> Result<Option<SlotKey>, CardError>;

    /// The certificate object of a slot, DER, or `None`.
    ///
    /// # Errors
    /// When the card cannot be asked.
    fn certificate(&mut self, slot: KeySlot) -> Result<Option<Vec<u8>>, CardError>;

    /// The attestation certificate of the key in a slot, DER.
    ///
    /// # Errors
    /// [`CardError::NoKey`]; [`CardError::NotAttestable`] for an imported key.
    fn attest(&mut self, slot: KeySlot) -> Result<Vec<u8>, CardError>;

    /// The certificate of the card's own attestation key (slot f9), DER.
    ///
    /// # Errors
    /// When the card has none.
    fn attestation_certificate(&mut self) -> Result<Vec<u8>, CardError>;

    /// The state of the PIN alone.
    ///
    /// # Errors
    /// When the card cannot be asked.
    fn pin_state(&mut self) -> Result<SecretState, CardError>;

    /// Which secrets are still the factory's.
    ///
    /// # Errors
    /// When the card cannot be asked.
    fn secrets(&mut self) -> Result<Secrets, CardError>;

    /// Verifies the PIN: one try, never repeated.
    ///
    /// # Errors
    /// [`CardError::WrongPin`] with the tries left, [`CardError::PinLocked`].
    fn verify_pin(&mut self, pin: &Pin) -> Result<(), CardError>;

    /// Changes the PIN; `None` stands for the factory's.
    ///
    /// # Errors
    /// As [`Card::verify_pin`]; [`CardError::NewSecretRefused`].
    fn change_pin(&mut self, current: Option<&Pin>, new: &Pin) -> Result<(), CardError>;

    /// Changes the PUK; `None` stands for the factory's.
    ///
    /// # Errors
    /// [`CardError::WrongPuk`], [`CardError::PukLocked`], [`CardError::NewSecretRefused`].
    fn change_puk(&mut self, current: Option<&Puk>, new: &Puk) -> Result<(), CardError>;

    /// Sets a new PIN with the PUK.
    ///
    /// # Errors
    /// As [`Card::change_puk`].
    fn unblock_pin(&mut self, puk: &Puk, new: &Pin) -> Result<(), CardError>;

    /// Authenticates with the management key, for what writes to the card.
    ///
    /// # Errors
    /// [`CardError::ManagementKeyRefused`], [`CardError::NoProtectedManagementKey`].
    fn authenticate(&mut self, access: &ManagementAccess) -> Result<(), CardError>;

    /// Replaces the management key by a random one that the card keeps for whoever knows the PIN.
    /// The PIN must have been verified and the present key authenticated.
    ///
    /// # Errors
    /// When the card refuses.
    fn protect_management_key(&mut self) -> Result<(), CardError>;

    /// Makes a key in a slot, over whatever is there. Needs [`Card::authenticate`]. The public half, SPKI DER.
    ///
    /// # Errors
    /// [`CardError::Unsupported`] when the firmware lacks the algorithm.
    fn generate(
        &mut self,
        slot: KeySlot,
        algorithm: Algorithm,
        pin_policy: PinPolicy,
        touch_policy: TouchPolicy,
    ) -> Result<Vec<u8>, CardError>;

    /// Writes (`None`: deletes) a slot's certificate object. Needs [`Card::authenticate`].
    ///
    /// # Errors
    /// When the card refuses.
    fn write_certificate(
        &mut self,
        slot: KeySlot,
        certificate: Option<&[u8]>,
    ) -> Result<(), CardError>;

    /// Signs with the key in a slot, waiting for the touch that its policy asks. The signature as X.509 encodes it.
    ///
    /// # Errors
    /// [`CardError::NotAllowed`] when the PIN was not verified or the touch not given; [`CardError::Removed`].
    fn sign(&mut self, slot: KeySlot, what: &ToSign) -> Result<Vec<u8>, CardError>;
}

/// Plain words for a PIN policy.
#[must_use]
pub fn pin_policy_in_words(policy: Option<PinPolicy>) -> &'static str {
    match policy {
        Some(PinPolicy::Always) => "for every signature",
        Some(PinPolicy::MatchAlways) => "fingerprint or PIN for every signature",
        Some(PinPolicy::MatchOnce) => "fingerprint or PIN once per session",
        Some(PinPolicy::Never) => "never",
        Some(PinPolicy::Once) => "once per session",
        None => "unknown",
    }
}

/// Plain words for a touch policy.
#[must_use]
pub fn touch_policy_in_words(policy: Option<TouchPolicy>) -> &'static str {
    match policy {
        Some(TouchPolicy::Always) => "for every signature",
        Some(TouchPolicy::Cached) => "once, then not for 15 seconds",
        Some(TouchPolicy::Never) => "never",
        None => "unknown",
    }
}
