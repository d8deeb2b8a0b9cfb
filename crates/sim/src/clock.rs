//! A clock that stands still until it is moved.

use env::Clock;
use parking_lot::Mutex;
use std::time::Duration;

/// 2026-01-01: simulations begin here.
const BEGINNING: Duration = Duration::from_secs(1_767_225_600);

#[derive(Default)]
pub(crate) struct SimClock(Mutex<Duration>);

impl SimClock {
    pub(crate) fn advance(&self, by: Duration) {
        *self.0.lock() += by;
    }

    pub(crate) fn fork(&self) -> Self {
        SimClock(Mutex::new(self.monotonic()))
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        BEGINNING + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock()
    }
}
