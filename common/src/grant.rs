//! The names that belong to one grant: its own, and that of the group which only its certificate carries.
//!
//! Both come from the request's nonce, which the engineer's key signed. So the signer finds the grant of a request that is
//! sent again, and the engineer's side knows which group it is, and takes no other.

use crate::{key::sha256, name::GroupName};

/// What every grant's own group begins with. No policy grants such a group and no request may ask for one.
pub const GROUP_PREFIX: &str = "touchstone:grant:";
/// The annotation by which a Grant is revoked: who does it, as Kubernetes knows them.
pub const REVOKED_BY_ANNOTATION: &str = "touchstone.dev/revoked-by";
/// The annotation that says why.
pub const REVOCATION_REASON_ANNOTATION: &str = "touchstone.dev/revocation-reason";
/// 128 bits: nobody finds a second nonce for a name.
const BYTES: usize = 16;

/// Which grant.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrantId(String);

impl GrantId {
    /// That of the request with this nonce: the same request, sent again, gives the same one.
    #[must_use]
    pub fn of_nonce(nonce: &[u8; 32]) -> Self {
        let digest = sha256(nonce);
        Self(hex::encode(digest.get(..BYTES).unwrap_or_default()))
    }

    /// Reads what [`GrantId::as_str`] gives.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 2 * BYTES && text.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// 32 lower-case hexadecimal digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the Grant in the cluster.
    #[must_use]
    pub fn object_name(&self) -> String {
        format!("g-{}", self.0)
    }

    /// The name of its group.
    #[must_use]
    pub fn group_name(&self) -> String {
        format!("{GROUP_PREFIX}{}", self.0)
    }

    /// Its group, as a certificate carries it.
    #[must_use]
    pub fn group(&self) -> GroupName {
        GroupName::of_grant(self)
    }

    /// Whether it is this grant's group.
    #[must_use]
    pub fn is_group(&self, group: &GroupName) -> bool {
        group
            .as_str()
            .strip_prefix(GROUP_PREFIX)
            .is_some_and(|id| id == self.0)
    }
}

/// Whether a group is a grant's own, of whichever grant.
#[must_use]
pub fn is_own_group(name: &str) -> bool {
    name.strip_prefix(GROUP_PREFIX)
        .is_some_and(|id| GrantId::parse(id).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_nonce_gives_one_grant_and_another_gives_another() {
        let [one, other] = [1, 2].map(|byte| GrantId::of_nonce(&[byte; 32]));
        assert_eq!(one, GrantId::of_nonce(&[1; 32]));
        assert_ne!(one, other);
        assert_eq!(one.object_name().len(), 34);
        assert_eq!(GrantId::parse(one.as_str()), Some(one.clone()));
        let group = GroupName::parse(&one.group_name()).unwrap();
        assert!(one.is_group(&group) && !other.is_group(&group));
        assert!(is_own_group(group.as_str()));
    }

    #[test]
    fn nothing_but_32_lower_case_digits_is_a_grants_group() {
        let id = "0123456789abcdef0123456789abcdef";
        assert!(is_own_group(&format!("touchstone:grant:{id}")));
        for name in [
            format!("touchstone:grant:{}", id.to_uppercase()),
            format!("touchstone:grant:{id}0"),
            format!("Touchstone:grant:{id}"),
            "touchstone:grant:".to_owned(),
            "touchstone:signer".to_owned(),
            id.to_owned(),
        ] {
            assert!(!is_own_group(&name), "{name}");
        }
    }
}
