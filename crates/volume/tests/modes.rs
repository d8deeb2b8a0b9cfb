//! Disk modes: what becomes of what was written when a machine is powered off.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use block::Durability::{Durable, Volatile};
use sim::SimEnv;
use std::path::Path;
use types::{DiskMode, Name};
use volume::{Config, Create, ErrorKind, InitOptions, Source, Store, Update};

const DIR: &str = "/store";

fn open(sim: &SimEnv) -> Store {
    Store::open(&sim.env(), Path::new(DIR), Config::small()).unwrap()
}

fn disk() -> Name {
    "d".parse().unwrap()
}

/// A store with a disk that says 1, in this mode.
fn new(sim: &SimEnv, mode: DiskMode) -> Store {
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    let store = open(sim);
    let create = Create::new(disk(), Source::Empty(1 << 20));
    store.create_volume(&create).unwrap();
    write(&store, 1);
    store.set_mode(&disk(), mode).unwrap();
    store
}

fn write(store: &Store, byte: u8) {
    let device = store.device(&disk().into()).unwrap();
    device.write(0, &[byte; 4096], Durable).unwrap();
    device.write(8192, &[byte; 4096], Volatile).unwrap();
}

fn byte(store: &Store) -> u8 {
    let mut bytes = [0; 8193];
    let device = store.device(&disk().into()).unwrap();
    device.read(0, &mut bytes).unwrap();
    assert_eq!(bytes[0], bytes[8192]);
    bytes[0]
}

/// Whether anything is kept apart; none if nothing can be.
fn changed(store: &Store) -> Option<bool> {
    let record = store.find(&disk()).unwrap();
    store.base(&record).unwrap().map(|base| base.changed)
}

fn discard(store: &Store) -> Result<(), volume::Error> {
    let opens = store.opens(store.find(&disk())?.id);
    store.discard_changes(&disk(), opens).map(drop)
}

fn reopened(sim: &SimEnv, store: Store) -> Store {
    store.close().unwrap();
    drop(store);
    open(sim)
}

#[test]
fn vw_1_persistent_writes_stay() {
    let sim = SimEnv::new(1);
    let store = new(&sim, DiskMode::Persistent);
    write(&store, 2);
    assert_eq!(changed(&store), None);
    let nothing = discard(&store).unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::Invalid);
    let store = reopened(&sim, store);
    assert_eq!(byte(&store), 2);
    store.close().unwrap();
}

#[test]
fn vw_2_nonpersistent_writes_vanish_and_the_base_never_changes() {
    let sim = SimEnv::new(1);
    let store = new(&sim, DiskMode::Nonpersistent);
    assert_eq!(changed(&store), Some(false));
    write(&store, 2);
    assert_eq!(changed(&store), Some(true));
    // The daemon may come and go meanwhile.
    let store = reopened(&sim, store);
    assert_eq!((byte(&store), changed(&store)), (2, Some(true)));
    // Somebody opened it since it was looked at.
    let opens = store.opens(store.find(&disk()).unwrap().id);
    assert_eq!(byte(&store), 2);
    let seen = store.discard_changes(&disk(), opens).unwrap_err();
    assert_eq!((seen.kind(), byte(&store)), (ErrorKind::InUse, 2));
    let opens = store.opens(store.find(&disk()).unwrap().id);
    store.discard_changes(&disk(), opens).unwrap();
    assert_eq!((byte(&store), changed(&store)), (1, Some(false)));
    // Again and again, and the base is the same.
    for round in 3..6 {
        write(&store, round);
        discard(&store).unwrap();
        assert_eq!(byte(&store), 1);
    }
    assert_eq!(store.snapshots(&disk()).unwrap().len(), 1);
    store.close().unwrap();
}

#[test]
fn vw_3_undoable_writes_wait_for_a_decision() {
    let sim = SimEnv::new(1);
    let store = new(&sim, DiskMode::Undoable);
    write(&store, 2);
    // A crash leaves the choice open.
    sim.kill();
    drop(store);
    let store = open(&sim);
    assert_eq!((byte(&store), changed(&store)), (2, Some(true)));
    let undecided = store.set_mode(&disk(), DiskMode::Persistent).unwrap_err();
    assert_eq!(undecided.kind(), ErrorKind::Refused);
    // Kept for now: nothing is done. Then committed, and more is discarded.
    write(&store, 3);
    store.commit_changes(&disk()).unwrap();
    assert_eq!((byte(&store), changed(&store)), (3, Some(false)));
    write(&store, 4);
    discard(&store).unwrap();
    assert_eq!((byte(&store), changed(&store)), (3, Some(false)));
    let snapshots = store.snapshots(&disk()).unwrap();
    assert_eq!(snapshots.len(), 1);
    let base = store.remove_snapshot(&disk(), &snapshots[0].name);
    assert_eq!(base.unwrap_err().kind(), ErrorKind::Refused);
    store.set_mode(&disk(), DiskMode::Persistent).unwrap();
    assert!(store.snapshots(&disk()).unwrap().is_empty());
    let store = reopened(&sim, store);
    assert_eq!((byte(&store), changed(&store)), (3, None));
    store.close().unwrap();
}

#[test]
fn vw_4_independent_is_noted_and_stays() {
    let sim = SimEnv::new(1);
    let store = new(&sim, DiskMode::Nonpersistent);
    let update = Update {
        independent: Some(true),
        ..Update::default()
    };
    store.update_volume(&disk(), &update).unwrap();
    let store = reopened(&sim, store);
    let record = store.find(&disk()).unwrap();
    assert!(record.independent);
    assert_eq!(record.mode, DiskMode::Nonpersistent);
    store.close().unwrap();
}

/// Each verb is done or not done, whatever I/O the power goes in; then it can be done.
#[test]
fn a_crash_leaves_the_choice_open() {
    type Verb = fn(&Store) -> Result<(), volume::Error>;
    let verbs: [(Verb, u8); 3] = [
        (|store| store.commit_changes(&disk()).map(drop), 2),
        (discard, 1),
        (
            |store| store.set_mode(&disk(), DiskMode::Nonpersistent).map(drop),
            2,
        ),
    ];
    for (verb, after) in verbs {
        for n in 1.. {
            let sim = SimEnv::new(n);
            let store = new(&sim, DiskMode::Undoable);
            write(&store, 2);
            store.device(&disk().into()).unwrap().flush().unwrap();
            sim.crash_after(n);
            let done = verb(&store).is_ok() && !sim.has_died();
            sim.power_cut();
            drop(store);
            let store = open(&sim);
            let now = byte(&store);
            assert!(now == 2 || now == after, "{now}");
            assert_eq!(store.snapshots(&disk()).unwrap().len(), 1);
            verb(&store).unwrap();
            assert_eq!(byte(&store), after);
            write(&store, 7);
            discard(&store).unwrap();
            assert!(byte(&store) <= 2);
            store.close().unwrap();
            if done {
                break;
            }
        }
    }
}
