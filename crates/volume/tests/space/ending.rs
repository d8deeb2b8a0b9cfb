//! Orderly ends: nothing that was answered is lost, whatever becomes of the machine, and next to nothing is done for it.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::{
    sick::{inject, write},
    support::{DIR, MIB, device, make, name, new, open, tag},
};
use sim::{Fault, SimEnv};
use std::path::Path;
use volume::{Config, Store};

/// What is dirty at the end of a life.
const DIRTY: u64 = 400;

/// Destages only what it is told to.
fn config() -> Config {
    Config {
        dirty_bytes: 64 * MIB,
        destage_bytes: 64 * MIB,
        flush_destage_bytes: 64 * MIB,
        ..Config::small()
    }
}

/// A store with a volume that was flushed in part.
fn busy(sim: &SimEnv, config: &Config) -> Store {
    let store = new(sim, config);
    let a = make(&store, "a", 4 * MIB);
    for index in 0..DIRTY {
        write(&*a, index, 1 + index as u32);
        if index == DIRTY / 4 {
            a.flush().unwrap();
        }
    }
    store
}

fn is_whole(sim: &SimEnv, config: &Config) {
    let store = open(sim, config);
    let a = device(&store, "a");
    assert!((0..DIRTY).all(|index| tag(&*a, index) == 1 + index as u32));
    store.settle_all().unwrap();
    assert!((0..DIRTY).all(|index| tag(&*a, index) == 1 + index as u32));
}

fn packs(store: &Store) -> usize {
    store.packs().list().unwrap().len()
}

/// The host may be shut down next, or its store be opened on another that has never seen its memory.
#[test]
fn what_was_answered_is_durable_and_destaging_is_left_to_the_next() {
    let sim = SimEnv::new(1);
    let store = busy(&sim, &config());
    store.close().unwrap();
    assert_eq!(packs(&store), 0);
    drop(store);
    sim.power_cut();
    is_whole(&sim, &config());
}

/// What clients write while the end is prepared is not lost, and prepared is most of it.
#[test]
fn an_end_can_be_prepared_while_clients_go_on() {
    let sim = SimEnv::new(2);
    let store = busy(&sim, &config());
    store.keep_all().unwrap();
    let appended = || store.stats().journal.appended;
    let prepared = appended();
    assert!(prepared > 300 * 4096, "{prepared} bytes");
    write(&*device(&store, "a"), 9, 10);
    write(&*device(&store, "a"), 10, 11);
    store.close().unwrap();
    let last = appended() - prepared;
    assert!((8192..65_536).contains(&last), "{last} bytes");
    drop(store);
    sim.power_cut();
    is_whole(&sim, &config());
}

#[test]
fn what_the_journal_has_no_room_for_goes_into_packs() {
    let sim = SimEnv::new(3);
    let config = Config {
        journal_bytes: 0,
        ..config()
    };
    let store = busy(&sim, &config);
    let before = packs(&store);
    for index in DIRTY..900 {
        write(&*device(&store, "a"), index, 1 + index as u32);
    }
    store.close().unwrap();
    assert!(packs(&store) > before);
    drop(store);
    sim.power_cut();
    is_whole(&sim, &config);
    let store = open(&sim, &config);
    let a = device(&store, "a");
    assert!((DIRTY..900).all(|index| tag(&*a, index) == 1 + index as u32));
}

#[test]
fn a_journal_that_fails_at_the_end_is_gone_around() {
    for fault in [Fault::WriteError, Fault::SyncError, Fault::NoSpace] {
        let sim = SimEnv::new(4);
        let store = busy(&sim, &config());
        inject(&sim, fault, "journal/", 0, 1000);
        store.close().unwrap();
        assert!(packs(&store) > 0, "{fault:?}");
        drop(store);
        sim.heal();
        sim.power_cut();
        is_whole(&sim, &config());
    }
}

/// Nothing can be made durable: that is said, and what was answered waits in shared memory as after a crash.
#[test]
fn an_end_that_fails_leaves_the_write_buffer() {
    let sim = SimEnv::new(5);
    let store = busy(&sim, &config());
    inject(&sim, Fault::WriteError, "", 0, u64::MAX);
    store.close().unwrap_err();
    drop(store);
    sim.heal();
    is_whole(&sim, &config());
}

#[test]
fn snapshots_that_wait_for_their_roots_have_them_after_an_end() {
    let sim = SimEnv::new(6);
    let store = busy(&sim, &config());
    store.create_snapshot(&name("a"), &name("s")).unwrap();
    write(&*device(&store, "a"), 0, 77);
    store.close().unwrap();
    drop(store);
    sim.power_cut();
    let store = open(&sim, &config());
    store.settle_all().unwrap();
    let s = store.device(&"a@s".parse().unwrap()).unwrap();
    assert!((0..DIRTY).all(|index| tag(&*s, index) == 1 + index as u32));
    assert_eq!(tag(&*device(&store, "a"), 0), 77);
}

/// A store that is dropped with nothing dirty leaves nothing in shared memory; nor does one that is refused.
#[test]
fn nothing_is_left_in_shared_memory() {
    let sim = SimEnv::new(7);
    let memory = |sim: &SimEnv| sim.shared_memory();
    let store = new(&sim, &config());
    make(&store, "a", MIB);
    write(&*device(&store, "a"), 0, 1);
    assert_eq!(memory(&sim), 1);
    store.settle_all().unwrap();
    drop(store);
    assert_eq!(memory(&sim), 0);
    let journal = Path::new(DIR).join("journal");
    let files = sim.env().files;
    files.rename(&journal, Path::new("/elsewhere")).unwrap();
    let refused = Store::open(&sim.env(), Path::new(DIR), config());
    assert!(refused.is_err());
    assert_eq!(memory(&sim), 0);
}
