//! What an approver says of a request, signed by the key in their YubiKey.
//!
//! A [`Statement`] names one request so exactly that it is good for no other: its UID and the digest of what the
//! engineer's card signed, and once more in words what the approver saw of it. It is written as a JWS (`jws`) onto the
//! request, as the annotation [`annotation_key`]. A [`Signed`] statement was read strictly and verifies under the key it
//! carries; whether that key speaks for the approver, and whether the approver counts, is for the policy to say.
//!
//! A [`Pass`] is what an approver shows to an API that knows no other credential of theirs.

mod jws;
mod pass;
#[cfg(test)]
mod tests;

pub use jws::{JwsError, MAX_JWS_BYTES, SignError};
pub use pass::{Pass, PassError, SignedPass};

use crate::{
    claims::Reason,
    evidence::Evidence,
    key::{PublicKey, SigningKey, sha256},
    name::{ClusterName, GroupName, UserName},
    ttl::Ttl,
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use std::fmt;

/// What the annotations begin with that carry statements.
pub const ANNOTATION_PREFIX: &str = "approval.touchstone.dev/";
/// The longest that a statement may be good for: no request waits longer.
pub const MAX_VALIDITY: SignedDuration = SignedDuration::from_hours(24);
/// How far apart the clocks of those who sign and of those who read may be.
pub const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);

const TYPE: &str = "touchstone-approval+jws";
/// The most bytes of a UID. Kubernetes' have 36.
const MAX_UID_BYTES: usize = 64;

/// The annotation that carries what this approver says: one for each, so that nobody takes another's place.
#[must_use]
pub fn annotation_key(approver: &UserName) -> String {
    let digest = sha256(approver.as_str().as_bytes());
    let short = digest.get(..16).unwrap_or_default();
    format!("{ANNOTATION_PREFIX}{}", hex::encode(short))
}

/// Yes or no.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// Grant it.
    Approve,
    /// Do not, whoever else approves.
    Deny,
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Approve => "approve",
            Self::Deny => "deny",
        })
    }
}

/// What an approver says of one request.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Statement {
    version: Version,
    /// Who says it.
    pub approver: UserName,
    /// Yes or no.
    pub decision: Decision,
    /// Why, in the approver's words. May be empty.
    pub comment: Reason,
    /// The cluster that the request is for.
    pub cluster: ClusterName,
    /// Which request.
    pub request: RequestId,
    /// Whose request it is.
    pub user: UserName,
    /// The groups it asks for, sorted, each once.
    pub groups: Vec<GroupName>,
    /// The lifetime it asks for. What is granted may be shorter.
    pub ttl: Ttl,
    /// When it was signed, by the approver's clock.
    #[serde(with = "seconds")]
    pub issued_at: Timestamp,
    /// Until when it counts.
    #[serde(with = "seconds")]
    pub expires_at: Timestamp,
    /// Random, new for each.
    pub nonce: Nonce,
}

/// Which request: an object of the API, and what the engineer's card signed.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RequestId {
    /// `metadata.uid`: one made again under the same name is another.
    pub uid: String,
    /// SHA-256 of the CSR's DER.
    #[serde(with = "hex32")]
    pub sha256: [u8; 32],
}

/// Thirty-two random bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nonce(pub [u8; 32]);

/// The one version there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Version;

/// What is known of a request and does not depend on the approver.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The cluster it is for.
    pub cluster: &'a ClusterName,
    /// `metadata.uid`.
    pub uid: &'a str,
    /// SHA-256 of the CSR's DER.
    pub csr_sha256: &'a [u8; 32],
    /// Who asks.
    pub user: &'a UserName,
    /// For which groups, in any order.
    pub groups: &'a [GroupName],
    /// For how long.
    pub ttl: Ttl,
}

/// Why a statement counts for nothing, whoever made it. Each completes "the statement …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// It was good for a time that is over.
    #[error("ended at {0}")]
    Expired(Timestamp),
    /// It is dated in the future.
    #[error("was signed at {0}, which is still to come: a clock is wrong")]
    Future(Timestamp),
    /// It is not one.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// It stands in an annotation that is not the approver's.
    #[error("stands in an annotation that is not its approver's")]
    Misplaced,
    /// It is about something else.
    #[error("is about another {0}")]
    Other(&'static str),
    /// It would be good for too long, or for no time at all.
    #[error("would be good from {from} to {to}; 24 hours are the most")]
    Validity {
        /// From.
        from: Timestamp,
        /// To.
        to: Timestamp,
    },
    /// A value that is not one of its kind.
    #[error("has {0}")]
    Value(&'static str),
}

/// A statement that was read strictly and verifies under the key it carries.
#[derive(Clone, Debug)]
pub struct Signed {
    statement: Statement,
    public_key: PublicKey,
    evidence: Option<Evidence>,
    sha256: [u8; 32],
}

impl Statement {
    /// What `approver` says of a request, from `now` until `expires_at`; whole seconds.
    #[must_use]
    pub fn new(
        asked: &Asked<'_>,
        approver: UserName,
        decision: Decision,
        comment: Reason,
        [issued_at, expires_at]: [Timestamp; 2],
        nonce: [u8; 32],
    ) -> Self {
        Self {
            version: Version,
            approver,
            decision,
            comment,
            cluster: asked.cluster.clone(),
            request: RequestId {
                uid: asked.uid.to_owned(),
                sha256: *asked.csr_sha256,
            },
            user: asked.user.clone(),
            groups: sorted(asked.groups),
            ttl: asked.ttl,
            issued_at: seconds::whole(issued_at),
            expires_at: seconds::whole(expires_at),
            nonce: Nonce(nonce),
        }
    }

    /// Signs it. With evidence, the signer can verify which YubiKey holds the key.
    ///
    /// # Errors
    /// The key's own error when it cannot sign.
    pub fn sign<K: SigningKey>(
        &self,
        key: &K,
        evidence: Option<&Evidence>,
    ) -> Result<String, SignError<K::Error>> {
        jws::sign(self, TYPE, key, evidence)
    }

    /// Whether it is about this request, now.
    ///
    /// # Errors
    /// What it does not fit.
    pub fn check(&self, asked: &Asked<'_>, now: Timestamp) -> Result<(), StatementError> {
        let other = |what| Err(StatementError::Other(what));
        if &self.cluster != asked.cluster {
            return other("cluster");
        }
        if self.request.uid != asked.uid {
            return other("request");
        }
        if &self.request.sha256 != asked.csr_sha256 {
            return other("request under the same UID");
        }
        if &self.user != asked.user {
            return other("user");
        }
        if self.groups != sorted(asked.groups) {
            return other("list of groups");
        }
        if self.ttl != asked.ttl {
            return other("lifetime");
        }
        check_time(self.issued_at, self.expires_at, MAX_VALIDITY, now)
    }
}

/// Whether something signed at `from` that is good until `to`, for at most `most`, is good `now`.
fn check_time(
    from: Timestamp,
    to: Timestamp,
    most: SignedDuration,
    now: Timestamp,
) -> Result<(), StatementError> {
    let validity = to.duration_since(from);
    if validity <= SignedDuration::ZERO || validity > most {
        return Err(StatementError::Validity { from, to });
    }
    if from.duration_since(now) > CLOCK_SKEW {
        return Err(StatementError::Future(from));
    }
    if to <= now {
        return Err(StatementError::Expired(to));
    }
    Ok(())
}

impl Signed {
    /// Reads a statement strictly and verifies its signature under the key that it carries.
    ///
    /// # Errors
    /// When it is not exactly one.
    pub fn parse(text: &str) -> Result<Self, StatementError> {
        let read: jws::Verified<Statement> = jws::read(text, TYPE)?;
        let statement = read.payload;
        let uid = statement.request.uid.as_bytes();
        if uid.is_empty() || uid.len() > MAX_UID_BYTES || !uid.iter().all(u8::is_ascii_graphic) {
            return Err(StatementError::Value("a UID that is none"));
        }
        if statement.groups.is_empty() || !statement.groups.is_sorted_by(|a, b| a < b) {
            return Err(StatementError::Value(
                "groups that are not sorted, or stand there twice",
            ));
        }
        Ok(Self {
            statement,
            public_key: read.public_key,
            evidence: read.evidence,
            sha256: read.sha256,
        })
    }

    /// As [`Signed::parse`], of an annotation: it has to be the approver's own.
    ///
    /// # Errors
    /// Also when it is another's.
    pub fn from_annotation(key: &str, text: &str) -> Result<Self, StatementError> {
        let signed = Self::parse(text)?;
        if key != annotation_key(&signed.statement.approver) {
            return Err(StatementError::Misplaced);
        }
        Ok(signed)
    }

    /// What is said.
    #[must_use]
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// The key that signed it.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }

    /// What proves the key to be in a YubiKey, if that came with it. Not yet verified.
    #[must_use]
    pub fn evidence(&self) -> Option<&Evidence> {
        self.evidence.as_ref()
    }

    /// SHA-256 of the text: what the record names it by.
    #[must_use]
    pub fn sha256(&self) -> &[u8; 32] {
        &self.sha256
    }
}

fn sorted(groups: &[GroupName]) -> Vec<GroupName> {
    let mut groups = groups.to_vec();
    groups.sort_unstable();
    groups.dedup();
    groups
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u8::deserialize(deserializer)? {
            1 => Ok(Self),
            _ => Err(D::Error::custom("version 1 is read")),
        }
    }
}

impl Serialize for Nonce {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(D::Error::custom)?;
        let bytes = bytes.try_into();
        Ok(Self(
            bytes.map_err(|_| D::Error::custom("a nonce has 32 bytes"))?,
        ))
    }
}

/// A digest as 64 lower-case hexadecimal digits.
mod hex32 {
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn serialize<S: Serializer>(
        bytes: &[u8; 32],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(text, &mut bytes).map_err(D::Error::custom)?;
        Ok(bytes)
    }
}

/// A time as seconds since 1970 (RFC 7519, NumericDate), whole.
mod seconds {
    use jiff::Timestamp;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    pub(super) fn whole(time: Timestamp) -> Timestamp {
        Timestamp::from_second(time.as_second()).unwrap_or(time)
    }

    pub(super) fn serialize<S: Serializer>(
        time: &Timestamp,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64(time.as_second())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Timestamp, D::Error> {
        Timestamp::from_second(i64::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}
