//! The touch notice: shown when, and only when, the card really waits.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};
use touchstone_common::attestation::TouchPolicy;

/// Who tells the user to touch the key.
pub trait Notice: Send + Sync {
    /// The card waits for a touch.
    fn waiting(&self);
    /// It waits no longer: touched, or given up.
    fn over(&self);
}

/// Does `work`; when it takes longer than `patience` although the card alone would not, says that a touch is due.
pub fn watch<T>(
    notice: &dyn Notice,
    policy: Option<TouchPolicy>,
    patience: Duration,
    work: impl FnOnce() -> T,
) -> T {
    if policy == Some(TouchPolicy::Never) {
        return work();
    }
    thread::scope(|scope| {
        let (done, finished) = mpsc::channel::<()>();
        scope.spawn(move || {
            if finished.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
                notice.waiting();
                // Ends when the sender is dropped, also by a panic in `work`.
                let _ = finished.recv();
                notice.over();
            }
        });
        let result = work();
        drop(done);
        result
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Default)]
    struct Said(Mutex<Vec<&'static str>>);

    impl Notice for Said {
        fn waiting(&self) {
            self.0.lock().unwrap().push("waiting");
        }
        fn over(&self) {
            self.0.lock().unwrap().push("over");
        }
    }

    fn said(policy: TouchPolicy, takes: u64) -> Vec<&'static str> {
        let notice = Said::default();
        watch(&notice, Some(policy), Duration::from_millis(100), || {
            thread::sleep(Duration::from_millis(takes));
        });
        notice.0.into_inner().unwrap()
    }

    #[test]
    fn a_card_that_waits_is_announced_and_ended() {
        assert_eq!(said(TouchPolicy::Always, 400), ["waiting", "over"]);
    }

    #[test]
    fn a_card_that_answers_at_once_is_not_announced() {
        assert!(said(TouchPolicy::Cached, 0).is_empty());
    }

    #[test]
    fn a_key_that_wants_no_touch_is_never_announced() {
        assert!(said(TouchPolicy::Never, 250).is_empty());
    }
}
