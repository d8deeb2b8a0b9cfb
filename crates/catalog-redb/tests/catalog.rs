//! The catalog as a whole, on real files.

mod support;

use catalog::{Catalog, Change, ErrorKind, IdKind, Settings};
use catalog_redb::RedbCatalog;
use env::Env;
use std::cell::Cell;
use support::{name, snapshot, volume};
use types::{Epoch, SnapshotId, VolumeId};

#[test]
fn conforms() {
    let dir = tempfile::tempdir().unwrap();
    let made = Cell::new(0);
    catalog::conformance::suite(&|| {
        made.set(made.get() + 1);
        let path = dir.path().join(format!("{}.redb", made.get()));
        Box::new(RedbCatalog::create(&Env::real(), &path).unwrap())
    });
}

#[test]
fn create_and_open_mind_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let env = Env::real();
    let missing = RedbCatalog::open(&env, &path).err().unwrap();
    assert_eq!(missing.kind(), ErrorKind::Io);
    // Left by a creation that a crash cut short.
    std::fs::write(dir.path().join("catalog.redb.new"), b"half").unwrap();
    let catalog = RedbCatalog::create(&env, &path).unwrap();
    catalog
        .commit(&[Change::PutVolume(volume(1, "a"))])
        .unwrap();
    drop(catalog);
    let taken = RedbCatalog::create(&env, &path).err().unwrap();
    assert_eq!(taken.kind(), ErrorKind::Exists);
    let catalog = RedbCatalog::open(&env, &path).unwrap();
    assert_eq!(catalog.volumes().unwrap().len(), 1);
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn everything_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("catalog.redb");
    let env = Env::real();
    let catalog = RedbCatalog::create(&env, &path).unwrap();
    let changes = [
        Change::PutSettings(Settings::default()),
        Change::PutVolume(volume(1, "a")),
        Change::PutVolume(volume(2, "b")),
        Change::PutSnapshot(snapshot(1, 1, "s")),
    ];
    catalog.commit(&changes).unwrap();
    assert_eq!(catalog.reserve(IdKind::Pack, 5).unwrap(), 1..6);
    assert_eq!(catalog.next_store_epoch().unwrap(), Epoch(1));
    let volumes = catalog.volumes().unwrap();
    let snapshots = catalog.snapshots(VolumeId(1)).unwrap();
    drop(catalog);
    let catalog = RedbCatalog::open(&env, &path).unwrap();
    assert_eq!(catalog.settings().unwrap().version, 1);
    assert_eq!(catalog.volumes().unwrap(), volumes);
    assert_eq!(catalog.find(&name("b")).unwrap(), Some(volumes[1].clone()));
    assert_eq!(catalog.snapshots(VolumeId(1)).unwrap(), snapshots);
    let found = catalog.find_snapshot(VolumeId(1), &name("s")).unwrap();
    assert_eq!(found.map(|s| s.id), Some(SnapshotId(1)));
    assert!(catalog.reserve(IdKind::Pack, 1).unwrap().start >= 6);
    assert!(catalog.next_store_epoch().unwrap() > Epoch(1));
}

/// The file is copied while it is open, after each commit: what a killed process leaves. Prints
/// how long things take; run with `--no-capture` to see it.
#[test]
fn a_killed_process_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (path, copy) = (dir.path().join("catalog.redb"), dir.path().join("copy"));
    let env = Env::real();
    let catalog = RedbCatalog::create(&env, &path).unwrap();
    let many = |from: u64| -> Vec<_> {
        let volumes = (from..from + 100).flat_map(|id| {
            let snapshots = (0..9)
                .map(move |n| Change::PutSnapshot(snapshot(id, id * 9 + n, &format!("daily-{n}"))));
            std::iter::once(Change::PutVolume(volume(id, &format!("vm-{id}")))).chain(snapshots)
        });
        volumes.collect()
    };
    for from in 0..10 {
        catalog.commit(&many(from * 100)).unwrap();
    }
    let mut commits = Vec::new();
    for id in 0..50 {
        let mut record = catalog.volume(VolumeId(id)).unwrap().unwrap();
        record.mapped_blocks += 1;
        let start = env.clock.monotonic();
        catalog.commit(&[Change::PutVolume(record)]).unwrap();
        commits.push(env.clock.monotonic() - start);
    }
    commits.sort();
    let start = env.clock.monotonic();
    let volumes = catalog.volumes().unwrap();
    let listed = env.clock.monotonic() - start;
    std::fs::copy(&path, &copy).unwrap();
    let start = env.clock.monotonic();
    let after = RedbCatalog::open(&env, &copy).unwrap();
    let opened_after_crash = env.clock.monotonic() - start;
    assert_eq!(after.volumes().unwrap(), volumes);
    assert_eq!(after.snapshots(VolumeId(7)).unwrap().len(), 9);
    after.next_store_epoch().unwrap();
    drop(after);
    let start = env.clock.monotonic();
    let after = RedbCatalog::open(&env, &copy).unwrap();
    let opened_after_close = env.clock.monotonic() - start;
    assert_eq!(after.volumes().unwrap(), volumes);
    println!(
        "10,000 records, {} KiB: commit median {:?}, worst {:?}; list of 1,000 {listed:?}; \
         open after a crash {opened_after_crash:?}, after a close {opened_after_close:?}",
        std::fs::metadata(&path).unwrap().len() >> 10,
        commits[commits.len() / 2],
        commits[commits.len() - 1],
    );
}
