//! Weekly windows, by the wall clock of a time zone.
//!
//! A window says what a clock on the wall there shows, so daylight saving moves it with the people: in the night in which
//! an hour comes twice, both count; in the night in which one is left out, it is left out of the window too. Zones come
//! from the data built into the program, so that the same policy means the same on every machine.

use jiff::{
    Timestamp,
    civil::{Time, Weekday},
    tz::{TimeZone, TimeZoneDatabase},
};
use std::{fmt, sync::LazyLock};

static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

const DAY_MINUTES: u16 = 24 * 60;

/// A checked window.
#[derive(Clone, Debug)]
pub(crate) struct Hours {
    days: Days,
    /// First minute of the day.
    from: Minute,
    /// First minute outside. Not after `from`: of the next day.
    to: Minute,
    zone: TimeZone,
    zone_name: String,
}

/// Days of the week; Monday is bit 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Days(u8);

/// A minute of the day, from 0 to 1440.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Minute(u16);

/// What a clock on a wall shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wall {
    day: Weekday,
    minute: Minute,
}

/// Why hours were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HoursError {
    #[error("the window is empty: it begins and ends at {0}")]
    Empty(Minute),
    #[error("{0:?} is not a time of day such as \"08:00\"")]
    Minute(String),
    #[error("{0:?} is not a time zone; they are named like Europe/Berlin")]
    Zone(String),
}

impl Days {
    pub(crate) const ALL: Self = Self(0b111_1111);

    pub(crate) fn of(days: impl IntoIterator<Item = Weekday>) -> Self {
        Self(days.into_iter().fold(0, |all, day| all | Self::bit(day)))
    }

    fn bit(day: Weekday) -> u8 {
        1 << day.to_monday_zero_offset()
    }

    fn has(self, day: Weekday) -> bool {
        self.0 & Self::bit(day) != 0
    }
}

impl Minute {
    pub(crate) fn parse(text: &str) -> Result<Self, HoursError> {
        let wrong = || HoursError::Minute(text.to_owned());
        let (hours, minutes) = text.split_once(':').ok_or_else(wrong)?;
        let two_digits = |part: &str| match part.as_bytes() {
            [a @ b'0'..=b'9', b @ b'0'..=b'9'] => Some(u16::from((a - b'0') * 10 + (b - b'0'))),
            _ => None,
        };
        match (two_digits(hours), two_digits(minutes)) {
            (Some(h @ 0..24), Some(m @ 0..60)) => Ok(Self(h * 60 + m)),
            (Some(24), Some(0)) => Ok(Self(DAY_MINUTES)),
            _ => Err(wrong()),
        }
    }

    fn of(time: Time) -> Self {
        // Hours are below 24 and minutes below 60, both positive.
        Self(u16::from(time.hour().unsigned_abs()) * 60 + u16::from(time.minute().unsigned_abs()))
    }
}

impl Hours {
    pub(crate) fn new(
        days: Days,
        from: Minute,
        to: Minute,
        zone: &str,
    ) -> Result<Self, HoursError> {
        if from == to || from.0 == DAY_MINUTES {
            return Err(HoursError::Empty(from));
        }
        Ok(Self {
            days,
            from,
            to,
            zone: Self::zone(zone)?,
            zone_name: zone.to_owned(),
        })
    }

    pub(crate) fn zone(name: &str) -> Result<TimeZone, HoursError> {
        ZONES
            .get(name)
            .map_err(|_| HoursError::Zone(name.to_owned()))
    }

    pub(crate) fn zone_name(&self) -> &str {
        &self.zone_name
    }

    /// What the wall clock of the zone shows.
    pub(crate) fn wall(&self, now: Timestamp) -> Wall {
        let there = now.to_zoned(self.zone.clone());
        Wall {
            day: there.weekday(),
            minute: Minute::of(there.time()),
        }
    }

    /// Whether the window holds when its zone's clock shows this.
    pub(crate) fn contain(&self, Wall { day, minute }: Wall) -> bool {
        if self.from < self.to {
            self.days.has(day) && self.from <= minute && minute < self.to
        } else {
            (self.days.has(day) && self.from <= minute)
                || (self.days.has(day.previous()) && minute < self.to)
        }
    }

    /// Whether the window is the whole week.
    pub(crate) fn is_always(&self) -> bool {
        Wall::week().all(|wall| self.contain(wall))
    }

    /// Whether the window is known to hold whenever `other` does. Those of two zones are not compared.
    pub(crate) fn covers(&self, other: &Self) -> bool {
        let mut week = Wall::week();
        self.is_always()
            || (self.zone_name == other.zone_name
                && week.all(|wall| !other.contain(wall) || self.contain(wall)))
    }

    /// What the clock shows there, such as `Sat 21:04`.
    pub(crate) fn clock(&self, now: Timestamp) -> String {
        now.to_zoned(self.zone.clone())
            .strftime("%a %H:%M")
            .to_string()
    }
}

impl Wall {
    /// Every minute of a week.
    fn week() -> impl Iterator<Item = Self> {
        let days = Weekday::Monday.cycle_forward().take(7);
        days.flat_map(|day| {
            (0..DAY_MINUTES).map(move |minute| Self {
                day,
                minute: Minute(minute),
            })
        })
    }
}

impl fmt::Display for Minute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl fmt::Display for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if *self == Self::ALL {
            return f.write_str("every day");
        }
        let names = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let chosen: Vec<_> = names
            .iter()
            .enumerate()
            .filter(|(i, _)| self.0 & (1 << i) != 0)
            .map(|(_, name)| *name)
            .collect();
        f.write_str(&chosen.join(", "))
    }
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} to {} {}",
            self.days, self.from, self.to, self.zone_name
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hours(days: &[Weekday], from: &str, to: &str, zone: &str) -> Hours {
        Hours::new(
            Days::of(days.iter().copied()),
            Minute::parse(from).unwrap(),
            Minute::parse(to).unwrap(),
            zone,
        )
        .unwrap()
    }

    fn inside(hours: &Hours, now: Timestamp) -> bool {
        hours.contain(hours.wall(now))
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    const WORKDAYS: &[Weekday] = &[
        Weekday::Monday,
        Weekday::Tuesday,
        Weekday::Wednesday,
        Weekday::Thursday,
        Weekday::Friday,
    ];

    #[test]
    fn the_first_minute_is_inside_and_the_last_is_not() {
        let h = hours(WORKDAYS, "08:00", "20:00", "UTC");
        assert!(!inside(&h, at("2026-07-01T07:59:59Z")));
        assert!(inside(&h, at("2026-07-01T08:00:00Z")));
        assert!(inside(&h, at("2026-07-01T19:59:59Z")));
        assert!(!inside(&h, at("2026-07-01T20:00:00Z")));
        assert!(!inside(&h, at("2026-07-04T12:00:00Z")), "a Saturday");
    }

    #[test]
    fn the_window_follows_daylight_saving() {
        let h = hours(WORKDAYS, "08:00", "20:00", "Europe/Berlin");
        // 08:00 in Berlin is 06:00 UTC in July and 07:00 UTC in January.
        assert!(inside(&h, at("2026-07-01T06:00:00Z")));
        assert!(!inside(&h, at("2026-01-07T06:00:00Z")));
        assert!(inside(&h, at("2026-01-07T07:00:00Z")));
    }

    #[test]
    fn an_hour_that_comes_twice_counts_twice() {
        // Berlin, 2026-10-25: 02:00 to 03:00 comes at 00:00 and at 01:00 UTC.
        let h = hours(&[Weekday::Sunday], "02:00", "03:00", "Europe/Berlin");
        assert!(inside(&h, at("2026-10-25T00:30:00Z")));
        assert!(inside(&h, at("2026-10-25T01:30:00Z")));
        assert!(!inside(&h, at("2026-10-25T02:00:00Z")));
    }

    #[test]
    fn an_hour_that_is_left_out_is_never_inside() {
        // Berlin, 2026-03-29: the clock goes from 02:00 to 03:00 at 01:00 UTC.
        let h = hours(&[Weekday::Sunday], "02:00", "03:00", "Europe/Berlin");
        assert!(!inside(&h, at("2026-03-29T00:59:59Z")));
        assert!(!inside(&h, at("2026-03-29T01:00:00Z")));
    }

    #[test]
    fn a_window_over_midnight_belongs_to_the_day_it_begins_on() {
        let h = hours(&[Weekday::Friday], "22:00", "06:00", "UTC");
        assert!(inside(&h, at("2026-07-03T22:00:00Z")), "Friday night");
        assert!(inside(&h, at("2026-07-04T05:59:00Z")), "Saturday morning");
        assert!(!inside(&h, at("2026-07-04T06:00:00Z")));
        assert!(!inside(&h, at("2026-07-03T05:00:00Z")), "Friday morning");
        assert!(!inside(&h, at("2026-07-04T22:30:00Z")), "Saturday night");
    }

    #[test]
    fn a_window_may_end_with_the_day() {
        let h = hours(&[Weekday::Friday], "00:00", "24:00", "UTC");
        assert!(inside(&h, at("2026-07-03T23:59:59Z")));
        assert!(!inside(&h, at("2026-07-04T00:00:00Z")));
    }

    #[test]
    fn times_and_zones_that_are_none_are_refused() {
        for text in [
            "8:00",
            "08:60",
            "24:01",
            "25:00",
            "08",
            "08:00:00",
            "+8:00",
            "",
            "٠٨:٠٠",
        ] {
            assert!(Minute::parse(text).is_err(), "{text}");
        }
        let m = |t| Minute::parse(t).unwrap();
        assert!(Hours::new(Days::ALL, m("08:00"), m("09:00"), "Europe/Atlantis").is_err());
        assert!(Hours::new(Days::ALL, m("08:00"), m("08:00"), "UTC").is_err());
        assert!(Hours::new(Days::ALL, m("24:00"), m("08:00"), "UTC").is_err());
    }
}
