//! Damaged files, failing disks and full ones: errors, never a panic, never wrong contents.

#![expect(clippy::unwrap_used, reason = "tests: the helpers too")]

mod support;

use catalog::{Catalog, Change, ErrorKind, IdKind};
use catalog_redb::RedbCatalog;
use env::{Env, OpenOptions};
use sim::SimEnv;
use std::path::Path;
use support::{Contents, contents, snapshot, volume};
use types::VolumeId;

const PATH: &str = "/catalog.redb";

/// A few volumes with snapshots, in several commits.
fn fill(catalog: &dyn Catalog) {
    for id in 1..20 {
        let mut changes = vec![Change::PutVolume(volume(id, &format!("vm-{id}")))];
        changes.extend(
            (0..5).map(|n| Change::PutSnapshot(snapshot(id, id * 5 + n, &format!("daily-{n}")))),
        );
        catalog.commit(&changes).unwrap();
    }
    catalog.reserve(IdKind::Pack, 100).unwrap();
}

/// A catalog's bytes after a clean close, or as a killed process leaves them, and what is in it.
fn sample(closed: bool) -> (Vec<u8>, Contents) {
    let sim = SimEnv::new(1);
    let catalog = RedbCatalog::create(&sim.env(), Path::new(PATH)).unwrap();
    fill(&catalog);
    let expected = contents(&catalog).unwrap();
    if closed {
        drop(catalog);
    } else {
        sim.kill();
    }
    (sim.env().files.read_all(Path::new(PATH)).unwrap(), expected)
}

fn machine_with(bytes: &[u8]) -> SimEnv {
    let sim = SimEnv::new(1);
    let options = OpenOptions {
        write: true,
        create_new: true,
        direct: false,
    };
    let file = sim.env().files.open(Path::new(PATH), options).unwrap();
    file.write_at(0, bytes).unwrap();
    sim
}

/// Opens these bytes and reads and writes all: what is read must be right. Says whether that went well.
fn survives(bytes: &[u8], expected: &Contents, what: &str) -> bool {
    let sim = machine_with(bytes);
    let outcome = use_all(&sim.env(), expected, what);
    if let Err(error) = &outcome {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{what}: {error:?}");
    }
    outcome.is_ok()
}

fn use_all(env: &Env, expected: &Contents, what: &str) -> Result<(), catalog::Error> {
    let catalog = RedbCatalog::open(env, Path::new(PATH))?;
    assert_eq!(contents(&catalog)?, *expected, "{what}");
    assert_eq!(catalog.reserve(IdKind::Pack, 1)?, 101..102, "{what}");
    catalog.commit(&[Change::PutVolume(volume(1000, "new"))])?;
    assert_eq!(catalog.volumes()?.len(), expected.1.len() + 1, "{what}");
    Ok(())
}

#[test]
fn a_damaged_header_is_an_error_or_harmless() {
    for closed in [true, false] {
        let (good, expected) = sample(closed);
        assert!(survives(&good, &expected, "undamaged"));
        let mut refused = 0;
        for at in 0..320 {
            // The first bytes hold flags and sizes, each bit for itself; the rest has checksums.
            let masks: &[u8] = if at < 32 {
                &[1, 2, 4, 128, 255]
            } else {
                &[1, 255]
            };
            for mask in masks {
                // The bit that says which of two commit slots is the newer. After a crash nothing
                // else tells, as nothing tells of a header whose last write a disk lost: the
                // catalog is as it was one commit before. Closed cleanly, both slots are alike.
                if at == 9 && mask & 1 != 0 && !closed {
                    continue;
                }
                let mut bad = good.clone();
                bad[at] ^= mask;
                let what = format!("byte {at} ^ {mask:#x}, closed: {closed}");
                refused += u32::from(!survives(&bad, &expected, &what));
            }
        }
        assert!(refused > 100, "{refused}");
    }
}

#[test]
fn damage_anywhere_is_an_error_or_harmless() {
    for closed in [true, false] {
        let (good, expected) = sample(closed);
        let used: Vec<_> = (4096..good.len()).filter(|&at| good[at] != 0).collect();
        let mut refused = 0;
        for &at in used.iter().step_by(used.len() / 300) {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            refused += u32::from(!survives(&bad, &expected, &format!("byte {at}")));
        }
        for page in 1..(good.len() / 4096).min(100) {
            let mut bad = good.clone();
            bad[page * 4096..][..4096].fill(0);
            refused += u32::from(!survives(&bad, &expected, &format!("page {page}")));
        }
        assert!(refused > 10, "{refused}");
    }
}

#[test]
fn a_file_cut_short_or_of_something_else_is_an_error() {
    let (good, expected) = sample(true);
    let lens = (0..64).chain((0..20).map(|n| good.len() * n / 20));
    for len in lens.chain([4095, 4096, 4097, good.len() - 1, good.len() - 4096]) {
        assert!(!survives(&good[..len], &expected, &format!("{len} bytes")));
    }
    let longer = [good.as_slice(), &[1; 4096]].concat();
    survives(&longer, &expected, "a page more");
    assert!(!survives(&[0; 1 << 20], &expected, "zeroes"));
    assert!(!survives(&[0xff; 1 << 16], &expected, "ones"));
}

/// A catalog that fails on a machine that works again stays failed: nobody knows what is durable.
#[test]
fn after_a_failed_sync_everything_fails_until_opened_anew() {
    let sim = SimEnv::new(1);
    let catalog = RedbCatalog::create(&sim.env(), Path::new(PATH)).unwrap();
    fill(&catalog);
    let before = contents(&catalog).unwrap();
    let change = [Change::PutVolume(volume(100, "x"))];
    sim.fail_next_sync();
    let io = |error: catalog::Error| assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    io(catalog.commit(&change).unwrap_err());
    io(catalog.commit(&change).unwrap_err());
    io(catalog.volumes().unwrap_err());
    io(catalog.settings().unwrap_err());
    io(catalog.volume(VolumeId(1)).unwrap_err());
    io(catalog.reserve(IdKind::Pack, 1).unwrap_err());
    io(catalog.next_store_epoch().unwrap_err());
    drop(catalog);
    let catalog = RedbCatalog::open(&sim.env(), Path::new(PATH)).unwrap();
    assert_eq!(contents(&catalog).unwrap(), before);
    catalog.commit(&change).unwrap();
}

#[test]
fn a_full_disk_refuses_what_needs_room_and_spoils_nothing() {
    let sim = SimEnv::new(1);
    let catalog = RedbCatalog::create(&sim.env(), Path::new(PATH)).unwrap();
    fill(&catalog);
    sim.set_space(0);
    let batch = |from: u64| -> Vec<_> {
        (from..from + 200)
            .map(|id| Change::PutVolume(volume(id, &format!("filler-{id}"))))
            .collect()
    };
    let refused = (1..100).find_map(|n| Some((n, catalog.commit(&batch(n * 1000)).err()?)));
    let (n, error) = refused.expect("the disk is full at some time");
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
    let (_, volumes, snapshots) = contents(&catalog).unwrap();
    assert_eq!(volumes.len() as u64, 19 + (n - 1) * 200);
    assert_eq!(snapshots.len(), 19 * 5);
    // As often as one likes; readers do not notice.
    for _ in 0..3 {
        let error = catalog.commit(&batch(n * 1000)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        assert_eq!(catalog.volumes().unwrap(), volumes);
    }
    sim.set_space(1 << 40);
    catalog.commit(&batch(n * 1000)).unwrap();
    drop(catalog);
    let catalog = RedbCatalog::open(&sim.env(), Path::new(PATH)).unwrap();
    assert_eq!(catalog.volumes().unwrap().len(), volumes.len() + 200);
}

/// Found by fuzzing: redb made room for what a small file cannot have: a million regions, 128 MiB of pages.
#[test]
fn more_pages_than_the_file_has_are_an_error() {
    let regions = (20, [1, 0, 0, 0, 0, 0, 0x0f, 0]);
    let trailing = (24, [0, 0, 0, 0, 0, 0x80, 0, 0]);
    for (at, patch) in [regions, trailing] {
        let (mut bytes, _) = sample(true);
        bytes[at..at + 8].copy_from_slice(&patch);
        let opened = RedbCatalog::open(&machine_with(&bytes).env(), Path::new(PATH));
        let error = opened.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
        assert!(format!("{error:?}").contains("shorter than its header says"));
    }
}
