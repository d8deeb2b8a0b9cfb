//! Requests of a driver that does everything right.

use crate::{
    device::TestDevice,
    driver::{Guest, Host},
};
use front_vhost::Options;
use std::sync::atomic::Ordering::SeqCst;
use virtio_driver::{VirtioBlkFeatureFlags, VirtioFeatureFlags};

const SIZE: u64 = 32 << 20;
const EIO: i32 = -5;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len)
        .map(|i| (i as u8).wrapping_mul(31).wrapping_add((i >> 8) as u8) ^ seed)
        .collect()
}

#[test]
fn what_is_written_is_read_whatever_its_size() {
    let host = Host::new(TestDevice::new(SIZE), Options::default());
    let mut guest = Guest::connect(&host, 1);
    let requests = [
        (0, 512),
        (512, 4096),
        (4096, 4096),
        (8192 - 512, 1024),
        (1 << 20, 128 << 10),
        ((2 << 20) + 512, (128 << 10) + 512),
        (4 << 20, 4 << 20),
        (SIZE - 512, 512),
    ];
    for (seed, (offset, len)) in requests.into_iter().enumerate() {
        let data = pattern(len, seed as u8);
        guest.write(0, offset, &data).unwrap();
        assert!(
            guest.read(0, offset, len).unwrap() == data,
            "{len} at {offset}"
        );
    }
    guest.flush(0).unwrap();
    let stats = host.server.stats();
    let requests = requests.len() as u64;
    assert_eq!(
        (stats.reads, stats.writes, stats.flushes),
        (requests, requests, 1)
    );
    assert_eq!((stats.errors, stats.connections), (0, 1));
}

#[test]
fn parts_are_written_and_read_in_their_order() {
    let host = Host::new(TestDevice::new(SIZE), Options::default());
    let mut guest = Guest::connect(&host, 1);
    // Short and far apart, long ones, neighbours, and more than one piece of them.
    let shapes: [&[(usize, usize)]; 4] = [
        &[(8192, 512), (0, 1024), (100, 4096), (1 << 20, 512)],
        &[(0, 64 << 10), (1 << 20, 128 << 10)],
        &[(0, 4096), (4096, 4096), (8192, 4096)],
        &[
            (0, 1 << 20),
            (1 << 20, 512),
            (2 << 20, 1 << 20),
            (3 << 20, 512),
        ],
    ];
    for (seed, parts) in shapes.into_iter().enumerate() {
        let buffer = pattern(guest.buffer.len(), seed as u8);
        guest.buffer.bytes().copy_from_slice(&buffer);
        guest.scattered(0, 4096, parts, true).unwrap();
        let joined: Vec<u8> = parts
            .iter()
            .flat_map(|&(at, len)| buffer[at..at + len].to_vec())
            .collect();
        assert!(
            guest.read(0, 4096, joined.len()).unwrap() == joined,
            "{parts:?}"
        );
        guest.buffer.bytes().fill(0);
        guest.scattered(0, 4096, parts, false).unwrap();
        for &(at, len) in parts {
            let got = &guest.buffer.bytes()[at..at + len];
            assert!(*got == buffer[at..at + len], "{parts:?} at {at}");
        }
        let all: usize = parts.iter().map(|&(_, len)| len).sum();
        let touched = guest
            .buffer
            .bytes()
            .iter()
            .filter(|&&byte| byte != 0)
            .count();
        assert!(touched <= all, "it wrote beside its buffers");
    }
}

#[test]
fn zeroes_and_discards_reach_the_device() {
    let host = Host::new(TestDevice::new(SIZE), Options::default());
    let mut guest = Guest::connect(&host, 1);
    let mut model = pattern(1 << 20, 3);
    guest.write(0, 0, &model).unwrap();
    let done = guest.run(
        0,
        |q, _| {
            q.write_zeroes(512, 8192, true, 1).unwrap();
            q.write_zeroes(65_536, 512, false, 2).unwrap();
            q.discard(131_072 + 512, 8192, 3).unwrap();
        },
        3,
    );
    assert!(done.iter().all(|(_, outcome)| outcome.is_ok()), "{done:?}");
    model[512..512 + 8192].fill(0);
    model[65_536..65_536 + 512].fill(0);
    model[131_072 + 4096..131_072 + 8192].fill(0);
    assert!(guest.read(0, 0, 1 << 20).unwrap() == model);
    let stats = host.server.stats();
    assert_eq!((stats.write_zeroes, stats.discards), (2, 1));
}

#[test]
fn nothing_is_done_beyond_the_end() {
    let host = Host::new(TestDevice::new(SIZE), Options::default());
    let mut guest = Guest::connect(&host, 1);
    assert_eq!(guest.write(0, SIZE, &[1; 512]), Err(EIO));
    assert_eq!(guest.write(0, SIZE - 512, &[1; 1024]), Err(EIO));
    assert_eq!(guest.read(0, u64::MAX - 511, 512), Err(EIO));
    let far = guest.run(0, |q, _| q.discard(SIZE - 4096, 8192, 0).unwrap(), 1);
    assert_eq!(far, [(0, Err(EIO))]);
    // Nor half of it: its parts are long enough to be written one by one.
    guest.buffer.bytes().fill(1);
    let parts = [(0, 64 << 10), (1 << 20, 64 << 10)];
    assert_eq!(
        guest.scattered(0, SIZE - (64 << 10), &parts, true),
        Err(EIO)
    );
    assert!(
        guest
            .read(0, SIZE - 512, 512)
            .unwrap()
            .iter()
            .all(|&byte| byte == 0)
    );
    assert_eq!(host.server.stats().errors, 5);
}

#[test]
fn queues_are_independent_and_many_requests_go_around_the_ring() {
    let device = TestDevice::new(SIZE);
    let host = Host::new(device.clone(), Options::default());
    let mut guest = Guest::connect(&host, 4);
    assert_eq!(host.server.guest().unwrap().queues, 4);
    // More than 2^16 requests for one of them, so that its indexes wrap.
    let per_batch = 16;
    for round in 0..4200 {
        let (rounds, queue) = (4200, round % 8);
        let queue = if queue < 4 { queue } else { 0 };
        let fill = |q: &mut virtio_driver::VirtioBlkQueue<'static, usize>,
                    b: &crate::driver::Buffer| {
            for i in 0..per_batch {
                let at = i * 4096;
                b.bytes()[at..at + 8].copy_from_slice(&(round * 16 + i).to_le_bytes());
                q.write(
                    (round % 64 * 65_536 + at) as u64,
                    &b.bytes()[at..at + 4096],
                    i,
                )
                .unwrap();
            }
        };
        let done = guest.run(queue, fill, per_batch);
        assert_eq!(done.len(), per_batch);
        assert!(done.iter().all(|(_, outcome)| outcome.is_ok()));
        assert!(rounds > round);
    }
    let last = guest.read(1, 4199 % 64 * 65_536, 65_536).unwrap();
    for i in 0..per_batch {
        assert_eq!(last[i * 4096..i * 4096 + 8], (4199 * 16 + i).to_le_bytes());
    }
}

#[test]
fn what_waits_keeps_nobody_else_waiting() {
    let device = TestDevice::new(SIZE);
    let host = Host::new(device.clone(), Options::default());
    let mut guest = Guest::connect(&host, 1);
    device.hold();
    guest.submit(0, |q, b| q.read(0, &mut b.bytes()[..4096], 1).unwrap());
    device.wait_for_waiting(1);
    // A write behind it is answered first.
    let done = guest.run(
        0,
        |q, b| q.write(8192, &b.bytes()[8192..12_288], 2).unwrap(),
        1,
    );
    assert_eq!(done, [(2, Ok(()))]);
    guest.submit(0, |q, _| q.flush(3).unwrap());
    device.wait_for_waiting(2);
    device.release();
    let mut done = guest.answers(0, 2);
    done.sort_unstable();
    assert_eq!(done, [(1, Ok(())), (3, Ok(()))]);
    assert_eq!(device.flushes.load(SeqCst), 1);
}

#[test]
fn a_guest_that_is_alone_waits_for_itself() {
    let device = TestDevice::new(SIZE);
    let host = Host::new(device.clone(), Options::default());
    let mut guest = Guest::connect(&host, 1);
    let data = pattern(4096, 1);
    guest.write(0, 4096, &data).unwrap();
    device.chill();
    for _ in 0..100 {
        assert!(guest.read(0, 4096, 4096).unwrap() == data);
        guest.flush(0).unwrap();
    }
    assert_eq!(device.flushes.load(SeqCst), 100);
}

#[test]
fn a_driver_without_event_indexes_is_served() {
    let host = Host::new(TestDevice::new(SIZE), Options::default());
    let all = VirtioBlkFeatureFlags::all();
    let mut guest = Guest::with_features(&host, 2, VirtioFeatureFlags::VERSION_1, all);
    for round in 0..500_u32 {
        let data = pattern(4096, round as u8);
        let queue = round as usize % 2;
        guest.write(queue, 4096, &data).unwrap();
        assert!(guest.read(queue, 4096, 4096).unwrap() == data);
    }
}

#[test]
fn a_driver_that_cannot_flush_gets_durable_writes() {
    let device = TestDevice::new(SIZE);
    let host = Host::new(device.clone(), Options::default());
    let flush = VirtioBlkFeatureFlags::FLUSH;
    let mut guest = Guest::with_features(
        &host,
        1,
        VirtioFeatureFlags::VERSION_1,
        VirtioBlkFeatureFlags::all() - flush,
    );
    guest.write(0, 0, &[1; 4096]).unwrap();
    guest.run(0, |q, _| q.discard(0, 4096, 0).unwrap(), 1);
    assert_eq!(device.durable_writes.load(SeqCst), 2);
    drop(guest);
    let mut guest = Guest::connect(&host, 1);
    guest.write(0, 0, &[1; 4096]).unwrap();
    assert_eq!(device.durable_writes.load(SeqCst), 2);
}
