//! Who waits for slots and who gives them back, in orders that a seed chooses: see `sync::model`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use sim::SimEnv;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};
use sync::{
    model::{explore, random},
    thread::yield_now,
};
use types::{
    BLOCK_SIZE, BlockIndex, Epoch, Generation, JournalSeq, SharedBlock, StoreId, VolumeId,
};
use write_buffer::{Error, Place, WriteBuffer};

const STORE: StoreId = StoreId([1; 16]);
/// Slots of the smallest buffer. Each writer takes so many at once that two of them do not fit, or only just.
const COUNTS: [usize; 4] = [700, 500, 324, 1];
const WRITERS: u64 = 3;
const ROUNDS: u64 = 3;

/// A buffer without room for more than 1024 blocks, and the places of blocks that somebody holds.
struct World {
    sim: SimEnv,
    buffer: WriteBuffer,
    held: Mutex<BTreeSet<usize>>,
}

fn world() -> Arc<World> {
    let sim = SimEnv::new(random(u64::MAX));
    let (buffer, _) = WriteBuffer::open(&sim.env(), STORE, 0).unwrap();
    buffer.adopt(Epoch(1), [], JournalSeq(0));
    Arc::new(World {
        sim,
        buffer,
        held: Mutex::default(),
    })
}

impl World {
    fn write(&self, volume: u64, generation: u64) -> Result<Vec<SharedBlock>, Error> {
        let new = self.buffer.take(COUNTS[random(4) as usize])?;
        let blocks = (0..).zip(new).map(|(index, mut new)| {
            // The first ones are enough to see that nobody else writes to them.
            if index < 3 {
                new.fill(&[volume as u8 + 1; BLOCK_SIZE]);
            }
            let block = new.publish(Place {
                volume: VolumeId(volume),
                generation: Generation(generation),
                index: BlockIndex(index),
            });
            let new = self.held.lock().unwrap().insert(block.as_ptr() as usize);
            assert!(new, "a slot was given to two");
            block
        });
        Ok(blocks.collect())
    }

    fn give_back(&self, volume: u64, blocks: Vec<SharedBlock>) {
        for (index, block) in blocks.into_iter().enumerate() {
            assert!(index >= 3 || block[..] == [volume as u8 + 1; BLOCK_SIZE]);
            self.held.lock().unwrap().remove(&(block.as_ptr() as usize));
            drop(block);
        }
    }
}

/// Everybody gets slots of their own in the end, however many each needs at once.
#[test]
fn who_waits_for_slots_gets_them_once_there_are_enough() {
    explore(64, || {
        let world = world();
        let writers: Vec<_> = (0..WRITERS)
            .map(|volume| {
                let world = Arc::clone(&world);
                env::spawn("writer", move || {
                    for generation in 1..=ROUNDS {
                        let blocks = world.write(volume, generation).unwrap();
                        yield_now();
                        world.give_back(volume, blocks);
                    }
                })
                .unwrap()
            })
            .collect();
        world.buffer.trim();
        for writer in writers {
            writer.join().unwrap();
        }
        assert!(world.held.lock().unwrap().is_empty());
        world.buffer.trim();
        // Everything was given back: the whole buffer can be had.
        assert_eq!(world.buffer.take(1024).unwrap().len(), 1024);
        drop(world.sim.env());
    });
}

/// Who needs little does not wait for who needs much.
#[test]
fn a_slot_goes_to_whom_it_is_enough_for() {
    explore(64, || {
        let world = world();
        let mut all = world.buffer.take(1024).unwrap();
        let [much, little] = [1024, 1].map(|count| {
            let world = Arc::clone(&world);
            env::spawn("writer", move || drop(world.buffer.take(count).unwrap())).unwrap()
        });
        drop(all.pop());
        little.join().unwrap();
        drop(all);
        much.join().unwrap();
    });
}

/// Slots that are held for ever keep nobody from ending.
#[test]
fn closing_ends_everybody_who_waits() {
    explore(64, || {
        let world = world();
        let kept = world.buffer.take(1000).unwrap();
        let writers: Vec<_> = (0..WRITERS)
            .map(|volume| {
                let world = Arc::clone(&world);
                env::spawn("writer", move || match world.write(volume, 1) {
                    Ok(blocks) => world.give_back(volume, blocks),
                    Err(error) => assert!(matches!(error, Error::Closed), "{error}"),
                })
                .unwrap()
            })
            .collect();
        world.buffer.close();
        for writer in writers {
            writer.join().unwrap();
        }
        drop(kept);
    });
}
