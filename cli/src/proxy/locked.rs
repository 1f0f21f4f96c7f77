//! A secret in memory that is never swapped out.

use zeroize::Zeroizing;

/// Bytes in locked memory. Dropped in this order: wiped, then unlocked.
pub struct Locked {
    bytes: Zeroizing<Box<[u8]>>,
    _lock: region::LockGuard,
}

impl Locked {
    /// A copy of a secret. `None` where memory cannot be locked: `ulimit -l` says how much may be.
    #[must_use]
    pub fn new(secret: &[u8]) -> Option<Self> {
        // Locked before the secret is in it.
        let mut bytes = Zeroizing::new(vec![0; secret.len()].into_boxed_slice());
        let lock = region::lock(bytes.as_ptr(), bytes.len().max(1)).ok()?;
        bytes.copy_from_slice(secret);
        Some(Self { bytes, _lock: lock })
    }

    /// The secret.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for Locked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[redacted]")
    }
}
