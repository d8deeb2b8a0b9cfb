//! Guests, and monitors, that do everything wrong: they harm only themselves.

use crate::{
    device::TestDevice,
    driver::{Buffer, Guest, Host},
    raw::{GUEST, MEMORY, NEXT, Raw, SIZE, TABLE, VERSION_1, WRITE, message},
};
use front_vhost::Options;
use rustix::fs::{MemfdFlags, memfd_create};
use std::{fs::File, io::Write, os::fd::AsFd, time::Duration};

const DISK: u64 = 32 << 20;

fn host() -> Host {
    Host::new(TestDevice::new(DISK), Options::default())
}

/// A guest that behaves is served as if nothing had been.
fn serves(host: &Host) {
    let mut guest = Guest::connect(host, 2);
    guest.write(1, 4096, &[7; 4096]).unwrap();
    assert!(guest.read(0, 4096, 4096).unwrap() == [7; 4096]);
}

/// What is put into the ring, whose chain begins with 0 unless it says otherwise.
type Break = fn(&mut Raw);

/// The start of the chain: a header that asks for a read of the first sector.
fn begin(raw: &Raw) {
    raw.header(0x8000, 0, 0);
    raw.describe(0, 0, (GUEST + 0x8000, 16), NEXT, 1);
}

const BROKEN: &[(&str, Break)] = &[
    ("a chain that is a loop", |raw| {
        begin(raw);
        raw.describe(0, 1, (GUEST + 0x9000, 512), WRITE | NEXT, 1);
    }),
    ("a loop in a table", |raw| {
        raw.describe(0, 0, (GUEST + 0xa000, 32), TABLE, 0);
        raw.header(0x8000, 0, 0);
        raw.describe(0xa000, 0, (GUEST + 0x8000, 16), NEXT, 1);
        raw.describe(0xa000, 1, (GUEST + 0x9000, 512), WRITE | NEXT, 1);
    }),
    ("a table in a table", |raw| {
        raw.describe(0, 0, (GUEST + 0xa000, 32), TABLE, 0);
        raw.describe(0xa000, 0, (GUEST + 0xb000, 32), TABLE, 0);
    }),
    ("a table that is itself", |raw| {
        raw.describe(0, 0, (GUEST, 256), TABLE, 0);
    }),
    ("a table of half a descriptor", |raw| {
        raw.describe(0, 0, (GUEST + 0xa000, 40), TABLE, 0);
    }),
    ("a table with a next", |raw| {
        raw.describe(0, 0, (GUEST + 0xa000, 32), TABLE | NEXT, 1);
    }),
    ("an empty table", |raw| {
        raw.describe(0, 0, (GUEST + 0xa000, 0), TABLE, 0);
    }),
    ("a table beyond memory", |raw| {
        raw.describe(0, 0, (GUEST + MEMORY as u64 - 8, 32), TABLE, 0);
    }),
    ("a table at the end of the address space", |raw| {
        raw.describe(0, 0, (u64::MAX - 7, 32), TABLE, 0);
    }),
    ("a buffer before memory", |raw| {
        begin(raw);
        raw.describe(0, 1, (GUEST - 1, 512), WRITE, 0);
    }),
    ("a buffer that goes beyond memory", |raw| {
        begin(raw);
        raw.describe(0, 1, (GUEST + MEMORY as u64 - 511, 512), WRITE, 0);
    }),
    ("a buffer that wraps around", |raw| {
        begin(raw);
        raw.describe(0, 1, (u64::MAX - 100, u32::MAX), WRITE, 0);
    }),
    ("a header nowhere", |raw| {
        raw.describe(0, 0, (0, 16), NEXT, 1);
    }),
    ("a next beyond the table", |raw| {
        begin(raw);
        raw.describe(0, 1, (GUEST + 0x9000, 512), WRITE | NEXT, SIZE);
    }),
    ("half a header", |raw| {
        raw.describe(0, 0, (GUEST + 0x8000, 15), NEXT, 1);
        raw.describe(0, 1, (GUEST + 0x9000, 513), WRITE, 0);
    }),
    ("nowhere to put a status", |raw| {
        begin(raw);
        raw.describe(0, 1, (GUEST + 0x9000, 512), 0, 0);
    }),
    ("nothing but a status", |raw| {
        raw.describe(0, 0, (GUEST + 0x9000, 1), WRITE, 0);
    }),
    ("what is read behind what is written", |raw| {
        raw.describe(0, 0, (GUEST + 0x9000, 1), WRITE | NEXT, 1);
        raw.describe(0, 1, (GUEST + 0x8000, 16), 0, 0);
    }),
    ("a descriptor of nothing", |raw| {
        begin(raw);
        raw.describe(0, 1, (GUEST + 0x9000, 0), WRITE, 0);
    }),
];

#[test]
fn a_chain_that_is_none_ends_its_queue_alone() {
    let host = host();
    for (n, (what, breaks)) in BROKEN.iter().enumerate() {
        let mut raw = Raw::running(&host);
        breaks(&mut raw);
        raw.offer(0);
        raw.kick();
        raw.wait_for_err();
        assert_eq!(raw.used(), 0, "{what} was answered");
        assert_eq!(host.server.stats().broken_queues, n as u64 + 1, "{what}");
        // The connection is there, and the ring starts again when it is set up again.
        raw.stop();
        raw.set_available(0);
        raw.start(0);
        raw.sector_request(0, 0, 0);
        raw.offer(0);
        raw.kick();
        raw.wait_for_used(1);
    }
    serves(&host);
}

#[test]
fn what_came_together_with_a_chain_that_is_none_and_before_it_is_done() {
    let device = TestDevice::new(DISK);
    let host = Host::new(device.clone(), Options::default());
    let mut raw = Raw::running(&host);
    raw.stop();
    // A read, a write, a read from nowhere; then none, and a read behind it.
    for (head, kind, sector) in [(0, 0, 8), (3, 1, 16), (6, 0, u64::MAX), (12, 0, 24)] {
        raw.sector_request(head, kind, sector);
    }
    for head in [0, 3, 6, SIZE, 12] {
        raw.offer(head);
    }
    raw.start(0);
    raw.kick();
    raw.wait_for_err();
    assert_eq!(raw.used(), 3);
    assert_eq!(raw.stop(), 3, "the next to be taken");
    assert_eq!(*device.expected.lock(), [8 * 512]);
    drop(raw);
    serves(&host);
}

#[test]
fn a_ring_that_holds_too_much_or_too_far_is_stopped() {
    let host = host();
    for (n, index) in [SIZE + 1, u16::MAX].into_iter().enumerate() {
        let mut raw = Raw::running(&host);
        raw.set_available(index);
        raw.kick();
        raw.wait_for_err();
        assert_eq!(host.server.stats().broken_queues, n as u64 + 1);
    }
    let mut raw = Raw::running(&host);
    raw.offer(SIZE);
    raw.kick();
    raw.wait_for_err();
    drop(raw);
    serves(&host);
}

#[test]
fn one_chain_made_available_for_ever_is_not_queued_for_ever() {
    let device = TestDevice::new(DISK);
    let host = Host::new(device.clone(), Options::default());
    let mut raw = Raw::running(&host);
    device.hold();
    raw.sector_request(0, 0, 0);
    for _ in 0..4 * SIZE {
        raw.offer(0);
        raw.kick();
        // Let it be taken.
        std::thread::sleep(Duration::from_millis(1));
    }
    raw.wait_for_err();
    device.release();
    drop(raw);
    serves(&host);
}

#[test]
fn requests_that_make_no_sense_are_errors_and_the_queue_goes_on() {
    let host = host();
    let mut raw = Raw::running(&host);
    let far = u64::MAX / 512;
    let cases = [
        (0, far),
        (0, u64::MAX),
        (1, far),
        (11, 0),
        (13, 0),
        (99, 0),
        (u32::MAX, 0),
    ];
    for (n, (kind, sector)) in cases.into_iter().enumerate() {
        let at = raw.sector_request(0, kind, sector);
        // Of ranges: absurd ones.
        raw.put(at, &[0xff; 512]);
        raw.offer(0);
        raw.kick();
        raw.wait_for_used(n as u16 + 1);
        let status = raw.memory.bytes()[at + 512];
        assert!(
            status == 1 || status == 2,
            "kind {kind} at {sector}: {status}"
        );
        assert_eq!(raw.used_entry(n as u16), (0, 1));
    }
    assert_eq!(host.server.stats().errors, cases.len() as u64);
    // Half a sector.
    let at = raw.sector_request(0, 0, 0);
    raw.describe(0, 1, (GUEST + at as u64, 300), NEXT | WRITE, 2);
    raw.offer(0);
    raw.kick();
    raw.wait_for_used(cases.len() as u16 + 1);
    assert_eq!(raw.memory.bytes()[at + 512], 1);
}

#[test]
fn a_header_and_a_status_may_be_cut_anywhere() {
    let host = host();
    let mut raw = Raw::running(&host);
    raw.put(0x9000, &[9; 512]);
    raw.header(0x8000, 1, 3);
    raw.describe(0, 0, (GUEST + 0x8000, 3), NEXT, 1);
    raw.describe(0, 1, (GUEST + 0x8003, 13), NEXT, 2);
    raw.describe(0, 2, (GUEST + 0x9000, 512), NEXT, 3);
    raw.describe(0, 3, (GUEST + 0xb000, 1), WRITE, 0);
    raw.offer(0);
    // The read has its header with no data behind, in a table, and its status behind the data in one buffer.
    raw.header(0x8800, 0, 3);
    raw.describe(0, 4, (GUEST + 0xa008, 32), TABLE, 0);
    raw.describe(0xa008, 0, (GUEST + 0x8800, 16), NEXT, 1);
    raw.describe(0xa008, 1, (GUEST + 0xc000, 513), WRITE, 0);
    raw.kick();
    raw.wait_for_used(1);
    raw.offer(4);
    raw.kick();
    raw.wait_for_used(2);
    assert_eq!((raw.used_entry(0), raw.used_entry(1)), ((0, 1), (4, 513)));
    assert!(raw.memory.bytes()[0xc000..0xc000 + 512] == [9; 512]);
    assert_eq!(raw.memory.bytes()[0xc000 + 512], 0);
}

#[test]
fn memory_that_is_not_there_is_refused() {
    let host = host();
    let len = MEMORY as u64;
    let tables: [&[[u64; 4]]; 7] = [
        &[[GUEST, len + 1, 0x7000, 0]],
        &[[GUEST, len, 0x7000, 4096]],
        &[[GUEST, len, 0x7000, u64::MAX - len]],
        &[[GUEST, u64::MAX, 0, 0]],
        &[[u64::MAX - 4096, len, 0x7000, 0]],
        &[[GUEST, 0, 0x7000, 0]],
        &[
            [GUEST, len, 0x7000, 0],
            [GUEST + 4096, 4096, 0x7000_0000, 0],
        ],
    ];
    for regions in tables {
        let mut raw = Raw::connect(&host);
        raw.negotiate(VERSION_1);
        let file = raw.memory.file().try_clone().unwrap();
        let fds: Vec<_> = regions.iter().map(|_| file.as_fd()).collect();
        let accepted = raw.ask(message::SET_MEM_TABLE, &Raw::table(regions), &fds);
        assert!(!accepted, "{regions:x?}");
    }
    let mut raw = Raw::connect(&host);
    raw.negotiate(VERSION_1);
    let pipe = raw.kick.try_clone().unwrap();
    let table = Raw::table(&[[GUEST, 4096, 0x7000, 0]]);
    assert!(!raw.ask(message::SET_MEM_TABLE, &table, &[pipe.as_fd()]));
    serves(&host);
}

#[test]
fn memory_that_can_be_sealed_cannot_be_cut_off() {
    let host = host();
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = File::from(memfd_create("guest", flags).unwrap());
    file.set_len(MEMORY as u64).unwrap();
    let mut raw = Raw::with_memory(&host, Buffer::of(file));
    raw.negotiate(VERSION_1);
    raw.share_all();
    raw.start(0);
    let cut = raw.memory.file().set_len(4096);
    assert!(cut.is_err(), "the memory is gone under the server");
    raw.sector_request(0, 0, 0);
    raw.offer(0);
    raw.kick();
    raw.wait_for_used(1);
}

#[test]
fn rings_outside_of_memory_do_not_start() {
    let host = host();
    let base = 0x7000_0000_0000;
    let end = base + MEMORY as u64;
    for (n, at) in [
        (0, base + 0x1000, base + 0x2000),
        (base, end - 4, base + 0x2000),
        (base, base + 0x1000, end - 8),
        (u64::MAX - 15, base, base),
    ]
    .into_iter()
    .enumerate()
    {
        let mut raw = Raw::connect(&host);
        raw.negotiate(VERSION_1);
        raw.share_all();
        let size = [0, u32::from(SIZE)].map(u32::to_ne_bytes);
        assert!(raw.ask(message::SET_VRING_NUM, size.as_flattened(), &[]));
        let ring = Raw::ring_at(at.0, at.1, at.2);
        assert!(raw.ask(message::SET_VRING_ADDR, &ring, &[]));
        raw.start_at_address();
        raw.wait_for_err();
        assert_eq!(host.server.stats().broken_queues, n as u64 + 1);
    }
    serves(&host);
}

#[test]
fn messages_that_make_no_sense_end_the_connection() {
    let host = host();
    let queue = |n: u32, value: u32| [n, value].map(u32::to_ne_bytes).as_flattened().to_vec();
    let inflight = |queues: u16, size: u16| {
        let mut body = vec![0; 24];
        body[16..18].copy_from_slice(&queues.to_ne_bytes());
        body[18..20].copy_from_slice(&size.to_ne_bytes());
        body
    };
    let messages = [
        (message::SET_VRING_NUM, queue(0, 0)),
        (message::SET_VRING_NUM, queue(0, 3)),
        (message::SET_VRING_NUM, queue(0, 2048)),
        (message::SET_VRING_NUM, queue(4, 16)),
        (message::SET_VRING_BASE, queue(0, 1 << 16)),
        (message::SET_VRING_ENABLE, queue(u32::MAX, 1)),
        (message::GET_VRING_BASE, queue(77, 0)),
        (message::SET_VRING_KICK, vec![0; 8]),
        (message::SET_VRING_KICK, vec![0, 1, 0, 0, 0, 0, 0, 0]),
        (message::SET_FEATURES, vec![0xff; 8]),
        (message::SET_PROTOCOL_FEATURES, vec![0xff; 8]),
        (message::SET_MEM_TABLE, vec![0xff; 40]),
        (message::SET_BACKEND_REQ_FD, vec![]),
        (message::GET_INFLIGHT_FD, inflight(5, 16)),
        (message::GET_INFLIGHT_FD, inflight(1, u16::MAX)),
        (message::SET_INFLIGHT_FD, inflight(1, 16)),
        (message::SET_LOG_BASE, vec![0; 16]),
        (77, vec![]),
        (u32::MAX, vec![1; 4096]),
    ];
    for (code, body) in messages {
        let mut raw = Raw::connect(&host);
        raw.negotiate(VERSION_1);
        assert!(
            !raw.ask(code, &body, &[]),
            "message {code} was taken: {body:?}"
        );
        raw.wait_for_end();
    }
    let mut raw = Raw::connect(&host);
    raw.stream.write_all(&[0xab; 4096]).unwrap();
    raw.wait_for_end();
    serves(&host);
}

#[test]
fn a_message_that_comes_byte_by_byte_is_one() {
    let host = host();
    let mut raw = Raw::running(&host);
    for byte in [21, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0] {
        raw.stream.write_all(&[byte]).unwrap();
        std::thread::sleep(Duration::from_millis(2));
    }
    // It brought no channel, and so ends the connection, but nothing else.
    raw.wait_for_end();
    serves(&host);
}

#[test]
fn half_a_message_does_not_keep_a_server_from_its_end() {
    let host = host();
    let mut raw = Raw::connect(&host);
    raw.negotiate(VERSION_1);
    raw.stream.write_all(&[5, 0, 0, 0, 1, 0]).unwrap();
    assert!(host.server.stop(Duration::from_secs(20)));
}

#[test]
fn a_second_guest_is_refused_while_the_first_is_there() {
    let host = host();
    let mut first = Guest::connect(&host, 1);
    let mut second = Raw::connect(&host);
    second.wait_for_end();
    first.write(0, 0, &[1; 512]).unwrap();
    assert_eq!(host.server.stats().connections_refused, 1);
    drop(first);
    serves(&host);
}
