//! How full the brick is, and what of its free space is not for writers.
//!
//! ```text
//!  total ┃ taken ┃ room for writers ┃ journal's promise ┃ reserve: for removing and collecting ┃
//!                                   ┗━━━ kept ━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━━┛
//! ```
//! What was accepted must find room when it is destaged: its own blocks, and nodes of the block map above them.
//! So dirty data may take half of the room at most. As the room ends, writers wait for destaging to tell how much
//! it really took, are slowed, and are refused when nothing is left.

use std::time::Duration;
use sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

/// Bytes that a dirty byte may take: a block that lies alone brings a node of the map with it. The few nodes above
/// that one come out of the reserve.
const EXPANSION: u64 = 2;
/// Near its end, the room lasts at least about so long, whatever the writers do.
const LASTS: f64 = 4.0;
/// No single write is held back for longer.
const DELAY_MAX: Duration = Duration::from_millis(200);
/// A level is left only when so much of the file system more than it takes is free: no news every minute.
const HYSTERESIS: u64 = 50;

/// How full the brick is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
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

/// What is known of the brick's space.
pub(crate) struct Space {
    reserve: u64,
    free: AtomicU64,
    total: AtomicU64,
    /// Of the free bytes, those that the journal may still take.
    promised: AtomicU64,
    /// Of the reserve, what is held already and is not among the free bytes.
    held: AtomicU64,
    level: AtomicU8,
}

impl Space {
    pub(crate) fn new(reserve: u64) -> Self {
        Space {
            reserve,
            free: AtomicU64::new(u64::MAX),
            total: AtomicU64::new(u64::MAX),
            promised: AtomicU64::new(0),
            held: AtomicU64::new(0),
            level: AtomicU8::new(SpaceLevel::Ample as u8),
        }
    }

    pub(crate) fn free(&self) -> u64 {
        self.free.load(Relaxed)
    }

    pub(crate) fn total(&self) -> u64 {
        self.total.load(Relaxed)
    }

    /// Free bytes that are not for writers.
    pub(crate) fn kept(&self) -> u64 {
        self.reserve
            .saturating_sub(self.held.load(Relaxed))
            .saturating_add(self.promised.load(Relaxed))
    }

    /// Bytes that writers may take.
    fn room(&self) -> u64 {
        self.free().saturating_sub(self.kept())
    }

    /// Dirty bytes that are sure to find room.
    pub(crate) fn dirty_limit(&self) -> u64 {
        self.room() / EXPANSION
    }

    /// How long a writer of `bytes` is held back, so that who looks after the store has time to.
    pub(crate) fn delay(&self, bytes: u64) -> Duration {
        let (room, band) = (self.room() as f64, self.reserve.max(1) as f64);
        if room >= band {
            return Duration::ZERO;
        }
        let seconds = bytes as f64 / room.max(1.0) * LASTS * (1.0 - room / band);
        Duration::from_secs_f64(seconds.min(DELAY_MAX.as_secs_f64()))
    }

    /// What there is; what of it the journal may still take; and what of the reserve is held.
    pub(crate) fn set(&self, space: brick::Space, promised: u64, held: u64) {
        self.promised.store(promised, Relaxed);
        self.held.store(held, Relaxed);
        self.free.store(space.free, Relaxed);
        self.total.store(space.total, Relaxed);
        let old = self.level();
        let now = self.level_of(space.free);
        let leaving = self.level_of(space.free.saturating_sub(space.total / HYSTERESIS));
        self.level.store(now.max(old.min(leaving)) as u8, Relaxed);
    }

    fn level_of(&self, free: u64) -> SpaceLevel {
        let total = self.total().max(1);
        let taken = total.saturating_sub(free) as f64 / total as f64;
        if taken >= 0.95 || free <= self.kept() {
            SpaceLevel::Full
        } else if taken >= 0.85 {
            SpaceLevel::Scarce
        } else if taken >= 0.70 {
            SpaceLevel::Filling
        } else {
            SpaceLevel::Ample
        }
    }

    pub(crate) fn level(&self) -> SpaceLevel {
        match self.level.load(Relaxed) {
            0 => SpaceLevel::Ample,
            1 => SpaceLevel::Filling,
            2 => SpaceLevel::Scarce,
            _ => SpaceLevel::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(reserve: u64, total: u64, free: u64) -> Space {
        let space = Space::new(reserve);
        space.set(brick::Space { total, free }, 0, 0);
        space
    }

    #[test]
    fn levels_are_left_later_than_they_are_reached() {
        let space = space(2, 1000, 900);
        let level = |free| {
            space.set(brick::Space { total: 1000, free }, 0, 0);
            space.level()
        };
        assert_eq!(level(301), SpaceLevel::Ample);
        assert_eq!(level(300), SpaceLevel::Filling);
        assert_eq!(level(310), SpaceLevel::Filling);
        assert_eq!(level(321), SpaceLevel::Ample);
        assert_eq!(level(150), SpaceLevel::Scarce);
        assert_eq!(level(50), SpaceLevel::Full);
        assert_eq!(level(60), SpaceLevel::Full);
        assert_eq!(level(71), SpaceLevel::Scarce);
        assert_eq!(level(900), SpaceLevel::Ample);
    }

    #[test]
    fn a_store_that_refuses_writers_is_full_whatever_the_share() {
        let space = space(400, 1000, 400);
        assert_eq!(space.level(), SpaceLevel::Full);
        assert_eq!(space.dirty_limit(), 0);
    }

    #[test]
    fn the_journals_promise_and_what_is_held_count() {
        let space = space(100, 1000, 500);
        assert_eq!(space.dirty_limit(), 200);
        let some = brick::Space {
            total: 1000,
            free: 500,
        };
        space.set(some, 200, 40);
        assert_eq!(space.kept(), 260);
        assert_eq!(space.dirty_limit(), 120);
    }

    #[test]
    fn the_last_room_is_given_slowly() {
        let delay = |free: u64| space(1 << 20, 1 << 30, (1 << 20) + free).delay(4096);
        assert_eq!(delay(1 << 20), Duration::ZERO);
        assert!(Duration::ZERO < delay(1 << 19) && delay(1 << 19) < delay(1 << 18));
        assert_eq!(delay(0), DELAY_MAX);
    }
}
