//! Snapshots that a volume's policy asks for: what the catalog says of them, whatever happens.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use block::Durability::Volatile;
use catalog::ImageFile;
use sim::SimEnv;
use std::path::Path;
use types::{FileDriver, FileFormat, Name, VolumeRef};
use volume::{
    Config, Create, ErrorKind, InitOptions, PolicyChange, Scheduled, SnapshotPolicy, Source, Store,
    Update,
};

const DIR: &str = "/store";

fn open(sim: &SimEnv) -> Store {
    Store::open(&sim.env(), Path::new(DIR), Config::small()).unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn reference(text: &str) -> VolumeRef {
    text.parse().unwrap()
}

fn create(store: &Store, volume: &str, source: Source, schedule: &str) {
    let create = Create {
        policy: PolicyChange {
            schedule: Some(schedule.to_owned()),
            ..PolicyChange::default()
        },
        ..Create::new(name(volume), source)
    };
    store.create_volume(&create).unwrap();
}

/// A store with two volumes that have something in memory.
fn new(sim: &SimEnv) -> Store {
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    let store = open(sim);
    for volume in ["a", "b"] {
        create(&store, volume, Source::Empty(1 << 20), "@daily");
        let device = store.device(&name(volume).into()).unwrap();
        device.write(0, &[7; 4096], Volatile).unwrap();
    }
    store
}

fn policy(store: &Store, volume: &str) -> SnapshotPolicy {
    *store.find(&name(volume)).unwrap().policy.unwrap()
}

fn asked(store: &Store, snapshot: &str, done_ms: u64) -> Scheduled {
    let snapshot = reference(snapshot);
    Scheduled {
        volume: store.find(&snapshot.volume).unwrap().id,
        snapshot,
        done_ms,
    }
}

/// Names of the snapshots of `a` and `b`, each with whether it was taken by itself.
fn snapshots(store: &Store) -> Vec<(String, bool)> {
    let of = |volume: &str| store.snapshots(&name(volume)).unwrap();
    let all = of("a").into_iter().chain(of("b"));
    all.map(|s| (s.name.to_string(), s.scheduled)).collect()
}

#[test]
fn a_run_is_done_together_with_its_snapshots_or_not_at_all() {
    for n in 1.. {
        let sim = SimEnv::new(n);
        let store = new(&sim);
        let run = [asked(&store, "a@x", 5000), asked(&store, "b@y", 5000)];
        sim.crash_after(n);
        let done = store.take_scheduled(&run).is_ok() && !sim.has_died();
        sim.power_cut();
        drop(store);
        let store = open(&sim);
        let there = snapshots(&store);
        match there.len() {
            0 => assert!(!done),
            _ => assert_eq!(there, [("x".to_owned(), true), ("y".to_owned(), true)]),
        }
        for volume in ["a", "b"] {
            let policy = policy(&store, volume);
            assert_eq!(policy.done_ms == 5000, !there.is_empty());
            assert_eq!(policy.last_ms.is_some(), !there.is_empty());
        }
        store.close().unwrap();
        if done {
            return;
        }
    }
}

#[test]
fn only_what_was_scheduled_is_removed_by_its_number() {
    let sim = SimEnv::new(1);
    let store = new(&sim);
    let taken = store.take_scheduled(&[asked(&store, "a@x", 1)]).unwrap();
    assert_eq!(taken[0].group, None);
    let old = taken[0].id;
    store.remove_snapshot(&name("a"), &name("x")).unwrap();
    let mine = store.create_snapshot(&name("a"), &name("x")).unwrap();
    for id in [old, mine.id] {
        let other = store.remove_scheduled(&reference("a@x"), id).unwrap_err();
        assert_eq!(other.kind(), ErrorKind::NotFound);
    }
    assert_eq!(snapshots(&store), [("x".to_owned(), false)]);
    let taken = store.take_scheduled(&[asked(&store, "a@z", 2)]).unwrap();
    let gone = store.remove_scheduled(&reference("a@z"), taken[0].id);
    gone.unwrap();
    assert_eq!(snapshots(&store), [("x".to_owned(), false)]);
    store.close().unwrap();
}

#[test]
fn a_volume_that_was_changed_meanwhile_is_left_alone() {
    let sim = SimEnv::new(1);
    let store = new(&sim);
    let run = [asked(&store, "a@x", 1)];
    // Another volume has its name.
    for (old, new) in [("a", "c"), ("b", "a")] {
        let update = Update {
            name: Some(name(new)),
            ..Update::default()
        };
        store.update_volume(&name(old), &update).unwrap();
    }
    let error = store.take_scheduled(&run).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(store.snapshots(&name("a")).unwrap().is_empty());
    // It has no schedule any more.
    let run = [asked(&store, "a@x", 1)];
    let update = Update {
        policy: PolicyChange {
            schedule: Some(String::new()),
            ..PolicyChange::default()
        },
        ..Update::default()
    };
    store.update_volume(&name("a"), &update).unwrap();
    let error = store.take_scheduled(&run).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(store.snapshots(&name("a")).unwrap().is_empty());
    store.close().unwrap();
}

#[test]
fn a_policy_stays_with_its_volume_and_with_no_other() {
    let sim = SimEnv::new(1);
    let store = new(&sim);
    store.take_scheduled(&[asked(&store, "a@x", 1234)]).unwrap();
    let before = policy(&store, "a");
    create(&store, "clone", Source::Clone(reference("a@x"), None), "");
    assert_eq!(store.find(&name("clone")).unwrap().policy, None);
    store.rollback(&name("a"), &name("x")).unwrap();
    let id = store.remove_volume(&name("a")).unwrap().id;
    store.restore_volume(id, Some(name("c"))).unwrap();
    store.close().unwrap();
    drop(store);
    let store = open(&sim);
    assert_eq!(policy(&store, "c"), before);
    store.set_scheduled(id, 99).unwrap();
    assert_eq!(policy(&store, "c").done_ms, 99);
    // A file would lose it without a word.
    store.remove_snapshot(&name("c"), &name("x")).unwrap();
    let file = || {
        Ok(ImageFile {
            root: None,
            path: "c/disk0".to_owned(),
            format: FileFormat::Raw,
            driver: FileDriver::Threads,
        })
    };
    let refused = store.convert_to_file(&name("c"), file).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    assert!(refused.to_string().contains("snapshots.schedule="));
    store.close().unwrap();
}
