//! Connections that do nothing for a while have no thread, and nobody notices.

use crate::{World, client::Client, client::NONE, world_with};
use front_nbd::Config;
use nbd_proto::{reply::Style, request::Command};
use std::{io::Write, time::Duration};

const AFTER: Duration = Duration::from_millis(30);
const PATIENCE: Duration = Duration::from_secs(20);

fn impatient() -> World {
    world_with(Config {
        idle_after: AFTER,
        ..Config::default()
    })
}

/// Threads of connections in this process.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let name = |task: std::io::Result<std::fs::DirEntry>| {
        std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap_or_default()
    };
    let names = tasks.map(name);
    names.filter(|name| name.trim() == "nbd-connection").count()
}

fn wait_until_idle() {
    for _ in 0..4000 {
        if threads() == 0 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("{} threads are left", threads());
}

#[test]
fn an_idle_connection_has_no_thread_and_goes_on_with_one() {
    let world = impatient();
    let mut clients: Vec<Client> = (0..50)
        .map(|_| Client::open(&world.server, "disk", Style::Structured))
        .collect();
    for round in 0..3 {
        wait_until_idle();
        assert_eq!(world.server.connections().len(), clients.len());
        for (n, client) in (0..).zip(&mut clients) {
            let data = [round * 50 + n; 700];
            client.write(NONE, u64::from(n) * 4096, &data).unwrap();
            assert_eq!(client.read(u64::from(n) * 4096, 700).unwrap(), data);
        }
    }
    wait_until_idle();
    // One leaves, one is cut off, the others see the end of the server.
    let cut = world.server.connections()[1].id;
    clients.remove(0).send(Command::Disconnect, NONE, 0, 0, &[]);
    assert!(world.server.disconnect(cut));
    assert!(clients.remove(0).was_closed());
    assert_eq!(world.server.shutdown(PATIENCE), 0);
    assert!(clients.into_iter().all(Client::was_closed));
    assert!(world.server.connections().is_empty());
}

#[test]
fn who_is_slow_in_the_middle_of_a_request_is_waited_for() {
    let world = impatient();
    let mut client = Client::open(&world.server, "disk", Style::Simple);
    // Payloads that are parsed where they were received, and one that goes on in pieces.
    for len in [1 << 10, 100 << 10, 3 << 20] {
        let payload = vec![5; len];
        let wire = client.wire(Command::Write as u16, NONE, 0, len as u64, &payload);
        for part in [
            &wire[..9],
            &wire[9..40],
            &wire[40..len / 2],
            &wire[len / 2..],
        ] {
            client.stream.write_all(part).unwrap();
            std::thread::sleep(2 * AFTER);
        }
        assert!(client.answer().error.is_none());
        assert_eq!(client.read(0, 1 << 10).unwrap(), vec![5; 1 << 10]);
    }
}

#[test]
fn who_waits_for_an_answer_is_not_idle() {
    let world = impatient();
    let mut client = Client::open(&world.server, "gate", Style::Simple);
    let cookie = client.send(Command::Flush, NONE, 0, 0, &[]);
    world.gate.wait_for(1);
    std::thread::sleep(3 * AFTER);
    assert_eq!(threads(), 1);
    world.gate.open();
    assert_eq!(client.answer().cookie, cookie);
    wait_until_idle();
    assert_eq!(client.read(0, 1), Ok(vec![0]));
}
