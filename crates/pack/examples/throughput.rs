//! How fast blocks are written and read: `throughput DIRECTORY [MIB]`.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement"
)]

use brick_local::LocalBrick;
use pack::{Config, PackStore};
use std::{path::PathBuf, sync::Arc, time::Instant};
use types::{BLOCK_SIZE, Codec, Epoch, SharedBlock, StoreId};

fn block(n: u64) -> SharedBlock {
    let mut bytes = [7; BLOCK_SIZE];
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    // Short alternating runs, as in real data.
    for (i, word) in bytes.as_chunks_mut::<8>().0.iter_mut().enumerate() {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
        if i / 8 % 2 == 0 {
            *word = (x ^ x >> 29).to_le_bytes();
        }
    }
    Arc::new(bytes)
}

fn main() {
    let mut args = std::env::args().skip(1);
    let dir = PathBuf::from(args.next().expect("a directory"));
    let mib: u64 = args.next().map_or(256, |text| text.parse().unwrap());
    let blocks: Vec<SharedBlock> = (0..mib << 8).map(block).collect();
    for (codec, dedup) in [
        (Codec::None, false),
        (Codec::Lz4, false),
        (Codec::Lz4, true),
        (Codec::Zstd, true),
    ] {
        let dir = dir.join(format!("{codec}-{dedup}"));
        let brick = Arc::new(LocalBrick::open(env::Env::real(), &dir).unwrap());
        let config = Config {
            block_cache_bytes: 64 << 20,
            node_cache_bytes: 1 << 20,
            header_cache_bytes: 16 << 20,
            index_bytes: 64 << 20,
        };
        let reserve = Box::new(|n| Ok(1..1 + n));
        let store = PackStore::new(brick, StoreId([1; 16]), [2; 32], Epoch(1), reserve, config);
        let timed = |what: &str, count: u64, work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            let s = start.elapsed().as_secs_f64();
            let each = s * 1e9 / count as f64;
            let rate = count as f64 / 256.0 * 1.048_576 / s;
            println!("{codec} dedup={dedup} {what}: {rate:.0} MB/s, {each:.0} ns a block");
        };
        let n = blocks.len() as u64;
        let mut pointers = Vec::new();
        let mut first = Some(store.writer(codec, dedup));
        timed("write_blocks", n, &mut || {
            pointers = first.as_mut().unwrap().write_blocks(&blocks).unwrap()
        });
        timed("finish", n, &mut || {
            drop(first.take().unwrap().finish().unwrap())
        });
        if dedup {
            let mut writer = store.writer(codec, dedup);
            timed("write again", n, &mut || {
                drop(writer.write_blocks(&blocks).unwrap())
            });
        }
        let mut out = vec![0; 256 * BLOCK_SIZE];
        timed("read_run 1 MiB", n, &mut || {
            for run in pointers.chunks(256) {
                store
                    .read_run(run, &mut out[..run.len() * BLOCK_SIZE])
                    .unwrap();
            }
        });
        let random = |i: u64| pointers[(i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % n) as usize];
        timed("random read", 20_000, &mut || {
            (0..20_000).for_each(|i| drop(store.read(random(i)).unwrap()));
        });
        timed("cached", 1_000_000, &mut || {
            let p = pointers[0];
            store.read(p).unwrap();
            (0..1_000_000).for_each(|_| {
                std::hint::black_box(store.cached(p, |block| block[0]));
            });
        });
        timed("one block destaged", 200, &mut || {
            for i in 0..200 {
                let mut writer = store.writer(codec, dedup);
                writer.write_blocks(&[block(1 << 40 | i)]).unwrap();
                writer.finish().unwrap();
            }
        });
    }
}
