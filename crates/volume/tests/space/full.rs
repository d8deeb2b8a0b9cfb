//! Disks that fill: who is refused what, and that nothing acknowledged is lost.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::support::{
    BLOCK, DIR, MIB, block, collect, device, make, name, new, open, remove, tag, used,
};
use block::{BlockDevice, Durability, ErrorKind};
use sim::SimEnv;
use std::{collections::BTreeSet, path::Path};
use volume::{Config, SpaceLevel, Store};

/// Writes blocks that follow each other until one is refused; answers which.
fn fill(device: &dyn BlockDevice, from: u64, first_tag: u32) -> u64 {
    (from..)
        .find(|&index| {
            let data = block(index as u32 + first_tag);
            match device.write(index * BLOCK, &data, Durability::Volatile) {
                Ok(()) => false,
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::NoSpace, "{e:?}");
                    true
                }
            }
        })
        .unwrap()
}

#[test]
fn a_store_that_fills_refuses_writers_and_does_all_else() {
    let sim = SimEnv::new(1);
    let config = Config {
        journal_bytes: 4 * MIB,
        reserve_bytes: 4 * MIB,
        ..Config::small()
    };
    let store = new(&sim, &config);
    sim.set_space(64 * MIB);
    store.update_space();
    let (a, b) = (make(&store, "a", 256 * MIB), make(&store, "b", 256 * MIB));
    let of_b = fill(&*b, 0, 1 << 20).min(16 * MIB / BLOCK);
    b.discard(of_b * BLOCK, 256 * MIB - of_b * BLOCK, Durability::Volatile)
        .unwrap();
    store.settle_all().unwrap();
    collect(&store).unwrap();
    let of_a = fill(&*a, 0, 1);
    // Little is left of what was there for writers: 64 MiB without the reserve, the journal, and what b has.
    let room = 64 * MIB - config.reserve_bytes - config.journal_bytes - of_b * BLOCK;
    assert!(
        of_a * BLOCK > room / 10 * 8,
        "{of_a} blocks of {room} bytes"
    );
    assert_eq!(store.stats().pressure.level, SpaceLevel::Full);
    // The reserve was not touched: what is missing are the catalog's pages.
    store.settle_all().unwrap();
    let left = store.stats().pressure;
    assert!(left.free + MIB / 4 >= left.reserve, "{left:?}");
    a.flush().unwrap();
    store.create_snapshot(&name("a"), &name("s")).unwrap();
    store.settle_all().unwrap();
    for index in [0, of_a / 2, of_a - 1] {
        assert_eq!(tag(&*a, index), index as u32 + 1);
    }
    a.discard(0, BLOCK, Durability::Durable).unwrap();

    remove(&store, "b");
    let more = fill(&*a, of_a, 1) - of_a;
    assert!(more * BLOCK > of_b * BLOCK / 10 * 8, "{more} of {of_b}");
    store.close().unwrap();
    drop((store, a));
    let store = open(&sim, &config);
    let a = device(&store, "a");
    assert_eq!(tag(&*a, 0), 0);
    assert!((1..of_a + more).all(|index| tag(&*a, index) == index as u32 + 1));
}

/// Another program takes all that is left, and all that is given back, again and again.
#[test]
fn removing_and_collecting_work_without_a_free_byte() {
    let sim = SimEnv::new(2);
    let config = Config {
        reserve_bytes: 8 * MIB,
        ..Config::small()
    };
    let store = new(&sim, &config);
    let rounds = 8;
    let volumes: Vec<_> = (0..rounds)
        .map(|n| {
            let device = make(&store, &format!("v{n}"), 16 * MIB);
            for index in 0..64 {
                // Packs that are partly of one volume and partly of the next.
                let data = block(n * 1000 + index as u32 + 1);
                device
                    .write(index * BLOCK, &data, Durability::Volatile)
                    .unwrap();
            }
            store.settle_all().unwrap();
            for k in 0..20 {
                let snapshot = name(&format!("s{k}"));
                store
                    .create_snapshot(&name(&format!("v{n}")), &snapshot)
                    .unwrap();
            }
            device
        })
        .collect();
    // Its last writes must get into packs before the first one goes: there is the reserve for that.
    for index in 100..300 {
        let data = block(90_000 + index as u32);
        volumes[1]
            .write(index * BLOCK, &data, Durability::Volatile)
            .unwrap();
    }
    let ballast = || {
        let path = Path::new(DIR).join("reserve");
        let file = sim.env().files.open(&path, env::OpenOptions::default());
        file.and_then(|file| file.allocated()).unwrap()
    };
    assert_eq!(ballast(), config.reserve_bytes / 4);
    for n in 1..rounds {
        sim.set_space(used(&sim));
        store.update_space();
        let refused = volumes[0].write(MIB, &block(9), Durability::Volatile);
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::NoSpace);
        let volume = format!("v{n}");
        store.remove_snapshot(&name(&volume), &name("s3")).unwrap();
        remove(&store, &volume);
        assert_eq!(ballast(), 0);
        assert!((0..64).all(|index| tag(&*volumes[0], index) == index as u32 + 1));
        assert!(used(&sim) < sim.env().files.space(Path::new(DIR)).unwrap().total);
    }
    // The other program ends: writers are back, and so is the reserve.
    sim.set_space(1 << 40);
    store.update_space();
    volumes[0]
        .write(MIB, &block(9), Durability::Durable)
        .unwrap();
    assert_eq!(ballast(), config.reserve_bytes / 4);
    store.close().unwrap();
}

/// What block may hold what, now and after a crash.
struct Model {
    now: Vec<BTreeSet<u32>>,
    kept: Vec<BTreeSet<u32>>,
}

impl Model {
    fn change(&mut self, index: u64, tag: u32, done: bool) {
        let index = index as usize;
        if done {
            self.now[index].clear();
        }
        self.now[index].insert(tag);
        self.kept[index].insert(tag);
    }

    fn check(&self, device: &dyn BlockDevice, crashed: bool) {
        let may = if crashed { &self.kept } else { &self.now };
        for (index, may) in may.iter().enumerate() {
            let tag = tag(device, index as u64);
            assert!(may.contains(&tag), "block {index} is {tag}, not of {may:?}");
        }
    }
}

const BLOCKS: u64 = 600;

fn only_no_space<T: std::fmt::Debug>(done: Result<T, volume::Error>) -> bool {
    let kind = done.as_ref().err().map(volume::Error::kind);
    assert!(
        matches!(kind, None | Some(volume::ErrorKind::NoSpace)),
        "{done:?}"
    );
    done.is_ok()
}

/// Writes, flushes, destages, takes and removes snapshots, discards and collects. Everything may be refused for want
/// of space, and for nothing else.
fn script(store: &Store, model: &mut Model) {
    let a = device(store, "a");
    let refused = |done: Result<(), block::Error>| {
        let kind = done.as_ref().err().map(block::Error::kind);
        assert!(matches!(kind, None | Some(ErrorKind::NoSpace)), "{done:?}");
        done.is_err()
    };
    let flush = |model: &mut Model| {
        if !refused(a.flush()) {
            model.kept = model.now.clone();
        }
    };
    for round in 0..6_u32 {
        for n in 0..100 {
            let index = (u64::from(round) * 7919 + n * 31) % BLOCKS;
            let tag = 1 + round * 1000 + n as u32;
            let done = a.write(index * BLOCK, &block(tag), Durability::Volatile);
            model.change(index, tag, !refused(done));
        }
        if round % 2 == 0 {
            flush(model);
        }
        let index = u64::from(round) * 50;
        let discarded = a.discard(index * BLOCK, 10 * BLOCK, Durability::Volatile);
        let done = !refused(discarded);
        (index..index + 10).for_each(|index| model.change(index, 0, done));
        let snapshot = name(&format!("s{round}"));
        if only_no_space(store.create_snapshot(&name("a"), &snapshot)) {
            model.kept = model.now.clone();
            if round % 3 == 0 {
                only_no_space(store.remove_snapshot(&name("a"), &snapshot));
            }
        }
        only_no_space(store.settle_all());
        let collected = collect(store);
        let kind = collected.as_ref().err().map(gc::Error::kind);
        assert!(
            matches!(kind, None | Some(gc::ErrorKind::NoSpace)),
            "{collected:?}"
        );
        flush(model);
    }
}

/// The disk gets so many bytes more than the store begins with, and the store is not told until it meets the end.
fn space_ends_after(bytes: u64, crash: bool) -> u64 {
    let sim = SimEnv::new(bytes);
    let config = Config {
        journal_bytes: 2 * MIB,
        destage_bytes: 256 << 10,
        flush_destage_bytes: 256 << 10,
        // Nothing is kept back: the end is met in the middle of everything.
        reserve_bytes: 0,
        ..Config::small()
    };
    let store = new(&sim, &config);
    make(&store, "a", 16 * MIB);
    let begin = used(&sim);
    sim.set_space(begin + bytes);
    let zeroes = vec![BTreeSet::from([0]); BLOCKS as usize];
    let mut model = Model {
        now: zeroes.clone(),
        kept: zeroes,
    };
    script(&store, &mut model);
    let taken = used(&sim) - begin;
    model.check(&*device(&store, "a"), false);
    let store = if crash {
        sim.power_cut();
        drop(store);
        let store = open(&sim, &config);
        model.check(&*device(&store, "a"), true);
        // What a crash left is the truth from now on.
        for index in 0..BLOCKS {
            model.now[index as usize] = BTreeSet::from([tag(&*device(&store, "a"), index)]);
        }
        store
    } else {
        store
    };
    sim.set_space(1 << 40);
    store.update_space();
    let a = device(&store, "a");
    a.write(0, &block(77), Durability::Volatile).unwrap();
    model.change(0, 77, true);
    a.flush().unwrap();
    store.settle_all().unwrap();
    collect(&store).unwrap();
    store.close().unwrap();
    drop((store, a));
    let store = open(&sim, &config);
    model.check(&*device(&store, "a"), false);
    taken
}

/// More with `HOLDFAST_SPACE_STEP=4096`: the end of the space at every page, instead of at some.
#[test]
fn wherever_space_ends_nothing_is_lost_and_all_goes_on() {
    let step = std::env::var("HOLDFAST_SPACE_STEP").unwrap_or_else(|_| "131072".to_owned());
    let step: u64 = step.parse().expect("a number");
    let all = space_ends_after(1 << 40, false);
    for (n, bytes) in (0..all).step_by(step as usize).enumerate() {
        // Odd pages, too, whatever the step is.
        space_ends_after(bytes + n as u64 % 8 * BLOCK, n % 2 == 1);
    }
}
