//! The pack store as a whole, on simulated files.

use crate::*;
use brick_local::LocalBrick;
use format::Node;
use proptest::prelude::*;
use sim::SimEnv;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};
use types::{BLOCK_SIZE, Codec, Epoch, NoProgress, PackId, Pointer, SharedBlock, StoreId};

mod collecting;
#[cfg(feature = "shuttle")]
mod interleavings;
mod notes;

const CONFIG: Config = Config {
    block_cache_bytes: 1 << 20,
    node_cache_bytes: 1 << 16,
    header_cache_bytes: 1 << 20,
    index_bytes: 1 << 20,
};

/// A machine on which stores are opened.
struct Machine {
    sim: SimEnv,
    ids: Arc<AtomicU64>,
}

impl Machine {
    fn new(seed: u64) -> Self {
        Machine {
            sim: SimEnv::new(seed),
            ids: Arc::new(AtomicU64::new(1)),
        }
    }

    fn open_with(&self, config: Config) -> Arc<PackStore> {
        let brick = LocalBrick::open(self.sim.env(), Path::new("/brick")).unwrap();
        let ids = Arc::clone(&self.ids);
        let reserve: ReserveIds = Box::new(move |n| {
            let first = ids.fetch_add(n, SeqCst);
            Ok(first..first + n)
        });
        PackStore::new(
            Arc::new(brick),
            StoreId([1; 16]),
            [2; 32],
            Epoch(1),
            reserve,
            config,
        )
    }

    fn open(&self) -> Arc<PackStore> {
        self.open_with(CONFIG)
    }
}

/// A block that is like no other and compresses by half.
fn block(n: u64) -> SharedBlock {
    let mut bytes = [7; BLOCK_SIZE];
    let mut x = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for word in bytes[..BLOCK_SIZE / 2].as_chunks_mut::<8>().0 {
        x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(n);
        *word = x.to_le_bytes();
    }
    Arc::new(bytes)
}

fn blocks(range: std::ops::Range<u64>) -> Vec<SharedBlock> {
    range.map(block).collect()
}

fn write(store: &Arc<PackStore>, blocks: &[SharedBlock], dedup: bool) -> (Vec<Pointer>, Written) {
    let mut writer = store.writer(Codec::Lz4, dedup);
    let pointers = writer.write_blocks(blocks).unwrap();
    (pointers, writer.finish().unwrap())
}

fn assert_reads(store: &PackStore, pointers: &[Pointer], blocks: &[SharedBlock]) {
    let mut out = vec![0xaa; pointers.len() * BLOCK_SIZE];
    store.read_run(pointers, &mut out).unwrap();
    for ((p, block), read) in pointers
        .iter()
        .zip(blocks)
        .zip(out.as_chunks::<BLOCK_SIZE>().0)
    {
        assert!(block[..] == *read, "{p:?} in a run");
        assert!(store.read(*p).unwrap()[..] == block[..], "{p:?}");
    }
}

#[test]
fn only_what_follows_each_other_shares_a_frame() {
    let machine = Machine::new(1);
    let store = machine.open();
    let mut writer = store.writer(Codec::Lz4, true);
    let indexes = [0, 1, 2, 3, 4, 9, 20, 21];
    let all = blocks(0..8);
    let pointers = writer.write_scattered(&indexes, &all).unwrap();
    writer.finish().unwrap();
    let info = store.info(pointers[0].pack()).unwrap();
    let sizes: Vec<u8> = info.frames.iter().map(|frame| frame.blocks).collect();
    assert_eq!(sizes, [4, 1, 1, 2]);
    assert_reads(&store, &pointers, &all);
}

#[test]
fn what_is_written_is_read_with_every_codec() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let machine = Machine::new(1);
        let all = blocks(0..2500);
        let store = machine.open();
        let mut writer = store.writer(codec, true);
        let mut pointers = writer.write_blocks(&all[..7]).unwrap();
        pointers.extend(writer.write_blocks(&all[7..]).unwrap());
        let stats = writer.finish().unwrap().stats;
        assert_eq!(
            (stats.blocks_in, stats.blocks_deduped, stats.packs),
            (2500, 0, 3)
        );
        assert_reads(&store, &pointers, &all);
        let again = machine.open();
        assert_reads(&again, &pointers, &all);
        for stat in again.list().unwrap() {
            assert!(again.verify(stat.pack, true).unwrap().damaged.is_empty());
        }
    }
}

#[test]
fn holes_read_as_zeroes_in_a_run() {
    let store = Machine::new(1).open();
    let (pointers, _written) = write(&store, &blocks(0..2), true);
    let mut out = vec![0xaa; 4 * BLOCK_SIZE];
    let run = [pointers[1], Pointer::HOLE, pointers[0], pointers[1]];
    store.read_run(&run, &mut out).unwrap();
    let expected = [
        &block(1)[..],
        &[0; BLOCK_SIZE],
        &block(0)[..],
        &block(1)[..],
    ]
    .concat();
    assert!(out == expected);
}

#[test]
fn a_small_destage_is_one_object_of_one_page_more_than_its_data() {
    let store = Machine::new(1).open();
    let mut writer = store.writer(Codec::Lz4, true);
    let pointers = writer.write_blocks(&blocks(0..3)).unwrap();
    let mut node = Node::new();
    node.set(5, pointers[0]);
    let p = writer.write_node(&node).unwrap();
    assert_eq!(*store.node(p).unwrap(), node);
    let stats = writer.finish().unwrap().stats;
    assert_eq!((stats.packs, stats.nodes), (1, 1));
    assert!(stats.bytes_stored <= 3 * 4096, "{stats:?}");
    let fresh = store.node_uncached(p).unwrap();
    assert_eq!(*fresh, node);
}

#[test]
fn nodes_are_readable_before_their_pack_is_put_whatever_the_cache_drops() {
    let machine = Machine::new(1);
    let store = machine.open_with(Config {
        node_cache_bytes: 20_000,
        ..CONFIG
    });
    let mut writer = store.writer(Codec::Lz4, true);
    let node = |i: u16| {
        let mut node = Node::new();
        node.set(usize::from(i) % 512, Pointer::new(PackId(77), i));
        node
    };
    let pointers: Vec<_> = (0..1500)
        .map(|i| writer.write_node(&node(i)).unwrap())
        .collect();
    let check = |store: &PackStore| {
        for (i, p) in pointers.iter().enumerate() {
            assert_eq!(*store.node(*p).unwrap(), node(i as u16));
        }
    };
    check(&store);
    drop(writer.finish().unwrap());
    assert!(store.unput.read().is_empty());
    check(&store);
    check(&machine.open());
}

#[test]
fn duplicates_are_found_within_a_call_within_a_writer_and_across() {
    let store = Machine::new(1).open();
    let mut writer = store.writer(Codec::Lz4, true);
    let twice = [blocks(0..10), blocks(0..10)].concat();
    let first = writer.write_blocks(&twice).unwrap();
    assert_eq!(first[..10], first[10..]);
    let second = writer.write_blocks(&blocks(5..15)).unwrap();
    assert_eq!(second[..5], first[5..10]);
    let written = writer.finish().unwrap();
    assert_eq!(written.stats.blocks_deduped, 15);
    let (third, written) = write(&store, &blocks(0..15), true);
    assert_eq!(written.stats.blocks_deduped, 15);
    assert_eq!(written.stats.packs, 0);
    assert_eq!(third, [&first[..10], &second[5..]].concat());
    let (_, unhashed) = write(&store, &blocks(0..15), false);
    assert_eq!(unhashed.stats.blocks_deduped, 0);
}

#[test]
fn a_rebuilt_sparse_index_finds_neighbours_of_what_it_knows() {
    let machine = Machine::new(1);
    let all = blocks(0..6000);
    let (pointers, _) = write(&machine.open(), &all, true);
    // 256 entries for 6000 hashes.
    let store = machine.open_with(Config {
        index_bytes: 4096,
        ..CONFIG
    });
    store.rebuild_index(&NoProgress).unwrap();
    assert!(store.usage().index_k >= 4, "{:?}", store.usage());
    let (again, written) = write(&store, &all, true);
    assert_eq!(again, pointers);
    assert_eq!(written.stats.blocks_deduped, 6000);
}

#[test]
fn damage_is_an_error_that_names_the_block() {
    let machine = Machine::new(1);
    let store = machine.open();
    let (pointers, _written) = write(&store, &blocks(0..8), true);
    let pack = pointers[0].pack();
    let info = store.info(pack).unwrap();
    let range = info.frames[1].range();
    let mut byte = [0];
    store.brick.read(pack, range.start + 50, &mut byte).unwrap();
    store
        .brick
        .trim(Epoch(1), pack, (range.start + 50, &[!byte[0]]), &[])
        .unwrap();
    let fresh = machine.open();
    assert!(fresh.read(pointers[0]).is_ok());
    let error = fresh.read(pointers[5]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert!(
        error
            .to_string()
            .contains("block 5 of pack 0000000000000001:"),
        "{error}"
    );
    let mut out = vec![0; 8 * BLOCK_SIZE];
    let error = fresh.read_run(&pointers, &mut out).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(fresh.verify(pack, false).unwrap().damaged[0].ordinals, 4..8);
    for missing in [Pointer::new(PackId(99), 0), Pointer::new(pack, 8)] {
        assert_eq!(fresh.read(missing).unwrap_err().kind(), ErrorKind::Damaged);
    }
    assert_eq!(
        fresh.info(PackId(99)).unwrap_err().kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn what_is_finished_survives_a_power_cut() {
    for seed in 0..20 {
        let machine = Machine::new(seed);
        let store = machine.open();
        let (pointers, _written) = write(&store, &blocks(0..1500), true);
        let mut unfinished = store.writer(Codec::Lz4, true);
        unfinished.write_blocks(&blocks(3000..4100)).unwrap();
        machine.sim.power_cut();
        drop(unfinished);
        let store = machine.open();
        assert_reads(&store, &pointers, &blocks(0..1500));
        for stat in store.list().unwrap() {
            assert!(store.verify(stat.pack, true).unwrap().damaged.is_empty());
        }
        // New packs do not meet old ones.
        let (more, _written) = write(&store, &blocks(3000..3010), true);
        assert_reads(&store, &more, &blocks(3000..3010));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_mixture_of_writes_reads_back(
        calls in prop::collection::vec(
            (prop::collection::vec(0_u64..300, 0..200), any::<bool>(), any::<bool>()),
            1..12,
        ),
    ) {
        let machine = Machine::new(1);
        let store = machine.open_with(Config { block_cache_bytes: 100_000, ..CONFIG });
        let mut expected = Vec::new();
        let mut writer = store.writer(Codec::Lz4, true);
        for (numbers, finish, node) in calls {
            let blocks: Vec<_> = numbers.iter().map(|&n| block(n)).collect();
            let pointers = writer.write_blocks(&blocks).unwrap();
            expected.extend(pointers.into_iter().zip(blocks));
            if node {
                writer.write_node(&Node::new()).unwrap();
            }
            if finish {
                writer.finish().unwrap();
                writer = store.writer(Codec::Zstd, true);
            }
        }
        writer.finish().unwrap();
        let (pointers, blocks): (Vec<_>, Vec<_>) = expected.into_iter().unzip();
        assert_reads(&store, &pointers, &blocks);
        assert_reads(&machine.open(), &pointers, &blocks);
        let stored: u64 = store
            .list()
            .unwrap()
            .iter()
            .map(|stat| u64::from(store.info(stat.pack).unwrap().blocks))
            .sum();
        prop_assert!(stored <= 300 + 12, "{} blocks stored", stored);
    }
}
