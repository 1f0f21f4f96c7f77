//! What a YubiKey's attestation proves about a key, once it has been verified up to a pinned root.

use crate::{
    certificate::{ReadError, Validity},
    evidence::Evidence,
    key::{KeyError, PublicKey},
    pem::PemError,
    text::as_string,
    x509::Certificate,
};
use const_oid::ObjectIdentifier;
use jiff::Timestamp;
use std::{fmt, str::FromStr};

pub use roots::Roots;

mod chain;
mod extensions;
mod roots;

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

impl Firmware {
    /// The first firmware whose ECC keys cannot be cloned by EUCLEAK (Yubico advisory YSA-2024-03).
    pub const EUCLEAK_FIXED: Self = Self {
        major: 5,
        minor: 7,
        patch: 0,
    };
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// Why text is not a value of one of this module's types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not {0}")]
pub struct ParseError(&'static str);

impl FromStr for Firmware {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| -> Option<u8> {
            // No sign, no leading zero: one spelling for each version.
            let number = part.parse().ok()?;
            (u8::to_string(&number) == part).then_some(number)
        };
        let mut parts = text.split('.').map(number);
        match (parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(Some(major)), Some(Some(minor)), Some(Some(patch)), None) => Ok(Self {
                major,
                minor,
                patch,
            }),
            _ => Err(ParseError("a firmware version such as 5.7.0")),
        }
    }
}

as_string!(Firmware, {
    "description": "A YubiKey firmware version, such as 5.7.0.",
    "pattern": "^[0-9]{1,3}\\.[0-9]{1,3}\\.[0-9]{1,3}$"
});

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

impl FromStr for Slot {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        u8::from_str_radix(text, 16)
            .ok()
            .and_then(Self::new)
            .filter(|slot| slot.to_string() == text)
            .ok_or(ParseError("a PIV slot: 9a, 9c or 82 to 95"))
    }
}

as_string!(Slot, {
    "description": "A PIV slot: 9a, 9c or 82 to 95.",
    "pattern": "^(9[ac]|8[2-9a-f]|9[0-5])$"
});

/// Gives a policy its names: what `Display` writes and `FromStr` reads.
macro_rules! policy_names {
    ($type:ident, $what:literal, $description:literal, $($variant:ident = $name:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $name),+
                })
            }
        }

        impl FromStr for $type {
            type Err = ParseError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($name => Ok(Self::$variant),)+
                    _ => Err(ParseError($what)),
                }
            }
        }

        as_string!($type, { "description": $description, "enum": [$($name),+] });
    };
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

policy_names!(
    PinPolicy,
    "a PIN policy: always, match-always, match-once, never or once",
    "When the card asks for the PIN.",
    Always = "always",
    MatchAlways = "match-always",
    MatchOnce = "match-once",
    Never = "never",
    Once = "once"
);

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

policy_names!(
    TouchPolicy,
    "a touch policy: always, cached or never",
    "When the card asks for a touch.",
    Always = "always",
    Cached = "cached",
    Never = "never"
);

/// What a YubiKey looks like, as its attestation says: Yubico's number, with 0x80 set on FIPS devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FormFactor(u8);

impl FormFactor {
    /// Yubico's number, without the flags for certified devices.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0 & 0x0f
    }

    /// Whether it is a device of the FIPS series.
    #[must_use]
    pub const fn is_fips(self) -> bool {
        self.0 & 0x80 != 0
    }
}

impl fmt::Display for FormFactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.number() {
            1 => "USB-A keychain",
            2 => "USB-A nano",
            3 => "USB-C keychain",
            4 => "USB-C nano",
            5 => "USB-C and Lightning keychain",
            6 => "USB-A bio",
            7 => "USB-C bio",
            _ => "unknown form factor",
        })
    }
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
    /// The form factor, where the attestation says it (firmware 5 and later).
    pub form_factor: Option<FormFactor>,
    /// When every certificate of the chain is valid. A caller that remembers this result by [`Evidence::sha256`] and key
    /// has to look at these dates again, and at nothing else.
    pub valid: Validity,
}

/// Why evidence was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttestationError {
    /// A link of the chain whose signature does not verify.
    #[error("the {certificate} is not signed by its issuer: {error}")]
    BadSignature {
        /// Which.
        certificate: &'static str,
        /// Why not.
        error: KeyError,
    },
    /// A certificate that cannot be read.
    #[error("the {certificate} {error}")]
    Certificate {
        /// Which.
        certificate: &'static str,
        /// What is wrong with it.
        error: ReadError,
    },
    /// A critical extension that no one here understands.
    #[error("the {certificate} has the critical extension {oid}, which is not understood")]
    CriticalExtension {
        /// Which.
        certificate: &'static str,
        /// The extension.
        oid: ObjectIdentifier,
    },
    /// A certificate outside its dates.
    #[error("the attestation is valid from {} to {}, not now", .0.not_before, .0.not_after)]
    Dates(Validity),
    /// An extension of the slot's certificate that is not as Yubico defines it.
    #[error("the attestation's {0} is malformed or unknown")]
    Extension(&'static str),
    /// The issuer's name is not the subject of the next certificate.
    #[error("the {0} names another issuer")]
    Issuer(&'static str),
    /// The attestation is about another key.
    #[error("the attestation speaks of another key than the request's")]
    KeyMismatch,
    /// An extension of the slot's certificate that is not there.
    #[error("the attestation has no {0}")]
    Missing(&'static str),
    /// A certificate that acts as a CA and is none.
    #[error("the {0} is not a CA's, or is too far from the slot")]
    NotCa(&'static str),
    /// Yubico's root signs other products too: the path has to lead through a PIV intermediate.
    #[error("the chain does not lead through one of Yubico's PIV attestation intermediates")]
    NotPiv,
    /// PEM of a root.
    #[error("the attestation root {0}")]
    Pem(#[from] PemError),
    /// A root that is not a self-signed CA certificate.
    #[error("the attestation root is not a self-signed CA certificate")]
    Root,
    /// A slot that may not hold an engineer's key, or a subject that names none.
    #[error("the attested slot is not one of 9a, 9c and 82 to 95")]
    Slot,
    /// The chain does not end in a configured root.
    #[error("the chain does not end in a trusted attestation root")]
    UnknownRoot,
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
    let slot = read("slot's certificate", &evidence.slot_certificate)?;
    if slot.spki != key.spki_der() {
        return Err(AttestationError::KeyMismatch);
    }
    let facts = extensions::Facts::read(&slot)?;
    let end = chain::verify(&slot, &evidence.intermediates, roots)?;
    if !end.valid.contains(now) {
        return Err(AttestationError::Dates(end.valid));
    }
    Ok(Attested {
        serial: facts.serial,
        firmware: facts.firmware,
        slot: facts.slot,
        pin_policy: facts.pin_policy,
        touch_policy: facts.touch_policy,
        public_key: key.clone(),
        test_root: end.test_root,
        form_factor: facts.form_factor,
        valid: end.valid,
    })
}

fn read<'a>(certificate: &'static str, der: &'a [u8]) -> Result<Certificate<'a>, AttestationError> {
    Certificate::from_der(der).map_err(|error| AttestationError::Certificate { certificate, error })
}
