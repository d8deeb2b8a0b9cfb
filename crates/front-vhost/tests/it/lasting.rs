//! What outlasts a connection, or a process: requests in flight, growth, migration, restarts.

use crate::{
    device::TestDevice,
    driver::{Buffer, Guest, Host},
    raw::{GUEST, LOG_ALL, MEMORY, Raw, SIZE, USED, VERSION_1, message},
};
use env::Env;
use front_vhost::{Options, Server};
use rustix::fs::{MemfdFlags, memfd_create};
use std::{
    fs::File,
    io::Read,
    os::{
        fd::AsFd,
        unix::{fs::FileExt, net::UnixStream},
    },
    time::Duration,
};

const DISK: u64 = 32 << 20;
/// Bytes of the inflight region before its entries, and of each entry.
const HEADER: u64 = 16;
const ENTRY: u64 = 16;
/// Where in it the process that made it said how far it was.
const LAST_BATCH_HEAD: u64 = 12;
const USED_INDEX: u64 = 14;

/// The inflight region of one queue, as the server makes it.
struct Region {
    body: Vec<u8>,
    file: File,
}

impl Region {
    fn new(host: &Host) -> Self {
        let mut raw = Raw::connect(host);
        raw.negotiate(VERSION_1);
        let mut want = [0; 24];
        (want[16], want[18]) = (1, SIZE as u8);
        let (body, fd): ([u8; 24], _) = raw.get(message::GET_INFLIGHT_FD, &want);
        Region {
            body: body.to_vec(),
            file: fd.unwrap().into(),
        }
    }

    fn word(&self, at: u64) -> u16 {
        let mut word = [0; 2];
        self.file.read_exact_at(&mut word, at).unwrap();
        u16::from_le_bytes(word)
    }

    fn set_word(&self, at: u64, word: u16) {
        self.file.write_all_at(&word.to_le_bytes(), at).unwrap();
    }

    fn marks(&self) -> Vec<u16> {
        let mark = |head: &u16| self.word(HEADER + ENTRY * u64::from(*head)) & 0xff == 1;
        (0..SIZE).filter(mark).collect()
    }

    /// Notes what a process that died had taken.
    fn mark(&self, head: u16, counter: u64) {
        let at = HEADER + ENTRY * u64::from(head);
        self.file.write_all_at(&[1], at).unwrap();
        self.file
            .write_all_at(&counter.to_le_bytes(), at + 8)
            .unwrap();
    }
}

/// A connection with a ring that runs, and that keeps its requests in `region`.
fn resume(host: &Host, memory: Buffer, region: &Region) -> Raw {
    let mut raw = Raw::with_memory(host, memory);
    raw.negotiate(VERSION_1);
    raw.share_all();
    assert!(raw.ask(
        message::SET_INFLIGHT_FD,
        &region.body,
        &[region.file.as_fd()]
    ));
    // What a monitor knows that lost its back end: what is used.
    let used = raw.used();
    raw.start(used);
    raw
}

#[test]
fn what_is_in_flight_is_marked_until_it_is_answered() {
    let device = TestDevice::new(DISK);
    let host = Host::new(device.clone(), Options::default());
    let region = Region::new(&host);
    let mut raw = resume(&host, Buffer::new(MEMORY), &region);
    device.hold();
    for head in [3, 6] {
        raw.sector_request(head, 0, 0);
        raw.offer(head);
    }
    raw.kick();
    device.wait_for_waiting(2);
    assert_eq!(region.marks(), [3, 6]);
    device.release();
    raw.wait_for_used(2);
    assert_eq!(raw.stop(), 2);
    assert!(region.marks().is_empty());
    assert_eq!(region.word(USED_INDEX), 2);
}

#[test]
fn what_a_process_left_undone_is_done_by_the_next_in_its_order() {
    let host = Host::new(TestDevice::new(DISK), Options::default());
    let region = Region::new(&host);
    drop(resume(&host, Buffer::new(MEMORY), &region));
    // A process took four requests, numbers 65,533 and on, answered the third, and died.
    let (memory, base) = (Buffer::new(MEMORY), u16::MAX - 2);
    let mut raw = Raw::with_memory(&host, memory);
    raw.set_available(base);
    raw.set_used(base.wrapping_add(1));
    for (head, byte) in [(9, b'a'), (0, b'b'), (6, b'x'), (3, b'c')] {
        let at = raw.sector_request(head, 1, 7);
        raw.put(at, &[byte; 512]);
        raw.offer(head);
    }
    region.set_word(USED_INDEX, base.wrapping_add(1));
    for (head, counter) in [(9, 100), (0, 101), (3, 103)] {
        region.mark(head, counter);
    }
    let memory = raw.into_memory();
    let mut raw = resume(&host, memory, &region);
    raw.wait_for_used(base.wrapping_add(4));
    let heads: Vec<u32> = (1..4)
        .map(|n| raw.used_entry(base.wrapping_add(n)).0)
        .collect();
    assert_eq!(
        heads,
        [9, 0, 3],
        "not in the order in which they were taken"
    );
    // The one that was answered is not done again, and the ring goes on behind the last.
    let at = raw.sector_request(12, 0, 7);
    raw.set_available(base.wrapping_add(4));
    raw.offer(12);
    raw.kick();
    raw.wait_for_used(base.wrapping_add(5));
    assert!(raw.memory.bytes()[at..at + 512] == [b'c'; 512]);
    let stats = host.server.stats();
    assert_eq!((stats.resumed, stats.writes, stats.reads), (3, 3, 1));
    assert_eq!(raw.stop(), base.wrapping_add(5));
    assert!(region.marks().is_empty());
}

#[test]
fn what_was_shown_as_answered_is_not_done_again() {
    let host = Host::new(TestDevice::new(DISK), Options::default());
    let region = Region::new(&host);
    drop(resume(&host, Buffer::new(MEMORY), &region));
    // A process answered two requests with one batch, showed them, and died before it took their marks away.
    let mut raw = Raw::with_memory(&host, Buffer::new(MEMORY));
    for (head, counter) in [(0, 0), (3, 1), (6, 2)] {
        let at = raw.sector_request(head, 1, 7);
        raw.put(at, &[b'a' + head as u8; 512]);
        raw.offer(head);
        region.mark(head, counter);
    }
    region.set_word(LAST_BATCH_HEAD, 3);
    region.set_word(HEADER + 3 * ENTRY + 6, 0);
    raw.set_used(2);
    let memory = raw.into_memory();
    let mut raw = resume(&host, memory, &region);
    raw.wait_for_used(3);
    assert_eq!(host.server.stats().writes, 1);
    assert_eq!(raw.used_entry(2), (6, 1));
    assert_eq!(raw.stop(), 3);
}

#[test]
fn nobody_begins_before_the_last_guest_has_ended() {
    let device = TestDevice::new(DISK);
    let host = Host::new(device.clone(), Options::default());
    let region = Region::new(&host);
    let mut raw = resume(&host, Buffer::new(MEMORY), &region);
    device.hold();
    raw.sector_request(0, 0, 0);
    raw.offer(0);
    raw.kick();
    device.wait_for_waiting(1);
    // The connection is lost while the device is at work; the same guest comes back at once.
    let memory = raw.into_memory();
    std::thread::scope(|scope| {
        let next = scope.spawn(|| resume(&host, memory, &region));
        std::thread::sleep(Duration::from_millis(50));
        assert!(!next.is_finished(), "two sessions at once");
        device.release();
        let raw = next.join().unwrap();
        // It was answered by the one that had taken it.
        assert_eq!(raw.used(), 1);
    });
    assert_eq!(host.server.stats().resumed, 0);
}

#[test]
fn inflight_regions_of_other_queues_are_refused() {
    let host = Host::new(TestDevice::new(DISK), Options::default());
    for spoil in [
        |region: &Region| region.set_word(8, 7),
        |region: &Region| region.set_word(10, 8),
        |region: &Region| {
            region.set_word(LAST_BATCH_HEAD, SIZE);
            region.set_word(USED_INDEX, u16::MAX);
        },
    ] {
        let region = Region::new(&host);
        drop(resume(&host, Buffer::new(MEMORY), &region));
        spoil(&region);
        let raw = resume(&host, Buffer::new(MEMORY), &region);
        raw.wait_for_err();
    }
    // One that is too small for its queue, or that claims more than there is.
    for len in [64_u64, 1 << 30] {
        let mut region = Region::new(&host);
        region.body[..8].copy_from_slice(&len.to_ne_bytes());
        let mut raw = Raw::connect(&host);
        raw.negotiate(VERSION_1);
        raw.share_all();
        if raw.ask(
            message::SET_INFLIGHT_FD,
            &region.body,
            &[region.file.as_fd()],
        ) {
            raw.start(0);
            raw.wait_for_err();
        }
    }
}

#[test]
fn a_guest_learns_that_its_disk_has_grown() {
    let device = TestDevice::new(DISK);
    let host = Host::new(device.clone(), Options::default());
    let mut raw = Raw::running(&host);
    assert!(!host.server.resized(), "nobody said how to be told");
    let (mut ours, theirs) = UnixStream::pair().unwrap();
    assert!(raw.ask(message::SET_BACKEND_REQ_FD, &[], &[theirs.as_fd()]));
    drop(theirs);
    device.grow(2 * DISK);
    assert!(host.server.resized());
    let mut header = [0; 12];
    ours.read_exact(&mut header).unwrap();
    let words: Vec<u32> = header
        .chunks(4)
        .map(|w| u32::from_ne_bytes(w.try_into().unwrap()))
        .collect();
    assert_eq!(words, [2, 1, 0], "BACKEND_CONFIG_CHANGE_MSG");
    // The queues did not stop for it, and reach what is new.
    raw.sector_request(0, 0, 2 * DISK / 512 - 1);
    raw.offer(0);
    raw.kick();
    raw.wait_for_used(1);
    assert_eq!(raw.used_entry(0), (0, 513));
    drop(ours);
    assert!(!host.server.resized(), "nobody is there to be told");
}

#[test]
fn a_migration_learns_which_pages_were_written() {
    let host = Host::new(TestDevice::new(DISK), Options::default());
    let mut raw = Raw::running(&host);
    let log = File::from(memfd_create("log", MemfdFlags::CLOEXEC).unwrap());
    log.set_len(4096).unwrap();
    let body = [4096_u64, 0].map(u64::to_ne_bytes);
    raw.send(message::SET_LOG_BASE, body.as_flattened(), &[log.as_fd()]);
    let mut reply = [0; 28];
    raw.stream.read_exact(&mut reply).unwrap();
    raw.negotiate(VERSION_1 | LOG_ALL);
    let used = GUEST + USED as u64;
    let mut ring = raw.own_ring();
    ring[4] = 1;
    ring[32..].copy_from_slice(&used.to_ne_bytes());
    assert!(raw.ask(message::SET_VRING_ADDR, &ring, &[]));
    let read = raw.sector_request(0, 0, 0);
    raw.offer(0);
    raw.kick();
    raw.wait_for_used(1);
    raw.stop();
    let mut bits = [0; 4096];
    log.read_exact_at(&mut bits, 0).unwrap();
    let is_set = |page: &u64| bits[*page as usize / 8] & 1 << (page % 8) != 0;
    let pages: Vec<u64> = (0..4096 * 8).filter(is_set).collect();
    assert_eq!(pages, [used / 4096, (GUEST + read as u64) / 4096]);
}

#[test]
fn a_guest_goes_on_at_the_server_that_listens_next() {
    let device = TestDevice::new(DISK);
    let host = Host::new(device.clone(), Options::default());
    let mut guest = Guest::connect(&host, 1);
    guest.write(0, 0, &[5; 4096]).unwrap();
    assert!(host.server.stop(Duration::from_secs(20)));
    assert!(!host.path().exists(), "the socket stays");
    let (path, options) = (host.path(), Options::default());
    let next = Server::start(&Env::real(), &host.workers, &path, 0o600, device, options).unwrap();
    let mut guest = Guest::connect(&host, 1);
    assert!(guest.read(0, 0, 4096).unwrap() == [5; 4096]);
    drop(guest);
    assert!(next.stop(Duration::from_secs(20)));
}

#[test]
fn a_ring_that_was_stopped_goes_on_where_it_was() {
    let host = Host::new(TestDevice::new(DISK), Options::default());
    let mut raw = Raw::running(&host);
    for round in 0..40 {
        raw.sector_request(0, 0, 0);
        raw.offer(0);
        raw.kick();
        raw.wait_for_used(round + 1);
        assert_eq!(raw.stop(), round + 1);
        raw.start(round + 1);
    }
    assert!(host.server.disconnect());
    raw.wait_for_end();
    assert_eq!(host.server.stats().reads, 40);
}
