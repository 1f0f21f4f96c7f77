//! How long a certificate lives.

use std::{fmt, str::FromStr, time::Duration};

/// A certificate's lifetime in whole seconds, at least [`Ttl::MIN`] and at most [`Ttl::MAX`].
///
/// Written and read as `30m`, `1h`, `1h30m`, `600s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ttl(u32);

/// Why a lifetime was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TtlError {
    /// Not a duration such as `30m`.
    #[error("{0:?} is not a duration such as 30m or 1h")]
    Syntax(String),
    /// Shorter than Kubernetes grants, or longer than any policy may allow.
    #[error("{0}s is outside 10m to 24h")]
    Range(u64),
}

impl Ttl {
    /// Ten minutes: the least that Kubernetes takes as `expirationSeconds`.
    pub const MIN: Self = Self(600);
    /// One day: the most that any policy may grant.
    pub const MAX: Self = Self(86_400);

    /// A lifetime of so many seconds.
    ///
    /// # Errors
    /// When outside [`Ttl::MIN`] to [`Ttl::MAX`].
    pub fn from_secs(seconds: u64) -> Result<Self, TtlError> {
        match u32::try_from(seconds) {
            Ok(s) if (Self::MIN.0..=Self::MAX.0).contains(&s) => Ok(Self(s)),
            _ => Err(TtlError::Range(seconds)),
        }
    }

    /// Whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }
}

impl FromStr for Ttl {
    type Err = TtlError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        todo!("{text}")
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.0)
    }
}
