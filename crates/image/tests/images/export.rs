use crate::support::{CancelAfter, World, noise, of, sparse};
use block::Durability;
use image::{ErrorKind, Exported, Target};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::MetadataExt,
    sync::atomic::Ordering::Relaxed,
};
use types::NoProgress;

const MIB: u64 = 1 << 20;

#[test]
fn a_round_trip_keeps_bytes_and_holes() {
    let world = World::new();
    let (path, out) = (world.path("x.raw"), world.path("out.raw"));
    let data = [0..4096, 8192..12288, MIB..11 * MIB, 299 * MIB..300 * MIB];
    sparse(&path, 300 * MIB, &data);
    world.import("v", &path).unwrap();
    let progress = CancelAfter::never();
    let exported = world.export_with("v", &out, false, &progress).unwrap();
    let (size, data) = (300 * MIB, 11 * MIB + 8192);
    assert_eq!(exported, Exported { size, data });
    let seen = (progress.done.load(Relaxed), progress.total.load(Relaxed));
    assert_eq!(seen, (size, size));
    assert!(fs::read(&out).unwrap() == fs::read(&path).unwrap());
    let stored = fs::metadata(&out).unwrap().blocks() * 512;
    assert!(stored <= data + MIB, "{stored} bytes for {data}");
    assert_eq!(world.images(), ["out.raw", "x.raw"]);
}

#[test]
fn what_is_written_later_is_not_exported() {
    let world = World::new();
    let (path, out) = (world.path("x.raw"), world.path("out.raw"));
    sparse(&path, 4 * MIB, &[0..MIB]);
    world.import("v", &path).unwrap();
    let device = world.store.device(&of("v")).unwrap();
    // Not flushed, and not aligned to blocks: still a part of the volume.
    device
        .write(3 * MIB + 100, &[7; 5000], Durability::Volatile)
        .unwrap();
    world
        .store
        .create_snapshot(&"v".parse().unwrap(), &"s".parse().unwrap())
        .unwrap();
    device.write(0, &[9; 4096], Durability::Volatile).unwrap();
    let mut then = fs::read(&path).unwrap();
    then[3 * MIB as usize + 100..][..5000].fill(7);
    world.export("v@s", &out).unwrap();
    assert!(fs::read(&out).unwrap() == then);
    world.export_with("v", &out, true, &NoProgress).unwrap();
    then[..4096].fill(9);
    assert!(fs::read(&out).unwrap() == then);
}

#[test]
fn nothing_is_replaced_unless_that_is_allowed() {
    let world = World::new();
    let (path, out) = (world.path("x.raw"), world.path("out.raw"));
    sparse(&path, MIB, &[0..8192]);
    world.import("v", &path).unwrap();
    fs::write(&out, b"precious").unwrap();
    let refused = world.export("v", &out).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists);
    assert!(
        refused.to_string().contains("allow overwriting"),
        "{refused}"
    );
    assert_eq!(fs::read(&out).unwrap(), b"precious");
    world.export_with("v", &out, true, &NoProgress).unwrap();
    assert!(fs::read(&out).unwrap() == fs::read(&path).unwrap());
    // Another export's work is not touched.
    fs::write(world.path("new.raw.partial"), b"theirs").unwrap();
    let refused = world.export("v", &world.path("new.raw")).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists);
    assert_eq!(fs::read(world.path("new.raw.partial")).unwrap(), b"theirs");
}

#[test]
fn paths_that_cannot_be_written_are_refused() {
    let world = World::new();
    let path = world.path("x.raw");
    sparse(&path, MIB, &[0..8192]);
    world.import("v", &path).unwrap();
    let kind = |path: &str| {
        world
            .export_with("v", path.as_ref(), true, &NoProgress)
            .unwrap_err()
            .kind()
    };
    assert_eq!(kind(world.path("").to_str().unwrap()), ErrorKind::Invalid);
    assert_eq!(kind("/dev/null"), ErrorKind::Invalid);
    assert_eq!(kind("out.raw"), ErrorKind::Invalid);
    assert_eq!(
        kind(world.path("no/out.raw").to_str().unwrap()),
        ErrorKind::NotFound
    );
    let inside = world.store.dir().join("catalog.redb");
    assert_eq!(kind(inside.to_str().unwrap()), ErrorKind::Invalid);
    let none = world.export("w", &world.path("out.raw")).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    let none = world.export("v@s", &world.path("out.raw")).unwrap_err();
    assert_eq!(none.kind(), ErrorKind::NotFound);
    assert_eq!(world.images(), ["x.raw"]);
}

#[test]
fn a_cancelled_export_leaves_no_file() {
    let world = World::new();
    let (path, out) = (world.path("x.raw"), world.path("out.raw"));
    sparse(&path, 40 * MIB, &[0..30 * MIB]);
    world.import("v", &path).unwrap();
    for reports in 0..6 {
        let progress = CancelAfter::reports(reports);
        let cancelled = world.export_with("v", &out, false, &progress).unwrap_err();
        assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
        assert_eq!(world.images(), ["x.raw"], "after {reports} reports");
    }
    fs::write(&out, b"precious").unwrap();
    let progress = CancelAfter::reports(3);
    world.export_with("v", &out, true, &progress).unwrap_err();
    assert_eq!(fs::read(&out).unwrap(), b"precious");
}

#[test]
fn a_stream_gets_every_byte() {
    let world = World::new();
    let path = world.path("x.raw");
    sparse(&path, 30 * MIB, &[4096..8192, 20 * MIB..29 * MIB + 1]);
    world.import("v", &path).unwrap();
    let mut bytes = Vec::new();
    let target = Target::Writer(&mut bytes);
    image::export(&world.store, &world.env, &of("v"), target, &NoProgress).unwrap();
    assert!(bytes == fs::read(&path).unwrap());
}

#[test]
fn a_stream_that_fails_ends_the_export() {
    struct Full(usize);
    impl Write for Full {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(bytes.len())
                .ok_or(io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let world = World::new();
    let path = world.path("x.raw");
    fs::write(&path, noise(3, 30 * MIB as usize)).unwrap();
    world.import("v", &path).unwrap();
    let mut full = Full(10 * MIB as usize);
    let target = Target::Writer(&mut full);
    let failed = image::export(&world.store, &world.env, &of("v"), target, &NoProgress);
    assert_eq!(failed.unwrap_err().kind(), ErrorKind::Io);
}
