//! What the tests share: a fixed time, a draft, a two-level CA.

use jiff::{SignedDuration, Timestamp};
use touchstone_common::{
    certificate::{CaCertificate, Prepared, Profile, SerialNumber, Validity, to_pem},
    claims::{Claims, Reason},
    csr::Draft,
    key::{KeyAlgorithm, SigningKey as _, SoftwareKey},
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};

pub(crate) fn now() -> Timestamp {
    "2026-05-06T07:08:09Z".parse().unwrap()
}

pub(crate) fn user(name: &str) -> UserName {
    UserName::parse(name).unwrap()
}

pub(crate) fn group(name: &str) -> GroupName {
    GroupName::parse(name).unwrap()
}

pub(crate) fn claims() -> Claims {
    Claims {
        cluster: ClusterName::parse("prod").unwrap(),
        ttl: Ttl::from_secs(1800).unwrap(),
        reason: Reason::parse("INC-4211 checkout latency").unwrap(),
        nonce: [7; 32],
        issued_at: now(),
        read_token_sha256: None,
    }
}

pub(crate) fn draft(name: &str, groups: &[&str]) -> Draft {
    Draft {
        user: user(name),
        groups: groups.iter().map(|name| group(name)).collect(),
        claims: claims(),
        evidence: None,
    }
}

pub(crate) fn serial(number: u8) -> SerialNumber {
    SerialNumber::from_random([number; 16])
}

/// `before` and `after` now.
pub(crate) fn validity(before: SignedDuration, after: SignedDuration) -> Validity {
    Validity {
        not_before: now() - before,
        not_after: now() + after,
    }
}

/// A root and an issuing CA under it.
pub(crate) struct Ca {
    pub(crate) root: CaCertificate,
    pub(crate) key: SoftwareKey,
    pub(crate) issuing: CaCertificate,
}

impl Ca {
    pub(crate) fn new(algorithm: KeyAlgorithm) -> Self {
        let root_key = SoftwareKey::generate(algorithm).unwrap();
        let root = Prepared::new(
            &Profile::Root {
                common_name: "Touchstone root",
            },
            root_key.public_key(),
            validity(
                SignedDuration::from_hours(1),
                SignedDuration::from_hours(24 * 3650),
            ),
            serial(1),
            None,
        )
        .unwrap()
        .sign(&root_key)
        .unwrap();
        let root = CaCertificate::from_der(&root).unwrap();
        let key = SoftwareKey::generate(KeyAlgorithm::P256).unwrap();
        let issuing = Prepared::new(
            &Profile::IssuingCa {
                common_name: "Touchstone issuing CA",
            },
            key.public_key(),
            validity(
                SignedDuration::from_hours(1),
                SignedDuration::from_hours(24 * 120),
            ),
            serial(2),
            Some(&root),
        )
        .unwrap()
        .sign(&root_key)
        .unwrap();
        let issuing = CaCertificate::from_der(&issuing).unwrap();
        Self { root, key, issuing }
    }

    /// A client certificate for thirty minutes.
    pub(crate) fn issue(&self, key: &SoftwareKey, name: &str, groups: &[&str]) -> Vec<u8> {
        let groups: Vec<GroupName> = groups.iter().map(|name| group(name)).collect();
        Prepared::new(
            &Profile::ClientLeaf {
                user: &user(name),
                groups: &groups,
            },
            key.public_key(),
            validity(SignedDuration::from_secs(30), SignedDuration::from_mins(30)),
            serial(3),
            Some(&self.issuing),
        )
        .unwrap()
        .sign(&self.key)
        .unwrap()
    }

    /// Leaf and issuing CA, as the signer delivers them.
    pub(crate) fn chain(&self, leaf: &[u8]) -> String {
        to_pem(leaf) + &self.issuing.to_pem()
    }
}
