//! Giving up blocks.

use super::*;
use std::sync::atomic::AtomicBool;

fn bits(ordinals: impl IntoIterator<Item = u16>) -> LiveBits {
    ordinals.into_iter().collect()
}

/// A finished pack of blocks 0..n that no root refers to.
fn garbage(store: &Arc<PackStore>, n: u64) -> Vec<Pointer> {
    write(store, &blocks(0..n), true).0
}

#[test]
fn what_is_given_up_reads_as_damaged_and_the_rest_stays() {
    for how in [How::Punch, How::Rewrite, How::Drop] {
        let machine = Machine::new(1);
        let store = machine.open();
        let pointers = garbage(&store, 100);
        let pack = pointers[0].pack();
        let collection = store.begin_collection().unwrap();
        let live = bits((0..100).filter(|i| i % 7 == 1 || *i > 90));
        assert!(
            collection.give_up(pack, &live, how).unwrap() > 4096,
            "{how:?}"
        );
        assert_eq!(store.info(pack).unwrap().live, live);
        drop(collection);
        store.brick.sync().unwrap();
        for store in [&machine.open(), &store] {
            for (i, p) in pointers.iter().enumerate() {
                store.blocks.clear();
                let read = store.read(*p);
                if live.get(i as u16) {
                    assert!(read.unwrap()[..] == block(i as u64)[..], "{how:?} {i}");
                } else {
                    let error = read.unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Damaged);
                    assert!(error.to_string().contains("given up"), "{error}");
                }
            }
            assert!(
                store.verify(pack, true).unwrap().damaged.is_empty(),
                "{how:?}"
            );
        }
        // The dead are stored anew, the living found.
        let (_, written) = write(&store, &blocks(0..100), true);
        assert_eq!(written.stats.blocks_deduped, live.count() as u64);
    }
}

#[test]
fn dropping_forgets_a_pack_unless_something_is_pinned() {
    let store = Machine::new(1).open();
    let pointers = garbage(&store, 10);
    let pack = pointers[0].pack();
    let (_, pinned) = write(&store, &blocks(3..5), true);
    let collection = store.begin_collection().unwrap();
    drop(pinned);
    collection
        .give_up(pack, &LiveBits::NONE, How::Drop)
        .unwrap();
    assert_eq!(store.info(pack).unwrap().live, bits([3, 4]));
    drop(collection);
    let collection = store.begin_collection().unwrap();
    assert!(
        store
            .begin_collection()
            .is_err_and(|e| e.kind() == ErrorKind::Busy)
    );
    collection
        .give_up(pack, &LiveBits::NONE, How::Drop)
        .unwrap();
    assert_eq!(store.info(pack).unwrap_err().kind(), ErrorKind::NotFound);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn packs_of_writers_in_flight_are_beyond_the_limit() {
    let store = Machine::new(1).open();
    garbage(&store, 10);
    let mut writer = store.writer(Codec::Lz4, true);
    let pointers = writer.write_blocks(&blocks(50..60)).unwrap();
    garbage(&store, 20);
    assert_eq!(
        store.begin_collection().unwrap().limit(),
        pointers[0].pack()
    );
    let written = writer.finish().unwrap();
    assert_eq!(
        store.begin_collection().unwrap().limit(),
        pointers[0].pack()
    );
    drop(written);
    assert!(store.begin_collection().unwrap().limit() > pointers[0].pack());
}

#[test]
fn readers_of_a_pack_that_is_rewritten_are_not_surprised() {
    let machine = Machine::new(1);
    let store = machine.open_with(Config {
        block_cache_bytes: 5000,
        ..CONFIG
    });
    let pointers = garbage(&store, 200);
    let pack = pointers[0].pack();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(SeqCst) {
                assert_reads(&store, &pointers[150..], &blocks(150..200));
            }
        });
        for dead in 1..60 {
            let collection = store.begin_collection().unwrap();
            let how = if dead % 3 == 0 {
                How::Punch
            } else {
                How::Rewrite
            };
            collection.give_up(pack, &bits(dead * 2..200), how).unwrap();
        }
        done.store(true, SeqCst);
    });
}

/// Writers that find duplicates and a collection that gives them up, at once: what a writer was told can be read.
#[test]
fn hits_and_giving_up_at_once_never_lose_a_block() {
    let machine = Machine::new(1);
    let store = machine.open_with(Config {
        block_cache_bytes: 5000,
        ..CONFIG
    });
    let done = AtomicBool::new(false);
    let hits = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..2_u64)
            .map(|w| {
                let (store, hits) = (&store, &hits);
                scope.spawn(move || {
                    for round in 0..60 {
                        let from = (round * 7 + w * 3) % 40;
                        let wanted = blocks(from..from + 24);
                        let (pointers, written) = write(store, &wanted, true);
                        hits.fetch_add(written.stats.blocks_deduped, SeqCst);
                        assert_reads(store, &pointers, &wanted);
                    }
                })
            })
            .collect();
        let (store, done) = (&store, &done);
        scope.spawn(move || {
            while !done.load(SeqCst) {
                let collection = store.begin_collection().unwrap();
                let packs = store.list().unwrap();
                for (i, stat) in packs.iter().enumerate() {
                    if stat.pack < collection.limit() {
                        let how = [How::Punch, How::Drop, How::Rewrite][i % 3];
                        collection.give_up(stat.pack, &LiveBits::NONE, how).unwrap();
                    }
                }
            }
        });
        for writer in writers {
            let joined = writer.join();
            if joined.is_err() {
                done.store(true, SeqCst);
            }
            joined.unwrap();
        }
        done.store(true, SeqCst);
    });
    assert!(hits.load(SeqCst) > 0, "nothing was tested");
}

#[test]
fn a_power_cut_while_giving_up_leaves_what_is_live() {
    for seed in 0..30 {
        let machine = Machine::new(seed);
        let store = machine.open();
        let pointers = garbage(&store, 64);
        let pack = pointers[0].pack();
        for step in 0..3_u16 {
            let how = [How::Rewrite, How::Punch, How::Drop][usize::from(step + seed as u16) % 3];
            let live = bits(8 * (step + 1)..64);
            let collection = store.begin_collection().unwrap();
            collection.give_up(pack, &live, how).unwrap();
        }
        machine.sim.power_cut();
        let store = machine.open();
        assert_reads(&store, &pointers[24..], &blocks(24..64));
        assert!(
            store.verify(pack, true).unwrap().damaged.is_empty(),
            "seed {seed}"
        );
    }
}

/// A reader may hold a header from before a rewrite, which moves frames; then it looks again.
#[test]
fn a_header_from_before_a_rewrite_does_not_make_a_good_block_damaged() {
    let machine = Machine::new(1);
    let store = machine.open_with(Config {
        block_cache_bytes: 5000,
        ..CONFIG
    });
    let pointers = garbage(&store, 100);
    let pack = pointers[0].pack();
    store.read(pointers[0]).unwrap();
    let old = store.headers.get(&pack).unwrap();
    let collection = store.begin_collection().unwrap();
    let live = bits((0..100).filter(|i| i / 4 % 2 == 1));
    collection.give_up(pack, &live, How::Rewrite).unwrap();
    for i in [95, 5, 47] {
        store.headers.insert(pack, Arc::clone(&old));
        store.blocks.clear();
        let (p, wanted) = (&pointers[i..=i], &[block(i as u64)]);
        assert_reads(&store, p, wanted);
        store.headers.insert(pack, Arc::clone(&old));
        store.blocks.clear();
        assert!(store.read(pointers[i]).unwrap()[..] == wanted[0][..]);
        store.headers.insert(pack, Arc::clone(&old));
        assert_eq!(
            store.read(pointers[i - 4]).unwrap_err().kind(),
            ErrorKind::Damaged
        );
    }
}
