//! What deduplication finds in a store of a tebibyte, and the memory that it takes: `scale INDEX_MIB STORED_GIB IMAGE...`.
//!
//! The store's packs are made up when they are read: headers and hashes like those of real ones, and nothing behind them,
//! so that no tebibyte of disk is needed. All of them go into the index as they do when a daemon starts. Then the images
//! are written one after the other, as an import writes them, so that what is found of each has the locality that disks of one family
//! have. Prints JSON.
#![expect(clippy::unwrap_used, reason = "a measurement")]

use brick::{Brick, Error, ErrorKind, PackStat, Space};
use format::{
    block_hash,
    pack::{FrameKind, NewFrame, NewPack, PACK_BLOCKS},
};
use pack::{Config, PackStore};
use std::{
    collections::{HashMap, HashSet},
    fs::File,
    io::Read,
    ops::Range,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};
use types::{
    BLOCK_SIZE, Block, BlockHash, Codec, Epoch, NoProgress, PackId, SharedBlock, StoreId, is_zero,
};

const STORE: StoreId = StoreId([1; 16]);
const KEY: [u8; 32] = [2; 32];
/// Blocks that an import writes at once, and after which it begins anew.
const CHUNK_BLOCKS: usize = 2048;
const WRITER_BLOCKS: usize = 1 << 18;

/// Packs up to `made_up` are made up; others are kept in memory.
struct HalfRealBrick {
    made_up: u64,
    /// The last one that was made: it is read in pieces.
    last: Mutex<(PackId, Vec<u8>)>,
    kept: Mutex<HashMap<PackId, Vec<u8>>>,
}

/// A number that depends on `n` as a hash does.
fn mix(n: u64) -> u64 {
    let n = (n ^ (n >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let n = (n ^ (n >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    n ^ (n >> 31)
}

fn make_up(pack: PackId) -> Vec<u8> {
    let hash = |ordinal: u64| {
        let block = pack.0 << 10 | ordinal;
        let mut hash = [0; 16];
        hash[..8].copy_from_slice(&mix(block.wrapping_mul(2) + 1).to_le_bytes());
        hash[8..].copy_from_slice(&mix(!block).to_le_bytes());
        BlockHash(hash)
    };
    let hashes: Vec<BlockHash> = (0..PACK_BLOCKS as u64).map(hash).collect();
    let frame = NewFrame {
        kind: FrameKind::Data,
        blocks: 4,
        codec: Codec::Lz4,
        stored: vec![0],
    };
    NewPack {
        pack,
        store: STORE,
        revision: 0,
        hashes: &hashes,
        live: None,
        note: &[],
    }
    .assemble(&vec![frame; PACK_BLOCKS / 4])
}

fn copy(object: &[u8], offset: u64, buf: &mut [u8]) -> Result<(), Error> {
    let from = object.get(offset as usize..offset as usize + buf.len());
    let from = from.ok_or(Error::new(ErrorKind::NotFound, "read", None))?;
    buf.copy_from_slice(from);
    Ok(())
}

impl Brick for HalfRealBrick {
    fn put(&self, _: Epoch, pack: PackId, bytes: &[u8]) -> Result<(), Error> {
        self.kept.lock().unwrap().insert(pack, bytes.to_vec());
        Ok(())
    }

    fn read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        if let Some(object) = self.kept.lock().unwrap().get(&pack) {
            return copy(object, offset, buf);
        }
        let mut last = self.last.lock().unwrap();
        if last.0 != pack {
            *last = (pack, make_up(pack));
        }
        copy(&last.1, offset, buf)
    }

    fn try_read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        self.read(pack, offset, buf).map(|()| true)
    }

    fn refresh(&self, _: PackId) -> Result<(), Error> {
        Ok(())
    }

    fn trim(&self, _: Epoch, _: PackId, _: (u64, &[u8]), _: &[Range<u64>]) -> Result<(), Error> {
        unreachable!("nothing is collected")
    }

    fn remove(&self, _: Epoch, _: PackId) -> Result<(), Error> {
        unreachable!("nothing is collected")
    }

    fn sync(&self) -> Result<(), Error> {
        Ok(())
    }

    fn list(&self) -> Result<Vec<PackStat>, Error> {
        let stat = |id| PackStat {
            pack: PackId(id),
            len: 1 << 20,
            stored: 1 << 20,
        };
        Ok((1..=self.made_up).map(stat).collect())
    }

    fn space(&self) -> Result<Space, Error> {
        Ok(Space::default())
    }
}

fn store(made_up: u64, index_bytes: u64) -> Arc<PackStore> {
    let brick = HalfRealBrick {
        made_up,
        last: Mutex::new((PackId(0), Vec::new())),
        kept: Mutex::default(),
    };
    let next = AtomicU64::new(made_up + 1);
    let reserve = Box::new(move |n| {
        let first = next.fetch_add(n, Relaxed);
        Ok(first..first + n)
    });
    let config = Config {
        block_cache_bytes: 64 << 20,
        node_cache_bytes: 1 << 20,
        header_cache_bytes: 64 << 20,
        index_bytes,
    };
    PackStore::new(Arc::new(brick), STORE, KEY, Epoch(1), reserve, config)
}

/// What was written, what of it was there before, and what of that was found: blocks.
#[derive(Default)]
struct Tally {
    written: u64,
    duplicates: u64,
    found: u64,
}

fn import(store: &Arc<PackStore>, path: &str, known: &mut HashSet<BlockHash>, tally: &mut Tally) {
    let mut file = File::open(path).unwrap();
    let mut buffer = vec![0; CHUNK_BLOCKS * BLOCK_SIZE];
    let mut writer = store.writer(Codec::Lz4, true);
    let mut since = 0;
    loop {
        let len = file.read(&mut buffer).unwrap();
        if len == 0 {
            break;
        }
        let (blocks, _) = buffer[..len].as_chunks::<BLOCK_SIZE>();
        let blocks = blocks.iter().filter(|block| !is_zero(&block[..]));
        let chunk: Vec<SharedBlock> = blocks.map(|&block: &Block| Arc::new(block) as _).collect();
        for block in &chunk {
            let is_new = known.insert(block_hash(&KEY, block.bytes()));
            tally.duplicates += u64::from(!is_new);
        }
        writer.write_blocks(&chunk).unwrap();
        since += chunk.len();
        if since >= WRITER_BLOCKS {
            let full = std::mem::replace(&mut writer, store.writer(Codec::Lz4, true));
            book(full, tally);
            since = 0;
        }
    }
    book(writer, tally);
}

fn book(writer: pack::PackWriter, tally: &mut Tally) {
    let stats = writer.finish().unwrap().stats;
    tally.written += stats.blocks_in;
    tally.found += stats.blocks_deduped;
}

fn main() {
    let mut args = std::env::args().skip(1);
    let mut number = || args.next().unwrap().parse::<u64>().unwrap();
    let (index_mib, stored_gib) = (number(), number());
    let store = store(stored_gib << 8, index_mib << 20);
    store.rebuild_index(&NoProgress).unwrap();
    let full = store.usage();
    let (mut known, mut tally) = (HashSet::new(), Tally::default());
    for image in args {
        import(&store, &image, &mut known, &mut tally);
    }
    let usage = store.usage();
    println!(
        r#"{{"index_bytes": {}, "entries": {}, "k": {}, "written": {}, "duplicates": {}, "found": {}}}"#,
        usage.index_bytes.max(full.index_bytes),
        usage.index_entries,
        usage.index_k,
        tally.written,
        tally.duplicates,
        tally.found
    );
}
