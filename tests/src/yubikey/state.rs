//! What the card remembers without power, and the file that stands in for its memory.

use super::attestation::{self, AttestationRoot};
use super::keys::PrivateKey;
use super::management_key::ManagementKey;
use super::slot::Slot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A firmware version, three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Firmware(pub [u8; 3]);

impl FromStr for Firmware {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let numbers: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
        numbers
            .and_then(|numbers| numbers.try_into().ok())
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a version such as 5.7.1"))
    }
}

impl fmt::Display for Firmware {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// A PIN or a PUK: eight bytes, padded with FF, and its tries.
#[derive(Clone, Serialize, Deserialize)]
pub struct Reference {
    #[serde(with = "hex::serde")]
    pub(super) value: [u8; 8],
    pub(super) tries: u8,
    pub(super) left: u8,
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Reference([redacted], {} of {} tries)",
            self.left, self.tries
        )
    }
}

impl Reference {
    const DEFAULT_TRIES: u8 = 3;
    /// 123456.
    pub(super) const DEFAULT_PIN: [u8; 8] = *b"123456\xff\xff";
    /// 12345678.
    pub(super) const DEFAULT_PUK: [u8; 8] = *b"12345678";

    pub(super) fn new(value: [u8; 8], tries: u8) -> Self {
        Self {
            value,
            tries,
            left: tries,
        }
    }

    /// Takes one try, gives it back when the value is right. False also when none is left.
    pub(super) fn matches(&mut self, value: &[u8; 8]) -> bool {
        if self.left == 0 {
            return false;
        }
        if self.value == *value {
            self.left = self.tries;
            true
        } else {
            self.left -= 1;
            false
        }
    }
}

/// When a PIN is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum PinPolicy {
    /// Never.
    Never = 1,
    /// Once in a session.
    Once = 2,
    /// Before each use.
    Always = 3,
}

/// When a touch is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum TouchPolicy {
    /// Never.
    Never = 1,
    /// For each use.
    Always = 2,
    /// For a use later than fifteen seconds after the last touch.
    Cached = 3,
}

/// Where a key came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum Origin {
    /// Made on the card.
    Generated = 1,
    /// Brought to it.
    Imported = 2,
}

/// A key in a slot.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SlotKey {
    pub(super) private: PrivateKey,
    pub(super) origin: Origin,
    pub(super) pin: PinPolicy,
    pub(super) touch: TouchPolicy,
}

/// Everything that survives power off.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub(super) serial: u32,
    pub(super) firmware: Firmware,
    pub(super) pin: Reference,
    pub(super) puk: Reference,
    pub(super) management: ManagementKey,
    pub(super) keys: BTreeMap<Slot, SlotKey>,
    #[serde(with = "hex_objects")]
    pub(super) objects: BTreeMap<u32, Vec<u8>>,
    pub(super) root: AttestationRoot,
}

impl State {
    /// A card as it leaves the factory: an attestation key and its certificate, and nothing else.
    #[must_use]
    pub fn factory(serial: u32, firmware: Firmware) -> Self {
        let root = AttestationRoot::generate(serial);
        let mut state = Self {
            serial,
            firmware,
            pin: Reference::new(Reference::DEFAULT_PIN, Reference::DEFAULT_TRIES),
            puk: Reference::new(Reference::DEFAULT_PUK, Reference::DEFAULT_TRIES),
            management: ManagementKey::factory(firmware),
            keys: BTreeMap::new(),
            objects: BTreeMap::new(),
            root,
        };
        attestation::provision(&mut state);
        state
    }

    /// What RESET leaves: the attestation key and its certificate stay, as on a YubiKey.
    pub(super) fn reset(&mut self) {
        self.pin = Reference::new(Reference::DEFAULT_PIN, Reference::DEFAULT_TRIES);
        self.puk = Reference::new(Reference::DEFAULT_PUK, Reference::DEFAULT_TRIES);
        self.management = ManagementKey::factory(self.firmware);
        self.keys.retain(|slot, _| *slot == Slot::ATTESTATION);
        self.objects
            .retain(|id, _| *id == Slot::ATTESTATION.object());
    }

    /// The root that certified this card's attestation key, in PEM.
    #[must_use]
    pub fn attestation_root(&self) -> String {
        self.root.pem()
    }

    /// The private key in a slot, which a YubiKey would not give.
    #[must_use]
    pub fn private_key(&self, slot: Slot) -> Option<&PrivateKey> {
        Some(&self.keys.get(&slot)?.private)
    }

    /// The serial number.
    #[must_use]
    pub fn serial(&self) -> u32 {
        self.serial
    }

    /// The firmware version.
    #[must_use]
    pub fn firmware(&self) -> Firmware {
        self.firmware
    }
}

mod hex_objects {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use std::collections::BTreeMap;

    pub(super) fn serialize<S: Serializer>(
        objects: &BTreeMap<u32, Vec<u8>>,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        let named: BTreeMap<String, String> = objects
            .iter()
            .map(|(id, bytes)| (format!("{id:06x}"), hex::encode(bytes)))
            .collect();
        named.serialize(out)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<BTreeMap<u32, Vec<u8>>, D::Error> {
        BTreeMap::<String, String>::deserialize(from)?
            .into_iter()
            .map(|(id, bytes)| {
                let id = u32::from_str_radix(&id, 16).map_err(D::Error::custom)?;
                Ok((id, hex::decode(bytes).map_err(D::Error::custom)?))
            })
            .collect()
    }
}

/// Why a state file is of no use.
#[derive(Debug, thiserror::Error)]
pub enum StateFileError {
    /// The file belongs to a card with another serial number.
    #[error("use {path}: it is the memory of the card with serial {found}, not {asked}")]
    AnotherCard {
        /// The file.
        path: PathBuf,
        /// The serial number in it.
        found: u32,
        /// The one that was asked for.
        asked: u32,
    },
    /// It can't be read or written.
    #[error("reach {0}: {1}")]
    Io(PathBuf, #[source] io::Error),
    /// It is not a state file.
    #[error("read {0}: {1}")]
    Malformed(PathBuf, #[source] serde_json::Error),
}

/// The file that holds a [`State`], replaced as a whole on each change.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// Reads the card's memory, or makes that of a new card with this serial number. An existing card takes the firmware given.
    ///
    /// # Errors
    /// The file can't be reached or read, or is another card's.
    pub fn open(
        path: &Path,
        serial: u32,
        firmware: Firmware,
    ) -> Result<(Self, State), StateFileError> {
        let file = Self {
            path: path.to_owned(),
        };
        let state = match fs::read(path) {
            Ok(bytes) => {
                let mut state: State = serde_json::from_slice(&bytes)
                    .map_err(|why| StateFileError::Malformed(path.to_owned(), why))?;
                if state.serial != serial {
                    return Err(StateFileError::AnotherCard {
                        path: path.to_owned(),
                        found: state.serial,
                        asked: serial,
                    });
                }
                state.firmware = firmware;
                state
            }
            Err(why) if why.kind() == io::ErrorKind::NotFound => State::factory(serial, firmware),
            Err(why) => return Err(StateFileError::Io(path.to_owned(), why)),
        };
        file.save(&state)?;
        Ok((file, state))
    }

    /// Writes beside the file and renames, readable by its owner alone.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn save(&self, state: &State) -> Result<(), StateFileError> {
        self.write(state)
            .map_err(|why| StateFileError::Io(self.path.clone(), why))
    }

    fn write(&self, state: &State) -> io::Result<()> {
        let folder = self
            .path
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        let mut beside = tempfile::Builder::new()
            .prefix(".virtual-yubikey-")
            .tempfile_in(folder)?;
        beside
            .as_file()
            .set_permissions(fs::Permissions::from_mode(0o600))?;
        beside.write_all(&serde_json::to_vec_pretty(state)?)?;
        beside.persist(&self.path).map_err(|failed| failed.error)?;
        Ok(())
    }
}
