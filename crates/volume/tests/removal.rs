//! Volumes that are removed or shrunk, and stores that are closed, while they are busy or cannot destage.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use block::{BlockDevice, Durability};
use sim::SimEnv;
use std::{path::Path, sync::Arc};
use types::{BLOCK_SIZE, Name};
use volume::{Background, Config, Create, InitOptions, Source, Store, Update};

const DIR: &str = "/store";
const MIB: u64 = 1 << 20;

fn open(sim: &SimEnv, config: &Config) -> Store {
    Store::open(&sim.env(), Path::new(DIR), config.clone()).unwrap()
}

fn new(sim: &SimEnv, config: &Config) -> Store {
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    open(sim, config)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn make(store: &Store, volume: &str, size: u64) -> Arc<dyn BlockDevice> {
    let create = Create::new(name(volume), Source::Empty(size));
    store.create_volume(&create).unwrap();
    device(store, volume)
}

fn device(store: &Store, volume: &str) -> Arc<dyn BlockDevice> {
    store.device(&name(volume).into()).unwrap()
}

fn threads() -> Config {
    Config {
        background: Background::Threads(2),
        destage_bytes: 16 << 10,
        ..Config::small()
    }
}

/// Noise, so that it takes space.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..len).map(|_| next()).collect()
}

/// No room for anything that is not there yet.
fn fill_up(sim: &SimEnv) {
    let space = sim.env().files.space(Path::new(DIR)).unwrap();
    sim.set_space(space.total - space.free);
}

/// Writes ever higher numbers to one block, each durable, and to others; answers the last that was acknowledged.
fn write_until_gone(device: &dyn BlockDevice) -> u64 {
    let mut acknowledged = 0;
    for number in 1_u64.. {
        let mut block = [0; BLOCK_SIZE];
        block[..8].copy_from_slice(&number.to_le_bytes());
        let other = BLOCK_SIZE as u64 * (1 + number % 100);
        let done = device
            .write(other, &block, Durability::Volatile)
            .and_then(|()| device.write(0, &block, Durability::Durable));
        match done {
            Ok(()) => acknowledged = number,
            Err(e) => {
                assert_eq!(e.kind(), block::ErrorKind::Gone, "{e:?}");
                break;
            }
        }
    }
    acknowledged
}

#[test]
fn what_was_flushed_until_removal_is_there_when_it_is_taken_back() {
    let sim = SimEnv::new(1);
    let store = new(&sim, &threads());
    make(&store, "v", MIB);
    for round in 0..60 {
        let device = device(&store, "v");
        let (acknowledged, removed) = std::thread::scope(|threads| {
            let writer = threads.spawn(|| write_until_gone(&*device));
            while store.dirty(store.find(&name("v")).unwrap().id) == 0 {
                std::thread::yield_now();
            }
            let removed = store.remove_volume(&name("v")).unwrap();
            (writer.join().unwrap(), removed)
        });
        store.restore_volume(removed.id, None).unwrap();
        let mut now = [0; 8];
        store
            .device(&name("v").into())
            .unwrap()
            .read(0, &mut now)
            .unwrap();
        let now = u64::from_le_bytes(now);
        assert!(
            now >= acknowledged,
            "round {round}: {now} after {acknowledged}"
        );
    }
    store.close().unwrap();
    assert_eq!(store.stats().pressure.dirty, 0);
}

#[test]
fn a_removal_that_fails_changes_nothing() {
    let sim = SimEnv::new(2);
    // Without a reserve, which would be given up for it.
    let config = Config {
        reserve_bytes: 0,
        ..Config::small()
    };
    let store = new(&sim, &config);
    let device = make(&store, "v", MIB);
    let data = noise(1, 64 << 10);
    device.write(0, &data, Durability::Durable).unwrap();
    fill_up(&sim);
    let e = store.remove_volume(&name("v")).unwrap_err();
    assert_eq!(e.kind(), volume::ErrorKind::NoSpace, "{e:?}");
    sim.set_space(1 << 40);
    store.update_space();
    let more = noise(2, 4096);
    device.write(0, &more, Durability::Durable).unwrap();
    let mut now = vec![0; data.len()];
    device.read(0, &mut now).unwrap();
    assert!(now[..4096] == more && now[4096..] == data[4096..]);
    let id = store.remove_volume(&name("v")).unwrap().id;
    let gone = device.read(0, &mut now).unwrap_err();
    assert_eq!(gone.kind(), block::ErrorKind::Gone);
    store.restore_volume(id, None).unwrap();
    device_reads(&store, "v", 4096, &data[4096..]);
}

fn device_reads(store: &Store, volume: &str, offset: u64, expected: &[u8]) {
    let mut now = vec![0; expected.len()];
    device(store, volume).read(offset, &mut now).unwrap();
    assert!(now == expected, "{volume} changed");
}

#[test]
fn a_store_that_cannot_destage_closes_into_its_journal() {
    let sim = SimEnv::new(3);
    let store = new(&sim, &Config::small());
    let volumes = ["a", "b", "c"];
    for (seed, volume) in volumes.iter().enumerate() {
        let device = make(&store, volume, MIB);
        // The journal has a segment from now on.
        device.write(0, &[1; 512], Durability::Durable).unwrap();
        let data = noise(seed as u64 + 1, 64 << 10);
        device.write(4096, &data, Durability::Volatile).unwrap();
    }
    fill_up(&sim);
    store.settle_all().unwrap_err();
    store.close().unwrap();
    drop(store);
    sim.power_cut();
    sim.set_space(1 << 40);
    let store = open(&sim, &Config::small());
    for (seed, volume) in volumes.iter().enumerate() {
        device_reads(&store, volume, 4096, &noise(seed as u64 + 1, 64 << 10));
    }
}

/// Writes to the last blocks of a volume until it has shrunk.
fn write_until_cut_off(device: &dyn BlockDevice, size: u64) {
    for number in 1_u64.. {
        let offset = size - BLOCK_SIZE as u64 * (1 + number % 8);
        // Whole blocks, and parts.
        let len = if number.is_multiple_of(3) {
            512
        } else {
            BLOCK_SIZE
        };
        if let Err(e) = device.write(offset, &vec![7; len], Durability::Volatile) {
            assert_eq!(e.kind(), block::ErrorKind::OutOfRange, "{e:?}");
            break;
        }
    }
}

#[test]
fn what_is_cut_off_is_gone_however_busy_its_writers() {
    let sim = SimEnv::new(4);
    let store = new(&sim, &threads());
    let device = make(&store, "v", 2 * MIB);
    let resize = |size| {
        let update = Update {
            size: Some(size),
            allow_data_loss: true,
            ..Update::default()
        };
        store.update_volume(&name("v"), &update).unwrap();
    };
    for round in 0..40 {
        std::thread::scope(|threads| {
            for _ in 0..2 {
                threads.spawn(|| write_until_cut_off(&*device, 2 * MIB));
            }
            while store.dirty(store.find(&name("v")).unwrap().id) == 0 {
                std::thread::yield_now();
            }
            resize(MIB + 512);
        });
        resize(2 * MIB);
        let mut tail = vec![1; MIB as usize - 512];
        device.read(MIB + 512, &mut tail).unwrap();
        assert!(tail.iter().all(|&byte| byte == 0), "round {round}");
    }
    store.close().unwrap();
}

#[test]
fn a_root_that_somebody_looks_at_is_not_collected() {
    let sim = SimEnv::new(5);
    let store = new(&sim, &Config::small());
    let device = make(&store, "v", MIB);
    let data = noise(1, 64 << 10);
    device.write(0, &data, Durability::Volatile).unwrap();
    let pinned = store.root_of(&name("v").into()).unwrap();
    assert_eq!(pinned.size, MIB);
    device.discard(0, MIB, Durability::Volatile).unwrap();
    store.settle_all().unwrap();
    let collect = || {
        let options = gc::Options::default();
        gc::collect(store.packs(), &store, &options, &types::NoProgress).unwrap()
    };
    let root = gc::OwnedRoot {
        root: pinned.root,
        size_blocks: 256,
        owner: "test".into(),
    };
    let packs = gc::mark(store.packs(), &[root], &types::NoProgress)
        .unwrap()
        .packs();
    let kept = || {
        let listed = store.packs().list().unwrap();
        let there = |pack| listed.iter().any(|stat| stat.pack == pack);
        packs.iter().filter(|&&pack| there(pack)).count()
    };
    collect();
    assert!(!packs.is_empty() && kept() == packs.len());
    drop(pinned);
    collect();
    assert_eq!(kept(), 0);
}
