//! The metal contact and the clock, as the applet sees them.

use std::time::Instant;

/// Where touches and time come from.
pub trait Sensor {
    /// Now, for the touch that counts fifteen seconds.
    fn now(&self) -> Instant;

    /// Waits for a finger. False when none came in time, or the card lost its power.
    fn wait_for_touch(&mut self) -> bool;

    /// A private key was used.
    fn signed(&mut self);
}

/// A sensor for tests in one process: touched or not, with a clock that stands until it is moved.
#[derive(Clone, Debug)]
pub struct Fixed {
    /// Whether a finger is there.
    pub finger: bool,
    /// The time.
    pub now: Instant,
    /// How often the card waited for a finger.
    pub asked: u32,
}

impl Default for Fixed {
    fn default() -> Self {
        Self {
            finger: true,
            now: Instant::now(),
            asked: 0,
        }
    }
}

impl Sensor for Fixed {
    fn now(&self) -> Instant {
        self.now
    }

    fn wait_for_touch(&mut self) -> bool {
        self.asked += 1;
        self.finger
    }

    fn signed(&mut self) {}
}
