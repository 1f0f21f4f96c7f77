//! Evidence that has been verified, remembered.

use std::num::NonZeroUsize;

/// Verified evidence by digest: an engineer's key is verified once, then only looked up. Bounded; dates are checked anew.
#[derive(Debug)]
pub struct EvidenceCache {
    #[expect(dead_code, reason = "used with the first entry")]
    capacity: NonZeroUsize,
}

impl EvidenceCache {
    /// A cache of at most so many keys.
    #[must_use]
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self { capacity }
    }
}
