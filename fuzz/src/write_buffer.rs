//! What a former process left in shared memory: whole, torn, of another volume, or nothing that a daemon would write.

use crate::{alloc::bounded, input::Input};
use ::write_buffer::{Place, Ranges, What, WriteBuffer};
use env::{Env, Memory, Region, heap_region};
use sim::SimEnv;
use std::{
    cell::RefCell,
    io,
    sync::{Arc, Mutex, PoisonError},
};
use types::{BLOCK_SIZE, BlockIndex, Epoch, Generation, JournalSeq, StoreId, VolumeId};

const STORE: StoreId = StoreId([7; 16]);
const BLOCKS: u64 = 8;
const HEADER_BYTES: usize = 64 << 10;
const ENTRY_BYTES: usize = 64;
const CHUNK_SLOTS: usize = 1024;
/// Entries and slots that are spoiled.
const SLOTS: usize = 12;
const DEEDS_MAX: usize = 48;
/// What is known of each slot, and of each range in the pages among them.
const MEMORY_MAX: usize = 4 << 20;

/// One region, which outlives those who use it.
struct Kept(Mutex<Option<Arc<dyn Region>>>);

impl Memory for Kept {
    fn open(&self, _: &str, len: u64) -> io::Result<Arc<dyn Region>> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(kept.get_or_insert_with(|| heap_region(len)).clone())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn available(&self) -> io::Result<u64> {
        Ok(1 << 40)
    }
}

struct World {
    env: Env,
    region: Arc<dyn Region>,
    /// The part that is spoiled, as a daemon left it.
    template: Vec<u8>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

impl World {
    fn new() -> Self {
        let mut env = SimEnv::new(1).env();
        let memory = Arc::new(Kept(Mutex::new(None)));
        env.memory = memory.clone();
        let (buffer, _) = open(&env).expect("a region");
        buffer.adopt(Epoch(3), [Epoch(2)], JournalSeq(0));
        let place = |n| Place {
            volume: VolumeId(n % 2),
            generation: Generation(1 + n / 4),
            index: BlockIndex(n * 7),
        };
        let mut ranges = Ranges::default();
        let mut held = Vec::new();
        for n in 0..BLOCKS {
            let mut taken = buffer.take(2).expect("room");
            let (mut block, spare) = (taken.remove(0), taken.remove(0));
            block.fill(&[n as u8; BLOCK_SIZE]);
            held.push(block.publish(place(n)));
            ranges.push(spare, place(n), n);
        }
        let region = memory.open("", 0).expect("it is there");
        let template = (0..used()).map(|at| read(&*region, at)).collect();
        World {
            env,
            region,
            template,
        }
    }
}

/// Bytes of the header, the entries, and some slots.
const fn used() -> usize {
    slot(SLOTS)
}

const fn entry(number: usize) -> usize {
    HEADER_BYTES + number * ENTRY_BYTES
}

const fn slot(number: usize) -> usize {
    HEADER_BYTES + CHUNK_SLOTS * ENTRY_BYTES + number * BLOCK_SIZE
}

fn open(env: &Env) -> Result<(WriteBuffer, Vec<::write_buffer::Survivor>), ::write_buffer::Error> {
    WriteBuffer::open(env, STORE, BLOCKS * BLOCK_SIZE as u64)
}

fn read(region: &dyn Region, at: usize) -> u8 {
    assert!(at < region.bytes().len());
    // SAFETY: in bounds, and nobody else uses the region now.
    unsafe { region.bytes().as_ptr().cast::<u8>().add(at).read() }
}

fn write(region: &dyn Region, at: usize, bytes: &[u8]) {
    assert!(at + bytes.len() <= region.bytes().len());
    let to = region.bytes().as_ptr().cast::<u8>();
    // SAFETY: in bounds, and nobody else uses the region now.
    unsafe {
        to.add(at)
            .copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
    }
}

/// Deeds on the region that a daemon left, most of them sealed with right checksums.
pub fn run(data: &[u8]) {
    WORLD.with_borrow_mut(|world| {
        let world = world.get_or_insert_with(World::new);
        let mut spoiled = world.template.clone();
        let mut input = Input::new(data);
        for _ in 0..DEEDS_MAX {
            if input.is_empty() {
                break;
            }
            deed(&mut spoiled, &mut input);
        }
        write(&*world.region, 0, &spoiled);
        bounded(MEMORY_MAX, || check(&world.env));
        // What was taken since lies behind what is spoiled, or is covered by the next run.
        write(&*world.region, 0, &world.template);
    });
}

/// Changes the header, an entry or a slot, byte by byte or word by word.
fn deed(bytes: &mut [u8], input: &mut Input<'_>) {
    let number = input.below(SLOTS);
    match input.below(5) {
        0 => {
            let word = [0, 1, 2, 3, 4, 16, 17, 18, 4096, 4097, 4098][input.below(11)];
            put(bytes, word * 8, input.number());
        }
        1 => {
            put(bytes, entry(number) + input.below(6) * 8, input.number());
            seal(bytes, entry(number), 5);
        }
        2 => {
            let range = slot(number) + input.below(4) * 32;
            for word in 0..3 {
                put(bytes, range + word * 8, input.number());
            }
            seal(bytes, range, 3);
        }
        3 => {
            let from = input.below(SLOTS);
            bytes.copy_within(entry(from)..entry(from + 1), entry(number));
        }
        _ => {
            let at = entry(number) + input.below(ENTRY_BYTES);
            bytes[at] ^= input.u8();
        }
    }
}

fn put(bytes: &mut [u8], at: usize, word: u64) {
    bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
}

/// The checksum of some words, in the word behind them.
fn seal(bytes: &mut [u8], at: usize, words: usize) {
    let sum = crc32c::crc32c(&bytes[at..at + words * 8]);
    put(bytes, at + words * 8, sum.into());
}

/// What survived is in order and can be read; what is written from now on survives too, and comes behind it.
fn check(env: &Env) {
    let (buffer, survivors) = open(env).expect("a region that is there");
    let mut kept = 0;
    for survivor in &survivors {
        match &survivor.what {
            What::Wrote(_, block) => assert_eq!(block.bytes().len(), BLOCK_SIZE),
            What::Zeroed(range, _) => assert!(range.start <= range.end),
        }
        kept += 1;
    }
    buffer.adopt(Epoch(9), [Epoch(3)], JournalSeq(0));
    assert!(buffer.knows(Epoch(9)) && buffer.knows(Epoch(3)));
    let mut block = buffer.take(1).expect("room").remove(0);
    block.fill(&[0xab; BLOCK_SIZE]);
    let place = Place {
        volume: VolumeId(77),
        generation: Generation(5),
        index: BlockIndex(1),
    };
    let held = block.publish(place);
    let (_, again) = open(env).expect("a region that is there");
    assert_eq!(again.len(), kept + 1);
    let last = again.last().expect("what was just written");
    assert_eq!(
        (last.volume, last.generation),
        (place.volume, place.generation)
    );
    assert!(
        matches!(&last.what, What::Wrote(index, block) if *index == place.index && *block.bytes() == [0xab; BLOCK_SIZE])
    );
    drop(held);
}

/// No deed, and each kind of them.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![]];
    for kind in 0..5 {
        for what in 0..11 {
            seeds.push(vec![what, kind, what, 5, 1, 2, 3]);
            seeds.push(vec![what, kind, what % 6, 255, 0, 255, 0]);
        }
    }
    seeds
}
