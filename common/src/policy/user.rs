//! Users and the keys that are enrolled for them.

use crate::name::UserName;

/// A team, by its place in the policy's table of team names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TeamId(pub(crate) usize);

/// An engineer of the policy.
#[derive(Clone, Debug)]
pub struct User {
    pub(super) name: UserName,
    /// Sorted.
    pub(super) teams: Vec<TeamId>,
    pub(super) keys: Vec<EnrolledKey>,
    /// Whether the policy lists another name that Kubernetes knows the user under.
    pub(super) listed: bool,
}

/// A key that speaks for a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EnrolledKey {
    /// One key that no YubiKey vouches for. Also counts when one does.
    Key { spki_sha256: [u8; 32] },
    /// Any key that was made in this YubiKey, or the one of this SubjectPublicKeyInfo.
    YubiKey {
        serial: u32,
        spki_sha256: Option<[u8; 32]>,
    },
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
        self.keys.iter().any(|key| match key {
            EnrolledKey::Key { spki_sha256: of } => of == spki_sha256,
            EnrolledKey::YubiKey {
                serial: of_device,
                spki_sha256: of,
            } => serial == Some(*of_device) && of.is_none_or(|of| of == *spki_sha256),
        })
    }

    /// The serial numbers of the YubiKeys that are enrolled, in the order of the file.
    pub fn serials(&self) -> impl Iterator<Item = u32> {
        self.keys.iter().filter_map(|key| match key {
            EnrolledKey::Key { .. } => None,
            EnrolledKey::YubiKey { serial, .. } => Some(*serial),
        })
    }
}
