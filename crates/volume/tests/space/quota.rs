//! Quotas: who may write what, against a model that counts.

use crate::support::{BLOCK, MIB, block, device, make, name, new, open};
use block::{Durability::Volatile, ErrorKind};
use sim::SimEnv;
use std::collections::BTreeSet;
use volume::{Config, Update};

const BLOCKS: u64 = 1024;
const QUOTA: u64 = 300;

fn set(quota: u64) -> Update {
    Update {
        quota: Some(quota * BLOCK),
        ..Update::default()
    }
}

/// One client: what is refused is exactly what would map more than the quota, whatever is in memory, in packs, or
/// was discarded, and whichever process comes next.
#[test]
fn exactly_what_is_beyond_the_quota_is_refused() {
    let mut refused = 0;
    for seed in 0..6 {
        let sim = SimEnv::new(seed);
        let config = Config {
            destage_bytes: [256 << 10, 16 << 20][seed as usize % 2],
            ..Config::small()
        };
        let mut store = new(&sim, &config);
        let mut disk = make(&store, "v", BLOCKS * BLOCK);
        store.update_volume(&name("v"), &set(QUOTA)).unwrap();
        let mut luck = seed + 1;
        let mut roll = |sides: u64| {
            luck = luck.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (luck >> 33) % sides
        };
        let mut mapped = BTreeSet::new();
        for step in 0..400_u32 {
            let start = roll(BLOCKS);
            let count = (1 + roll(12)).min(BLOCKS - start);
            let range = start..start + count;
            match roll(20) {
                0..3 => {
                    disk.discard(start * BLOCK, count * BLOCK, Volatile)
                        .unwrap();
                    mapped.retain(|index| !range.contains(index));
                }
                3 => {
                    sim.kill();
                    drop(store);
                    store = open(&sim, &config);
                    disk = device(&store, "v");
                }
                4 => disk.flush().unwrap(),
                kind => {
                    let part = kind == 5;
                    let range = if part { start..start + 1 } else { range };
                    let bytes: Vec<u8> = range.clone().flat_map(|_| block(step + 1)).collect();
                    let bytes = if part { &bytes[..512] } else { &bytes };
                    let fresh = range.clone().filter(|index| !mapped.contains(index));
                    let fresh = fresh.count() as u64;
                    let fits = fresh == 0 || mapped.len() as u64 + fresh <= QUOTA;
                    let done = disk.write(start * BLOCK, bytes, Volatile);
                    assert_eq!(
                        done.map_err(|e| e.kind()),
                        if fits {
                            Ok(())
                        } else {
                            Err(ErrorKind::NoSpace)
                        },
                        "seed {seed}, step {step}: {} mapped, {fresh} more",
                        mapped.len()
                    );
                    if fits {
                        mapped.extend(range);
                    } else {
                        refused += 1;
                    }
                }
            }
        }
        store.close().unwrap();
        drop((disk, store));
        let record = open(&sim, &config).find(&name("v")).unwrap();
        assert_eq!(record.mapped_blocks, mapped.len() as u64, "seed {seed}");
    }
    assert!(refused > 50, "the quota was met {refused} times");
}

#[test]
fn a_quota_below_what_is_there_lets_overwrite_and_is_lifted() {
    let sim = SimEnv::new(1);
    let store = new(&sim, &Config::small());
    let disk = make(&store, "v", 4 * MIB);
    let write = |index: u64| disk.write(index * BLOCK, &block(7), Volatile);
    (0..20).for_each(|index| write(index).unwrap());
    let record = store.update_volume(&name("v"), &set(10)).unwrap();
    assert_eq!(record.quota, Some(10 * BLOCK));
    assert!(write(3).is_ok() && write(19).is_ok());
    assert_eq!(write(20).map_err(|e| e.kind()), Err(ErrorKind::NoSpace));
    // What counts is the volume: a snapshot keeps what is discarded, and does not.
    store.create_snapshot(&name("v"), &name("s")).unwrap();
    disk.discard(0, 11 * BLOCK, Volatile).unwrap();
    assert!(write(20).is_ok());
    assert!(write(21).is_err());
    // Zeroing parts of blocks is not refused.
    disk.write_zeroes(30 * BLOCK + 1, 100, Volatile).unwrap();
    let record = store.update_volume(&name("v"), &set(0)).unwrap();
    assert_eq!(record.quota, None);
    assert!(write(21).is_ok());
}
