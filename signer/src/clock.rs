//! The time, passed in so that tests can set it.

use jiff::Timestamp;

/// Something that knows the time.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock, for the embedded API.
#[derive(Clone, Debug)]
pub struct ApiClock(pub std::sync::Arc<dyn Clock>);

impl touchstone_apiserver::Clock for ApiClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }
}
