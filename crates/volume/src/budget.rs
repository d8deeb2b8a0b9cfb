//! The budget for dirty data, and how writers are slowed as it fills.
//!
//! Up to half of the budget a write costs nothing. From there on writers are delayed, together, so that
//! they come in at the pace at which destaging drains when three quarters are taken, and at
//! less beyond. Nobody is refused while the store has space: at the end of the budget writers wait for the
//! drain.
//!
//! Near the end of the brick's space the budget is what is sure to find room there, see the module `space`:
//! the same slowing, and in the end a refusal.

use crate::{
    error::{Error, ErrorKind},
    space::{Space, SpaceLevel},
};
use std::time::Duration;
use sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// Delays are gathered until they are worth a sleep.
const SLEEP_MIN: Duration = Duration::from_micros(500);
/// No single write is delayed for longer before it looks again.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// Who waits for the drain looks again so often, whatever it hears.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// The drain is thought to be at least this fast, bytes per second.
const DRAIN_MIN: f64 = 4e6;

/// How much is dirty, and how fast it drains.
pub(crate) struct Budget {
    limit: u64,
    pub(crate) space: Space,
    dirty: AtomicU64,
    /// Bytes per second, as an f64's bits.
    drain: AtomicU64,
    debt_ns: AtomicU64,
    full: Mutex<()>,
    drained: Condvar,
    closed: AtomicBool,
}

/// How the budget and the space stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Bytes dirty.
    pub dirty: u64,
    /// Bytes that may be.
    pub dirty_limit: u64,
    /// Bytes free on the brick, as last seen.
    pub free: u64,
    /// Bytes of the brick in all.
    pub total: u64,
    /// Free bytes below which writers are refused.
    pub reserve: u64,
    /// How full the brick is.
    pub level: SpaceLevel,
}

/// What a request does to the store's space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Takes some.
    Space,
    /// Gives some back, so that it is never refused: nodes of the map come out of the reserve.
    Memory,
}

/// What a writer does while it waits.
pub(crate) trait Waiter {
    /// Lets time pass.
    fn sleep(&self, time: Duration);
    /// Sees to it that something drains; `false` if it did so itself and need not wait.
    fn drain(&self) -> Result<bool, Error>;
}

impl Budget {
    pub(crate) fn new(limit: u64, reserve: u64) -> Self {
        Budget {
            limit,
            space: Space::new(reserve),
            dirty: AtomicU64::new(0),
            drain: AtomicU64::new(200e6f64.to_bits()),
            debt_ns: AtomicU64::new(0),
            full: Mutex::new(()),
            drained: Condvar::new(),
            closed: AtomicBool::new(false),
        }
    }

    pub(crate) fn pressure(&self) -> Pressure {
        Pressure {
            dirty: self.dirty.load(Relaxed),
            dirty_limit: self.limit,
            free: self.space.free(),
            total: self.space.total(),
            reserve: self.space.kept(),
            level: self.space.level(),
        }
    }

    pub(crate) fn dirty(&self) -> u64 {
        self.dirty.load(Relaxed)
    }

    /// A layer grew or shrank.
    pub(crate) fn charge(&self, before: u64, after: u64) {
        if after >= before {
            self.dirty.fetch_add(after - before, Relaxed);
        } else {
            self.release(before - after);
        }
    }

    /// What was dirty is in packs, or was given up.
    pub(crate) fn release(&self, bytes: u64) {
        let before = self.dirty.fetch_sub(bytes, Relaxed);
        debug_assert!(before >= bytes, "released more than was charged");
        self.wake();
    }

    fn wake(&self) {
        let _guard = self.full.lock();
        self.drained.notify_all();
    }

    /// Destaging took this long for so much.
    pub(crate) fn drained(&self, bytes: u64, took: Duration) {
        if bytes < 1 << 20 || took.is_zero() {
            return;
        }
        let rate = bytes as f64 / took.as_secs_f64();
        let old = f64::from_bits(self.drain.load(Relaxed));
        self.drain
            .store((old * 0.7 + rate * 0.3).to_bits(), Relaxed);
    }

    /// See [`Space::set`]; writers look again.
    pub(crate) fn set_space(&self, space: brick::Space, promised: u64, held: u64) {
        self.space.set(space, promised, held);
        self.wake();
    }

    /// Writers need not wait any more: the store is closing.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.wake();
    }

    /// Dirty bytes that may be now.
    pub(crate) fn limit_now(&self) -> u64 {
        self.limit.min(self.space.dirty_limit())
    }

    /// How full the budget is, 0 to 1 and beyond.
    pub(crate) fn fill(&self) -> f64 {
        self.fill_of(self.limit_now())
    }

    fn fill_of(&self, limit: u64) -> f64 {
        match self.dirty.load(Relaxed) {
            0 => 0.0,
            dirty => dirty as f64 / limit.max(1) as f64,
        }
    }

    /// How long a writer of `bytes` should wait now, if at all, at this fill and drain.
    fn delay(fill: f64, bytes: u64, drain: f64) -> Duration {
        let ramp = ((fill - 0.5).max(0.0) / 0.25).min(2.0);
        Duration::from_secs_f64(bytes as f64 / drain.max(DRAIN_MIN) * ramp * ramp)
    }

    /// Slows a writer down as the budget and the space fill; returns when `bytes` may be written.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if they would find no room even with nothing else dirty; those of the waiter.
    pub(crate) fn admit(&self, bytes: u64, need: Need, waiter: &impl Waiter) -> Result<(), Error> {
        self.slow_down(bytes, need, waiter);
        while !self.closed.load(Relaxed) {
            if need == Need::Space {
                self.check_space(bytes)?;
            }
            if self.has_room(bytes, need) {
                break;
            }
            if waiter.drain()? {
                let mut guard = self.full.lock();
                // Again under the lock: what changes either wakes us from now on.
                if !self.has_room(bytes, need) && !self.closed.load(Relaxed) {
                    self.drained.wait_for(&mut guard, WAIT_MAX);
                }
            }
        }
        Ok(())
    }

    fn slow_down(&self, bytes: u64, need: Need, waiter: &impl Waiter) {
        let limit = if need == Need::Space {
            let held_back = self.space.delay(bytes);
            if !held_back.is_zero() {
                waiter.sleep(held_back);
            }
            self.limit_now()
        } else {
            self.limit
        };
        let fill = self.fill_of(limit);
        if fill <= 0.5 {
            return;
        }
        let delay = Self::delay(fill, bytes, f64::from_bits(self.drain.load(Relaxed)));
        let owed =
            self.debt_ns.fetch_add(delay.as_nanos() as u64, Relaxed) + delay.as_nanos() as u64;
        if owed >= SLEEP_MIN.as_nanos() as u64 {
            // Whoever takes the debt pays it for all: writers share one pace.
            let debt = Duration::from_nanos(self.debt_ns.swap(0, Relaxed));
            waiter.sleep(debt.min(SLEEP_MAX));
        }
    }

    fn has_room(&self, bytes: u64, need: Need) -> bool {
        let dirty = self.dirty.load(Relaxed);
        let finds_room = || dirty.saturating_add(bytes) <= self.space.dirty_limit();
        dirty < self.limit && (need == Need::Memory || finds_room())
    }

    /// Whether `bytes` would find room on the brick with nothing else dirty.
    pub(crate) fn check_space(&self, bytes: u64) -> Result<(), Error> {
        if bytes <= self.space.dirty_limit() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            "the store is full; remove volumes or snapshots and collect, or add space",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    /// Drains what it is told to, and remembers what it slept.
    struct Drains<'a> {
        budget: &'a Budget,
        bytes: u64,
        slept: RefCell<Duration>,
    }

    impl Waiter for Drains<'_> {
        fn sleep(&self, time: Duration) {
            *self.slept.borrow_mut() += time;
        }
        fn drain(&self) -> Result<bool, Error> {
            if self.bytes == 0 {
                return Err(Error::new(ErrorKind::Io, "nothing drains"));
            }
            self.budget.release(self.bytes);
            Ok(false)
        }
    }

    fn drains(budget: &Budget, bytes: u64) -> Drains<'_> {
        Drains {
            budget,
            bytes,
            slept: RefCell::default(),
        }
    }

    #[test]
    fn writers_are_slowed_smoothly() {
        let delay = |fill| Budget::delay(fill, 1 << 20, 100e6);
        assert_eq!(delay(0.4), Duration::ZERO);
        assert_eq!(delay(0.5), Duration::ZERO);
        let at_the_pace_of_the_drain = Duration::from_secs_f64((1 << 20) as f64 / 100e6);
        assert_eq!(delay(0.75), at_the_pace_of_the_drain);
        assert!(delay(0.6) < delay(0.7) && delay(0.9) > at_the_pace_of_the_drain);
        assert_eq!(delay(f64::INFINITY), at_the_pace_of_the_drain * 4);
    }

    #[test]
    fn what_is_accepted_finds_room() {
        let budget = Budget::new(1000, 50);
        let space = |free| brick::Space { total: 1000, free };
        let refused = |bytes| {
            let admitted = budget.admit(bytes, Need::Space, &drains(&budget, 0));
            admitted.err().map(|e| e.kind())
        };
        // Room for 150, of which half is for nodes.
        budget.set_space(space(200), 0, 0);
        assert_eq!(refused(75), None);
        assert_eq!(refused(76), Some(ErrorKind::NoSpace));
        budget.charge(0, 30);
        // It has room once what is dirty has drained: this one waits.
        assert_eq!(refused(75), Some(ErrorKind::Io));
        assert!(budget.admit(75, Need::Space, &drains(&budget, 30)).is_ok());
        assert_eq!(budget.pressure().dirty, 0);
        // What the journal may still take is not for writers.
        budget.set_space(space(200), 20, 0);
        assert_eq!(budget.pressure().reserve, 70);
        assert_eq!(refused(66), Some(ErrorKind::NoSpace));
        assert_eq!(refused(65), None);
    }

    #[test]
    fn who_gives_space_back_is_never_refused() {
        let budget = Budget::new(1000, 50);
        budget.set_space(
            brick::Space {
                total: 1000,
                free: 0,
            },
            0,
            0,
        );
        budget.charge(0, 999);
        assert!(budget.admit(64, Need::Memory, &drains(&budget, 0)).is_ok());
        budget.charge(0, 1);
        let full = budget.admit(64, Need::Memory, &drains(&budget, 0));
        assert_eq!(full.map_err(|e| e.kind()), Err(ErrorKind::Io));
    }

    #[test]
    fn writers_are_slowed_before_they_are_refused() {
        let budget = Budget::new(1 << 30, 1 << 20);
        let slept = |room: u64| {
            let total = 1 << 40;
            budget.set_space(
                brick::Space {
                    total,
                    free: (1 << 20) + room,
                },
                0,
                0,
            );
            let waiter = drains(&budget, 0);
            budget.admit(4096, Need::Space, &waiter).unwrap();
            waiter.slept.into_inner()
        };
        assert_eq!(slept(1 << 20), Duration::ZERO);
        assert!(slept(1 << 19) < slept(1 << 17) && slept(1 << 17) < slept(1 << 14));
    }
}
