//! Which request is worked on next: each at most once at a time, the latest state of it, with growing pauses after
//! failures; of those that are ready, one of each creator in turn, and few of each at once. Holds nothing for requests that
//! are done.

mod creator;
mod turns;

pub(super) use creator::creator;

use super::reconcile::Outcome;
use futures::StreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio_util::time::{DelayQueue, delay_queue};
use turns::Turns;

/// The pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How much later than its end a wait is looked at, so that clocks that differ by a moment cost no second look.
const AFTER_WAIT: Duration = Duration::from_millis(200);

/// What is known of a request.
#[derive(Debug)]
pub(super) enum Input {
    /// This state of it.
    Object(Box<CertificateSigningRequest>),
    /// Nothing: it is to be read.
    Reread,
}

#[derive(Debug)]
pub(super) struct Queue {
    at_once: usize,
    running: usize,
    /// How many requests wait for others.
    waiting: usize,
    ready: Turns,
    work: HashMap<String, Work>,
    pauses: DelayQueue<String>,
}

#[derive(Debug)]
struct Work {
    /// In whose turn; empty where nobody knew when it was first heard of.
    creator: Arc<str>,
    /// What came in and has not been worked on.
    next: Option<Input>,
    place: Place,
    failures: u32,
    waits: bool,
}

#[derive(Debug)]
enum Place {
    Paused(delay_queue::Key),
    Ready,
    Running,
}

impl Queue {
    /// For so many requests at once, and so many of one creator.
    pub(super) fn new(at_once: usize, share: usize) -> Self {
        Self {
            at_once,
            running: 0,
            waiting: 0,
            ready: Turns::new(share),
            work: HashMap::new(),
            pauses: DelayQueue::new(),
        }
    }

    /// Something was heard of a request.
    pub(super) fn push(&mut self, name: String, creator: Arc<str>, input: Input) {
        let work = self.work.entry(name.clone()).or_insert_with(|| Work {
            creator,
            next: None,
            place: Place::Ready,
            failures: 0,
            waits: false,
        });
        let new = work.next.is_none() && matches!(work.place, Place::Ready);
        // A state that was heard later replaces an earlier one; a reread stays one.
        work.next = match (work.next.take(), input) {
            (Some(Input::Reread), _) | (_, Input::Reread) => Some(Input::Reread),
            (_, object) => Some(object),
        };
        match &work.place {
            Place::Ready if new => self.ready.push(&work.creator, name),
            Place::Ready | Place::Running => {}
            // What failed pauses all the same: news must not turn a failure into a busy loop.
            Place::Paused(_) if !work.waits => {}
            Place::Paused(key) => {
                self.pauses.remove(key);
                work.place = Place::Ready;
                self.ready.push(&work.creator, name);
            }
        }
    }

    /// The next request to work on, if there is room.
    pub(super) fn start(&mut self) -> Option<(String, Input)> {
        if self.running >= self.at_once {
            return None;
        }
        let name = self.ready.begin()?;
        let work = self.work.get_mut(&name)?;
        work.place = Place::Running;
        self.running = self.running.saturating_add(1);
        let input = work.next.take().unwrap_or(Input::Reread);
        Some((name, input))
    }

    /// A request was worked on.
    pub(super) fn finish(&mut self, name: &str, outcome: Outcome) {
        self.running = self.running.saturating_sub(1);
        let Some(work) = self.work.get_mut(name) else {
            return;
        };
        self.ready.end(&work.creator);
        let waited = std::mem::replace(&mut work.waits, matches!(outcome, Outcome::Wait(_)));
        self.waiting = self
            .waiting
            .saturating_sub(waited.into())
            .saturating_add(work.waits.into());
        let pause = match outcome {
            Outcome::Done | Outcome::Wait(_) => {
                work.failures = 0;
                match (&work.next, outcome) {
                    (Some(_), _) => None,
                    (None, Outcome::Wait(left)) => Some(left.saturating_add(AFTER_WAIT)),
                    (None, _) => {
                        self.work.remove(name);
                        return;
                    }
                }
            }
            // A conflict means that there is something newer to read; many in a row are a quarrel with another writer.
            Outcome::Reread if work.failures < 3 => {
                work.failures = work.failures.saturating_add(1);
                work.next = Some(Input::Reread);
                None
            }
            Outcome::Reread | Outcome::Retry => {
                let pause = FIRST_PAUSE
                    .saturating_mul(1u32.checked_shl(work.failures.min(16)).unwrap_or(u32::MAX))
                    .min(LONGEST_PAUSE);
                work.failures = work.failures.saturating_add(1);
                work.next = Some(Input::Reread);
                Some(pause)
            }
        };
        match pause {
            None => {
                work.place = Place::Ready;
                self.ready.push(&work.creator, name.to_owned());
            }
            Some(pause) => work.place = Place::Paused(self.pauses.insert(name.to_owned(), pause)),
        }
    }

    /// How many requests wait for others.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Waits until a pause ends; never ends while there is none.
    pub(super) async fn due(&mut self) {
        let Some(expired) = self.pauses.next().await else {
            return std::future::pending().await;
        };
        let name = expired.into_inner();
        if let Some(work) = self.work.get_mut(&name) {
            work.place = Place::Ready;
            self.ready.push(&work.creator, name);
        }
    }

    /// The policy changed: requests that wait are judged anew.
    pub(super) fn wake_waiting(&mut self) {
        for (name, work) in &mut self.work {
            if let (true, Place::Paused(key)) = (work.waits, &work.place) {
                self.pauses.remove(key);
                work.place = Place::Ready;
                self.ready.push(&work.creator, name.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(queue: &mut Queue) -> Vec<String> {
        std::iter::from_fn(|| queue.start().map(|(name, _)| name)).collect()
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[tokio::test]
    async fn whoever_comes_after_ten_thousand_requests_of_another_waits_for_none_of_them() {
        let mut queue = Queue::new(64, 4);
        for number in 0..10_000 {
            queue.push(format!("flood-{number}"), "mallory".into(), Input::Reread);
        }
        assert_eq!(
            started(&mut queue),
            ["flood-0", "flood-1", "flood-2", "flood-3"]
        );
        queue.push("alice-1".into(), "alice".into(), Input::Reread);
        queue.push("bob-1".into(), "bob".into(), Input::Reread);
        assert_eq!(started(&mut queue), ["alice-1", "bob-1"]);
        queue.finish("flood-1", Outcome::Done);
        assert_eq!(started(&mut queue), ["flood-4"]);
    }

    #[tokio::test]
    async fn where_there_is_no_more_room_each_creator_has_a_turn() {
        let mut queue = Queue::new(3, 3);
        for number in 0..10 {
            queue.push(format!("flood-{number}"), "mallory".into(), Input::Reread);
        }
        let running = started(&mut queue);
        assert_eq!(running, ["flood-0", "flood-1", "flood-2"]);
        queue.push("alice-1".into(), "alice".into(), Input::Reread);
        queue.push("alice-2".into(), "alice".into(), Input::Reread);
        queue.push("bob-1".into(), "bob".into(), Input::Reread);
        let mut worked_on = Vec::new();
        for name in running {
            queue.finish(&name, Outcome::Done);
            worked_on.extend(started(&mut queue));
        }
        assert_eq!(worked_on, ["alice-1", "bob-1", "flood-3"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_or_pauses_takes_nothing_of_its_creators_share() {
        let mut queue = Queue::new(8, 1);
        for name in ["a", "b", "c"] {
            queue.push(name.into(), "alice".into(), Input::Reread);
        }
        assert_eq!(started(&mut queue), ["a"]);
        queue.finish("a", Outcome::Wait(HOUR));
        assert_eq!(started(&mut queue), ["b"]);
        queue.finish("b", Outcome::Retry);
        assert_eq!(started(&mut queue), ["c"]);
        queue.due().await;
        assert!(started(&mut queue).is_empty());
        queue.finish("c", Outcome::Done);
        assert_eq!(started(&mut queue), ["b"]);
    }

    #[tokio::test]
    async fn nothing_is_held_of_a_creator_whose_requests_are_done() {
        let mut queue = Queue::new(8, 2);
        for creator in 0..1_000 {
            for number in 0..3 {
                queue.push(
                    format!("{creator}-{number}"),
                    creator.to_string().into(),
                    Input::Reread,
                );
            }
        }
        let mut ended = 0;
        loop {
            let running = started(&mut queue);
            if running.is_empty() {
                break;
            }
            for name in running {
                queue.finish(&name, Outcome::Done);
                ended += 1;
            }
        }
        assert_eq!(ended, 3_000);
        assert!(queue.ready.is_empty());
    }

    #[tokio::test]
    async fn one_request_is_never_worked_on_twice_at_once_and_none_is_forgotten() {
        let mut queue = Queue::new(8, 8);
        queue.push("a".into(), Arc::default(), Input::Reread);
        queue.push("a".into(), Arc::default(), Input::Reread);
        assert_eq!(started(&mut queue), ["a"]);
        queue.push("a".into(), Arc::default(), Input::Reread);
        assert!(started(&mut queue).is_empty());
        queue.finish("a", Outcome::Done);
        assert_eq!(started(&mut queue), ["a"]);
        queue.finish("a", Outcome::Done);
        assert!(queue.work.is_empty());
    }

    #[tokio::test]
    async fn no_more_than_so_many_run_at_once() {
        let mut queue = Queue::new(2, 2);
        for name in ["a", "b", "c"] {
            queue.push(name.into(), Arc::default(), Input::Reread);
        }
        assert_eq!(started(&mut queue), ["a", "b"]);
        queue.finish("b", Outcome::Done);
        assert_eq!(started(&mut queue), ["c"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failure_pauses_longer_each_time_and_news_do_not_shorten_it() {
        let mut queue = Queue::new(1, 1);
        queue.push("a".into(), Arc::default(), Input::Reread);
        for expected in [200, 400, 800] {
            assert_eq!(started(&mut queue), ["a"]);
            queue.finish("a", Outcome::Retry);
            queue.push("a".into(), Arc::default(), Input::Reread);
            assert!(started(&mut queue).is_empty());
            let before = tokio::time::Instant::now();
            queue.due().await;
            let waited = before.elapsed().as_millis();
            assert!((expected..expected + 50).contains(&waited), "{waited}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waits_is_looked_at_when_it_or_the_policy_changes() {
        let mut queue = Queue::new(1, 1);
        queue.push("a".into(), Arc::default(), Input::Reread);
        assert_eq!(started(&mut queue), ["a"]);
        queue.finish("a", Outcome::Wait(HOUR));
        assert!(started(&mut queue).is_empty());
        queue.push("a".into(), Arc::default(), Input::Reread);
        assert_eq!(started(&mut queue), ["a"]);
        queue.finish("a", Outcome::Wait(HOUR));
        assert_eq!(queue.waiting(), 1);
        queue.wake_waiting();
        assert_eq!(started(&mut queue), ["a"]);
        queue.finish("a", Outcome::Done);
        assert_eq!(queue.waiting(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn ten_thousand_requests_that_wait_are_left_alone_until_the_first_wait_ends() {
        let mut queue = Queue::new(64, 64);
        let before = tokio::time::Instant::now();
        for number in 0..10_000_u64 {
            let name = number.to_string();
            queue.push(name.clone(), Arc::default(), Input::Reread);
            assert_eq!(started(&mut queue), [name.as_str()]);
            queue.finish(&name, Outcome::Wait(HOUR + Duration::from_secs(number)));
        }
        queue.due().await;
        assert!(before.elapsed() >= HOUR, "{:?}", before.elapsed());
        assert_eq!(started(&mut queue), ["0"]);
    }
}
