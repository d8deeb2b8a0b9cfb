//! How a thread waits for what comes soon.
//!
//! A client that waits for each of its answers asks again within microseconds. Putting a thread to sleep and waking it
//! takes longer than that, and costs the client a part of it. So who has just answered looks on for a while: as long as
//! that has paid lately, and not at all when it has not.
//!
//! Nor after requests of which each takes long, because they wait for the disk: the client's processor is asleep by
//! then, and who answers and sleeps at once leaves it the one that is awake.

use crate::Clock;
use std::{hint, time::Duration};

/// What is tried first.
const MIN: Duration = Duration::from_micros(4);

/// Waits after a long request that are slept through.
const REST: u32 = 8;

/// The time for which looking is worth it.
#[derive(Debug)]
pub struct Vigil {
    window: Duration,
    max: Duration,
    /// When the last wait ended: what was found is served since.
    found_at: Duration,
    /// Waits still to be slept through.
    rest: u32,
}

impl Vigil {
    /// What is usual.
    pub const MAX: Duration = Duration::from_micros(64);

    /// Never longer than `max`; zero: who waits sleeps.
    #[must_use]
    pub const fn new(max: Duration) -> Self {
        Vigil {
            window: Duration::ZERO,
            max,
            found_at: Duration::ZERO,
            rest: 0,
        }
    }

    /// Looks until something is found, having served so many requests since it was last. `look` is told whether it may
    /// sleep until there is something.
    ///
    /// # Errors
    /// What `look` answers.
    pub fn wait<T, E>(
        &mut self,
        clock: &dyn Clock,
        served: u32,
        mut look: impl FnMut(bool) -> Result<Option<T>, E>,
    ) -> Result<T, E> {
        let began = clock.monotonic();
        let gap = || clock.monotonic().saturating_sub(began);
        self.rest = match began.saturating_sub(self.found_at) {
            took if took > self.max * served.max(1) => REST,
            _ => self.rest.saturating_sub(1),
        };
        let window = if self.rest > 0 {
            Duration::ZERO
        } else {
            self.window
        };
        let found = loop {
            let sleeps = gap() >= window;
            if let Some(found) = look(sleeps)? {
                break found;
            }
            hint::spin_loop();
        };
        let gap = gap();
        self.note(gap);
        self.found_at = began + gap;
        Ok(found)
    }

    /// It took so long to come.
    fn note(&mut self, gap: Duration) {
        self.window = match gap {
            gap if gap > self.max => Duration::ZERO,
            gap if gap <= self.window => self.window,
            _ => (self.window * 2).max(MIN).min(self.max),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{cell::Cell, convert::Infallible};

    /// A microsecond more whenever it is asked.
    #[derive(Default)]
    struct Ticking(std::sync::atomic::AtomicU64);

    impl Clock for Ticking {
        fn monotonic(&self) -> Duration {
            let ticks = self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            Duration::from_micros(ticks)
        }

        fn now(&self) -> Duration {
            self.monotonic()
        }
    }

    /// Waits for something that comes after `gap` µs, having served one request; how often it was looked for, and whether
    /// asleep.
    fn wait(vigil: &mut Vigil, clock: &Ticking, gap: u64) -> (u32, bool) {
        wait_after(1, vigil, clock, gap)
    }

    fn wait_after(served: u32, vigil: &mut Vigil, clock: &Ticking, gap: u64) -> (u32, bool) {
        let (looks, slept) = (Cell::new(0), Cell::new(false));
        let due = clock.monotonic() + Duration::from_micros(gap);
        let found = vigil.wait(clock, served, |sleeps| {
            looks.set(looks.get() + 1);
            slept.set(sleeps);
            while sleeps && clock.monotonic() < due {}
            Ok::<_, Infallible>((clock.monotonic() >= due).then_some(()))
        });
        let Ok(()) = found;
        (looks.get(), slept.get())
    }

    #[test]
    fn who_waits_stays_awake_while_that_pays() {
        let (mut vigil, clock) = (Vigil::new(Vigil::MAX), Ticking::default());
        // Asleep until what comes has come soon a few times.
        let slept: Vec<bool> = (0..6).map(|_| wait(&mut vigil, &clock, 12).1).collect();
        assert!(slept.is_sorted_by(|a, b| a >= b), "{slept:?}");
        assert!(slept[0] && !slept[5], "{slept:?}");
        // It did not pay: the next is waited for asleep, at the first look.
        assert!(wait(&mut vigil, &clock, 1000).1);
        assert_eq!(wait(&mut vigil, &clock, 12), (1, true));
    }

    #[test]
    fn who_waits_for_the_disk_sleeps_at_once() {
        let (mut vigil, clock) = (Vigil::new(Vigil::MAX), Ticking::default());
        let mut slept = |served: u64| {
            let from = clock.monotonic();
            while clock.monotonic() < from + Duration::from_micros(served) {}
            wait(&mut vigil, &clock, 12).1
        };
        assert!((0..9).any(|_| !slept(5)));
        assert!(!slept(5));
        // A flush, and what comes soon after it; then there are no more of them.
        assert!(slept(100));
        let after: Vec<bool> = (0..2 * REST).map(|_| slept(5)).collect();
        assert!(after.is_sorted_by(|a, b| a >= b), "{after:?}");
        assert!(after[0] && !after[REST as usize], "{after:?}");
    }

    #[test]
    fn many_requests_that_take_long_together_are_no_long_ones() {
        let (mut vigil, clock) = (Vigil::new(Vigil::MAX), Ticking::default());
        let mut slept = |served: u32, took: u64| {
            let from = clock.monotonic();
            while clock.monotonic() < from + Duration::from_micros(took) {}
            wait_after(served, &mut vigil, &clock, 12).1
        };
        assert!((0..9).any(|_| !slept(1, 5)));
        assert!(!slept(100, 1000));
        assert!(slept(10, 1000));
    }

    #[test]
    fn who_must_not_stay_awake_does_not() {
        let (mut vigil, clock) = (Vigil::new(Duration::ZERO), Ticking::default());
        for _ in 0..9 {
            assert_eq!(wait(&mut vigil, &clock, 2), (1, true));
        }
    }
}
