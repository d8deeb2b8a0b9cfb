//! The budget for dirty data, and how writers are slowed as it fills.
//!
//! Up to half of the budget a write costs nothing. From there on writers are delayed, so that they come in at the pace
//! at which destaging drains when three quarters are taken, and at less beyond. Nobody is refused while the store has
//! space: at the end of the budget writers wait for the drain.
//!
//! Volumes that have dirty data have equal shares of the budget. Who holds less than half of its share is not delayed,
//! however full the budget is, and who holds more than all of it does not get at the last tenth: so a greedy volume
//! waits for the drain, and others beside it do not. A share that is not used is anybody's.
//!
//! The budget gets generations back, each as a whole when it is in packs. None holds much more than an eighth of it, so
//! that the pace is even: see [`Shared::generation_max`](crate::store::Shared::generation_max).
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

/// Delays are gathered until they are worth a sleep. Each is the wait of all requests that a client has in flight.
const SLEEP_MIN: Duration = Duration::from_micros(50);
/// No single write is delayed for longer before it looks again.
const SLEEP_MAX: Duration = Duration::from_millis(20);
/// Who waits for the drain looks again so often, whatever it hears.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// What is left at this fill is for volumes that do not have their share.
const CROWDED: f64 = 0.9;
/// The drain is thought to be at least this fast, bytes per second.
const DRAIN_MIN: f64 = 4e6;

/// How much is dirty, and how fast it drains.
pub(crate) struct Budget {
    limit: u64,
    pub(crate) space: Space,
    dirty: AtomicU64,
    /// Volumes that have some of it.
    holders: AtomicU64,
    /// Bytes per second, as an f64's bits.
    drain: AtomicU64,
    full: Mutex<()>,
    drained: Condvar,
    closed: AtomicBool,
}

/// What one volume has of the budget.
#[derive(Default)]
pub(crate) struct Account {
    dirty: AtomicU64,
    /// Delays that its writers share.
    debt_ns: AtomicU64,
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
            holders: AtomicU64::new(0),
            drain: AtomicU64::new(200e6f64.to_bits()),
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

    /// A layer of a volume grew or shrank.
    pub(crate) fn charge(&self, account: &Account, before: u64, after: u64) {
        if after < before {
            return self.release(account, before - after);
        }
        let grown = after - before;
        self.dirty.fetch_add(grown, Relaxed);
        if grown > 0 && account.dirty.fetch_add(grown, Relaxed) == 0 {
            self.holders.fetch_add(1, Relaxed);
        }
    }

    /// What was dirty of a volume is in packs, or was given up.
    pub(crate) fn release(&self, account: &Account, bytes: u64) {
        if bytes > 0 && account.dirty.fetch_sub(bytes, Relaxed) == bytes {
            self.holders.fetch_sub(1, Relaxed);
        }
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

    /// Volumes that have dirty data, at least one. The count may lag behind, and be below nothing for a moment.
    fn holders(&self) -> f64 {
        (self.holders.load(Relaxed) as i64).max(1) as f64
    }

    /// How full a volume's share of so much is, 0 to 1 and beyond.
    fn share_of(&self, account: &Account, limit: u64) -> f64 {
        account.dirty.load(Relaxed) as f64 * self.holders() / limit.max(1) as f64
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
    pub(crate) fn admit(
        &self,
        account: &Account,
        bytes: u64,
        need: Need,
        waiter: &impl Waiter,
    ) -> Result<(), Error> {
        self.slow_down(account, bytes, need, waiter);
        while !self.closed.load(Relaxed) {
            if need == Need::Space {
                self.check_space(bytes)?;
            }
            if self.has_room(account, bytes, need) {
                break;
            }
            if waiter.drain()? {
                let mut guard = self.full.lock();
                // Again under the lock: what changes either wakes us from now on.
                if !self.has_room(account, bytes, need) && !self.closed.load(Relaxed) {
                    self.drained.wait_for(&mut guard, WAIT_MAX);
                }
            }
        }
        Ok(())
    }

    fn slow_down(&self, account: &Account, bytes: u64, need: Need, waiter: &impl Waiter) {
        let limit = if need == Need::Space {
            let held_back = self.space.delay(bytes);
            if !held_back.is_zero() {
                waiter.sleep(held_back);
            }
            self.limit_now()
        } else {
            self.limit
        };
        let fill = self.fill_of(limit).min(self.share_of(account, limit));
        if fill <= 0.5 {
            return;
        }
        // Each volume by itself is slowed to its part of the drain.
        let drain = f64::from_bits(self.drain.load(Relaxed)) / self.holders();
        let delay = Self::delay(fill, bytes, drain).as_nanos() as u64;
        let owed = account.debt_ns.fetch_add(delay, Relaxed) + delay;
        if owed >= SLEEP_MIN.as_nanos() as u64 {
            // Whoever takes the debt pays it for all: writers of a volume share one pace.
            let debt = Duration::from_nanos(account.debt_ns.swap(0, Relaxed));
            waiter.sleep(debt.min(SLEEP_MAX));
        }
    }

    fn has_room(&self, account: &Account, bytes: u64, need: Need) -> bool {
        let dirty = self.dirty.load(Relaxed);
        // Judged by the same figure as what is due to be destaged: who waits here is waited for by somebody.
        if self.fill_of(self.limit) >= CROWDED && self.share_of(account, self.limit) >= 1.0 {
            return false;
        }
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
        account: &'a Account,
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
            self.budget.release(self.account, self.bytes);
            Ok(false)
        }
    }

    fn drains<'a>(budget: &'a Budget, account: &'a Account, bytes: u64) -> Drains<'a> {
        Drains {
            budget,
            account,
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
        let (budget, account) = (Budget::new(1000, 50), Account::default());
        let space = |free| brick::Space { total: 1000, free };
        let refused = |bytes| {
            let admitted =
                budget.admit(&account, bytes, Need::Space, &drains(&budget, &account, 0));
            admitted.err().map(|e| e.kind())
        };
        // Room for 150, of which half is for nodes.
        budget.set_space(space(200), 0, 0);
        assert_eq!(refused(75), None);
        assert_eq!(refused(76), Some(ErrorKind::NoSpace));
        budget.charge(&account, 0, 30);
        // It has room once what is dirty has drained: this one waits.
        assert_eq!(refused(75), Some(ErrorKind::Io));
        assert!(
            budget
                .admit(&account, 75, Need::Space, &drains(&budget, &account, 30))
                .is_ok()
        );
        assert_eq!(budget.pressure().dirty, 0);
        // What the journal may still take is not for writers.
        budget.set_space(space(200), 20, 0);
        assert_eq!(budget.pressure().reserve, 70);
        assert_eq!(refused(66), Some(ErrorKind::NoSpace));
        assert_eq!(refused(65), None);
    }

    #[test]
    fn who_gives_space_back_is_never_refused() {
        let (budget, account) = (Budget::new(1000, 50), Account::default());
        budget.set_space(
            brick::Space {
                total: 1000,
                free: 0,
            },
            0,
            0,
        );
        budget.charge(&account, 0, 999);
        assert!(
            budget
                .admit(&account, 64, Need::Memory, &drains(&budget, &account, 0))
                .is_ok()
        );
        budget.charge(&account, 0, 1);
        let full = budget.admit(&account, 64, Need::Memory, &drains(&budget, &account, 0));
        assert_eq!(full.map_err(|e| e.kind()), Err(ErrorKind::Io));
    }

    #[test]
    fn writers_are_slowed_before_they_are_refused() {
        let (budget, account) = (Budget::new(1 << 30, 1 << 20), Account::default());
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
            let waiter = drains(&budget, &account, 0);
            budget.admit(&account, 4096, Need::Space, &waiter).unwrap();
            waiter.slept.into_inner()
        };
        assert_eq!(slept(1 << 20), Duration::ZERO);
        assert!(slept(1 << 19) < slept(1 << 17) && slept(1 << 17) < slept(1 << 14));
    }

    const LIMIT: u64 = 64 << 20;
    /// Bytes a second that the drain takes.
    const DRAIN: u64 = 100 << 20;
    const WRITE: u64 = 64 << 10;

    /// A volume that is written, at moments of its own.
    struct Writer {
        account: Account,
        now: Duration,
        slept: Duration,
        dirty: u64,
        written: u64,
        /// Between two writes, if it need not wait.
        pause: Duration,
    }

    /// Budget and drain in simulated time: what drains is taken from all volumes by turns.
    struct Sim {
        budget: Budget,
        writers: Vec<Writer>,
        drained: Duration,
        next: usize,
    }

    struct Sleeps<'a>(RefCell<Duration>, &'a Budget);

    impl Waiter for Sleeps<'_> {
        fn sleep(&self, time: Duration) {
            *self.0.borrow_mut() += time;
        }
        fn drain(&self) -> Result<bool, Error> {
            Err(Error::new(ErrorKind::Io, "there is no room now"))
        }
    }

    impl Sim {
        fn new(rates: &[u64]) -> Self {
            let budget = Budget::new(LIMIT, 0);
            let space = 1 << 40;
            budget.set_space(
                brick::Space {
                    total: space,
                    free: space,
                },
                0,
                0,
            );
            budget.drain.store((DRAIN as f64).to_bits(), Relaxed);
            let writer = |&rate: &u64| Writer {
                account: Account::default(),
                now: Duration::ZERO,
                slept: Duration::ZERO,
                dirty: 0,
                written: 0,
                pause: Duration::from_secs_f64(WRITE as f64 / rate as f64),
            };
            Sim {
                budget,
                writers: rates.iter().map(writer).collect(),
                drained: Duration::ZERO,
                next: 0,
            }
        }

        /// Drains until `now`.
        fn drain(&mut self, now: Duration) {
            while self.drained < now {
                self.drained += Duration::from_secs_f64(WRITE as f64 / DRAIN as f64);
                for _ in 0..self.writers.len() {
                    self.next = (self.next + 1) % self.writers.len();
                    let writer = &mut self.writers[self.next];
                    if writer.dirty >= WRITE {
                        writer.dirty -= WRITE;
                        self.budget.release(&writer.account, WRITE);
                        break;
                    }
                }
            }
        }

        fn run(&mut self, time: Duration) {
            while let Some((index, now)) = self.first_before(time) {
                self.drain(now);
                let writer = &mut self.writers[index];
                let sleeps = Sleeps(RefCell::default(), &self.budget);
                let admitted = sleeps.1.admit(&writer.account, WRITE, Need::Space, &sleeps);
                let mut waited = sleeps.0.into_inner();
                if admitted.is_ok() {
                    self.budget.charge(&writer.account, 0, WRITE);
                    writer.dirty += WRITE;
                    writer.written += WRITE;
                    writer.now += writer.pause;
                } else {
                    waited += Duration::from_millis(1);
                }
                writer.now += waited;
                writer.slept += waited;
            }
        }

        fn first_before(&self, end: Duration) -> Option<(usize, Duration)> {
            let writers = self.writers.iter().enumerate().map(|(i, w)| (i, w.now));
            writers
                .filter(|(_, now)| *now < end)
                .min_by_key(|(_, now)| *now)
        }
    }

    #[test]
    fn a_greedy_volume_waits_and_modest_ones_beside_it_do_not() {
        let modest = DRAIN / 4 * 8 / 10;
        let time = Duration::from_secs(20);
        let mut sim = Sim::new(&[DRAIN * 20, modest, modest, modest]);
        sim.run(time);
        for writer in &sim.writers[1..] {
            assert_eq!(writer.slept, Duration::ZERO);
        }
        let all: u64 = sim.writers.iter().map(|w| w.written).sum();
        assert!(
            all >= DRAIN * 20 * 9 / 10,
            "what is left is the greedy one's"
        );
        assert!(sim.writers[0].slept > time / 2);
    }

    #[test]
    fn the_last_of_the_budget_is_for_who_has_less_than_its_share() {
        let (budget, greedy, modest) =
            (Budget::new(1000, 0), Account::default(), Account::default());
        let free = 1 << 40;
        budget.set_space(brick::Space { total: free, free }, 0, 0);
        budget.charge(&greedy, 0, 940);
        budget.charge(&modest, 0, 10);
        let admitted = |account| {
            let waiter = drains(&budget, account, 0);
            budget
                .admit(account, 10, Need::Space, &waiter)
                .map_err(|e| e.kind())
        };
        // It waits for the drain, and here nothing drains.
        assert_eq!(admitted(&greedy), Err(ErrorKind::Io));
        assert_eq!(admitted(&modest), Ok(()));
    }

    #[test]
    fn equal_volumes_get_equal_shares() {
        let mut sim = Sim::new(&[DRAIN * 20, DRAIN * 10, DRAIN * 5, DRAIN * 2]);
        sim.run(Duration::from_secs(20));
        let written: Vec<u64> = sim.writers.iter().map(|w| w.written >> 20).collect();
        let fair = written.iter().sum::<u64>() / 4;
        assert!(
            written.iter().all(|&w| w.abs_diff(fair) <= fair / 10),
            "{written:?}"
        );
    }

    #[test]
    fn a_volume_alone_has_all_of_the_budget() {
        let mut sim = Sim::new(&[DRAIN * 20]);
        // Others that hold next to nothing take nothing from it.
        let idle: Vec<Account> = (0..50).map(|_| Account::default()).collect();
        idle.iter()
            .for_each(|account| sim.budget.charge(account, 0, 4096));
        sim.run(Duration::from_secs(20));
        assert!(sim.writers[0].written >= DRAIN * 20 * 9 / 10);
        idle.iter()
            .for_each(|account| sim.budget.release(account, 4096));
        assert_eq!(sim.budget.holders.load(Relaxed), 1);
    }
}
