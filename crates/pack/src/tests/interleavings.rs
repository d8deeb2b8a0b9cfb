//! Writers that find duplicates, and collections, in orders that a seed chooses: see `sync::model`.

use super::*;
use sync::{
    Mutex,
    model::{explore, random},
};

/// What every writer's last commit refers to: these are the roots.
type Roots = Mutex<[Vec<(Pointer, u64)>; 2]>;

/// Writes some of a few blocks, so that most were there before, and commits.
fn write_and_commit(store: &Arc<PackStore>, roots: &Roots, writer: usize) {
    let wanted: Vec<u64> = (0..1 + random(4)).map(|_| random(6)).collect();
    let all: Vec<_> = wanted.iter().map(|&n| block(n)).collect();
    let (pointers, written) = write(store, &all, true);
    roots.lock()[writer] = pointers.into_iter().zip(wanted).collect();
    drop(written);
}

/// Gives up whatever no root refers to.
fn collect(store: &Arc<PackStore>, roots: &Roots) {
    let collection = store.begin_collection().unwrap();
    let live: Vec<Pointer> = roots.lock().iter().flatten().map(|(p, _)| *p).collect();
    for stat in store.list().unwrap() {
        if stat.pack < collection.limit() {
            let of_pack = live.iter().filter(|p| p.pack() == stat.pack);
            let bits: LiveBits = of_pack.map(|p| p.ordinal()).collect();
            let how = [How::Punch, How::Drop, How::Rewrite][random(3) as usize];
            collection.give_up(stat.pack, &bits, how).unwrap();
        }
    }
}

fn assert_all_there(store: &PackStore, roots: &Roots) {
    for &(pointer, n) in roots.lock().iter().flatten() {
        let read = store.read(pointer);
        assert!(
            read.unwrap()[..] == block(n)[..],
            "{pointer:?} is another block"
        );
    }
}

#[test]
fn what_is_committed_is_never_collected() {
    explore(480, || {
        let machine = Machine::new(random(u64::MAX));
        let store = machine.open_with(Config {
            block_cache_bytes: 16,
            ..CONFIG
        });
        let roots: Arc<Roots> = Arc::default();
        // Garbage to be found again.
        drop(write(&store, &blocks(0..4), true));
        let writers = [0, 1].map(|writer| {
            let (store, roots) = (Arc::clone(&store), Arc::clone(&roots));
            env::spawn("writer", move || {
                for _ in 0..3 {
                    write_and_commit(&store, &roots, writer);
                }
            })
            .unwrap()
        });
        for _ in 0..2 {
            collect(&store, &roots);
        }
        for writer in writers {
            writer.join().unwrap();
        }
        assert_all_there(&store, &roots);
        collect(&store, &roots);
        assert_all_there(&store, &roots);
        drop(store);
        machine.sim.power_cut();
        assert_all_there(&machine.open(), &roots);
    });
}
