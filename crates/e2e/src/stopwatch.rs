//! Time that has gone by.

use env::{Clock, RealClock};
use std::time::Duration;

/// Started when made.
pub struct Stopwatch {
    clock: RealClock,
}

impl Stopwatch {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Stopwatch {
            clock: RealClock::new(),
        }
    }

    /// Time since the start.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.clock.monotonic()
    }

    /// What is left of `limit`; zero when it is over.
    #[must_use]
    pub fn left(&self, limit: Duration) -> Duration {
        limit.saturating_sub(self.elapsed())
    }
}

/// Asks `done` every 20 ms until it says yes or `limit` is over; says whether it did.
///
/// # Errors
/// What `done` returns.
pub fn poll<E>(limit: Duration, mut done: impl FnMut() -> Result<bool, E>) -> Result<bool, E> {
    let watch = Stopwatch::start();
    loop {
        if done()? {
            return Ok(true);
        }
        if watch.left(limit).is_zero() {
            return Ok(false);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
