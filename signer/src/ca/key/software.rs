//! A CA key in this process's memory.

use super::{CaKey, CaKeyError};
use touchstone_common::key::{PublicKey, SigningKey, SoftwareKey};

/// A key in memory, without the ways out that [`SoftwareKey`] has.
#[derive(Debug)]
pub struct SoftwareCaKey(SoftwareKey);

impl From<SoftwareKey> for SoftwareCaKey {
    fn from(key: SoftwareKey) -> Self {
        Self(key)
    }
}

impl SigningKey for SoftwareCaKey {
    type Error = CaKeyError;

    fn public_key(&self) -> &PublicKey {
        self.0.public_key()
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CaKeyError> {
        self.0.sign(message).map_err(CaKeyError::Sign)
    }
}

impl CaKey for SoftwareCaKey {
    fn is_of_a_device(&self) -> bool {
        false
    }
}
