//! What signs now, and whose certificates are ours: what the controller sees of the CA's record.

use super::{
    IssuingCa,
    key::Tokens,
    lifecycle::{CaId, CannotSign, Length, Lifecycle},
    recognise::{self, Recognised},
    record::{Record, RecordError},
};
use jiff::Timestamp;
use std::{fmt, sync::Arc};
use touchstone_common::certificate::CaCertificate;

/// One state of the record, ready to sign by. A request is answered by one of them, from its preparation to its signature.
pub struct Authority {
    lifecycle: Lifecycle,
    active: Option<Active>,
    /// Every CA that the record remembers, removed ones included: certificates of theirs are no strangers'.
    known: Vec<CaCertificate>,
}

#[derive(Clone)]
struct Active {
    id: CaId,
    ca: Arc<IssuingCa>,
}

/// What may sign a leaf now.
#[derive(Clone, Copy, Debug)]
pub struct Signing<'a> {
    /// The CA.
    pub ca: &'a Arc<IssuingCa>,
    /// How long its leaves may live.
    pub longest_leaf: Length,
}

impl Authority {
    /// What a record says. A key that `before` has open is not opened again.
    ///
    /// # Errors
    /// When the active CA's key cannot be opened, or is not its own.
    pub async fn of(
        record: &Record,
        before: Option<&Self>,
        tokens: &Tokens,
    ) -> Result<Self, RecordError> {
        let lifecycle = record.lifecycle().clone();
        let active = match lifecycle.active() {
            None => None,
            Some(ca) => Some(Active::open(record, ca.id(), before, tokens).await?),
        };
        let known = lifecycle
            .cas()
            .iter()
            .filter_map(|ca| record.material(ca.id())?.certificate.clone())
            .collect();
        Ok(Self {
            lifecycle,
            active,
            known,
        })
    }

    /// The CA that may sign now.
    ///
    /// # Errors
    /// Why none may.
    pub fn may_sign(&self, now: Timestamp) -> Result<Signing<'_>, CannotSign> {
        let ca = self.lifecycle.may_sign(now)?;
        let active = self.active.as_ref().ok_or(CannotSign::NoActive)?;
        Ok(Signing {
            ca: &active.ca,
            longest_leaf: ca.longest_leaf(),
        })
    }

    /// The active CA, whether it may sign now or not.
    #[must_use]
    pub fn active(&self) -> Option<&IssuingCa> {
        self.active.as_ref().map(|active| &*active.ca)
    }

    /// The life cycle that this is a state of.
    #[must_use]
    pub fn lifecycle(&self) -> &Lifecycle {
        &self.lifecycle
    }

    /// The first certificate of a PEM chain, and the fingerprint of its CA, if a CA of the record signed it.
    #[must_use]
    pub fn recognise(&self, chain: &[u8]) -> Option<(Recognised, String)> {
        self.known.iter().rev().find_map(|ca| {
            let leaf = recognise::leaf_of(chain, ca)?;
            Some((leaf, super::fingerprint(ca.der())))
        })
    }
}

impl Active {
    async fn open(
        record: &Record,
        id: CaId,
        before: Option<&Authority>,
        tokens: &Tokens,
    ) -> Result<Self, RecordError> {
        let certificate = record
            .material(id)
            .and_then(|material| material.certificate.as_ref())
            .ok_or(RecordError::Missing(id, "certificate"))?;
        let open = before
            .and_then(|before| before.active.as_ref())
            .filter(|active| active.id == id && active.ca.certificate().der() == certificate.der());
        if let Some(open) = open {
            return Ok(open.clone());
        }
        Ok(Self {
            id,
            ca: Arc::new(issuing(record, id, tokens).await?),
        })
    }
}

/// Opens a CA of the record: its certificate and its key.
///
/// # Errors
/// When one is missing, or they are not a pair.
pub(super) async fn issuing(
    record: &Record,
    id: CaId,
    tokens: &Tokens,
) -> Result<IssuingCa, RecordError> {
    let certificate = record
        .material(id)
        .and_then(|material| material.certificate.clone())
        .ok_or(RecordError::Missing(id, "certificate"))?;
    let key = record.open_key(id, tokens).await?;
    IssuingCa::new(certificate, key).ok_or(RecordError::Mixed(id, "key"))
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("active", &self.lifecycle.active().map(|ca| ca.id()))
            .finish_non_exhaustive()
    }
}
