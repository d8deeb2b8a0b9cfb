//! One thread that calls limiters when somebody's time has come.

use crate::limiter::Limiter;
use env::Clock;
use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};
use sync::{Condvar, Mutex, thread::JoinHandle};

/// Nobody waits longer than this without being looked at.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Calls limiters. Its thread is started when it is first needed.
pub struct Timer {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    /// Whether there is a thread; else somebody calls [`Timer::tick`].
    threaded: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By time, and a number that tells those of the same time apart.
    calls: BTreeMap<(Duration, u64), Weak<Limiter>>,
    number: u64,
    thread: Option<JoinHandle<()>>,
    closed: bool,
}

impl Timer {
    /// With that clock.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with(clock, true)
    }

    /// One without a thread: nobody is called but by [`tick`](Self::tick). For simulated time.
    #[must_use]
    pub fn manual(clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with(clock, false)
    }

    fn with(clock: Arc<dyn Clock>, threaded: bool) -> Arc<Self> {
        let shared = Shared {
            clock,
            threaded,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Arc::new(Timer {
            shared: Arc::new(shared),
        })
    }

    pub(crate) fn now(&self) -> Duration {
        self.shared.clock.monotonic()
    }

    /// Has `limiter` called at that time. May be called under the limiter's lock.
    pub(crate) fn call(&self, at: Duration, limiter: &Arc<Limiter>) {
        let mut state = self.shared.state.lock();
        if state.closed {
            return;
        }
        state.number += 1;
        let key = (at, state.number);
        let first = state.calls.first_key_value();
        let earliest = first.is_none_or(|(&first, _)| key < first);
        state.calls.insert(key, Arc::downgrade(limiter));
        if !self.shared.threaded {
            return;
        }
        if state.thread.is_none() {
            let shared = Arc::clone(&self.shared);
            match env::spawn("limits", move || shared.run()) {
                Ok(thread) => state.thread = Some(thread),
                // It is tried again with the next call.
                Err(error) => tracing::error!(%error, "no thread for limits: requests wait"),
            }
        } else if earliest {
            self.shared.changed.notify_one();
        }
    }

    /// Calls everybody whose time has come.
    pub fn tick(&self) {
        let now = self.now();
        while let Some(((at, _), limiter)) = self.shared.take_due(now) {
            Shared::call(&limiter, at, now);
        }
    }

    /// Ends the thread. Limiters are closed before.
    pub fn close(&self) {
        if let Some(thread) = self.end() {
            // It does not panic.
            let _ = thread.join();
        }
    }

    fn end(&self) -> Option<JoinHandle<()>> {
        let mut state = self.shared.state.lock();
        state.closed = true;
        state.calls.clear();
        self.shared.changed.notify_one();
        state.thread.take()
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        // Perhaps by the thread itself, which cannot wait for its own end.
        self.end();
    }
}

type Due = ((Duration, u64), Weak<Limiter>);

impl Shared {
    fn take_due(&self, now: Duration) -> Option<Due> {
        let mut state = self.state.lock();
        let first = state.calls.first_entry()?;
        (first.key().0 <= now).then(|| first.remove_entry())
    }

    fn call(limiter: &Weak<Limiter>, at: Duration, now: Duration) {
        if let Some(limiter) = limiter.upgrade() {
            limiter.called(at, now);
        }
    }

    fn run(&self) {
        loop {
            let now = self.clock.monotonic();
            if let Some(((at, _), limiter)) = self.take_due(now) {
                Self::call(&limiter, at, now);
                continue;
            }
            let mut state = self.state.lock();
            if state.closed {
                return;
            }
            let first = state.calls.first_key_value();
            let wait = first.map_or(WAIT_MAX, |(&(at, _), _)| at.saturating_sub(now));
            if !wait.is_zero() {
                self.changed.wait_for(&mut state, wait.min(WAIT_MAX));
            }
        }
    }
}
