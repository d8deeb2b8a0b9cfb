//! Requests that limits of a device hold back. Time stands still unless a test moves it.

use crate::{
    Named,
    client::{Client, NONE},
};
use block::MemoryDevice;
use env::{Clock, Env};
use front_nbd::{Config, Server};
use limits::{Limited, Limiter, Timer};
use nbd_proto::{
    reply::Style,
    request::{Command, CommandFlags},
};
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

/// A server of a device that may be used once a second.
struct World {
    server: Server,
    hand: Arc<Hand>,
    timer: Arc<Timer>,
    limiter: Arc<Limiter>,
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
    let mut named = Named::default();
    let device = Limited::new(Arc::new(MemoryDevice::new(16 << 20)), limiter.clone());
    named.0.insert("slow".to_owned(), Arc::new(device));
    let server = Server::start(Arc::new(named), Env::real(), Config::default()).unwrap();
    World {
        server,
        hand,
        timer,
        limiter,
    }
}

impl World {
    fn client(&self, style: Style) -> Client {
        Client::open(&self.server, "slow", style)
    }

    /// A client that has used up what may be used at once.
    fn spent(&self, style: Style) -> Client {
        let mut client = self.client(style);
        assert!(client.ask(Command::Trim, NONE, 0, 4096).error.is_none());
        client
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

    fn wait_for_no_connection(&self) {
        while !self.server.connections().is_empty() {
            std::thread::yield_now();
        }
    }
}

/// A throttled read was answered from memory, or kept the parsing thread: flushes behind it waited, too.
#[test]
fn what_is_held_back_keeps_nothing_else_waiting() {
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let world = world();
        let mut client = world.spent(style);
        let read = client.send(Command::Read, NONE, 0, 512, &[]);
        let write = client.send(Command::Write, NONE, 0, 512, &[7; 512]);
        let zeroes = client.send(Command::WriteZeroes, CommandFlags::FUA, 4096, 4096, &[]);
        for _ in 0..20 {
            let flush = client.send(Command::Flush, NONE, 0, 0, &[]);
            assert_eq!(client.answer().cookie, flush);
        }
        world.wait_for_held(2);
        let mut answers = Vec::new();
        for _ in 0..3 {
            // One at a time: what came in beyond one is not kept.
            world.after(1);
            let answer = client.answer();
            assert!(answer.error.is_none());
            answers.push(answer.cookie);
        }
        answers.sort_unstable();
        assert_eq!(answers, [read, write, zeroes]);
        assert_eq!(world.limiter.throttled().requests, 3);
    }
}

#[test]
fn long_requests_are_held_back_whole() {
    let world = world();
    let mut client = world.spent(Style::Structured);
    let data: Vec<u8> = (0..3 << 20).map(|n: u32| (n % 251) as u8 + 1).collect();
    for (flags, offset) in [(NONE, 0), (CommandFlags::FUA, 4 << 20)] {
        let len = data.len() as u64;
        let write = client.send(Command::Write, flags, offset, len, &data);
        let flush = client.send(Command::Flush, NONE, 0, 0, &[]);
        assert_eq!(client.answer().cookie, flush);
        world.after(1);
        assert_eq!(client.answer().cookie, write);
        let read = client.send(Command::Read, NONE, offset, len, &[]);
        let flush = client.send(Command::Flush, NONE, 0, 0, &[]);
        assert_eq!(client.answer().cookie, flush);
        world.after(1);
        let answer = client.answer();
        assert_eq!(answer.cookie, read);
        assert!(answer.bytes(offset, data.len()) == data);
    }
}

#[test]
fn a_limit_is_one_for_all_connections() {
    let world = world();
    let mut first = world.spent(Style::Simple);
    let mut second = world.client(Style::Simple);
    first.send(Command::Read, NONE, 0, 1, &[]);
    world.wait_for_held(1);
    second.send(Command::Read, NONE, 0, 2, &[]);
    second.send(Command::Read, NONE, 0, 3, &[]);
    world.wait_for_held(2);
    first.send(Command::Read, NONE, 0, 4, &[]);
    let flush = first.send(Command::Flush, NONE, 0, 0, &[]);
    assert_eq!(first.answer().cookie, flush);
    // By turns, however many each has in flight.
    for (client, len) in [(0, 1), (1, 2), (0, 4), (1, 3)] {
        world.after(1);
        let answer = [&mut first, &mut second][client].answer();
        assert_eq!(answer.data[0].1.len(), len);
    }
}

#[test]
fn limits_that_are_lifted_hold_nothing_any_more() {
    let world = world();
    let mut client = world.spent(Style::Simple);
    let sent: Vec<_> = (0..10)
        .map(|_| client.send(Command::Read, NONE, 0, 512, &[]))
        .collect();
    world.wait_for_held(1);
    world.limiter.set(&Limits::NONE);
    let mut answered: Vec<_> = sent.iter().map(|_| client.answer().cookie).collect();
    answered.sort_unstable();
    assert_eq!(answered, sent);
}

#[test]
fn who_is_gone_is_not_waited_for() {
    let world = world();
    let mut client = world.spent(Style::Simple);
    for _ in 0..10 {
        client.send(Command::Write, NONE, 0, 512, &[1; 512]);
    }
    world.wait_for_held(1);
    drop(client);
    world.wait_for_no_connection();
    let mut cut = world.client(Style::Simple);
    cut.send(Command::Read, NONE, 0, 512, &[]);
    world.wait_for_held(2);
    assert!(world.server.disconnect(world.server.connections()[0].id));
    assert!(cut.was_closed());
    world.wait_for_no_connection();
}

#[test]
fn who_takes_leave_gets_its_answers_in_time_unless_it_is_cut_off() {
    let world = world();
    let mut client = world.spent(Style::Simple);
    let sent: Vec<_> = (0..3)
        .map(|_| client.send(Command::Read, NONE, 0, 512, &[]))
        .collect();
    client.send(Command::Disconnect, NONE, 0, 0, &[]);
    world.wait_for_held(1);
    for cookie in sent {
        world.after(1);
        assert_eq!(client.answer().cookie, cookie);
    }
    assert!(client.was_closed());
    let mut client = world.client(Style::Simple);
    client.send(Command::Read, NONE, 0, 512, &[]);
    client.send(Command::Disconnect, NONE, 0, 0, &[]);
    world.wait_for_held(4);
    assert!(world.server.disconnect(world.server.connections()[0].id));
    assert!(client.was_closed());
    world.wait_for_no_connection();
}

#[test]
fn a_server_that_ends_answers_what_is_held_back() {
    let world = world();
    let mut client = world.spent(Style::Simple);
    let sent: Vec<_> = (0..3)
        .map(|_| client.send(Command::Read, NONE, 0, 512, &[]))
        .collect();
    // All of them were received.
    while world.server.connections()[0].requests < 4 {
        std::thread::yield_now();
    }
    assert_eq!(world.server.shutdown(Duration::from_secs(10)), 0);
    let mut answered: Vec<_> = sent.iter().map(|_| client.answer().cookie).collect();
    answered.sort_unstable();
    assert_eq!(answered, sent);
    assert!(client.was_closed());
}
