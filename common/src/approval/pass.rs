//! A pass: an approver's key says that its holder wants to see what waits, for a few minutes.
//!
//! The embedded API gives engineers no other credential than their YubiKey. A pass reads pending requests and adds the
//! approver's own statement, which is signed itself; whoever steals one for its few minutes can read what waits.

use super::{JwsError, Nonce, SignError, StatementError, Version, check_time, jws, seconds};
use crate::{
    evidence::Evidence,
    key::{PublicKey, SigningKey},
    name::{ClusterName, UserName},
};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

const TYPE: &str = "touchstone-pass+jws";

/// What an approver's key says to an API.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Pass {
    version: Version,
    /// Who.
    pub approver: UserName,
    /// The cluster whose requests are to be seen.
    pub cluster: ClusterName,
    /// When it was signed, by the approver's clock.
    #[serde(with = "seconds")]
    pub issued_at: Timestamp,
    /// Until when it is good.
    #[serde(with = "seconds")]
    pub expires_at: Timestamp,
    /// Random, new for each.
    pub nonce: Nonce,
}

/// Why a pass is not taken. Each completes "the pass …".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct PassError(#[from] StatementError);

impl From<JwsError> for PassError {
    fn from(error: JwsError) -> Self {
        Self(error.into())
    }
}

/// A pass that was read strictly and verifies under the key it carries.
#[derive(Clone, Debug)]
pub struct SignedPass {
    pass: Pass,
    public_key: PublicKey,
    evidence: Option<Evidence>,
}

impl Pass {
    /// The longest that one is good for.
    pub const MAX_VALIDITY: SignedDuration = SignedDuration::from_hours(1);

    /// A pass from `now` on, for so long.
    #[must_use]
    pub fn new(
        approver: UserName,
        cluster: ClusterName,
        now: Timestamp,
        validity: SignedDuration,
        nonce: [u8; 32],
    ) -> Self {
        let issued_at = seconds::whole(now);
        Self {
            version: Version,
            approver,
            cluster,
            issued_at,
            expires_at: issued_at.saturating_add(validity).unwrap_or(issued_at),
            nonce: Nonce(nonce),
        }
    }

    /// Signs it.
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

    /// Whether it is for this cluster, now.
    ///
    /// # Errors
    /// What it does not fit.
    pub fn check(&self, cluster: &ClusterName, now: Timestamp) -> Result<(), PassError> {
        if &self.cluster != cluster {
            return Err(StatementError::Other("cluster").into());
        }
        check_time(self.issued_at, self.expires_at, Self::MAX_VALIDITY, now).map_err(PassError)
    }
}

impl SignedPass {
    /// Reads a pass strictly and verifies its signature under the key that it carries.
    ///
    /// # Errors
    /// When it is not exactly one.
    pub fn parse(text: &str) -> Result<Self, PassError> {
        let read: jws::Verified<Pass> = jws::read(text, TYPE)?;
        Ok(Self {
            pass: read.payload,
            public_key: read.public_key,
            evidence: read.evidence,
        })
    }

    /// What is said.
    #[must_use]
    pub fn pass(&self) -> &Pass {
        &self.pass
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
}
