//! Users and the keys that are enrolled for them.

use crate::name::UserName;

/// An engineer of the policy.
#[derive(Clone, Debug)]
pub struct User {
    name: UserName,
}

impl User {
    /// The name, which is the certificate's CN.
    #[must_use]
    pub fn name(&self) -> &UserName {
        &self.name
    }

    /// Whether a key is enrolled: `serial` is the YubiKey's that verified evidence names, `None` without evidence.
    #[must_use]
    pub fn has_enrolled(&self, serial: Option<u32>, spki_sha256: &[u8; 32]) -> bool {
        todo!("{serial:?} {spki_sha256:?}")
    }
}
