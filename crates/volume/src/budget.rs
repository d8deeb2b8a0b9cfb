//! The budget for dirty data, and how writers are slowed as it fills.
//!
//! Up to half of the budget a write costs nothing. From there on writers are delayed, together, so that
//! they come in at the pace at which destaging drains when three quarters are taken, and at
//! less beyond. Nobody is refused while the store has space: at the end of the budget writers wait for the
//! drain.
//!
//! Space is watched in the same place: what is accepted must find room when it is destaged, so a
//! writer is refused when what is free, less what is dirty already and what the journal has yet to make of its
//! segments, falls below the reserve. Nodes of block maps come out of the reserve.

use crate::error::{Error, ErrorKind};
use std::time::Duration;
use sync::{
    Condvar, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

/// Delays are gathered until they are worth a sleep.
const SLEEP_MIN: Duration = Duration::from_micros(500);
/// No single write is delayed for longer before it looks again.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// The drain is thought to be at least this fast, bytes per second.
const DRAIN_MIN: f64 = 4e6;

/// How much is dirty, and how fast it drains.
pub(crate) struct Budget {
    limit: u64,
    reserve: u64,
    dirty: AtomicU64,
    free: AtomicU64,
    total: AtomicU64,
    /// Of the free bytes, those that the journal may still take.
    promised: AtomicU64,
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
}

/// How full the brick is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SpaceLevel {
    /// Less than 70 %.
    Ample,
    /// 70 % or more.
    Filling,
    /// 85 % or more.
    Scarce,
    /// 95 % or more, or writers are being refused.
    Full,
}

impl Pressure {
    /// How full the brick is.
    #[must_use]
    pub fn space(&self) -> SpaceLevel {
        let taken = self.total.saturating_sub(self.free) as f64 / self.total.max(1) as f64;
        if taken >= 0.95 || self.free < self.reserve {
            SpaceLevel::Full
        } else if taken >= 0.85 {
            SpaceLevel::Scarce
        } else if taken >= 0.70 {
            SpaceLevel::Filling
        } else {
            SpaceLevel::Ample
        }
    }
}

impl Budget {
    pub(crate) fn new(limit: u64, reserve: u64) -> Self {
        Budget {
            limit,
            reserve,
            dirty: AtomicU64::new(0),
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(u64::MAX),
            promised: AtomicU64::new(0),
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
            free: self.free.load(Relaxed),
            total: self.total.load(Relaxed),
            reserve: self.kept(),
        }
    }

    /// Free bytes that are not for writers.
    fn kept(&self) -> u64 {
        self.reserve.saturating_add(self.promised.load(Relaxed))
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

    /// What there is, and what of it the journal may still take.
    pub(crate) fn set_space(&self, space: brick::Space, promised: u64) {
        self.promised.store(promised, Relaxed);
        self.free.store(space.free, Relaxed);
        self.total.store(space.total, Relaxed);
    }

    /// Writers need not wait any more: the store is closing.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
        let _guard = self.full.lock();
        self.drained.notify_all();
    }

    /// Whether `bytes` more would find room on the brick.
    pub(crate) fn check_space(&self, bytes: u64) -> Result<(), Error> {
        let needed = self
            .dirty
            .load(Relaxed)
            .saturating_add(bytes)
            .saturating_add(self.kept());
        if self.free.load(Relaxed) >= needed {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::NoSpace,
            "the store is full; remove volumes or snapshots and collect, or add space",
        ))
    }

    /// How full the budget is, 0 to 1 and beyond.
    pub(crate) fn fill(&self) -> f64 {
        self.dirty.load(Relaxed) as f64 / self.limit as f64
    }

    /// How long a writer of `bytes` should wait now, if at all, at this fill and drain.
    fn delay(fill: f64, bytes: u64, drain: f64) -> Duration {
        let ramp = (fill - 0.5).max(0.0) / 0.25;
        Duration::from_secs_f64(bytes as f64 / drain.max(DRAIN_MIN) * ramp * ramp)
    }

    /// Slows a writer down as the budget fills; returns when `bytes` may be written.
    pub(crate) fn admit(&self, bytes: u64, sleep: impl Fn(Duration)) {
        let fill = self.fill();
        if fill <= 0.5 {
            return;
        }
        let delay = Self::delay(fill, bytes, f64::from_bits(self.drain.load(Relaxed)));
        let owed =
            self.debt_ns.fetch_add(delay.as_nanos() as u64, Relaxed) + delay.as_nanos() as u64;
        if owed >= SLEEP_MIN.as_nanos() as u64 {
            // Whoever takes the debt pays it for all: writers share one pace.
            let debt = Duration::from_nanos(self.debt_ns.swap(0, Relaxed));
            sleep(debt.min(SLEEP_MAX));
        }
        let mut guard = self.full.lock();
        while self.fill() >= 1.0 && !self.closed.load(Relaxed) {
            self.drained
                .wait_for(&mut guard, Duration::from_millis(100));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_are_slowed_smoothly() {
        let delay = |fill| Budget::delay(fill, 1 << 20, 100e6);
        assert_eq!(delay(0.4), Duration::ZERO);
        assert_eq!(delay(0.5), Duration::ZERO);
        let at_the_pace_of_the_drain = Duration::from_secs_f64((1 << 20) as f64 / 100e6);
        assert_eq!(delay(0.75), at_the_pace_of_the_drain);
        assert!(delay(0.6) < delay(0.7) && delay(0.9) > at_the_pace_of_the_drain);
    }

    #[test]
    fn what_is_accepted_finds_room() {
        let budget = Budget::new(100, 50);
        let space = |free| brick::Space { total: 1000, free };
        budget.set_space(space(200), 0);
        assert!(budget.check_space(150).is_ok());
        budget.charge(0, 30);
        assert_eq!(
            budget.check_space(150).unwrap_err().kind(),
            ErrorKind::NoSpace
        );
        assert!(budget.check_space(120).is_ok());
        budget.release(30);
        assert!(budget.check_space(150).is_ok());
        budget.set_space(space(200), 20);
        assert_eq!(budget.pressure().reserve, 70);
        assert!(budget.check_space(131).is_err());
        assert!(budget.check_space(130).is_ok());
        budget.set_space(space(180), 0);
        assert!(budget.check_space(130).is_ok());
    }

    #[test]
    fn space_has_levels() {
        let level = |free| {
            Pressure {
                dirty: 0,
                dirty_limit: 1,
                free,
                total: 100,
                reserve: 2,
            }
            .space()
        };
        assert_eq!(level(50), SpaceLevel::Ample);
        assert_eq!(level(30), SpaceLevel::Filling);
        assert_eq!(level(15), SpaceLevel::Scarce);
        assert_eq!(level(5), SpaceLevel::Full);
    }
}
