//! `parking_lot`'s condition variable over the model's locks.

use crate::MutexGuard;
use shuttle::rand::Rng;
use std::time::Duration;

/// A condition variable: `parking_lot::Condvar`, as far as it is used.
#[derive(Debug, Default)]
pub struct Condvar {
    /// Held from before the caller's lock is released until the waiter is known, so that no notification
    /// falls between.
    entrance: shuttle::sync::Mutex<()>,
    inner: shuttle::sync::Condvar,
}

/// Whether a wait ended because its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitTimeoutResult(bool);

impl WaitTimeoutResult {
    /// Whether the time was over.
    #[must_use]
    pub fn timed_out(&self) -> bool {
        self.0
    }
}

impl Condvar {
    /// Nobody waits for it yet.
    #[must_use]
    pub const fn new() -> Self {
        Condvar {
            entrance: shuttle::sync::Mutex::new(()),
            inner: shuttle::sync::Condvar::new(),
        }
    }

    /// Waits for a notification.
    pub fn wait<T: ?Sized>(&self, guard: &mut MutexGuard<'_, T>) {
        let entrance = self.entrance.lock();
        MutexGuard::unlocked(guard, || drop(self.inner.wait(entrance.expect(UNPOISONED))));
    }

    /// Waits for a notification or until the time is over.
    ///
    /// # Behavior
    /// In the model the time is over at once or never, as the seed decides each time: code that waits again and
    /// again meets both, and a notification that is lost still ends in a deadlock.
    pub fn wait_for<T: ?Sized>(
        &self,
        guard: &mut MutexGuard<'_, T>,
        _timeout: Duration,
    ) -> WaitTimeoutResult {
        let over = shuttle::rand::thread_rng().gen_bool(0.5);
        if over {
            MutexGuard::unlocked(guard, shuttle::thread::yield_now);
        } else {
            self.wait(guard);
        }
        WaitTimeoutResult(over)
    }

    /// Wakes one waiter, if there is one.
    pub fn notify_one(&self) {
        drop(self.entrance.lock());
        self.inner.notify_one();
    }

    /// Wakes all waiters.
    pub fn notify_all(&self) {
        drop(self.entrance.lock());
        self.inner.notify_all();
    }
}

const UNPOISONED: &str = "nothing panics while it holds this";
