//! One leader among the replicas of a signer: a Lease of `coordination.k8s.io/v1`, and a fence in front of every write.
//!
//! The leader renews the Lease by compare-and-swap. Whoever sees it unchanged for as long as it says it lasts, by a clock of
//! its own, may take it; the times in it are other machines' and are not believed. A leader counts itself as one for two
//! thirds of that, from before it sent the renewal that succeeded, by a clock that goes on while the machine sleeps: one
//! that was paused and wakes up is none any more before it writes again.
//!
//! [`Election`] decides and knows no I/O, [`Candidate`] reads and writes the Lease, [`Leadership`] is what the rest asks.
//!
//! Crates for this were looked at: none keeps its holder from writing once the time is over, which is the point here.

mod boot_time;
mod candidate;
mod election;
mod fence;
mod leadership;

pub use boot_time::BootTime;
pub use candidate::Candidate;
pub use election::{Action, Election, Seen};
pub use fence::fenced;
pub use leadership::{Leadership, NotLeading};

use std::{str::FromStr, time::Duration};

/// The name of the Lease.
pub const NAME: &str = "touchstone-signer";

/// How long a Lease lasts after its last renewal, in whole seconds: what a failover takes at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseDuration(u16);

/// Not a duration of a Lease.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a lease lasts between 3s and 600s, such as 15s")]
pub struct LeaseDurationError;

impl LeaseDuration {
    /// Client-go's default, and Kubernetes' own components'.
    pub const DEFAULT: Self = Self(15);

    /// Checks one.
    ///
    /// # Errors
    /// When it is shorter than three seconds or longer than ten minutes.
    pub fn from_secs(seconds: u16) -> Result<Self, LeaseDurationError> {
        match seconds {
            3..=600 => Ok(Self(seconds)),
            _ => Err(LeaseDurationError),
        }
    }

    /// Whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u16 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub const fn as_duration(self) -> Duration {
        Duration::from_secs(self.0 as u64)
    }

    /// For how long after a renewal its holder is the leader. The rest is for requests on their way, and for clocks that
    /// do not go alike.
    #[must_use]
    pub const fn leads_for(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 2000 / 3)
    }

    /// How often it is renewed, and looked at.
    #[must_use]
    pub const fn look_every(self) -> Duration {
        Duration::from_millis(self.0 as u64 * 2000 / 15)
    }
}

impl FromStr for LeaseDuration {
    type Err = LeaseDurationError;

    fn from_str(text: &str) -> Result<Self, LeaseDurationError> {
        let seconds = text.strip_suffix('s').ok_or(LeaseDurationError)?;
        if !seconds.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(LeaseDurationError);
        }
        Self::from_secs(seconds.parse().map_err(|_| LeaseDurationError)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_whole_seconds_between_three_and_ten_minutes() {
        let parse = |text: &str| text.parse::<LeaseDuration>();
        assert_eq!(parse("15s"), Ok(LeaseDuration::DEFAULT));
        assert_eq!(parse("3s").map(LeaseDuration::as_secs), Ok(3));
        for text in ["", "s", "15", "2s", "601s", "+15s", "1.5s", "15m", "99999s"] {
            assert_eq!(parse(text), Err(LeaseDurationError), "{text}");
        }
    }
}
