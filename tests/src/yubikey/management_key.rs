//! The management key: one block cipher block at a time, as GENERAL AUTHENTICATE uses it.

use super::state::{Firmware, TouchPolicy};
use cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use serde::{Deserialize, Serialize};
use std::fmt;

/// The ciphers of a management key, with the identifiers of SP 800-78-4, table 6-2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u8)]
pub enum ManagementAlgorithm {
    /// Three keys of DES.
    TripleDes = 0x03,
    /// AES-128.
    Aes128 = 0x08,
    /// AES-192, the default from firmware 5.7.
    Aes192 = 0x0a,
    /// AES-256.
    Aes256 = 0x0c,
}

impl ManagementAlgorithm {
    /// The algorithm with this identifier.
    #[must_use]
    pub fn new(identifier: u8) -> Option<Self> {
        match identifier {
            0x03 => Some(Self::TripleDes),
            0x08 => Some(Self::Aes128),
            0x0a => Some(Self::Aes192),
            0x0c => Some(Self::Aes256),
            _ => None,
        }
    }

    /// AES came with firmware 5.4.2.
    #[must_use]
    pub fn known_to(self, firmware: Firmware) -> bool {
        self == Self::TripleDes || firmware >= Firmware([5, 4, 2])
    }

    /// Bytes in a key.
    #[must_use]
    pub fn key_length(self) -> usize {
        match self {
            Self::Aes128 => 16,
            Self::TripleDes | Self::Aes192 => 24,
            Self::Aes256 => 32,
        }
    }

    /// Bytes in a challenge.
    #[must_use]
    pub fn block_length(self) -> usize {
        match self {
            Self::TripleDes => 8,
            Self::Aes128 | Self::Aes192 | Self::Aes256 => 16,
        }
    }
}

/// The management key of a card.
#[derive(Clone, Serialize, Deserialize)]
pub struct ManagementKey {
    pub(super) algorithm: ManagementAlgorithm,
    #[serde(with = "hex::serde")]
    key: Vec<u8>,
    pub(super) touch: TouchPolicy,
}

impl fmt::Debug for ManagementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ManagementKey({:?}, [redacted], {:?})",
            self.algorithm, self.touch
        )
    }
}

/// 0102030405060708, three times: printed in Yubico's manuals.
const FACTORY: &[u8; 24] = b"\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08\x01\x02\x03\x04\x05\x06\x07\x08";

impl ManagementKey {
    /// The key that a card leaves the factory with: triple DES before 5.7, then AES-192, the same bytes.
    #[must_use]
    pub fn factory(firmware: Firmware) -> Self {
        let algorithm = if firmware >= Firmware([5, 7, 0]) {
            ManagementAlgorithm::Aes192
        } else {
            ManagementAlgorithm::TripleDes
        };
        Self {
            algorithm,
            key: FACTORY.to_vec(),
            touch: TouchPolicy::Never,
        }
    }

    /// A key of the right length for its algorithm.
    #[must_use]
    pub fn new(algorithm: ManagementAlgorithm, key: &[u8], touch: TouchPolicy) -> Option<Self> {
        (key.len() == algorithm.key_length()).then(|| Self {
            algorithm,
            key: key.to_vec(),
            touch,
        })
    }

    /// The bytes are those printed in the manual.
    #[must_use]
    pub fn is_default(&self) -> bool {
        self.key == FACTORY
    }

    /// Encrypts one block; None for a block of another length.
    #[must_use]
    pub fn encrypt(&self, block: &[u8]) -> Option<Vec<u8>> {
        match self.algorithm {
            ManagementAlgorithm::TripleDes => encrypt_with::<des::TdesEde3>(&self.key, block),
            ManagementAlgorithm::Aes128 => encrypt_with::<aes::Aes128>(&self.key, block),
            ManagementAlgorithm::Aes192 => encrypt_with::<aes::Aes192>(&self.key, block),
            ManagementAlgorithm::Aes256 => encrypt_with::<aes::Aes256>(&self.key, block),
        }
    }

    /// Decrypts one block; None for a block of another length.
    #[must_use]
    pub fn decrypt(&self, block: &[u8]) -> Option<Vec<u8>> {
        match self.algorithm {
            ManagementAlgorithm::TripleDes => decrypt_with::<des::TdesEde3>(&self.key, block),
            ManagementAlgorithm::Aes128 => decrypt_with::<aes::Aes128>(&self.key, block),
            ManagementAlgorithm::Aes192 => decrypt_with::<aes::Aes192>(&self.key, block),
            ManagementAlgorithm::Aes256 => decrypt_with::<aes::Aes256>(&self.key, block),
        }
    }
}

fn encrypt_with<C: KeyInit + BlockCipherEncrypt>(key: &[u8], block: &[u8]) -> Option<Vec<u8>> {
    let mut block = Block::<C>::try_from(block).ok()?;
    C::new_from_slice(key).ok()?.encrypt_block(&mut block);
    Some(block.to_vec())
}

fn decrypt_with<C: KeyInit + BlockCipherDecrypt>(key: &[u8], block: &[u8]) -> Option<Vec<u8>> {
    let mut block = Block::<C>::try_from(block).ok()?;
    C::new_from_slice(key).ok()?.decrypt_block(&mut block);
    Some(block.to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_decrypts_what_it_encrypts() {
        for identifier in [0x03, 0x08, 0x0a, 0x0c] {
            let algorithm =
                ManagementAlgorithm::new(identifier).expect("an identifier of the table");
            let bytes: Vec<u8> = (0..algorithm.key_length() as u8).collect();
            let key = ManagementKey::new(algorithm, &bytes, TouchPolicy::Never)
                .expect("the right length");
            let block = vec![0xa5; algorithm.block_length()];
            let sealed = key.encrypt(&block).expect("one block");
            assert_ne!(sealed, block);
            assert_eq!(key.decrypt(&sealed), Some(block.clone()));
            assert_eq!(key.encrypt(&block[1..]), None);
        }
    }

    #[test]
    fn aes_192_of_the_specification_comes_out() {
        // FIPS 197, appendix C.2.
        let key: Vec<u8> = (0..24).collect();
        let key = ManagementKey::new(ManagementAlgorithm::Aes192, &key, TouchPolicy::Never)
            .expect("24 bytes");
        let block = hex::decode("00112233445566778899aabbccddeeff").expect("hex");
        assert_eq!(
            key.encrypt(&block).map(hex::encode).as_deref(),
            Some("dda97ca4864cdfe06eaf70a0ec0d7191")
        );
    }

    #[test]
    fn the_factory_key_is_triple_des_before_5_7_and_aes_192_after() {
        assert_eq!(
            ManagementKey::factory(Firmware([5, 4, 3])).algorithm,
            ManagementAlgorithm::TripleDes
        );
        assert_eq!(
            ManagementKey::factory(Firmware([5, 7, 0])).algorithm,
            ManagementAlgorithm::Aes192
        );
    }
}
