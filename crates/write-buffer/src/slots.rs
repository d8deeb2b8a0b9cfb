//! The region: chunks of entries and slots, and who has which.

#![expect(
    unsafe_code,
    reason = "the region is raw memory, shared with the processes before and after us"
)]

use crate::{
    Error,
    header::{self, HEADER_BYTES},
    recover::{Entry, Survivor},
};
use env::{Env, Memory, Region};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed, Ordering::Release, fence},
    },
    time::Duration,
};
use sync::{Condvar, Mutex};
use types::{
    BLOCK_SIZE, Block, BlockData, BlockIndex, Epoch, Generation, JournalSeq, SharedBlock, StoreId,
    VolumeId,
};

/// Slots of a chunk.
const CHUNK_SLOTS: u32 = 1024;
/// Of an entry: sequence number, volume, generation, kind, first block, checksum; two are spare.
const ENTRY_WORDS: usize = 8;
const ENTRIES_BYTES: u64 = CHUNK_SLOTS as u64 * ENTRY_WORDS as u64 * 8;
const CHUNK_BYTES: u64 = ENTRIES_BYTES + CHUNK_SLOTS as u64 * BLOCK_SIZE as u64;
/// Slots beside those asked for: writers that were let in while the last place was taken.
const SPARE_SLOTS: u64 = 1024;
/// Who waits for a slot looks again after so long, whoever forgot to say.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What an entry says of its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub(crate) enum Kind {
    /// A block.
    Block = 1,
    /// A page of zeroed ranges.
    Ranges = 2,
}

/// Whose block it is, and of which generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The volume.
    pub volume: VolumeId,
    /// Of the volume.
    pub generation: Generation,
    /// The block.
    pub index: BlockIndex,
}

/// The buffer in shared memory.
pub(crate) struct Slots {
    memory: Arc<dyn Memory>,
    name: String,
    region: Arc<dyn Region>,
    /// Chunks that may ever be.
    chunks_max: u32,
    sequence: AtomicU64,
    state: Mutex<State>,
    freed: Condvar,
}

struct State {
    free: Vec<u32>,
    /// Chunks that have memory.
    chunks: u32,
    closed: bool,
}

/// A slot that somebody holds.
pub(crate) struct Slot {
    slots: Arc<Slots>,
    number: u32,
}

impl Slots {
    pub(crate) fn open(
        env: &Env,
        store: StoreId,
        bytes: u64,
    ) -> Result<(Arc<Self>, Vec<Survivor>), Error> {
        let wanted = bytes.div_ceil(BLOCK_SIZE as u64) + SPARE_SLOTS;
        let chunks_max = wanted.div_ceil(u64::from(CHUNK_SLOTS));
        let name = store.to_string();
        let region = env
            .memory
            .open(&name, HEADER_BYTES + chunks_max * CHUNK_BYTES)?;
        region.reserve(0..HEADER_BYTES)?;
        let room = (region.bytes().len() as u64 - HEADER_BYTES) / CHUNK_BYTES;
        let slots = Arc::new(Slots {
            memory: Arc::clone(&env.memory),
            name,
            region,
            chunks_max: room.min(u64::from(u32::MAX / CHUNK_SLOTS)) as u32,
            sequence: AtomicU64::new(1),
            state: Mutex::new(State {
                free: Vec::new(),
                chunks: 0,
                closed: false,
            }),
            freed: Condvar::new(),
        });
        if !header::is_ours(slots.header(), store) {
            slots.region.release(0..HEADER_BYTES)?;
            slots.region.reserve(0..HEADER_BYTES)?;
            header::begin(slots.header(), store);
        }
        let survivors = slots.recover()?;
        Ok((slots, survivors))
    }

    /// What the entries say; every slot has a holder, or is free, from now on.
    fn recover(self: &Arc<Self>) -> Result<Vec<Survivor>, Error> {
        let chunks = header::chunks(self.header()).min(self.chunks_max);
        let used = HEADER_BYTES..HEADER_BYTES + u64::from(chunks) * CHUNK_BYTES;
        if chunks > 0 {
            // A chunk whose memory was not had when we died has none.
            self.region.reserve(used)?;
        }
        self.state.lock().chunks = chunks;
        let mut survivors = Vec::new();
        let mut last = 0;
        for number in (0..chunks * CHUNK_SLOTS).rev() {
            let slot = Slot {
                slots: Arc::clone(self),
                number,
            };
            // One that has nothing is dropped, and so it is free.
            if let Some(entry) = Entry::decode(self.entry(number)) {
                last = last.max(entry.last_sequence(&slot));
                entry.survivors(slot, &mut survivors);
            }
        }
        self.sequence.store(last + 1, Relaxed);
        survivors.sort_unstable_by_key(|survivor| survivor.sequence);
        Ok(survivors)
    }

    pub(crate) fn knows(&self, epoch: Epoch) -> bool {
        header::lineage(self.header()).contains(&epoch)
    }

    pub(crate) fn is_new(&self) -> bool {
        header::lineage(self.header()).is_empty()
    }

    pub(crate) fn journal_end(&self) -> JournalSeq {
        header::journal_end(self.header())
    }

    pub(crate) fn set_journal_end(&self, end: JournalSeq) {
        header::set_journal_end(self.header(), end);
    }

    pub(crate) fn set_lineage(&self, epochs: impl Iterator<Item = Epoch>) {
        header::set_lineage(self.header(), epochs);
    }

    /// Entries of slots that nobody holds say nothing any more.
    pub(crate) fn forget_free(&self) {
        for &number in &self.state.lock().free {
            self.entry(number)[0].store(0, Relaxed);
        }
    }

    /// The next sequence number: whoever asks later gets a higher one.
    pub(crate) fn next_sequence(&self) -> u64 {
        self.sequence.fetch_add(1, Relaxed)
    }

    pub(crate) fn take(self: &Arc<Self>, count: usize) -> Result<Vec<NewBlock>, Error> {
        let mut state = self.state.lock();
        while state.free.len() < count {
            if state.closed {
                return Err(Error::Closed);
            }
            match self.grow(&mut state) {
                Ok(true) => {}
                // Full: somebody destages.
                Ok(false) => drop(self.freed.wait_for(&mut state, LOOK_AGAIN)),
                Err(e) if state.all_free() => return Err(e),
                Err(_) => drop(self.freed.wait_for(&mut state, LOOK_AGAIN)),
            }
        }
        let rest = state.free.len() - count;
        let taken: Vec<u32> = state.free.drain(rest..).collect();
        drop(state);
        let new = |number| {
            let slots = Arc::clone(self);
            NewBlock(Kept::Shared(Arc::new(Slot { slots, number })))
        };
        Ok(taken.into_iter().map(new).collect())
    }

    /// Gets memory for another chunk; `false` if there are as many as may be.
    fn grow(&self, state: &mut State) -> Result<bool, Error> {
        let chunk = state.chunks;
        if chunk == self.chunks_max {
            return Ok(false);
        }
        self.region.reserve(chunk_range(chunk))?;
        // There may be something, of a header that was not ours.
        for number in chunk * CHUNK_SLOTS..(chunk + 1) * CHUNK_SLOTS {
            self.entry(number)[0].store(0, Relaxed);
        }
        header::set_chunks(self.header(), chunk + 1);
        state.chunks = chunk + 1;
        // The low ones are taken first.
        let numbers = chunk * CHUNK_SLOTS..(chunk + 1) * CHUNK_SLOTS;
        state.free.splice(0..0, numbers.rev());
        Ok(true)
    }

    pub(crate) fn close(&self) {
        self.state.lock().closed = true;
        self.freed.notify_all();
    }

    pub(crate) fn trim(&self) {
        let mut state = self.state.lock();
        if state.chunks == 0 || !state.all_free() {
            return;
        }
        header::set_chunks(self.header(), 0);
        let all = HEADER_BYTES..HEADER_BYTES + u64::from(state.chunks) * CHUNK_BYTES;
        if self.region.release(all).is_ok() {
            state.chunks = 0;
            state.free = Vec::new();
        } else {
            header::set_chunks(self.header(), state.chunks);
        }
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.state.lock().all_free()
    }

    pub(crate) fn remove(&self) -> Result<(), Error> {
        Ok(self.memory.remove(&self.name)?)
    }

    pub(crate) fn allocated(&self) -> u64 {
        HEADER_BYTES + u64::from(self.state.lock().chunks) * CHUNK_BYTES
    }

    fn give_back(&self, number: u32) {
        let mut state = self.state.lock();
        state.free.push(number);
        drop(state);
        // They wait for different numbers of them.
        self.freed.notify_all();
    }

    fn header(&self) -> &[AtomicU64] {
        self.words_at(0, header::WORDS)
    }

    fn entry(&self, number: u32) -> &[AtomicU64] {
        let (chunk, within) = (number / CHUNK_SLOTS, number % CHUNK_SLOTS);
        let at = chunk_range(chunk).start + u64::from(within) * ENTRY_WORDS as u64 * 8;
        self.words_at(at, ENTRY_WORDS)
    }

    fn words_at(&self, at: u64, count: usize) -> &[AtomicU64] {
        assert!(at.is_multiple_of(8) && at + count as u64 * 8 <= self.region.bytes().len() as u64);
        // SAFETY: in bounds and aligned, as just checked, and mapped as long as `self` holds the region. Words are
        // touched as atomics only: header and entries never overlap slots.
        unsafe {
            let start = self.region.bytes().as_ptr().cast::<u8>().add(at as usize);
            std::slice::from_raw_parts(start.cast::<AtomicU64>(), count)
        }
    }

    fn block(&self, number: u32) -> *mut Block {
        let (chunk, within) = (number / CHUNK_SLOTS, number % CHUNK_SLOTS);
        let at = chunk_range(chunk).start + ENTRIES_BYTES + u64::from(within) * BLOCK_SIZE as u64;
        assert!(at + BLOCK_SIZE as u64 <= self.region.bytes().len() as u64);
        // SAFETY: in bounds, as just checked.
        let start = unsafe { self.region.bytes().as_ptr().cast::<u8>().add(at as usize) };
        start.cast::<Block>()
    }
}

impl State {
    fn all_free(&self) -> bool {
        self.free.len() as u32 == self.chunks * CHUNK_SLOTS
    }
}

fn chunk_range(chunk: u32) -> Range<u64> {
    let start = HEADER_BYTES + u64::from(chunk) * CHUNK_BYTES;
    start..start + CHUNK_BYTES
}

impl Slot {
    /// Makes the entry say what is in the slot. The slot was filled.
    pub(crate) fn publish(&self, kind: Kind, place: Place) {
        let entry = Entry {
            sequence: self.slots.next_sequence(),
            kind,
            place,
        };
        let to = self.slots.entry(self.number);
        let words = entry.encode();
        for (to, word) in to.iter().zip(words).skip(1) {
            to.store(word, Relaxed);
        }
        // Whoever finds the number finds all of the rest, and the slot filled.
        to[0].store(words[0], Release);
    }

    pub(crate) fn slots(&self) -> &Slots {
        &self.slots
    }

    /// The slot as words, for a page that grows while it is read by nobody.
    pub(crate) fn as_words(&self) -> &[AtomicU64] {
        let start = self.slots.block(self.number).cast::<AtomicU64>();
        // SAFETY: a slot is in the region, of this size, aligned to 4096, and ours. A page of ranges is touched as
        // atomics only.
        unsafe { std::slice::from_raw_parts(start, BLOCK_SIZE / 8) }
    }
}

impl BlockData for Slot {
    fn bytes(&self) -> &Block {
        // SAFETY: a slot that has a holder is written by `NewBlock` alone, before others see it; the region is
        // mapped as long as `slots` is held.
        unsafe { &*self.slots.block(self.number) }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.slots.give_back(self.number);
    }
}

/// A place for a block that is not written yet.
pub struct NewBlock(Kept);

enum Kept {
    Shared(Arc<Slot>),
    Heap(Arc<Block>),
}

impl NewBlock {
    pub(crate) fn on_heap() -> Self {
        NewBlock(Kept::Heap(Arc::new([0; BLOCK_SIZE])))
    }

    /// Sets the contents.
    pub fn fill(&mut self, with: &Block) {
        match &mut self.0 {
            Kept::Heap(block) => *Arc::make_mut(block) = *with,
            Kept::Shared(slot) => {
                // What it held before is not there any more, should we die.
                slot.slots.entry(slot.number)[0].store(0, Relaxed);
                fence(Release);
                // SAFETY: `&mut self` is the only holder of a slot that is not published.
                unsafe { *slot.slots.block(slot.number) = *with };
            }
        }
    }

    /// From now on it is this block of the volume, should we die: later ones of the same block replace it.
    #[must_use]
    pub fn publish(self, place: Place) -> SharedBlock {
        match self.0 {
            Kept::Heap(block) => block,
            Kept::Shared(slot) => {
                slot.publish(Kind::Block, place);
                slot
            }
        }
    }

    pub(crate) fn into_slot(self) -> Option<Arc<Slot>> {
        match self.0 {
            Kept::Heap(_) => None,
            Kept::Shared(slot) => Some(slot),
        }
    }
}
