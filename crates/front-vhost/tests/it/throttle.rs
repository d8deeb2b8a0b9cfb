//! Requests that limits of a device hold back. Time stands still unless a test moves it.

use crate::{
    device::TestDevice,
    driver::{Guest, Host},
};
use env::Clock;
use front_vhost::Options;
use limits::{Limited, Limiter, Timer};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};
use types::{Limit, LimitKind, Limits};

/// Seconds, as somebody sets them.
#[derive(Default)]
struct Hand(AtomicU64);

impl Clock for Hand {
    fn now(&self) -> Duration {
        self.monotonic()
    }
    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(SeqCst))
    }
}

/// A host of a device that may be used once a second.
struct World {
    hand: Arc<Hand>,
    timer: Arc<Timer>,
    limiter: Arc<Limiter>,
    host: Host,
}

fn world() -> World {
    let mut limits = Limits::NONE;
    let once = Limit {
        rate: 1,
        burst: None,
    };
    limits.set(LimitKind::Iops, Some(once));
    let hand = Arc::new(Hand::default());
    let timer = Timer::manual(hand.clone());
    let limiter = Limiter::new(&timer, &limits);
    let device = Limited::new(TestDevice::new(1 << 20), limiter.clone());
    World {
        host: Host::new(Arc::new(device), Options::default()),
        hand,
        timer,
        limiter,
    }
}

impl World {
    /// A guest that has used up what may be used at once.
    fn spent(&self, queues: usize) -> Guest {
        let mut guest = Guest::connect(&self.host, queues);
        guest.write(0, 0, &[1; 512]).unwrap();
        guest
    }

    fn wait_for_held(&self, count: u64) {
        while self.limiter.throttled().requests < count {
            std::thread::yield_now();
        }
    }

    fn after(&self, seconds: u64) {
        self.hand.0.fetch_add(seconds, SeqCst);
        self.timer.tick();
    }
}

#[test]
fn what_is_held_back_keeps_nothing_else_waiting() {
    let world = world();
    let mut guest = world.spent(1);
    guest.submit(0, |q, b| {
        b.bytes()[..512].fill(7);
        q.read(512, &mut b.bytes()[4096..4608], 1).unwrap();
        q.write(512, &b.bytes()[..512], 2).unwrap();
        q.discard(8192, 4096, 3).unwrap();
    });
    world.wait_for_held(2);
    guest.flush(0).unwrap();
    let mut answers = Vec::new();
    for _ in 0..3 {
        world.after(1);
        answers.extend(guest.answers(0, 1));
    }
    answers.sort_unstable();
    assert_eq!(answers, [(1, Ok(())), (2, Ok(())), (3, Ok(()))]);
    world.after(1);
    assert_eq!(guest.read(0, 512, 512).unwrap(), [7; 512]);
}

#[test]
fn a_limit_is_one_for_all_queues() {
    let world = world();
    let mut guest = world.spent(2);
    for queue in [0, 1] {
        guest.submit(queue, |q, b| {
            q.read(0, &mut b.bytes()[..512], 1).unwrap();
            q.read(0, &mut b.bytes()[..512], 2).unwrap();
        });
        world.wait_for_held(queue as u64 + 1);
    }
    // By turns, however many each has in flight.
    for (queue, context) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        world.after(1);
        assert_eq!(guest.answers(queue, 1), [(context, Ok(()))]);
    }
}

/// A virtual machine that stops its queues, or whose daemon ends, would wait for limits otherwise.
#[test]
fn who_stops_gets_its_answers_at_once() {
    let world = world();
    let mut guest = world.spent(1);
    guest.submit(0, |q, b| {
        for context in 0..10 {
            q.read(0, &mut b.bytes()[..512], context).unwrap();
        }
    });
    world.wait_for_held(1);
    drop(guest);
    // Held against what comes next.
    let mut guest = Guest::connect(&world.host, 1);
    guest.submit(0, |q, b| q.read(0, &mut b.bytes()[..512], 1).unwrap());
    world.wait_for_held(2);
    world.after(9);
    let flushed = guest.run(0, |q, _| q.flush(2).unwrap(), 1);
    assert_eq!(flushed, [(2, Ok(()))]);
    (0..2).for_each(|_| world.after(1));
    assert_eq!(guest.answers(0, 1), [(1, Ok(()))]);
}
