//! What starting costs.

use crate::{DIR, name};
use block::Durability::Volatile;
use sim::{Fault, Injection, SimEnv};
use std::{path::Path, time::Duration};
use types::BLOCK_SIZE;
use volume::{Config, Create, InitOptions, Source, Store};

/// Blocks that are no duplicates of each other, and do not compress.
fn noise(first: u64, count: u64) -> Vec<u8> {
    let mut state = first << 1 | 1;
    let bytes = (0..count as usize * BLOCK_SIZE).map(|_| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
        (state >> 56) as u8
    });
    bytes.collect()
}

fn empty_volume() -> Create {
    Create::new(name("v"), Source::Empty(1 << 30))
}

/// I/Os of opening a store that holds so many MiB in packs, and nothing in the journal.
fn start_of(mib: u64) -> u64 {
    let sim = SimEnv::new(7);
    let dir = Path::new(DIR);
    Store::init(&sim.env(), dir, &InitOptions::default()).unwrap();
    let store = Store::open(&sim.env(), dir, Config::small()).unwrap();
    store.create_volume(&empty_volume()).unwrap();
    let disk = store.device(&name("v").into()).unwrap();
    for n in 0..mib {
        disk.write(n << 20, &noise(n, 256), Volatile).unwrap();
    }
    store.settle_all().unwrap();
    store.close().unwrap();
    drop((disk, store));
    // A stall of no time is met by every I/O and does nothing: it counts.
    sim.inject(Injection {
        fault: Fault::Stall(Duration::ZERO),
        file: String::new(),
        skip: 0,
        times: u64::MAX,
    });
    let before = sim.struck();
    let store = Store::open(&sim.env(), dir, Config::small()).unwrap();
    assert_eq!(store.find(&name("v")).unwrap().mapped_blocks, mib * 256);
    sim.struck() - before
}

/// The store is thirty times as large, and opened with as many I/Os, but for some of the catalog's.
#[test]
fn starting_does_not_depend_on_what_is_stored() {
    let (small, large) = (start_of(2), start_of(60));
    assert!(
        small > 10 && large <= small + small / 4,
        "{small} I/Os for 2 MiB, {large} for 60 MiB"
    );
}

/// A process dies in a commit, which is in the page cache then and not on the disk. The next one sees it, and what it
/// builds on it must not outlive it, wherever the power goes.
#[test]
fn what_is_begun_on_a_commit_does_not_outlive_it() {
    let dir = Path::new(DIR);
    let mut deaths = 0;
    for io in 1.. {
        let sim = SimEnv::new(io);
        Store::init(&sim.env(), dir, &InitOptions::default()).unwrap();
        let store = Store::open(&sim.env(), dir, Config::small()).unwrap();
        sim.crash_after(io);
        let made = store.create_volume(&empty_volume());
        let died = sim.has_died();
        sim.kill();
        drop(store);
        for later in 1.. {
            let next = sim.fork();
            next.crash_after(later);
            drop(Store::open(&next.env(), dir, Config::small()));
            let cut = next.has_died();
            next.power_cut();
            let opened = Store::open(&next.env(), dir, Config::small());
            let store = opened.unwrap_or_else(|e| panic!("{io}, then {later}: {e:?}"));
            assert!(made.is_err() || store.find(&name("v")).is_ok());
            if !cut {
                break;
            }
            deaths += 1;
        }
        if !died {
            break;
        }
    }
    assert!(deaths > 100, "{deaths} deaths");
}
