//! A state is kept, and what changed between two is found, all of it, without looking at the rest.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use block::{BlockDevice, Durability::Volatile};
use sim::SimEnv;
use std::{ops::ControlFlow, path::Path, sync::Arc};
use types::Name;
use volume::{Config, Create, DiffExtent, ErrorKind, InitOptions, Source, Store, Update};

const DIR: &str = "/store";
const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

fn open(sim: &SimEnv) -> Store {
    Store::open(&sim.env(), Path::new(DIR), Config::small()).unwrap()
}

fn new(sim: &SimEnv) -> Store {
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    open(sim)
}

fn create(store: &Store, name: &str, source: Source) -> Arc<dyn BlockDevice> {
    let create = Create::new(name.parse().unwrap(), source);
    store.create_volume(&create).unwrap();
    store.device(&create.name.into()).unwrap()
}

fn snapshot(store: &Store, r: &str) {
    let (volume, name) = r.split_once('@').unwrap();
    let (volume, name): (Name, Name) = (volume.parse().unwrap(), name.parse().unwrap());
    store.create_snapshot(&volume, &name).unwrap();
}

/// Offset and length in blocks, and whether there are data.
fn diff(store: &Store, from: &str, to: &str) -> Vec<(u64, u64, bool)> {
    extents(store, from, to)
        .iter()
        .map(|e| (e.offset / BLOCK, e.len / BLOCK, e.data))
        .collect()
}

fn extents(store: &Store, from: &str, to: &str) -> Vec<DiffExtent> {
    let mut extents = Vec::new();
    let diff = store
        .diff(&from.parse().unwrap(), &to.parse().unwrap())
        .unwrap();
    let _ = diff
        .for_each(&mut |extent| {
            extents.push(extent);
            ControlFlow::Continue(())
        })
        .unwrap();
    extents
}

fn write(device: &dyn BlockDevice, block: u64, byte: u8) {
    let data = [byte; BLOCK as usize];
    device.write(block * BLOCK, &data, Volatile).unwrap();
}

#[test]
fn changes_are_runs_of_data_and_of_zeroes() {
    let sim = SimEnv::new(1);
    let store = new(&sim);
    let a = create(&store, "a", Source::Empty(1 << 40));
    (0..8).for_each(|n| write(&*a, n, 1));
    snapshot(&store, "a@one");
    write(&*a, 2, 2);
    write(&*a, 3, 3);
    a.write_zeroes(4 * BLOCK, 2 * BLOCK, Volatile).unwrap();
    // Part of a block is a block, and what is far away is found as well.
    a.write((1 << 40) - 512, &[9; 512], Volatile).unwrap();
    snapshot(&store, "a@two");
    let last = ((1 << 40) / BLOCK) - 1;
    let expected = [(2, 2, true), (4, 2, false), (last, 1, true)];
    assert_eq!(diff(&store, "a@one", "a@two"), expected);
    // The other way round it is the other state that tells what is there.
    let back = [(2, 4, true), (last, 1, false)];
    assert_eq!(diff(&store, "a@two", "a@one"), back);
    assert_eq!(diff(&store, "a@two", "a@two"), []);
    assert_eq!(diff(&store, "a@two", "a"), []);
    // What is in memory only counts.
    write(&*a, 100, 1);
    assert_eq!(diff(&store, "a@two", "a"), [(100, 1, true)]);
    store.close().unwrap();
}

#[test]
fn clones_differ_from_what_they_come_from_by_what_was_written() {
    let sim = SimEnv::new(2);
    let store = new(&sim);
    let a = create(&store, "a", Source::Empty(MIB));
    write(&*a, 1, 1);
    snapshot(&store, "a@s");
    let b = create(&store, "b", Source::Clone("a@s".parse().unwrap(), None));
    assert_eq!(diff(&store, "a@s", "b"), []);
    write(&*b, 7, 7);
    assert_eq!(diff(&store, "a@s", "b"), [(7, 1, true)]);
    write(&*a, 9, 9);
    assert_eq!(diff(&store, "b", "a"), [(7, 1, false), (9, 1, true)]);
    let missing = store.diff(&"a@s".parse().unwrap(), &"a@t".parse().unwrap());
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
    store.close().unwrap();
}

/// Shrunk and grown again, what was cut off reads as zeroes, and is told.
#[test]
fn sizes_may_differ() {
    let sim = SimEnv::new(3);
    let store = new(&sim);
    let a = create(&store, "a", Source::Empty(MIB + 512));
    a.write(MIB, &[1; 512], Volatile).unwrap();
    write(&*a, 255, 2);
    snapshot(&store, "a@s");
    assert_eq!(extents(&store, "a@s", "a"), []);
    let resize = |size| {
        let update = Update {
            size: Some(size),
            allow_data_loss: true,
            ..Update::default()
        };
        store.update_volume(&"a".parse().unwrap(), &update).unwrap();
    };
    resize(MIB);
    assert_eq!(extents(&store, "a@s", "a"), []);
    resize(2 * MIB);
    assert_eq!(diff(&store, "a@s", "a"), [(256, 1, false)]);
    // The end of what has none is no whole block.
    let back = extents(&store, "a", "a@s");
    let tail = DiffExtent {
        offset: MIB,
        len: 512,
        data: true,
    };
    assert_eq!(back, [tail]);
    store.close().unwrap();
}

#[test]
fn changes_are_known_after_a_restart_a_kill_and_a_rollback() {
    let sim = SimEnv::new(4);
    let store = new(&sim);
    let a = create(&store, "a", Source::Empty(MIB));
    write(&*a, 1, 1);
    snapshot(&store, "a@one");
    write(&*a, 2, 2);
    snapshot(&store, "a@two");
    write(&*a, 3, 3);
    a.flush().unwrap();
    drop(a);
    sim.kill();
    drop(store);
    let store = open(&sim);
    assert_eq!(diff(&store, "a@one", "a@two"), [(2, 1, true)]);
    assert_eq!(diff(&store, "a@one", "a"), [(2, 2, true)]);
    let (volume, one) = ("a".parse().unwrap(), "one".parse().unwrap());
    store.rollback(&volume, &one).unwrap();
    assert_eq!(diff(&store, "a@one", "a"), []);
    assert_eq!(diff(&store, "a@two", "a"), [(2, 1, false)]);
    store.close().unwrap();
    drop(store);
    let store = open(&sim);
    assert_eq!(diff(&store, "a@two", "a"), [(2, 1, false)]);
    store.close().unwrap();
}

/// A list is not gathered before it is handed out.
#[test]
fn who_has_seen_enough_ends_it() {
    let sim = SimEnv::new(5);
    let store = new(&sim);
    let a = create(&store, "a", Source::Empty(MIB));
    snapshot(&store, "a@s");
    (0..100).for_each(|n| write(&*a, n * 2, 1));
    let mut seen = 0;
    let diff = store.diff(&"a@s".parse().unwrap(), &"a".parse().unwrap());
    let flow = diff.unwrap().for_each(&mut |_| {
        seen += 1;
        match seen {
            3 => ControlFlow::Break(()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert!(flow.unwrap().is_break());
    assert_eq!(seen, 3);
    store.close().unwrap();
}

/// Lengths in blocks, and whether they changed.
fn runs(bitmap: &dyn block::Bitmap, offset: u64, len: u64, max: usize) -> Vec<(u64, bool)> {
    let runs = bitmap.changed(offset * BLOCK, len * BLOCK, max).unwrap();
    runs.iter().map(|r| (r.len / BLOCK, r.changed)).collect()
}

#[test]
fn a_bitmap_has_what_is_in_packs_and_what_is_in_memory() {
    let sim = SimEnv::new(6);
    let store = new(&sim);
    let a = create(&store, "a", Source::Empty(4 * MIB));
    (0..8).for_each(|n| write(&*a, n, 1));
    snapshot(&store, "a@one");
    write(&*a, 2, 2);
    store.settle_all().unwrap();
    write(&*a, 3, 3);
    a.write_zeroes(100 * BLOCK, BLOCK, Volatile).unwrap();
    let (of, since) = ("a".parse().unwrap(), "a@one".parse().unwrap());
    let live = store.bitmap(&of, &since).unwrap();
    let expected = [(2, false), (2, true), (96, false), (1, true), (923, false)];
    assert_eq!(runs(&*live, 0, 1024, 100), expected);
    assert_eq!(runs(&*live, 3, 97, 1), [(1, true)]);
    assert!(live.changed(4 * MIB, 1, 1).is_err());
    // Of a snapshot it stays what it is, whatever is written and removed.
    snapshot(&store, "a@two");
    let two = "a@two".parse().unwrap();
    let frozen = store.bitmap(&two, &since).unwrap();
    write(&*a, 9, 9);
    let (volume, one) = ("a".parse().unwrap(), "one".parse().unwrap());
    store.remove_snapshot(&volume, &one).unwrap();
    let options = gc::Options::default();
    gc::collect(store.packs(), &store, &options, &types::NoProgress).unwrap();
    let expected = [(2, false), (2, true), (1020, false)];
    assert_eq!(runs(&*frozen, 0, 1024, 100), expected);
    assert_eq!(runs(&*live, 9, 1, 1), [(1, true)]);
    store.close().unwrap();
}

#[test]
fn a_difference_is_of_the_state_that_is_read() {
    let sim = SimEnv::new(7);
    let store = new(&sim);
    let a = create(&store, "a", Source::Empty(MIB));
    (0..8).for_each(|n| write(&*a, n, 1));
    snapshot(&store, "a@s");
    let grown = Source::Clone("a@s".parse().unwrap(), Some(4 * MIB));
    let b = create(&store, "b", grown);
    write(&*b, 2, 2);
    b.discard(3 * BLOCK, BLOCK, Volatile).unwrap();
    write(&*b, 500, 5);
    let (of, since) = ("b".parse().unwrap(), "a@s".parse().unwrap());
    let difference = store.difference(&of, &since).unwrap();
    write(&*b, 2, 9);
    write(&*b, 7, 9);
    let expected = [(2, false), (2, true), (496, false), (1, true), (523, false)];
    assert_eq!(runs(&*difference.changed, 0, 1024, 100), expected);
    assert_eq!(difference.since_size, MIB);
    let mut bytes = vec![0; 4 * MIB as usize];
    difference.device.read(0, &mut bytes).unwrap();
    let firsts: Vec<u8> = [1, 2, 3, 7, 499, 500]
        .map(|n| bytes[n * BLOCK as usize])
        .into();
    assert_eq!(firsts, [1, 2, 0, 1, 0, 5]);
    let missing = store.difference(&of, &"a@t".parse().unwrap());
    assert_eq!(missing.err().unwrap().kind(), ErrorKind::NotFound);
    store.close().unwrap();
}

/// As many writes and syncs for a tebibyte as for a mebibyte, for a full disk as for an empty one.
#[test]
fn keeping_a_state_costs_the_same_whatever_the_disk() {
    let sim = SimEnv::new(9);
    let store = new(&sim);
    let sizes = [("small", MIB), ("large", 1 << 40), ("full", 8 * MIB)];
    for (name, size) in sizes {
        let device = create(&store, name, Source::Empty(size));
        if name == "full" {
            let bytes: Vec<u8> = (0..size).map(|n| (n / BLOCK + n % 251) as u8).collect();
            device.write(0, &bytes, Volatile).unwrap();
        }
    }
    store.settle_all().unwrap();
    // The first one makes the table.
    snapshot(&store, "small@first");
    let costs = sizes.map(|(name, _)| {
        let before = sim.io_count();
        snapshot(&store, &format!("{name}@s"));
        sim.io_count() - before
    });
    assert!(
        costs[0] > 0 && costs.iter().all(|cost| *cost == costs[0]),
        "{costs:?}"
    );
}

/// A clone of a clone, and so on, has one map: as high as that of the first, and whole without it.
#[test]
fn a_long_line_of_clones_is_no_longer_way() {
    const LINE: u8 = 40;
    let sim = SimEnv::new(10);
    let store = new(&sim);
    let first = create(&store, "c0", Source::Empty(8 * MIB));
    first
        .write(0, &vec![0xff; 8 * MIB as usize], Volatile)
        .unwrap();
    for n in 1..=LINE {
        snapshot(&store, &format!("c{}@s", n - 1));
        let origin = format!("c{}@s", n - 1).parse().unwrap();
        let clone = create(&store, &format!("c{n}"), Source::Clone(origin, None));
        let own = vec![n; BLOCK as usize];
        clone.write(u64::from(n) * BLOCK, &own, Volatile).unwrap();
    }
    drop(first);
    store.settle_all().unwrap();
    let name = |n: u8| format!("c{n}").parse::<Name>().unwrap();
    let height = |n| store.find(&name(n)).unwrap().root.height;
    assert_eq!(height(LINE), height(0));
    for n in 0..LINE {
        let removed = store.remove_volume(&name(n)).unwrap();
        store.purge_volume(removed.id).unwrap();
    }
    let last = store.device(&name(LINE).into()).unwrap();
    let mut bytes = vec![0; 8 * MIB as usize];
    last.read(0, &mut bytes).unwrap();
    for (n, block) in bytes.chunks(BLOCK as usize).enumerate() {
        let own = u8::try_from(n).ok().filter(|n| (1..=LINE).contains(n));
        assert!(block.iter().all(|byte| *byte == own.unwrap_or(0xff)), "{n}");
    }
}
