//! How often one engineer, one key or one address may do something: turns that come back with time.

use std::{
    hash::Hash,
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use lru::LruCache;

/// How many are remembered; who was seen longest ago is forgotten first. Whoever has so many names or addresses to spend
/// gains nothing by being forgotten that a new one would not give.
const REMEMBERED: NonZeroUsize = NonZeroUsize::new(16_384).expect("16384 is not zero");

/// How many turns there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// How many at once, for someone who took none for a while.
    pub(crate) at_once: u32,
    /// How often one more.
    pub(crate) every: Duration,
}

/// By who takes them, when all turns that were taken will have come back.
#[derive(Debug)]
pub(crate) struct Quota<K: Hash + Eq> {
    back_at: Mutex<LruCache<K, Instant>>,
    rate: Rate,
}

impl<K: Hash + Eq> Quota<K> {
    /// All turns are there.
    pub(crate) fn new(rate: Rate) -> Self {
        Self {
            back_at: Mutex::new(LruCache::new(REMEMBERED)),
            rate,
        }
    }

    /// Takes a turn.
    ///
    /// # Errors
    /// In how long there is one, when there is none.
    pub(crate) fn take(&self, who: K, now: Instant) -> Result<(), Duration> {
        let Rate { at_once, every } = self.rate;
        // Each change is of one entry: a panic elsewhere leaves the map sound.
        let mut back_at = self.back_at.lock().unwrap_or_else(PoisonError::into_inner);
        let back_at = back_at.get_or_insert_mut(who, || now);
        let next = (*back_at).max(now) + every;
        let surplus = next
            .saturating_duration_since(now)
            .saturating_sub(every * at_once);
        if !surplus.is_zero() {
            return Err(surplus);
        }
        *back_at = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(10);
    const RATE: Rate = Rate {
        at_once: 60,
        every: EVERY,
    };

    #[test]
    fn turns_come_back_and_one_user_takes_none_of_anothers() {
        let (quota, now) = (Quota::new(RATE), Instant::now());
        let taken = |user, now| (0..200).filter(|_| quota.take(user, now).is_ok()).count();
        assert_eq!(taken("alice", now), 60);
        assert_eq!(taken("bob", now), 60);
        assert_eq!(taken("alice", now + EVERY * 2), 2);
        assert_eq!(taken("alice", now + EVERY * 600), 60);
    }

    #[test]
    fn who_has_no_turn_is_told_when_there_is_one() {
        let (quota, now) = (Quota::new(RATE), Instant::now());
        for _ in 0..60 {
            quota.take("alice", now).unwrap();
        }
        assert_eq!(quota.take("alice", now), Err(EVERY));
        let later = now + Duration::from_secs(7);
        assert_eq!(quota.take("alice", later), Err(Duration::from_secs(3)));
        assert_eq!(quota.take("alice", now + EVERY), Ok(()));
    }

    #[test]
    fn no_more_than_so_many_are_remembered() {
        let (quota, now) = (Quota::new(RATE), Instant::now());
        for number in 0..REMEMBERED.get() + 10 {
            quota.take(number, now).unwrap();
        }
        assert_eq!(quota.back_at.lock().unwrap().len(), REMEMBERED.get());
    }
}
