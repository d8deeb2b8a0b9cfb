//! Several volumes at one instant: all of them, or none.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use block::Durability::Volatile;
use sim::SimEnv;
use std::path::Path;
use types::VolumeRef;
use volume::{Config, Create, ErrorKind, InitOptions, Source, Store};

const DIR: &str = "/store";
const NAMES: [&str; 3] = ["a", "b", "c"];
const BLOCK: usize = 4096;

/// A flush of more than a few blocks is destaged.
fn open(sim: &SimEnv) -> Store {
    let config = Config {
        flush_destage_bytes: 8 * BLOCK as u64,
        ..Config::small()
    };
    Store::open(&sim.env(), Path::new(DIR), config).unwrap()
}

fn new(sim: &SimEnv) -> Store {
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    let store = open(sim);
    for name in NAMES {
        let create = Create::new(name.parse().unwrap(), Source::Empty(1 << 20));
        store.create_volume(&create).unwrap();
    }
    store
}

fn refs(snapshot: &str) -> Vec<VolumeRef> {
    NAMES
        .iter()
        .map(|name| format!("{name}@{snapshot}").parse().unwrap())
        .collect()
}

/// Writes to all; to `b` so much that its snapshot is destaged, to `c` nothing.
fn write(store: &Store, byte: u8) {
    for (name, blocks) in [("a", 2), ("b", 40)] {
        let device = store.device(&name.parse().unwrap()).unwrap();
        device
            .write(0, &vec![byte; blocks * BLOCK], Volatile)
            .unwrap();
    }
}

/// The first byte of each.
fn bytes(store: &Store, of: &[VolumeRef]) -> Vec<u8> {
    let first = |r: &VolumeRef| {
        let mut byte = [0xee];
        store.device(r).unwrap().read(0, &mut byte).unwrap();
        byte[0]
    };
    of.iter().map(first).collect()
}

fn live(store: &Store) -> Vec<u8> {
    bytes(store, &NAMES.map(|name| name.parse().unwrap()))
}

/// Dies in every I/O of `act`; `check` sees what is there afterwards and answers whether it was done.
fn wherever_it_dies(
    prepare: impl Fn(&Store),
    act: impl Fn(&Store) -> Result<(), volume::Error>,
    check: impl Fn(&Store) -> bool,
) {
    let (mut done, mut undone) = (0, 0);
    for n in 1.. {
        let sim = SimEnv::new(n);
        let store = new(&sim);
        prepare(&store);
        sim.crash_after(n);
        let acted = act(&store).is_ok() && !sim.has_died();
        sim.power_cut();
        drop(store);
        let store = open(&sim);
        match check(&store) {
            true => done += 1,
            false => undone += 1,
        }
        store.close().unwrap();
        if acted {
            break;
        }
    }
    assert!(done > 0 && undone > 3, "{done} times done, {undone} not");
}

#[test]
fn snapshots_of_a_group_are_all_there_or_none() {
    let taken = |store: &Store| {
        let has = |name: &str| !store.snapshots(&name.parse().unwrap()).unwrap().is_empty();
        let count = NAMES.iter().filter(|name| has(name)).count();
        assert!(count == 0 || count == 3, "{count} of 3");
        if count == 3 {
            assert_eq!(bytes(store, &refs("g")), [1, 1, 0]);
        }
        count == 3
    };
    let take = |store: &Store| store.create_group(&refs("g")).map(drop);
    wherever_it_dies(|store| write(store, 1), take, taken);
}

#[test]
fn a_group_is_set_back_whole_or_not_at_all() {
    let prepare = |store: &Store| {
        write(store, 1);
        store.create_group(&refs("g")).unwrap();
        write(store, 2);
        for name in NAMES {
            store
                .device(&name.parse().unwrap())
                .unwrap()
                .flush()
                .unwrap();
        }
    };
    let back = |store: &Store| {
        let now = live(store);
        assert!(now == [1, 1, 0] || now == [2, 2, 0], "{now:?}");
        assert_eq!(bytes(store, &refs("g")), [1, 1, 0]);
        now == [1, 1, 0]
    };
    let set_back = |store: &Store| store.rollback_group(&refs("g")).map(drop);
    wherever_it_dies(prepare, set_back, back);
}

#[test]
fn clones_of_a_group_are_all_made_or_none() {
    let sim = SimEnv::new(1);
    let store = new(&sim);
    write(&store, 1);
    store.create_group(&refs("g")).unwrap();
    let clones = |last: &str| {
        let names = ["x", "y", last];
        let clone = |(from, name): (VolumeRef, &str)| {
            Create::new(name.parse().unwrap(), Source::Clone(from, None))
        };
        let creates: Vec<Create> = refs("g").into_iter().zip(names).map(clone).collect();
        store.create_volumes(&creates)
    };
    for taken in ["a", "x"] {
        assert_eq!(clones(taken).unwrap_err().kind(), ErrorKind::Conflict);
        assert_eq!(store.catalog().volumes().unwrap().len(), 3);
    }
    clones("z").unwrap();
    let made = ["x", "y", "z"].map(|name| name.parse().unwrap());
    assert_eq!(bytes(&store, &made), [1, 1, 0]);
    store.close().unwrap();
}

#[test]
fn what_is_no_group_is_refused_and_nothing_is_done() {
    let sim = SimEnv::new(1);
    let store = new(&sim);
    let kind = |refs: &[VolumeRef]| store.create_group(refs).unwrap_err().kind();
    let twice = [refs("g"), refs("h")].concat();
    assert_eq!(kind(&twice), ErrorKind::Invalid);
    assert_eq!(kind(&["a".parse().unwrap()]), ErrorKind::Invalid);
    let missing = [refs("g"), vec!["none@g".parse().unwrap()]].concat();
    assert_eq!(kind(&missing), ErrorKind::NotFound);
    store
        .create_snapshot(&"b".parse().unwrap(), &"g".parse().unwrap())
        .unwrap();
    assert_eq!(kind(&refs("g")), ErrorKind::Conflict);
    assert!(store.snapshots(&"a".parse().unwrap()).unwrap().is_empty());

    // Not of one instant, although they are called the same.
    for name in ["a", "c"] {
        let name = name.parse().unwrap();
        store.create_snapshot(&name, &"g".parse().unwrap()).unwrap();
    }
    let apart = store.rollback_group(&refs("g")).unwrap_err();
    assert_eq!(apart.kind(), ErrorKind::Refused);
    let group = store.create_group(&refs("h")).unwrap();
    assert!(group.iter().all(|s| s.group == Some(group[0].id)));
    let mixed = [&refs("h")[..2], &refs("g")[2..]].concat();
    assert_eq!(
        store.rollback_group(&mixed).unwrap_err().kind(),
        ErrorKind::Refused
    );
    // A part of a group is of one instant, too.
    store.rollback_group(&refs("h")[1..]).unwrap();
    store.close().unwrap();
}

#[test]
fn volumes_that_are_opened_together_stay_what_they_are() {
    let sim = SimEnv::new(4);
    let store = new(&sim);
    write(&store, 1);
    store.create_group(&refs("g")).unwrap();
    write(&store, 2);
    // In any order, with what is in memory, and with snapshots among them, one of a volume that is there itself.
    let all = ["b", "c", "a@g", "a"].map(|r| r.parse().unwrap());
    let devices = store.frozen_devices(&all).unwrap();
    write(&store, 3);
    let firsts = devices.iter().map(|device| {
        let mut byte = [0xee];
        device.read(0, &mut byte).unwrap();
        byte[0]
    });
    assert_eq!(firsts.collect::<Vec<_>>(), [2, 0, 1, 2]);
    let kind = |names: &[&str]| {
        let refs: Vec<VolumeRef> = names.iter().map(|name| name.parse().unwrap()).collect();
        store.frozen_devices(&refs).err().unwrap().kind()
    };
    assert_eq!(kind(&["a", "b", "a"]), ErrorKind::Invalid);
    assert_eq!(kind(&["a", "none"]), ErrorKind::NotFound);
    assert_eq!(kind(&["a", "b@none"]), ErrorKind::NotFound);
    drop(devices);
    store.close().unwrap();
}
