//! What is asked, and what is kept of it until the answer comes and after.

use crate::{
    credential::{Credential, Pending, ReadToken},
    error::Error,
    submit::Submitted,
};
use jiff::Timestamp;
use touchstone_common::{
    attestation::Slot,
    certificate::Issued,
    grant::GrantId,
    key::PublicKey,
    name::{GroupName, UserName},
    ttl::Ttl,
};

/// What is asked, and of which key: enough to check what comes back.
pub(super) struct Asked {
    pub(super) user: UserName,
    pub(super) groups: Vec<GroupName>,
    pub(super) ttl: Ttl,
    /// The grant that is to be: its own group may come with those asked for.
    pub(super) grant: GrantId,
    pub(super) slot: Slot,
    pub(super) yubikey: u32,
    pub(super) public_key: PublicKey,
    pub(super) reason: String,
}

/// What a request that waits had asked for; nothing where its note cannot be read.
pub(super) fn asked_before(pending: &Pending) -> Option<Asked> {
    Some(Asked {
        user: UserName::parse(&pending.user).ok()?,
        groups: groups(&pending.groups).ok()?,
        ttl: Ttl::from_secs(pending.ttl_seconds.into()).ok()?,
        grant: GrantId::parse(&pending.grant)?,
        slot: pending.slot.parse::<Slot>().ok()?,
        yubikey: pending.yubikey,
        public_key: hex::decode(&pending.spki)
            .ok()
            .and_then(|spki| PublicKey::from_spki_der(&spki).ok())?,
        reason: pending.reason.clone(),
    })
}

/// The note of a request that waits.
pub(super) fn pending(asked: &Asked, submitted: &Submitted, token: Option<ReadToken>) -> Pending {
    Pending {
        name: submitted.name.clone(),
        uid: submitted.uid.clone(),
        token,
        user: asked.user.as_str().to_owned(),
        groups: names(&asked.groups),
        ttl_seconds: asked.ttl.as_secs(),
        grant: asked.grant.as_str().to_owned(),
        yubikey: asked.yubikey,
        slot: asked.slot.to_string(),
        spki: hex::encode(asked.public_key.spki_der()),
        submitted: whole_second(Timestamp::now()),
        reason: asked.reason.clone(),
    }
}

/// What is kept of a certificate that was verified.
pub(super) fn credential(
    cluster: &str,
    asked: &Asked,
    request: &str,
    issued: Issued,
) -> Credential {
    Credential {
        cluster: cluster.to_owned(),
        user: asked.user.as_str().to_owned(),
        groups: names(&issued.groups),
        not_before: issued.validity.not_before,
        not_after: issued.validity.not_after,
        serial: issued.serial,
        fingerprint: hex::encode(issued.fingerprint),
        yubikey: asked.yubikey,
        slot: asked.slot.to_string(),
        request: request.to_owned(),
        reason: asked.reason.clone(),
        chain_pem: issued.chain_pem,
    }
}

/// The names of groups, checked.
pub(super) fn groups(texts: &[String]) -> Result<Vec<GroupName>, Error> {
    texts
        .iter()
        .map(|text| {
            GroupName::parse(text).map_err(|source| Error::Name {
                what: "group",
                text: text.clone(),
                source,
            })
        })
        .collect()
}

/// The names of groups, as they are written.
pub(super) fn names(groups: &[GroupName]) -> Vec<String> {
    groups
        .iter()
        .map(|group| group.as_str().to_owned())
        .collect()
}

/// The second that a time is in.
pub(super) fn whole_second(time: Timestamp) -> Timestamp {
    Timestamp::from_second(time.as_second()).unwrap_or(time)
}
