//! What a process leaves to the next one.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use sim::SimEnv;
use std::{collections::BTreeMap, sync::mpsc, time::Duration};
use types::{
    BLOCK_SIZE, Block, BlockIndex, Epoch, Generation, JournalSeq, SharedBlock, StoreId, VolumeId,
    is_zero_block,
};
use write_buffer::{NewBlock, Place, Ranges, Survivor, What, WriteBuffer};

const STORE: StoreId = StoreId([1; 16]);
/// Slots that a buffer of no bytes has.
const SPARE: usize = 1024;

fn open(sim: &SimEnv) -> (WriteBuffer, Vec<Survivor>) {
    WriteBuffer::open(&sim.env(), STORE, 0).unwrap()
}

fn place(volume: u64, generation: u64, index: u64) -> Place {
    Place {
        volume: VolumeId(volume),
        generation: Generation(generation),
        index: BlockIndex(index),
    }
}

fn block(byte: u8) -> Block {
    [byte; BLOCK_SIZE]
}

fn one(buffer: &WriteBuffer) -> NewBlock {
    buffer.take(1).unwrap().pop().unwrap()
}

fn write(buffer: &WriteBuffer, place: Place, byte: u8) -> SharedBlock {
    let mut new = one(buffer);
    new.fill(&block(byte));
    new.publish(place)
}

/// What the blocks of one generation hold after all that is said of it, in order.
fn contents(survivors: &[Survivor], volume: u64, generation: u64) -> BTreeMap<u64, u8> {
    let mut blocks = BTreeMap::new();
    let of = |s: &&Survivor| (s.volume.0, s.generation.0) == (volume, generation);
    for survivor in survivors.iter().filter(of) {
        match &survivor.what {
            What::Wrote(index, block) => {
                blocks.insert(index.0, block[0]);
            }
            What::Zeroed(range, _) => {
                for index in range.clone() {
                    blocks.insert(index, 0);
                }
            }
        }
    }
    blocks
}

#[test]
fn what_was_published_survives_the_process_and_not_the_power() {
    let sim = SimEnv::new(1);
    let (buffer, none) = open(&sim);
    assert!(none.is_empty() && buffer.survives());
    let held = [
        write(&buffer, place(1, 1, 5), 1),
        write(&buffer, place(1, 1, 6), 2),
        write(&buffer, place(2, 9, 5), 3),
        write(&buffer, place(1, 2, 5), 4),
    ];
    let mut unpublished = one(&buffer);
    unpublished.fill(&block(7));
    sim.kill();
    drop((held, unpublished, buffer));
    let (buffer, survivors) = open(&sim);
    assert_eq!(survivors.len(), 4);
    assert_eq!(contents(&survivors, 1, 1), [(5, 1), (6, 2)].into());
    assert_eq!(contents(&survivors, 1, 2), [(5, 4)].into());
    assert_eq!(contents(&survivors, 2, 9), [(5, 3)].into());
    drop((survivors, buffer));
    sim.power_cut();
    assert!(open(&sim).1.is_empty());
}

#[test]
fn the_latest_of_a_block_comes_last_whatever_slot_it_has() {
    let sim = SimEnv::new(2);
    let (buffer, _) = open(&sim);
    let mut ranges = Ranges::default();
    let first = write(&buffer, place(1, 1, 5), 1);
    ranges.push(one(&buffer), place(1, 1, 4), 3);
    let second = write(&buffer, place(1, 1, 5), 2);
    let third = write(&buffer, place(1, 1, 6), 3);
    ranges.push(one(&buffer), place(1, 1, 6), 1);
    // Given back, and not used again: what was there is still to be seen, and older.
    drop(first);
    drop(third);
    let again = write(&buffer, place(1, 1, 7), 4);
    sim.kill();
    let (_, survivors) = open(&sim);
    assert_eq!(
        contents(&survivors, 1, 1),
        [(4, 0), (5, 2), (6, 0), (7, 4)].into()
    );
    drop((second, again, ranges));
}

#[test]
fn many_ranges_take_many_pages() {
    let sim = SimEnv::new(3);
    let (buffer, _) = open(&sim);
    let mut ranges = Ranges::default();
    for n in 0..1000 {
        ranges.push(one(&buffer), place(1, 1, 2 * n), 1);
    }
    assert_eq!(ranges.cost(), 1000 * 64 + 8 * 4096);
    sim.kill();
    let (_, survivors) = open(&sim);
    assert_eq!(survivors.len(), 1000);
    let mut over = Ranges::default();
    for (n, survivor) in survivors.iter().enumerate() {
        let What::Zeroed(range, page) = &survivor.what else {
            panic!("not a range")
        };
        assert_eq!(*range, 2 * n as u64..2 * n as u64 + 1);
        over.take_over(page);
    }
    assert_eq!(over.cost(), ranges.cost());
}

/// Its old entry says that it is a block of then: that must not be believed of what it holds now.
#[test]
fn a_slot_that_is_filled_anew_has_no_entry() {
    let sim = SimEnv::new(4);
    let (buffer, _) = open(&sim);
    drop(write(&buffer, place(1, 1, 5), 1));
    let mut new = buffer.take(SPARE).unwrap();
    new.iter_mut().for_each(|new| new.fill(&block(9)));
    sim.kill();
    assert!(open(&sim).1.is_empty());
    drop(new);
}

#[test]
fn what_is_not_adopted_is_forgotten() {
    let sim = SimEnv::new(5);
    let (buffer, _) = open(&sim);
    assert!(!buffer.knows(Epoch(1)));
    assert!(buffer.is_new());
    buffer.adopt(Epoch(1), [], JournalSeq(3));
    let held = [
        write(&buffer, place(1, 1, 1), 1),
        write(&buffer, place(2, 1, 1), 2),
    ];
    sim.kill();
    drop(held);
    let (buffer, mut survivors) = open(&sim);
    assert!(buffer.knows(Epoch(1)) && !buffer.knows(Epoch(2)));
    assert!(!buffer.is_new() && buffer.journal_end() == JournalSeq(3));
    survivors.retain(|s| s.volume == VolumeId(1));
    buffer.adopt(Epoch(2), [Epoch(1)], JournalSeq(5));
    sim.kill();
    let (buffer, survivors) = open(&sim);
    assert_eq!(survivors.len(), 1);
    assert!(buffer.knows(Epoch(1)) && buffer.knows(Epoch(2)));
    assert_eq!(buffer.journal_end(), JournalSeq(5));
    buffer.forget_journal();
    assert_eq!(open(&sim).0.journal_end(), JournalSeq(0));
    // Newer than all that was found.
    let newer = write(&buffer, place(1, 1, 1), 3);
    sim.kill();
    assert_eq!(contents(&open(&sim).1, 1, 1), [(1, 3)].into());
    drop(newer);
}

#[test]
fn who_finds_it_full_waits_for_what_is_given_back() {
    let sim = SimEnv::new(6);
    let (buffer, _) = open(&sim);
    let mut all = buffer.take(SPARE).unwrap();
    let (done, waits) = mpsc::channel();
    let waiter = buffer.clone();
    let thread = env::spawn("waiter", move || {
        let _ = done.send(waiter.take(2).map(|new| new.len()));
    })
    .unwrap();
    all.truncate(SPARE - 1);
    assert!(waits.recv_timeout(Duration::from_millis(20)).is_err());
    all.truncate(SPARE - 2);
    assert_eq!(waits.recv().unwrap().unwrap(), 2);
    thread.join().unwrap();
    let waiter = buffer.clone();
    let thread = env::spawn("waiter", move || waiter.take(SPARE).is_err()).unwrap();
    buffer.close();
    assert!(thread.join().unwrap());
}

#[test]
fn memory_is_given_back_when_nothing_is_in_use() {
    let sim = SimEnv::new(7);
    let (buffer, _) = open(&sim);
    let empty = buffer.allocated();
    let held = write(&buffer, place(1, 1, 1), 1);
    buffer.trim();
    let used = buffer.allocated();
    assert!(used > empty && held[0] == 1);
    drop(held);
    buffer.trim();
    assert_eq!(buffer.allocated(), empty);
    let held = write(&buffer, place(1, 1, 2), 2);
    sim.kill();
    assert_eq!(contents(&open(&sim).1, 1, 1), [(2, 2)].into());
    drop(held);
}

#[test]
fn a_store_has_its_own() {
    let sim = SimEnv::new(8);
    let (buffer, _) = open(&sim);
    let held = write(&buffer, place(1, 1, 1), 1);
    let other = WriteBuffer::open(&sim.env(), StoreId([2; 16]), 0).unwrap();
    assert!(other.1.is_empty());
    buffer.remove().unwrap();
    assert!(open(&sim).1.is_empty());
    drop(held);
}

/// Whatever is in the region: an entry is whole, or it is none.
/// Found by fuzzing: where the header said nothing, what lay behind it came to life again with the first block that
/// was written, as if it were the new daemon's.
#[test]
fn what_a_lost_header_left_stays_dead() {
    let sim = SimEnv::new(9);
    let (buffer, _) = open(&sim);
    let held: Vec<_> = (0..3).map(|n| write(&buffer, place(1, 7, n), 1)).collect();
    let region = sim.env().memory.open(&STORE.to_string(), 0).unwrap();
    region.release(0..64).unwrap();
    let (new, none) = open(&sim);
    assert!(none.is_empty());
    new.adopt(Epoch(5), [], JournalSeq(0));
    let one = write(&new, place(1, 7, 9), 2);
    let (_, survivors) = open(&sim);
    assert_eq!(contents(&survivors, 1, 7), BTreeMap::from([(9, 2)]));
    drop((held, one));
}

#[test]
fn garbage_is_no_panic() {
    let sim = SimEnv::new(9);
    let (buffer, _) = open(&sim);
    let mut ranges = Ranges::default();
    let held: Vec<SharedBlock> = (0..64).map(|n| write(&buffer, place(1, 1, n), 1)).collect();
    (0..64).for_each(|n| ranges.push(one(&buffer), place(1, 1, n), 1));
    let env = sim.env();
    let region = env.memory.open(&STORE.to_string(), 0).unwrap();
    let len = region.bytes().len() as u64;
    let mut luck = 1_u64;
    for round in 0..200 {
        let mut at = [0; 8];
        env.random.fill(&mut at);
        luck = luck.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from_le_bytes(at);
        let start = if round % 2 == 0 { 0 } else { 64 << 10 };
        let range = start + luck % (8 << 10)..;
        let end = (range.start + 1 + luck % 512).min(len);
        region.release(range.start..end).unwrap();
        let (again, survivors) = open(&sim);
        assert!(survivors.len() <= 128);
        for survivor in &survivors {
            if let What::Wrote(_, block) = &survivor.what {
                assert!(block[0] == 1 || is_zero_block(block));
            }
        }
        drop((survivors, again));
    }
    drop((held, ranges));
}
