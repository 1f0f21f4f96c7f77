//! Judging what strangers show: it costs CPU, and so only so much of it is done at once.

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::status::ApiError;

/// Turns to judge.
pub(crate) struct Judging(Arc<Semaphore>);

impl Judging {
    /// So many at once.
    pub(crate) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once)))
    }

    /// Does `work` off the async threads when there is a turn. The turn lasts as long as the work does: a client that is
    /// gone by then, or reset its stream, does not make room for the next.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = Arc::clone(&self.0)
            .acquire_owned()
            .await
            .map_err(|_| ApiError::internal("the server is closing"))?;
        let judged = tokio::task::spawn_blocking(move || {
            let result = work();
            drop(turn);
            result
        });
        judged
            .await
            .map_err(|_| ApiError::internal("what was shown could not be judged"))
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, time::Duration};

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_leaves_before_the_end_makes_no_room_for_another() {
        let judging = Judging::new(1);
        let (go_on, held) = mpsc::channel::<()>();
        let first = judging.run(move || held.recv());
        // Begun, and dropped as a reset stream is.
        assert!(first.now_or_never().is_none());
        let second = tokio::time::timeout(Duration::from_millis(200), judging.run(|| ()));
        assert!(second.await.is_err(), "two were judged at once");
        go_on.send(()).unwrap();
        judging.run(|| ()).await.unwrap();
    }

    #[tokio::test]
    async fn a_panic_gives_its_turn_back() {
        let judging = Judging::new(1);
        assert!(judging.run(|| panic!("on demand")).await.is_err());
        judging.run(|| ()).await.unwrap();
    }
}
