//! The limits of one volume, shared by all who use it.

use crate::{core::Core, timer::Timer};
use block::{Demand, Turn, Waiter};
use std::{sync::Arc, time::Duration};
use sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};
use types::Limits;

/// Who waits is looked at no more often: what came in meanwhile is given out together.
const STEP: Duration = Duration::from_micros(500);

/// Admits requests at a limited rate.
pub struct Limiter {
    timer: Arc<Timer>,
    /// Whether there is anything to look at under the lock. Set under it.
    limits: AtomicBool,
    state: Mutex<State>,
}

struct State {
    core: Core<Box<dyn Waiter>>,
    closed: bool,
    /// When the timer will call, at the latest.
    armed: Option<Duration>,
    /// Since when somebody waits.
    waiting_since: Option<Duration>,
    past: Throttled,
}

/// What limits did to a volume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Throttled {
    /// Requests that had to wait.
    pub requests: u64,
    /// Time in which somebody waited.
    pub time: Duration,
}

impl Limiter {
    /// With these limits, and a full burst.
    #[must_use]
    pub fn new(timer: &Arc<Timer>, limits: &Limits) -> Arc<Self> {
        let now = timer.now();
        let state = State {
            core: Core::new(limits, now),
            closed: false,
            armed: None,
            waiting_since: None,
            past: Throttled::default(),
        };
        Arc::new(Limiter {
            timer: Arc::clone(timer),
            limits: AtomicBool::new(!limits.is_empty()),
            state: Mutex::new(state),
        })
    }

    /// Other limits, from now on and for those who wait, too.
    pub fn set(self: &Arc<Self>, limits: &Limits) {
        let now = self.timer.now();
        {
            let mut state = self.state.lock();
            state.core.set(limits, now);
            self.limits.store(!limits.is_empty(), Relaxed);
            // What was to be waited for may be earlier, or never.
            state.armed = None;
        }
        self.advance(now);
    }

    /// As [`BlockDevice::admit`](block::BlockDevice::admit).
    pub fn admit(self: &Arc<Self>, demand: Demand, turn: Turn) -> bool {
        if !self.limits.load(Relaxed) {
            return true;
        }
        let now = self.timer.now();
        let mut state = self.state.lock();
        if state.closed {
            return true;
        }
        let then = match turn {
            Turn::Owed => {
                state.core.owe(demand, now);
                return true;
            }
            Turn::Gone => {
                drop(state);
                self.advance(now);
                return true;
            }
            _ if state.core.pass(demand, now) => return true,
            Turn::Now => return false,
            Turn::Later(then) => then,
        };
        state.core.join(demand, then);
        state.past.requests += 1;
        state.waiting_since.get_or_insert(now);
        self.arm(&mut state, now);
        false
    }

    /// Nothing is limited any more: everybody who waits goes, and who comes later does not wait.
    pub fn close(&self) {
        let waiters = {
            let mut state = self.state.lock();
            state.closed = true;
            let waiters = state.core.clear();
            state.note_idle(self.timer.now());
            waiters
        };
        waiters.into_iter().for_each(|waiter| waiter.begin());
    }

    /// What it did so far.
    #[must_use]
    pub fn throttled(&self) -> Throttled {
        let state = self.state.lock();
        let waiting = state
            .waiting_since
            .map(|since| self.timer.now().saturating_sub(since));
        Throttled {
            time: state.past.time + waiting.unwrap_or_default(),
            ..state.past
        }
    }

    /// The timer's call of a time that was asked for.
    pub(crate) fn called(self: &Arc<Self>, at: Duration, now: Duration) {
        {
            let mut state = self.state.lock();
            if state.armed == Some(at) {
                state.armed = None;
            }
        }
        self.advance(now);
    }

    /// Lets go whoever may. Without the lock, as they may come back.
    fn advance(self: &Arc<Self>, now: Duration) {
        let gone = {
            let mut state = self.state.lock();
            let gone = state.core.advance(now);
            state.note_idle(now);
            self.arm(&mut state, now);
            gone
        };
        gone.into_iter().for_each(|waiter| waiter.begin());
    }

    /// Sees to it that the timer calls when somebody may go.
    fn arm(self: &Arc<Self>, state: &mut State, now: Duration) {
        let Some(wait) = state.core.wait() else {
            return;
        };
        let at = now.saturating_add(wait.max(STEP));
        if state.armed.is_none_or(|armed| at < armed) {
            state.armed = Some(at);
            self.timer.call(at, self);
        }
    }
}

impl Drop for Limiter {
    fn drop(&mut self) {
        self.close();
    }
}

impl State {
    fn note_idle(&mut self, now: Duration) {
        if self.core.is_idle()
            && let Some(since) = self.waiting_since.take()
        {
            self.past.time += now.saturating_sub(since);
        }
    }
}
