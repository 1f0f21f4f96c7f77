//! The engineer's side: what was delivered is what was asked for, and the cluster will believe it.

use super::{
    CaCertificate, CertificateError, ClientIdentity, LABEL, Validity, profile::CLIENT_AUTH, sorted,
};
use crate::{
    grant::GrantId,
    key::PublicKey,
    name::{GroupName, UserName},
    pem,
    ttl::Ttl,
    x509::Certificate,
};
use jiff::{SignedDuration, Timestamp};

/// How far the signer's clock may differ from ours.
const SKEW: SignedDuration = SignedDuration::from_secs(60);
/// The most certificates a delivered chain may have.
const MAX_CHAIN: usize = 4;

/// What the engineer's side expects of an issued chain.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// The card's key.
    pub public_key: &'a PublicKey,
    /// The CN asked for.
    pub user: &'a UserName,
    /// The groups asked for, any order.
    pub groups: &'a [GroupName],
    /// The grant of the request: its own group, and no other, may stand beside those asked for.
    pub grant: &'a GrantId,
    /// The lifetime asked for: the certificate may live shorter, not longer.
    pub ttl: Ttl,
    /// The trust bundle, PEM: the root (or the root-less issuing CA).
    pub trust_bundle: &'a [u8],
    /// The time now.
    pub now: Timestamp,
}

/// A client certificate that was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issued {
    /// The leaf, DER.
    pub leaf_der: Vec<u8>,
    /// The groups that the leaf carries, sorted.
    pub groups: Vec<GroupName>,
    /// The whole chain as delivered, PEM, leaf first.
    pub chain_pem: String,
    /// Dates of the leaf.
    pub validity: Validity,
    /// SHA-256 of the leaf, the audit log's credential id.
    pub fingerprint: [u8; 32],
    /// Serial number, lower-case hex.
    pub serial: String,
    /// SHA-256 of the trust bundle's CA that the chain ends in.
    pub anchor: [u8; 32],
}

/// Checks a delivered chain: key, CN, groups, EKU, chain to the trust bundle, real dates.
///
/// # Errors
/// What is not as expected.
pub fn verify_issued(
    chain_pem: &[u8],
    expected: &Expected<'_>,
) -> Result<Issued, CertificateError> {
    let chain = pem::blocks(chain_pem, LABEL, pem::Around::Nothing)?;
    let [leaf_der, rest @ ..] = chain.as_slice() else {
        return Err(CertificateError::ChainLength(0));
    };
    if chain.len() > MAX_CHAIN {
        return Err(CertificateError::ChainLength(chain.len()));
    }
    let leaf = Certificate::from_der(leaf_der)?;
    let identity = ClientIdentity::from_certificate(leaf_der, &leaf)?;
    check_identity(&identity, expected)?;
    check_dates(identity.validity, expected)?;
    let anchor = check_chain(&leaf, rest, expected)?;
    Ok(Issued {
        anchor,
        chain_pem: chain.iter().map(|der| pem::encode(LABEL, der)).collect(),
        leaf_der: leaf_der.clone(),
        groups: identity.groups,
        validity: identity.validity,
        fingerprint: identity.fingerprint,
        serial: identity.serial,
    })
}

fn check_identity(found: &ClientIdentity, expected: &Expected<'_>) -> Result<(), CertificateError> {
    if &found.public_key != expected.public_key {
        return Err(CertificateError::WrongKey);
    }
    if &found.user != expected.user {
        return Err(CertificateError::WrongUser {
            found: found.user.clone(),
            expected: expected.user.clone(),
        });
    }
    let own = |group: &GroupName| expected.grant.is_group(group);
    let beside = found.groups.iter().filter(|group| !own(group)).cloned();
    if sorted(&beside.collect::<Vec<_>>()) != sorted(expected.groups) {
        return Err(CertificateError::WrongGroups);
    }
    Ok(())
}

fn check_dates(found: Validity, expected: &Expected<'_>) -> Result<(), CertificateError> {
    let Validity {
        not_before,
        not_after,
    } = found;
    let from_now = |duration| {
        expected
            .now
            .saturating_add(duration)
            .unwrap_or(Timestamp::MAX)
    };
    if not_before > from_now(SKEW) {
        return Err(CertificateError::NotYetValid(not_before));
    }
    if not_after <= expected.now {
        return Err(CertificateError::Expired(not_after));
    }
    let most = SignedDuration::from_secs(i64::from(expected.ttl.as_secs())) + SKEW;
    if not_after > from_now(most) {
        return Err(CertificateError::LivesTooLong {
            not_after,
            ttl: expected.ttl,
        });
    }
    Ok(())
}

/// Follows the signatures from the leaf through the delivered CAs, in their order, to a CA of the trust bundle; its SHA-256.
fn check_chain(
    leaf: &Certificate<'_>,
    delivered: &[Vec<u8>],
    expected: &Expected<'_>,
) -> Result<[u8; 32], CertificateError> {
    // A bundle may hold CAs of other kinds for others: what cannot be read cannot be believed, and is passed over.
    let anchors: Vec<CaCertificate> = super::from_pem_bundle(expected.trust_bundle)?
        .iter()
        .filter_map(|der| CaCertificate::from_der(der).ok())
        .collect();
    if anchors.is_empty() {
        return Err(CertificateError::TrustBundle);
    }
    let mut current = leaf.clone();
    for (below, der) in (0_u8..).zip(delivered) {
        if let Some(anchor) = issuer(&current, &anchors) {
            // What comes after the end of the chain may only be that CA itself.
            let after = delivered.iter().skip(usize::from(below));
            for der in after {
                let ca = CaCertificate::from_der(der)?;
                if ca.subject() != anchor.subject() || ca.public_key() != anchor.public_key() {
                    return Err(CertificateError::Unrelated);
                }
            }
            check_ca(anchor, below, expected.now)?;
            return Ok(anchor.fingerprint());
        }
        let ca = CaCertificate::from_der(der)?;
        if !ca.is_issuer_of(&current) {
            return Err(CertificateError::Unrelated);
        }
        check_ca(&ca, below, expected.now)?;
        current = Certificate::from_der(der)?;
    }
    let below = u8::try_from(delivered.len()).unwrap_or(u8::MAX);
    let anchor = issuer(&current, &anchors).ok_or(CertificateError::UnknownIssuer)?;
    check_ca(anchor, below, expected.now)?;
    Ok(anchor.fingerprint())
}

fn issuer<'a>(
    certificate: &Certificate<'_>,
    anchors: &'a [CaCertificate],
) -> Option<&'a CaCertificate> {
    anchors
        .iter()
        .find(|anchor| anchor.is_issuer_of(certificate))
}

/// What a CA in the path must allow, with so many CAs between it and the leaf.
fn check_ca(ca: &CaCertificate, below: u8, now: Timestamp) -> Result<(), CertificateError> {
    if ca.path_length().is_some_and(|length| length < below) {
        return Err(CertificateError::Issuer("CA certificates"));
    }
    if !ca.allows(CLIENT_AUTH) {
        return Err(CertificateError::Issuer("certificates of this purpose"));
    }
    let validity = ca.validity();
    if now < validity.not_before {
        return Err(CertificateError::NotYetValid(validity.not_before));
    }
    if !validity.contains(now) {
        return Err(CertificateError::Expired(validity.not_after));
    }
    Ok(())
}
