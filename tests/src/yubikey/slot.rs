//! The slots that hold keys, and where their certificates lie.

use serde::{Deserialize, Serialize};
use std::fmt;

/// A slot that can hold a key: 9a, 9c, 9d, 9e, 82 to 95, f9.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slot(u8);

impl Slot {
    /// Digital signature: asks the PIN each time.
    pub const SIGNATURE: Self = Self(0x9c);
    /// Card authentication: asks no PIN.
    pub const CARD_AUTHENTICATION: Self = Self(0x9e);
    /// The key that attests others.
    pub const ATTESTATION: Self = Self(0xf9);

    /// The slot with this key reference.
    #[must_use]
    pub fn new(reference: u8) -> Option<Self> {
        matches!(reference, 0x9a | 0x9c | 0x9d | 0x9e | 0x82..=0x95 | 0xf9)
            .then_some(Self(reference))
    }

    /// The data object of its certificate (SP 800-73-4 part 1, table 3; f9: Yubico's).
    #[must_use]
    pub fn object(self) -> u32 {
        match self.0 {
            0x9a => 0x5f_c105,
            0x9c => 0x5f_c10a,
            0x9d => 0x5f_c10b,
            0x9e => 0x5f_c101,
            0xf9 => 0x5f_ff01,
            retired => 0x5f_c10d + u32::from(retired.saturating_sub(0x82)),
        }
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x}", self.0)
    }
}

impl From<Slot> for String {
    fn from(slot: Slot) -> Self {
        slot.to_string()
    }
}

impl TryFrom<String> for Slot {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        u8::from_str_radix(&text, 16)
            .ok()
            .and_then(Self::new)
            .ok_or_else(|| format!("{text:?} is no slot"))
    }
}
