//! Evidence that has been verified, remembered.

use jiff::Timestamp;
use lru::LruCache;
use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use touchstone_common::{
    attestation::{self, AttestationError, Attested, Roots},
    evidence::Evidence,
    key::PublicKey,
};

/// Verified evidence by digest: an engineer's key is verified once, then only looked up.
///
/// Bounded; what was used longest ago goes first. Dates are checked anew each time, and evidence that was verified against
/// other roots counts for nothing. Evidence that does not verify is not remembered.
#[derive(Debug)]
pub struct EvidenceCache {
    verified: Mutex<Verified>,
}

#[derive(Debug)]
struct Verified {
    /// The roots that the entries were verified against.
    roots: Option<Arc<Roots>>,
    entries: LruCache<Key, Arc<Attested>>,
}

/// The digests of the evidence and of the key that it speaks of.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    evidence: [u8; 32],
    spki: [u8; 32],
}

impl EvidenceCache {
    /// A cache of at most so many keys.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self {
            verified: Mutex::new(Verified {
                roots: None,
                entries: LruCache::new(capacity),
            }),
        }
    }

    /// What verified evidence says of a key at `now`.
    ///
    /// # Errors
    /// When it does not verify.
    pub fn verify(
        &self,
        evidence: &Evidence,
        key: &PublicKey,
        roots: &Arc<Roots>,
        now: Timestamp,
    ) -> Result<Arc<Attested>, AttestationError> {
        let digests = Key {
            evidence: evidence.sha256(),
            spki: key.spki_sha256(),
        };
        let known = self.of(roots).entries.get(&digests).cloned();
        if let Some(attested) = known.filter(|attested| attested.valid.contains(now)) {
            return Ok(attested);
        }
        // Without the lock: signatures take their time.
        let attested = Arc::new(attestation::verify(evidence, key, roots, now)?);
        self.of(roots).entries.put(digests, Arc::clone(&attested));
        Ok(attested)
    }

    /// The entries that hold for these roots.
    fn of(&self, roots: &Arc<Roots>) -> MutexGuard<'_, Verified> {
        // Each change of the map is complete or has not begun; a panic elsewhere leaves it sound.
        let mut verified = self.verified.lock().unwrap_or_else(PoisonError::into_inner);
        let same = verified
            .roots
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, roots));
        if !same {
            verified.entries.clear();
            verified.roots = Some(Arc::clone(roots));
        }
        verified
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.verified
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entries
            .len()
    }
}
