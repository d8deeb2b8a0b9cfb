//! Clients that misbehave, and what others notice of it.

use crate::{SIZE, client::Client, client::NONE, world, world_with};
use front_nbd::{Config, Server};
use nbd_proto::{
    ErrorCode,
    reply::Style,
    request::{Command, CommandFlags},
};
use proptest::prelude::*;
use std::{io::Write, net::Shutdown, time::Duration};

const MIB: u64 = 1 << 20;

fn wait_for_connections(server: &Server, count: usize) {
    while server.connections().len() != count {
        std::thread::yield_now();
    }
}

#[test]
fn half_a_request_harms_nobody() {
    let world = world();
    let mut other = Client::open(&world.server, "disk", Style::Structured);
    for style in [Style::Simple, Style::Extended] {
        for cut in [1, 27, 30, 1000, 300_000] {
            let mut client = Client::open(&world.server, "disk", style);
            client.write(NONE, 0, &[5; 100]).unwrap();
            let write = Command::Write as u16;
            let wire = client.wire(write, NONE, MIB, 2 << 20, &vec![1; 2 << 20]);
            client.stream.write_all(&wire[..cut]).unwrap();
            client.stream.shutdown(Shutdown::Write).unwrap();
            assert!(client.was_closed());
            assert_eq!(other.read(0, 1), Ok(vec![5]));
        }
    }
    wait_for_connections(&world.server, 1);
}

#[test]
fn who_is_out_of_step_is_sent_away() {
    let world = world();
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let mut client = Client::open(&world.server, "disk", style);
        client.stream.write_all(&[0x25; 64]).unwrap();
        assert!(client.was_closed());
        let mut client = Client::open(&world.server, "disk", style);
        client.send(Command::Write, NONE, 0, 65 << 20, &[]);
        assert!(client.was_closed());
    }
    let mut client = Client::open(&world.server, "disk", Style::Extended);
    let flags = CommandFlags::PAYLOAD_LEN;
    client.send(Command::Trim, flags, 0, u64::MAX, &[]);
    assert!(client.was_closed());
}

/// Found by fuzzing: lengths of refused requests were counted as bytes, and two of them wrapped the sums.
#[test]
fn lengths_that_nobody_sends_are_not_counted() {
    let world = world();
    let mut client = Client::open(&world.server, "disk", Style::Extended);
    client.read(0, 100).unwrap();
    for _ in 0..3 {
        client.send(Command::Read, NONE, 0, u64::MAX, &[]);
        assert_eq!(client.answer().error, Some(ErrorCode::Overflow));
    }
    assert_eq!(world.server.stats().bytes_read, 100);
    drop(client);
    wait_for_connections(&world.server, 0);
    assert_eq!(world.server.stats().bytes_read, 100);
}

#[test]
fn requests_in_flight_are_answered_before_a_goodbye() {
    let world = world();
    let mut client = Client::open(&world.server, "gate", Style::Simple);
    let cookie = client.send(Command::Read, NONE, 2 * MIB, 4096, &[]);
    world.gate.wait_for(1);
    client.send(Command::Disconnect, NONE, 0, 0, &[]);
    world.gate.open();
    assert_eq!(client.answer().cookie, cookie);
    assert!(client.was_closed());
}

#[test]
fn who_does_not_read_harms_only_itself() {
    let world = world_with(Config {
        workers: 2,
        send_timeout: Duration::from_millis(300),
        ..Config::default()
    });
    world.gate.open();
    let mut deaf = Vec::new();
    for (offset, len) in [(0, 1 << 20), (2 * MIB, 4 << 20), (8 * MIB, 256 << 10)] {
        // Warm reads from the reader, cold ones from workers; until the server takes no more.
        let mut client = Client::open(&world.server, "gate", Style::Simple);
        client.stream.set_nonblocking(true).unwrap();
        let read = Command::Read as u16;
        while client
            .stream
            .try_clone()
            .and_then(|mut s| {
                let wire = client.wire(read, NONE, offset, len, &[]);
                s.write_all(&wire)
            })
            .is_ok()
        {}
        client.stream.set_nonblocking(false).unwrap();
        deaf.push(client);
    }
    let mut other = Client::open(&world.server, "gate", Style::Structured);
    for i in 0..200 {
        assert_eq!(other.read((1 + i % 60) * MIB, 4096), Ok(vec![0; 4096]));
    }
    wait_for_connections(&world.server, 1);
}

#[test]
fn a_slow_reader_gets_everything() {
    let world = world();
    world.gate.open();
    let mut client = Client::open(&world.server, "gate", Style::Simple);
    let mut expected = Vec::new();
    for i in 0..60 {
        // Warm ones between cold ones, more in all than the socket holds and the budget admits.
        let offset = if i % 3 == 0 { 0 } else { 2 * MIB };
        expected.push(client.send(Command::Read, NONE, offset, 2 << 20, &[]));
        expected.push(client.send(Command::Read, NONE, offset, 4096, &[]));
    }
    let mut answered: Vec<_> = expected.iter().map(|_| client.answer().cookie).collect();
    answered.sort_unstable();
    assert_eq!(answered, expected);
}

#[test]
fn small_budgets_slow_but_do_not_stop() {
    let world = world_with(Config {
        workers: 3,
        in_flight_bytes: 1 << 20,
        in_flight_bytes_per_connection: 300 << 10,
        ..Config::default()
    });
    world.gate.open();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let mut client = Client::open(&world.server, "gate", Style::Structured);
            env::spawn("client", move || {
                let read = |client: &mut Client, i: u64| {
                    client.send(Command::Read, NONE, (2 + i) * MIB, 200 << 10, &[])
                };
                let mut sent: Vec<_> = (0..30).map(|i| read(&mut client, i)).collect();
                sent.push(client.send(Command::Read, NONE, 2 * MIB, 8 << 20, &[]));
                let mut got: Vec<_> = sent.iter().map(|_| client.answer().cookie).collect();
                got.sort_unstable();
                assert_eq!(got, sent);
            })
            .unwrap()
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
}

/// The memory for requests in flight is all taken by clients that do not read their answers. Once, others then
/// waited until these were cut off: for any request of 128 KiB or more, also if nothing else of theirs was in flight.
#[test]
fn who_takes_all_memory_starves_nobody() {
    let world = world_with(Config {
        in_flight_bytes: 4 << 20,
        in_flight_bytes_per_connection: 4 << 20,
        send_timeout: Duration::from_secs(3600),
        ..Config::default()
    });
    world.gate.open();
    let deaf: Vec<_> = (0..4)
        .map(|_| {
            let mut client = Client::open(&world.server, "gate", Style::Simple);
            for _ in 0..8 {
                client.send(Command::Read, NONE, 2 * MIB, 900 << 10, &[]);
            }
            client
        })
        .collect();
    let pattern: Vec<u8> = (0..9 << 20).map(|n: u32| (n >> 9) as u8).collect();
    for style in [Style::Simple, Style::Structured, Style::Extended] {
        let mut client = Client::open(&world.server, "gate", style);
        client.write(NONE, 20 * MIB + 5, &pattern).unwrap();
        client
            .write(CommandFlags::FUA, 40 * MIB, &pattern[..100_000])
            .unwrap();
        assert_eq!(
            client.read(20 * MIB + 5, 9 << 20).as_deref(),
            Ok(&pattern[..])
        );
        // In parts, beside others that are in flight.
        let mut sent: Vec<_> = (0..6)
            .map(|i| client.send(Command::Read, NONE, (2 + i) * MIB, 200 << 10, &[]))
            .collect();
        sent.push(client.send(Command::Read, NONE, 30 * MIB, 8 << 20, &[]));
        let mut got: Vec<_> = sent.iter().map(|_| client.answer().cookie).collect();
        got.sort_unstable();
        assert_eq!(got, sent);
    }
    wait_for_connections(&world.server, deaf.len());
}

/// A read in parts that fails is told where the style can tell, and else ends the connection.
#[test]
fn a_read_that_fails_in_its_middle_is_an_error_and_no_data() {
    let world = world_with(Config {
        in_flight_bytes: 0,
        reserved_bytes_per_connection: 0,
        ..Config::default()
    });
    world.gate.open();
    for style in [Style::Structured, Style::Extended] {
        let mut client = Client::open(&world.server, "gate", style);
        // The last MiB of the device cannot be read.
        client.send(Command::Read, NONE, SIZE - 3 * MIB, 3 << 20, &[]);
        assert_eq!(client.answer().error, Some(ErrorCode::Io));
        client.send(Command::Read, NONE, SIZE - 3 * MIB, 4 << 20, &[]);
        assert_eq!(client.answer().error, Some(ErrorCode::Inval));
        assert_eq!(client.read(MIB, 3 << 20), Ok(vec![0; 3 << 20]));
        client.send(
            Command::Read,
            CommandFlags::DF,
            SIZE - 3 * MIB,
            3 << 20,
            &[],
        );
        assert!(client.try_answer().is_err());
    }
    let mut client = Client::open(&world.server, "gate", Style::Simple);
    client.send(Command::Read, NONE, SIZE - 3 * MIB, 3 << 20, &[]);
    assert!(client.try_answer().is_err());
}

#[test]
fn silent_clients_keep_nobody_out() {
    let world = world_with(Config {
        connections_max: 10,
        handshake_timeout: Duration::from_secs(3600),
        handshake_grace: Duration::ZERO,
        ..Config::default()
    });
    // The server's side of the handshake ends a moment after the client's.
    let open = |count| {
        let client = Client::open(&world.server, "disk", Style::Simple);
        let agreed = || world.server.connections().into_iter();
        while agreed().filter(|info| info.export.is_some()).count() != count {
            std::thread::yield_now();
        }
        client
    };
    let mut serious: Vec<_> = (1..=4).map(open).collect();
    let silent: Vec<_> = (0..100).map(|_| Client::connect(&world.server)).collect();
    serious.extend((5..=10).map(open));
    for client in &mut serious {
        assert_eq!(client.read(0, 4096), Ok(vec![0; 4096]));
    }
    wait_for_connections(&world.server, 10);
    assert!(silent.into_iter().all(|client| client.was_closed()));
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(world.server.serve_stream(theirs.into()).is_err());
}

#[test]
fn a_device_that_panics_costs_its_connections_only() {
    let world = world();
    let mut other = Client::open(&world.server, "gate", Style::Simple);
    for flags in [NONE, CommandFlags::FUA] {
        let mut client = Client::open(&world.server, "gate", Style::Simple);
        client.send(Command::Trim, flags, 0, 4096, &[]);
        assert!(client.was_closed());
    }
    assert_eq!(other.read(0, 5), Ok(vec![0; 5]));
    wait_for_connections(&world.server, 1);
}

#[test]
fn many_connections_up_to_the_limit() {
    let world = world_with(Config {
        connections_max: 100,
        ..Config::default()
    });
    let mut clients: Vec<_> = (0..100)
        .map(|_| Client::open(&world.server, "disk", Style::Structured))
        .collect();
    let (_ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(world.server.serve_stream(theirs.into()).is_err());
    for (i, client) in clients.iter_mut().enumerate() {
        client.write(NONE, i as u64, &[i as u8]).unwrap();
    }
    let all: Vec<u8> = (0..100).collect();
    for client in &mut clients {
        assert_eq!(client.read(0, 100).unwrap(), all);
    }
    let stats = world.server.stats();
    assert_eq!((stats.connections, stats.connections_refused), (100, 1));
    clients.truncate(99);
    wait_for_connections(&world.server, 99);
    Client::open(&world.server, "disk", Style::Simple);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn garbage_ends_the_connection_and_nothing_else(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        commands in proptest::collection::vec((0u16..10, any::<u16>(), any::<u64>(), 0u64..1 << 20), 0..5),
        handshake: bool,
    ) {
        let world = world();
        let mut client = Client::connect(&world.server);
        if !handshake {
            client.negotiate(Style::Extended);
            client.go("disk");
            for (command, flags, offset, length) in commands {
                let wire = client.wire(command, CommandFlags(flags), offset % (2 * SIZE), length, &[]);
                let _ = client.stream.write_all(&wire);
            }
        }
        let _ = client.stream.write_all(&bytes);
        client.stream.shutdown(Shutdown::Write).unwrap();
        prop_assert!(client.was_closed());
        let mut other = Client::open(&world.server, "disk", Style::Simple);
        prop_assert!(other.read(0, 16).is_ok());
    }
}
