//! How long a certificate lives.

use crate::text::as_string;
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
        Self::from_secs(seconds(text).ok_or_else(|| TtlError::Syntax(shown(text)))?)
    }
}

/// Hours, minutes and seconds, each at most once, in this order.
fn seconds(text: &str) -> Option<u64> {
    let mut rest = text;
    let mut total: u64 = 0;
    for (unit, length) in [('h', 3600), ('m', 60), ('s', 1)] {
        if let Some((number, after)) = rest.split_once(unit) {
            if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            let number: u64 = number.parse().ok()?;
            total = total.checked_add(number.checked_mul(length)?)?;
            rest = after;
        }
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}

/// How long a request waits for approvals, in whole seconds, at least [`WaitLimit::MIN`] and at most [`WaitLimit::MAX`].
///
/// Written and read as a [`Ttl`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WaitLimit(u32);

/// Why a limit was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitLimitError {
    /// Not a duration such as `1h`.
    #[error("{0:?} is not a duration such as 30m or 1h")]
    Syntax(String),
    /// So short that nobody can approve, or longer than Kubernetes keeps a pending request.
    #[error("{0}s is outside 10s to 24h")]
    Range(u64),
}

impl WaitLimit {
    /// Ten seconds.
    pub const MIN: Self = Self(10);
    /// What holds where a policy says nothing.
    pub const DEFAULT: Self = Self(3600);
    /// One day: Kubernetes deletes a request that is pending for longer (pkg/controller/certificates/cleaner).
    pub const MAX: Self = Self(86_400);

    /// Whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }
}

impl FromStr for WaitLimit {
    type Err = WaitLimitError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let seconds = seconds(text).ok_or_else(|| WaitLimitError::Syntax(shown(text)))?;
        match u32::try_from(seconds) {
            Ok(s) if (Self::MIN.0..=Self::MAX.0).contains(&s) => Ok(Self(s)),
            _ => Err(WaitLimitError::Range(seconds)),
        }
    }
}

fn shown(text: &str) -> String {
    text.chars().take(32).collect()
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(self.0, f)
    }
}

impl fmt::Display for WaitLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        written(self.0, f)
    }
}

fn written(seconds: u32, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (number, unit) in [
        (seconds / 3600, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ] {
        if number > 0 {
            write!(f, "{number}{unit}")?;
        }
    }
    Ok(())
}

as_string!(Ttl, {
    "description": "A lifetime from 10m to 24h, such as 30m, 1h or 1h30m.",
    "minLength": 2,
    "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
});

as_string!(WaitLimit, {
    "description": "How long a request waits, from 10s to 24h, such as 30m or 1h.",
    "minLength": 2,
    "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_from_ten_seconds_to_a_day() {
        for text in ["10s", "1m", "1h", "1h30m", "24h"] {
            assert_eq!(text.parse::<WaitLimit>().unwrap().to_string(), text);
        }
        for text in ["9s", "24h1s"] {
            assert!(
                matches!(text.parse::<WaitLimit>(), Err(WaitLimitError::Range(_))),
                "{text}"
            );
        }
        for text in ["", "1", "1d", "-1h"] {
            assert!(
                matches!(text.parse::<WaitLimit>(), Err(WaitLimitError::Syntax(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn lifetimes_are_read_as_people_write_them() {
        for (text, seconds) in [
            ("30m", 1800),
            ("1h", 3600),
            ("1h30m", 5400),
            ("600s", 600),
            ("10m5s", 605),
            ("24h", 86_400),
        ] {
            assert_eq!(text.parse(), Ttl::from_secs(seconds), "{text}");
        }
    }

    #[test]
    fn what_is_shown_is_read_back() {
        for seconds in [600, 601, 1800, 3600, 3601, 5400, 86_399, 86_400] {
            let ttl = Ttl::from_secs(seconds).unwrap();
            assert_eq!(ttl.to_string().parse(), Ok(ttl));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "30",
            "m",
            "30m1h",
            "30m30m",
            "-30m",
            "+30m",
            " 30m",
            "30m ",
            "30M",
            "1.5h",
            "٣٠m",
            "0x10m",
            "99999999999999999999h",
            "18446744073709551615h",
        ] {
            assert!(
                matches!(text.parse::<Ttl>(), Err(TtlError::Syntax(_))),
                "{text:?}"
            );
        }
        for text in ["0s", "9m59s", "24h1s", "9999h"] {
            assert!(
                matches!(text.parse::<Ttl>(), Err(TtlError::Range(_))),
                "{text:?}"
            );
        }
    }
}
