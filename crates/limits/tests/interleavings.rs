//! Those who wait, those who change limits and those who close, in orders that a seed chooses: see `sync::model`.

use block::{Access, BlockDevice, Demand, Lines, MemoryDevice, Turn};
use env::Clock;
use limits::{Limited, Limiter, Timer};
use std::{sync::Arc, time::Duration};
use sync::{
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    model::{explore, random},
    thread::{JoinHandle, yield_now},
};
use types::{Limit, LimitKind, Limits};

const USERS: u64 = 3;
const REQUESTS: u64 = 4;

/// Time that goes on when somebody says so.
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Duration {
        self.monotonic()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(SeqCst))
    }
}

struct World {
    hand: Arc<Hand>,
    timer: Arc<Timer>,
    limiter: Arc<Limiter>,
    begun: Arc<AtomicU64>,
    over: AtomicBool,
}

fn of(rate: u64) -> Limits {
    let mut limits = Limits::NONE;
    limits.set(LimitKind::Iops, Some(Limit { rate, burst: None }));
    limits
}

impl World {
    fn new(rate: u64) -> Arc<Self> {
        let hand = Arc::new(Hand(AtomicU64::new(0)));
        let timer = Timer::manual(hand.clone());
        Arc::new(World {
            limiter: Limiter::new(&timer, &of(rate)),
            hand,
            timer,
            begun: Arc::default(),
            over: AtomicBool::new(false),
        })
    }

    /// A user of the device; its requests are counted when they begin.
    fn lines(&self) -> Arc<Lines<()>> {
        let memory = MemoryDevice::new(1 << 20);
        let device = Limited::new(Arc::new(memory), self.limiter.clone());
        let begun = self.begun.clone();
        Lines::new(Arc::new(device), move |()| {
            begun.fetch_add(1, SeqCst);
        })
    }

    fn spawn(self: &Arc<Self>, body: impl FnOnce(Arc<World>) + Send + 'static) -> JoinHandle<()> {
        let world = self.clone();
        sync::thread::spawn(move || body(world))
    }

    /// Lets time pass and the timer call.
    fn time(self: &Arc<Self>, step_ms: u64) -> JoinHandle<()> {
        self.spawn(move |world| {
            while !world.over.load(SeqCst) {
                world.hand.0.fetch_add(step_ms, SeqCst);
                world.timer.tick();
                yield_now();
            }
        })
    }

    fn user(self: &Arc<Self>, lines: Arc<Lines<()>>) -> JoinHandle<()> {
        self.spawn(move |world| {
            for _ in 0..REQUESTS {
                let access = [Access::Read, Access::Write][random(2) as usize];
                let demand = Demand { access, bytes: 1 };
                if lines.may_pass(demand) {
                    world.begun.fetch_add(1, SeqCst);
                } else {
                    lines.join(demand, ());
                }
            }
        })
    }

    fn wait_for_all(&self) {
        while self.begun.load(SeqCst) < USERS * REQUESTS {
            yield_now();
        }
        assert_eq!(self.begun.load(SeqCst), USERS * REQUESTS);
    }

    /// Three users at work while `meddler` does something else; all of their requests begin, once.
    fn everybody_gets_through(
        rate: u64,
        time: bool,
        meddler: impl FnOnce(Arc<World>) + Send + 'static,
    ) {
        let world = World::new(rate);
        let lines: Vec<_> = (0..USERS).map(|_| world.lines()).collect();
        let clock = time.then(|| world.time(40));
        let mut threads: Vec<_> = lines.iter().map(|l| world.user(l.clone())).collect();
        threads.push(world.spawn(meddler));
        for thread in threads {
            thread.join().expect("a thread");
        }
        world.wait_for_all();
        world.over.store(true, SeqCst);
        if let Some(clock) = clock {
            clock.join().expect("the clock");
        }
    }
}

#[test]
fn who_waits_is_called_once_whatever_changes() {
    explore(300, || {
        World::everybody_gets_through(5, true, |world| {
            for _ in 0..3 {
                world.limiter.set(&of([1, 20, 100][random(3) as usize]));
            }
        });
    });
}

/// Time stands still: only the change, or the end, lets them go.
#[test]
fn who_waits_goes_when_limits_are_lifted() {
    explore(300, || {
        World::everybody_gets_through(1, false, |world| {
            world.limiter.set(&of(2));
            world.limiter.set(&Limits::NONE);
        });
    });
}

#[test]
fn closing_lets_everybody_go() {
    explore(300, || {
        World::everybody_gets_through(1, false, |world| world.limiter.close());
    });
}

/// Who is let go by its own side is not called afterwards, and keeps nobody else waiting.
#[test]
fn users_that_leave_keep_nobody_waiting() {
    explore(300, || {
        let world = World::new(5);
        let (staying, leaving) = (world.lines(), world.lines());
        let clock = world.time(40);
        let threads = [world.user(staying.clone()), world.user(leaving.clone())];
        let leaves = leaving.clone();
        let taken_back = world.spawn(move |world| {
            let leaving = leaves;
            if random(2) == 0 {
                leaving.release();
            } else {
                let taken = leaving.abandon().len() as u64;
                world.begun.fetch_add(taken, SeqCst);
            }
        });
        for thread in threads.into_iter().chain([taken_back]) {
            thread.join().expect("a thread");
        }
        while world.begun.load(SeqCst) < 2 * REQUESTS {
            yield_now();
        }
        world.over.store(true, SeqCst);
        clock.join().expect("the clock");
        assert_eq!(world.begun.load(SeqCst), 2 * REQUESTS);
    });
}

/// What is owed is counted whoever else is at work.
#[test]
fn no_more_is_admitted_than_came_in() {
    explore(300, || {
        let world = World::new(10);
        let ask = |world: Arc<World>| {
            let demand = Demand {
                access: Access::Read,
                bytes: 1,
            };
            let turn = [Turn::Now, Turn::Owed];
            for turn in turn {
                if world.limiter.admit(demand, turn) {
                    world.begun.fetch_add(1, SeqCst);
                }
            }
        };
        let threads: Vec<_> = (0..USERS).map(|_| world.spawn(ask)).collect();
        for thread in threads {
            thread.join().expect("a thread");
        }
        // One token was there; what was owed is beyond it.
        let begun = world.begun.load(SeqCst);
        assert!(begun <= USERS + 1, "{begun}");
        world.hand.0.store(100 * USERS, SeqCst);
        let device = Limited::new(Arc::new(MemoryDevice::new(4096)), world.limiter.clone());
        let demand = Demand {
            access: Access::Write,
            bytes: 0,
        };
        // At most what was owed was paid for since.
        let more = (0..10).filter(|_| device.admit(demand, Turn::Now)).count() as u64;
        assert!(begun + more <= USERS + 1, "{begun} and {more}");
    });
}
