use crate::support::{CancelAfter, Meanwhile, World, from_path, noise, of, sparse};
use image::{Error, ErrorKind, Import, Source};
use std::{
    collections::BTreeSet,
    fs,
    io::{self, Read},
    os::unix::fs::FileExt,
    path::Path,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, UNIX_EPOCH},
};
use types::{BLOCK_SIZE, ImageFormat, NoProgress, VOLUME_SIZE_MIN};
use volume::VolumeRecord;

const MIB: u64 = 1 << 20;

fn import_stream(
    world: &World,
    reader: &mut (dyn Read + Send),
    size: Option<u64>,
) -> Result<VolumeRecord, Error> {
    let request = Import {
        size,
        ..Import::new("v".parse().unwrap(), Source::Reader(reader))
    };
    let imported = image::import(&world.store, &world.env, request, &NoProgress)?;
    Ok(imported.volume)
}

fn is_gone(world: &World) {
    let found = world.store.find(&"v".parse().unwrap());
    assert_eq!(found.unwrap_err().kind(), volume::ErrorKind::NotFound);
}

#[test]
fn a_file_with_holes_becomes_a_volume_with_holes() {
    let world = World::new();
    let path = world.path("x.raw");
    // Data within blocks, across chunks, and at the end.
    let data = [5000..9000, MIB..12 * MIB, 199 * MIB + 7..200 * MIB];
    sparse(&path, 200 * MIB, &data);
    let progress = CancelAfter::never();
    let request = from_path("v", &path);
    let imported = image::import(&world.store, &world.env, request, &progress).unwrap();
    let record = imported.volume;
    assert_eq!(record.size, 200 * MIB);
    assert_eq!(record.mapped_blocks, 2 + 11 * 256 + 256);
    let seen = (progress.done.load(Relaxed), progress.total.load(Relaxed));
    assert_eq!(seen, (200 * MIB, 200 * MIB));
    assert!(world.contents("v") == fs::read(&path).unwrap());
}

/// As a machine does that still runs from it: what was read would be of no instant.
#[test]
fn an_image_that_is_changed_while_it_is_read_is_refused() {
    let world = World::new();
    let path = world.path("x.raw");
    sparse(&path, 8 * MIB, &[0..8 * MIB]);
    let open = || fs::OpenOptions::new().write(true).open(&path).unwrap();
    let later = world.env.clock.now() + Duration::from_secs(9);
    let changes: [&(dyn Fn() + Send + Sync); 2] =
        [&|| open().write_all_at(b"new", 8 * MIB).unwrap(), &|| {
            open().write_all_at(b"new", 0).unwrap();
            open().set_modified(UNIX_EPOCH + later).unwrap();
        }];
    for change in changes {
        let request = from_path("v", &path);
        let progress = Meanwhile(change);
        let refused = image::import(&world.store, &world.env, request, &progress).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Invalid);
        let text = refused.to_string();
        assert!(
            text.ends_with("x.raw was changed after the import began"),
            "{text}"
        );
        is_gone(&world);
    }
}

/// An image whose blocks have these tags: noise of its own for each, and zeroes for 0.
fn tagged(path: &Path, tags: &[u64]) {
    let block = |&tag: &u64| match tag {
        0 => vec![0; BLOCK_SIZE],
        tag => noise(tag, BLOCK_SIZE),
    };
    let bytes: Vec<u8> = tags.iter().flat_map(block).collect();
    fs::write(path, bytes).unwrap();
}

/// What is saved is what a scan of the images says: zeroes, what an image repeats, and what the store has already.
#[test]
fn what_is_the_same_is_stored_once() {
    let world = World::new();
    let tag = |n: u64| match n % 8 {
        0 => 0,
        1 => 1 + n % 40,
        _ => 100 + n,
    };
    let golden: Vec<u64> = (0..4096).map(tag).collect();
    let mut changed = golden.clone();
    changed
        .iter_mut()
        .step_by(10)
        .for_each(|tag| *tag += 1 << 20);
    let mut seen = BTreeSet::from([0]);
    for (n, tags) in [&golden, &golden, &changed].into_iter().enumerate() {
        let path = world.path("x.raw");
        tagged(&path, tags);
        let progress = CancelAfter::never();
        let request = from_path(&format!("v{n}"), &path);
        image::import(&world.store, &world.env, request, &progress).unwrap();
        let new = tags.iter().filter(|tag| seen.insert(**tag)).count();
        let (stored, scanned) = (progress.stored.load(Relaxed), (new * BLOCK_SIZE) as u64);
        // Beside the data there are the packs' headers, and the map.
        let more = stored.checked_sub(scanned).expect("all of it is there");
        assert!(more < scanned / 50 + MIB / 4, "{n}: {stored} of {scanned}");
    }
}

#[test]
fn odd_sizes_are_filled_up_with_zeroes() {
    let world = World::new();
    let lens = [1, 511, 512, 4096, 4097, MIB - 1, MIB + 1, 3 * MIB + 513];
    for (i, len) in lens.into_iter().enumerate() {
        let path = world.path("odd.raw");
        let mut bytes = noise(len, len as usize);
        fs::write(&path, &bytes).unwrap();
        let record = world.import(&format!("v{i}"), &path).unwrap();
        let size = len.next_multiple_of(512).max(VOLUME_SIZE_MIN);
        assert_eq!(record.size, size, "{len}");
        bytes.resize(size as usize, 0);
        assert!(world.contents(&format!("v{i}")) == bytes, "{len}");
    }
}

#[test]
fn a_size_may_be_asked_for_but_not_a_smaller_one() {
    let world = World::new();
    let path = world.path("x.raw");
    sparse(&path, 2 * MIB, &[0..2 * MIB]);
    for wrong in [MIB, 4 * MIB + 1, 100, 0, u64::MAX] {
        let size = Some(wrong);
        let request = Import {
            size,
            ..from_path("v", &path)
        };
        let refused = image::import(&world.store, &world.env, request, &NoProgress);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Invalid, "{wrong}");
    }
    is_gone(&world);
    let size = Some(4 * MIB);
    let request = Import {
        size,
        ..from_path("v", &path)
    };
    let imported = image::import(&world.store, &world.env, request, &NoProgress).unwrap();
    let record = imported.volume;
    assert_eq!((record.size, record.mapped_blocks), (4 * MIB, 512));
}

/// Gives a few bytes at a time, as sockets do.
struct Trickle<'a>(&'a [u8], usize);

impl Read for Trickle<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.1 = self.1 % 65521 + 1;
        if self.1.is_multiple_of(7) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let len = buf.len().min(self.1 * 8);
        self.0.read(&mut buf[..len])
    }
}

#[test]
fn a_stream_becomes_a_volume() {
    let world = World::new();
    let mut bytes = noise(1, 10 * MIB as usize + 700);
    bytes[3 * MIB as usize..8 * MIB as usize].fill(0);
    let record = import_stream(&world, &mut Trickle(&bytes, 0), None).unwrap();
    assert_eq!(record.size, 10 * MIB + 1024);
    assert_eq!(record.mapped_blocks, 5 * 256 + 1);
    bytes.resize(record.size as usize, 0);
    assert!(world.contents("v") == bytes);
}

#[test]
fn a_stream_is_not_longer_than_the_size_asked_for() {
    let world = World::new();
    let bytes = noise(1, 2 * MIB as usize + 1);
    let refused = import_stream(&world, &mut &bytes[..], Some(2 * MIB)).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    is_gone(&world);
    let record = import_stream(&world, &mut &bytes[1..], Some(3 * MIB)).unwrap();
    assert_eq!(record.size, 3 * MIB);
}

#[test]
fn a_stream_that_fails_leaves_nothing() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            Err(io::ErrorKind::ConnectionReset.into())
        }
    }
    let world = World::new();
    let bytes = noise(1, 20 * MIB as usize);
    let failed = import_stream(&world, &mut bytes.chain(Broken), None).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::Io);
    is_gone(&world);
    let empty = import_stream(&world, &mut io::empty(), None).unwrap_err();
    assert_eq!(empty.kind(), ErrorKind::Invalid);
    is_gone(&world);
}

#[test]
fn what_is_known_to_be_no_disk_is_refused() {
    let world = World::new();
    let path = world.path("x.img");
    let mut gzip = vec![0; 8192];
    gzip[..4].copy_from_slice(b"\x1f\x8b\x08\x00");
    fs::write(&path, &gzip).unwrap();
    let refused = world.import("v", &path).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let shown = path.display();
    assert_eq!(
        refused.to_string(),
        format!(
            "{shown} looks like gzip-compressed data, not a disk; unpack it first: gzip -dk {shown}"
        )
    );
    let refused = import_stream(&world, &mut &gzip[..], None).unwrap_err();
    assert!(refused.to_string().contains("gzip"), "{refused}");
    fs::write(&path, b"").unwrap();
    assert_eq!(
        world.import("v", &path).unwrap_err().kind(),
        ErrorKind::Invalid
    );
    is_gone(&world);
    // Who insists gets the bytes.
    fs::write(&path, &gzip).unwrap();
    let request = Import {
        format: Some(ImageFormat::Raw),
        ..from_path("v", &path)
    };
    image::import(&world.store, &world.env, request, &NoProgress).unwrap();
    assert!(world.contents("v").starts_with(&gzip));
}

#[test]
fn what_is_not_a_file_is_refused() {
    let world = World::new();
    let images = world.dir.path().join("images");
    let refused = |path: &std::path::Path| world.import("v", path).unwrap_err();
    assert_eq!(refused(&world.path("none")).kind(), ErrorKind::NotFound);
    assert!(refused(&images).to_string().contains("is a directory"));
    assert!(
        refused("images/x.raw".as_ref())
            .to_string()
            .contains("absolute")
    );
    // Opening a pipe for reading waits for a writer.
    let pipe = world.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    assert!(refused(&pipe).to_string().contains("neither a file"));
    assert_eq!(refused("/dev/zero".as_ref()).kind(), ErrorKind::Invalid);
}

#[test]
fn a_name_that_is_taken_is_refused_before_anything_is_read() {
    let world = World::new();
    let path = world.path("x.raw");
    sparse(&path, MIB, &[0..4096]);
    world.import("v", &path).unwrap();
    assert_eq!(
        world.import("v", &path).unwrap_err().kind(),
        ErrorKind::Exists
    );
    struct Untouched;
    impl Read for Untouched {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            panic!("was read")
        }
    }
    let refused = import_stream(&world, &mut Untouched, None).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Exists);
}

#[test]
fn a_cancelled_import_leaves_nothing_and_can_be_repeated() {
    let world = World::new();
    let path = world.path("x.raw");
    sparse(&path, 40 * MIB, &[0..30 * MIB]);
    let counting = CancelAfter::never();
    let request = || from_path("v", &path);
    let import =
        |progress: &CancelAfter| image::import(&world.store, &world.env, request(), progress);
    for reports in 0..4 {
        let cancelled = import(&CancelAfter::reports(reports)).unwrap_err();
        assert_eq!(cancelled.kind(), ErrorKind::Cancelled);
        is_gone(&world);
    }
    import(&counting).unwrap();
    assert!(counting.seen.load(Relaxed) > 4);
    assert!(world.contents("v") == fs::read(&path).unwrap());
    // It is a volume like any other.
    world.store.device(&of("v")).unwrap().flush().unwrap();
}

/// Zeroes, what the store has already, and what compression takes off are saved; the rest is told as stored.
#[test]
fn what_an_import_and_an_export_store_is_told() {
    let world = World::new();
    let raw = world.path("raw");
    sparse(&raw, 40 * MIB, &[0..4 * MIB]);
    let file = fs::OpenOptions::new().write(true).open(&raw).unwrap();
    // The same once more, and as much again that shrinks to little.
    file.write_all_at(&noise(0, 4 << 20), 8 * MIB).unwrap();
    let lines = (0..1 << 16).map(|number| format!("{number:>63}\n"));
    let text: String = lines.collect();
    file.write_all_at(text.as_bytes(), 20 * MIB).unwrap();
    let stored = |name: &str| {
        let seen = CancelAfter::never();
        let request = from_path(name, &raw);
        image::import(&world.store, &world.env, request, &seen).unwrap();
        assert_eq!(seen.done.into_inner(), 40 * MIB);
        seen.stored.into_inner()
    };
    let first = stored("first");
    assert!((4 * MIB..6 * MIB).contains(&first), "{first}");
    let second = stored("second");
    assert!(second < MIB, "{second}");
    let seen = CancelAfter::never();
    world
        .export_with("first", &world.path("out"), false, &seen)
        .unwrap();
    assert_eq!(seen.stored.into_inner(), 12 * MIB);
}
