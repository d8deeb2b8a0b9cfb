//! Disks that fail: what goes on, what is refused, and that nothing acknowledged is lost.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::support::{BLOCK, MIB, block, collect, device, make, name, new, open, tag};
use block::{BlockDevice, Durability, ErrorKind};
use sim::{Fault, Injection, SimEnv};
use std::time::Duration;
use volume::{Config, Store};

pub(crate) fn inject(sim: &SimEnv, fault: Fault, file: &str, skip: u64, times: u64) {
    sim.inject(Injection {
        fault,
        file: file.to_owned(),
        skip,
        times,
    });
}

pub(crate) fn write(device: &dyn BlockDevice, index: u64, tag: u32) {
    let done = device.write(index * BLOCK, &block(tag), Durability::Volatile);
    done.unwrap();
}

fn problems(store: &Store) -> Vec<String> {
    store.stats().health.problems
}

/// Writes and flushes, the fault striking the journal somewhere: every flush is kept, and only one may fail.
fn journal_fails(fault: Fault, skip: u64) -> bool {
    let sim = SimEnv::new(skip);
    let config = Config {
        journal_bytes: 2 * MIB,
        ..Config::small()
    };
    let store = new(&sim, &config);
    let a = make(&store, "a", 4 * MIB);
    inject(&sim, fault, "journal/", skip, 1);
    let mut kept = 0;
    let mut failed = 0;
    for round in 1..=40_u32 {
        for index in 0..8 {
            write(&*a, index, round * 10 + index as u32);
        }
        match a.flush() {
            Ok(()) => kept = round,
            Err(e) => {
                assert!(
                    fault == Fault::WriteError || fault == Fault::SyncError,
                    "{e:?}"
                );
                failed += 1;
            }
        }
        if round == 20 {
            // One that fails is not there; the next one is taken.
            let snapshot = |s: &str| store.create_snapshot(&name("a"), &name(s));
            if snapshot("s").is_err() {
                failed += 1;
                snapshot("s").unwrap();
            }
        }
    }
    let struck = sim.struck() > 0;
    assert!(failed <= 1, "{failed} failed");
    assert_eq!(kept, 40);
    let sick = problems(&store);
    assert!(sick.len() <= 1 && (struck || sick.is_empty()), "{sick:?}");
    for index in 0..8 {
        write(&*a, index, 7);
    }
    sim.power_cut();
    drop((store, a));
    let store = open(&sim, &config);
    assert!(problems(&store).is_empty());
    let a = device(&store, "a");
    for index in 0..8 {
        let now = tag(&*a, index);
        let kept = kept * 10 + index as u32;
        assert!(
            now == kept || now == 7,
            "block {index} is {now}, not {kept}"
        );
    }
    struck
}

#[test]
fn a_journal_that_fails_is_gone_around() {
    for fault in [Fault::SyncError, Fault::WriteError] {
        let struck = (0..60).filter(|&skip| journal_fails(fault, skip)).count();
        assert!(struck > 20, "{fault:?} struck {struck} times");
    }
}

#[test]
fn packs_that_cannot_be_synced_leave_the_journal_and_the_reads() {
    let sim = SimEnv::new(1);
    let config = Config::small();
    let store = new(&sim, &config);
    let a = make(&store, "a", 16 * MIB);
    (0..16).for_each(|index| write(&*a, index, 1 + index as u32));
    store.settle_all().unwrap();
    (16..32).for_each(|index| write(&*a, index, 1 + index as u32));
    inject(&sim, Fault::SyncError, "brick/", 0, 1);
    store.settle_all().unwrap_err();
    // The disk is well again, but nobody knows what is durable of what was being synced.
    store.settle_all().unwrap_err();
    a.flush().unwrap();
    assert!((0..32).all(|index| tag(&*a, index) == 1 + index as u32));
    // More than the journal takes is refused, not lost in silence.
    for index in 32..1000 {
        if a.write(
            index * BLOCK,
            &block(1 + index as u32),
            Durability::Volatile,
        )
        .is_err()
        {
            break;
        }
    }
    assert_eq!(a.flush().unwrap_err().kind(), ErrorKind::Io);
    let sick = problems(&store);
    assert!(
        sick.len() == 1 && sick[0].contains("restart the daemon"),
        "{sick:?}"
    );
    sim.power_cut();
    drop((store, a));
    let store = open(&sim, &config);
    let a = device(&store, "a");
    assert!((0..32).all(|index| tag(&*a, index) == 1 + index as u32));
    store.settle_all().unwrap();
    assert!(problems(&store).is_empty());
    assert!((0..32).all(|index| tag(&*a, index) == 1 + index as u32));
    collect(&store).unwrap();
}

/// As one that was mounted anew to be read only, after an error of its own.
#[test]
fn a_disk_that_takes_no_writes_is_read_and_says_why() {
    let sim = SimEnv::new(1);
    let config = Config::small();
    let store = new(&sim, &config);
    let a = make(&store, "a", 64 * MIB);
    (0..16).for_each(|index| write(&*a, index, 1 + index as u32));
    store.settle_all().unwrap();
    (16..32).for_each(|index| write(&*a, index, 1 + index as u32));
    a.flush().unwrap();
    inject(&sim, Fault::WriteError, "", 0, u64::MAX);
    write(&*a, 32, 33);
    assert_eq!(a.flush().unwrap_err().kind(), ErrorKind::Io);
    // Written data waits in memory as long as there is room, then writers are told.
    let refused = (33..16_384).find_map(|index| {
        let done = a.write(index * BLOCK, &block(1), Durability::Volatile);
        done.err().map(|e| (index, e.kind()))
    });
    let (index, kind) = refused.unwrap();
    assert_eq!(kind, ErrorKind::Io);
    assert!(index > 1000, "refused at {index}");
    assert!((0..33).all(|index| tag(&*a, index) == 1 + index as u32));
    let health = store.stats().health;
    assert!(!health.is_good() && health.disk.errors > 0);
    assert!(health.disk.last_error.unwrap().contains(" /store/"));
    sim.heal();
    sim.power_cut();
    drop((store, a));
    let store = open(&sim, &config);
    let a = device(&store, "a");
    assert!((0..32).all(|index| tag(&*a, index) == 1 + index as u32));
    write(&*a, 0, 2);
    a.flush().unwrap();
    assert!(store.stats().health.is_good());
}

#[test]
fn a_disk_that_stalls_is_waited_for_and_counted() {
    let sim = SimEnv::new(1);
    let store = new(&sim, &Config::small());
    let a = make(&store, "a", MIB);
    write(&*a, 0, 1);
    inject(
        &sim,
        Fault::Stall(Duration::from_secs(30)),
        "journal/",
        0,
        1,
    );
    a.flush().unwrap();
    let health = store.stats().health;
    assert_eq!(health.disk.stalls, 1);
    assert!(health.is_good(), "{health:?}");
}
