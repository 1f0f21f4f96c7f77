//! When each step of a quarter is due: the settings of the CA, checked.

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use touchstone_common::ttl::Ttl;

/// A length of time in whole seconds, written `120d`, `24h`, `1h30m` or `45s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Length(u32);

/// Why a length of time was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a length of time such as 120d, 24h or 45s, of at most ten years")]
pub struct LengthError(String);

const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3600), ('m', 60), ('s', 1)];
const LONGEST: u32 = 3653 * 86_400;

impl Length {
    /// So many days.
    #[must_use]
    pub const fn days(days: u16) -> Self {
        Self(days as u32 * 86_400)
    }

    /// So many seconds.
    #[must_use]
    pub const fn seconds(seconds: u32) -> Self {
        Self(seconds)
    }

    /// Whole seconds.
    #[must_use]
    pub const fn as_secs(self) -> u32 {
        self.0
    }

    /// As a duration.
    #[must_use]
    pub const fn as_duration(self) -> SignedDuration {
        SignedDuration::from_secs(self.0 as i64)
    }
}

impl FromStr for Length {
    type Err = LengthError;

    fn from_str(text: &str) -> Result<Self, LengthError> {
        let refused = || LengthError(text.chars().take(32).collect());
        let mut rest = text;
        let mut total: u32 = 0;
        for (unit, seconds) in UNITS {
            let Some((number, after)) = rest.split_once(unit) else {
                continue;
            };
            let digits = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
            total = Some(number)
                .filter(|_| digits)
                .and_then(|number| number.parse::<u32>().ok())
                .and_then(|number| number.checked_mul(seconds))
                .and_then(|part| total.checked_add(part))
                .ok_or_else(refused)?;
            rest = after;
        }
        if text.is_empty() || !rest.is_empty() || total > LONGEST {
            return Err(refused());
        }
        Ok(Self(total))
    }
}

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, seconds) in UNITS {
            let number = rest / seconds;
            if number > 0 {
                write!(f, "{number}{unit}")?;
                rest %= seconds;
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for Length {
    type Error = LengthError;

    fn try_from(text: String) -> Result<Self, LengthError> {
        text.parse()
    }
}

impl From<Length> for String {
    fn from(length: Length) -> Self {
        length.to_string()
    }
}

/// Who signs the certificates of issuing CAs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// The security team, in a ceremony: the signer asks, and waits for the certificate.
    Ceremony,
    /// Nobody: an issuing CA signs itself and stands in the trust bundle.
    None,
    /// The signer, with the root key in its data directory: for trials.
    #[default]
    Own,
}

/// The settings of the CA, as a file or the record has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Who signs issuing CAs.
    pub root: Root,
    /// How long an issuing CA's certificate lives.
    pub lifetime: Length,
    /// How long one CA signs before the next takes over.
    pub activate_every: Length,
    /// How long a CA has signed when the next one is prepared.
    pub prepare_after: Length,
    /// How long a CA is published before it signs.
    pub publish_before: Length,
    /// How long a CA stays trusted after its last leaf has ended.
    pub keep_after_last_leaf: Length,
    /// The longest that a leaf may live: what policies grant beyond it is cut to it.
    pub longest_leaf: Length,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            root: Root::Own,
            lifetime: Length::days(120),
            activate_every: Length::days(90),
            prepare_after: Length::days(70),
            publish_before: Length::days(14),
            keep_after_last_leaf: Length::days(1),
            longest_leaf: Length::seconds(Ttl::MAX.as_secs()),
        }
    }
}

/// Settings under which a quarter works out: checked once, then relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Settings", into = "Settings")]
pub struct Schedule(Settings);

/// Why settings cannot work. Each message completes "failed to use the CA settings: …".
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// The next CA would not be ready.
    #[error("prepareAfter and publishBefore are together longer than activateEvery")]
    PreparedTooLate,
    /// A CA would end before the next one signs and its own last leaf has ended.
    #[error("activateEvery, publishBefore and longestLeaf are together longer than lifetime")]
    EndsTooEarly,
    /// A length that must not be zero.
    #[error("{0} is zero")]
    Zero(&'static str),
}

impl Schedule {
    /// Checks settings.
    ///
    /// # Errors
    /// When a CA would end before the next one can sign.
    pub fn new(settings: Settings) -> Result<Self, ScheduleError> {
        let s = &settings;
        for (name, length) in [
            ("keepAfterLastLeaf", s.keep_after_last_leaf),
            ("longestLeaf", s.longest_leaf),
            ("publishBefore", s.publish_before),
        ] {
            if length.0 == 0 {
                return Err(ScheduleError::Zero(name));
            }
        }
        let sum = |lengths: &[Length]| lengths.iter().map(|length| u64::from(length.0)).sum();
        let within = |lengths: &[Length], whole: Length| {
            let sum: u64 = sum(lengths);
            sum <= u64::from(whole.0)
        };
        if !within(&[s.prepare_after, s.publish_before], s.activate_every) {
            return Err(ScheduleError::PreparedTooLate);
        }
        // From its making to its last leaf's end: published for some time, then active for a quarter.
        let waits = Length(s.activate_every.0.saturating_sub(s.prepare_after.0));
        if !within(&[waits, s.activate_every, s.longest_leaf], s.lifetime) {
            return Err(ScheduleError::EndsTooEarly);
        }
        Ok(Self(settings))
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0
    }
}

impl TryFrom<Settings> for Schedule {
    type Error = ScheduleError;

    fn try_from(settings: Settings) -> Result<Self, ScheduleError> {
        Self::new(settings)
    }
}

impl From<Schedule> for Settings {
    fn from(schedule: Schedule) -> Self {
        schedule.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_they_are_written() {
        for (text, seconds) in [
            ("120d", 10_368_000),
            ("24h", 86_400),
            ("1h30m", 5400),
            ("45s", 45),
            ("0s", 0),
        ] {
            let length: Length = text.parse().unwrap();
            assert_eq!(length.as_secs(), seconds);
            assert_eq!(length.to_string().parse(), Ok(length));
        }
        for bad in [
            "", "d", "12", "1m1h", "-1s", "1.5h", "99999d", "1d 2h", "١d",
        ] {
            assert!(bad.parse::<Length>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_usual_settings_work_out() {
        assert_eq!(Schedule::new(Settings::default()), Ok(Schedule::default()));
    }

    #[test]
    fn settings_under_which_a_ca_ends_before_the_next_one_signs_are_refused() {
        let usual = Settings::default();
        let refused = |settings| Schedule::new(settings).unwrap_err();
        assert_eq!(
            refused(Settings {
                lifetime: Length::days(100),
                ..usual
            }),
            ScheduleError::EndsTooEarly
        );
        assert_eq!(
            refused(Settings {
                prepare_after: Length::days(80),
                ..usual
            }),
            ScheduleError::PreparedTooLate
        );
        assert_eq!(
            refused(Settings {
                publish_before: Length::days(0),
                ..usual
            }),
            ScheduleError::Zero("publishBefore")
        );
    }
}
