//! How often one engineer may create something: what they create is kept for a day, on one disk that the signer needs too.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many at once, for someone who made none for a while.
const AT_ONCE: u32 = 60;
/// How often one more.
const EVERY: Duration = Duration::from_secs(10);
/// From this many people on, those who have all their turns again are forgotten.
const REMEMBERED: usize = 1024;

/// By user, when all turns that were taken will have come back.
#[derive(Debug, Default)]
pub(crate) struct Quota(Mutex<HashMap<String, Instant>>);

impl Quota {
    /// Takes a turn; `false` when there is none.
    pub(crate) fn take(&self, user: &str, now: Instant) -> bool {
        // Each change is one insertion: a panic elsewhere leaves the map sound.
        let mut back_at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if back_at.len() >= REMEMBERED {
            back_at.retain(|_, back_at| *back_at > now);
        }
        let next = back_at.get(user).copied().unwrap_or(now).max(now) + EVERY;
        if next.saturating_duration_since(now) > EVERY * AT_ONCE {
            return false;
        }
        back_at.insert(user.to_owned(), next);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_come_back_and_one_user_takes_none_of_anothers() {
        let (quota, now) = (Quota::default(), Instant::now());
        let taken = |user: &str, now| (0..200).filter(|_| quota.take(user, now)).count();
        assert_eq!(taken("alice", now), 60);
        assert_eq!(taken("bob", now), 60);
        assert_eq!(taken("alice", now + EVERY * 2), 2);
        assert_eq!(taken("alice", now + EVERY * 600), 60);
    }

    #[test]
    fn who_has_all_turns_again_is_forgotten() {
        let (quota, now) = (Quota::default(), Instant::now());
        for number in 0..REMEMBERED {
            assert!(quota.take(&number.to_string(), now));
        }
        assert!(quota.take("one more", now + EVERY * 2));
        assert_eq!(quota.0.lock().unwrap().len(), 1);
    }
}
