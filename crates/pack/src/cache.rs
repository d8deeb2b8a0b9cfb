//! Decompressed blocks in memory.
//!
//! A hit is what a guest waits for, so it touches little memory: one line of a table, one byte of use counts, and the
//! block itself, which is copied out under the shared lock of its shard. Blocks lie in slots that are used again,
//! in large pieces, so that filling the cache allocates nothing once it is warm.
//!
//! ```text
//!  pointer ─▶ shard ─▶ table: [pointer, slot] …        blocks of a frame share a cache line
//!                                  │
//!                                  ▼
//!                       slots:  uses │ pointer │ 4 KiB
//!                                ▲ hand: takes one from each use count, until one is 0
//! ```
//!
//! Neighbours in a pack are neighbours here as well: in the table, and mostly in the slots. What is dropped is
//! decided by a clock whose counts go up to [`USES_MAX`]: a block that was hit outlives a scan that is
//! larger than the cache.

use sync::{
    RwLock,
    atomic::{AtomicU8, Ordering::Relaxed},
    bring_near,
};
use types::{BLOCK_SIZE, Block, Pointer};

/// What a block takes: itself, its place in the table, its pointer, its use count.
pub(crate) const ENTRY_BYTES: u64 = BLOCK_SIZE as u64 + 64;

/// Rounds of the hand that a block outlives without being hit.
const USES_MAX: u8 = 3;
/// Blocks allocated at a time.
const CHUNK: usize = 64;
/// Neighbours in a pack that share a shard, as a power of two.
const SHARD_RUN_BITS: u32 = 6;
/// Neighbours in a pack that share a line of the table, as a power of two.
const LINE_BITS: u32 = 2;
const TABLE_MIN: usize = 16;
const SHARDS_MAX: usize = 64;
const EMPTY: [u64; 2] = [0; 2];

/// Blocks by pointer, in bounded memory.
pub(crate) struct BlockCache {
    shards: Box<[RwLock<Shard>]>,
}

struct Shard {
    /// A power of two, at most two thirds full; a block is at its home or behind it, without a gap between.
    table: Vec<[u64; 2]>,
    /// By slot; a hole where it is free.
    pointers: Vec<Pointer>,
    uses: Vec<AtomicU8>,
    chunks: Vec<Box<[Block]>>,
    /// Slots without a block.
    free: Vec<usize>,
    slots_max: usize,
    hand: usize,
}

impl BlockCache {
    /// In at most `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        let blocks = usize::try_from(bytes / ENTRY_BYTES).unwrap_or(usize::MAX);
        let count = (blocks / (2 * CHUNK)).clamp(1, SHARDS_MAX);
        let count = 1 << count.ilog2();
        let shards = std::iter::repeat_with(|| RwLock::new(Shard::new(blocks / count)));
        BlockCache {
            shards: shards.take(count).collect(),
        }
    }

    fn shard(&self, p: Pointer) -> &RwLock<Shard> {
        let number = hash(p.to_raw() >> SHARD_RUN_BITS) >> 32;
        &self.shards[number as usize & (self.shards.len() - 1)]
    }

    /// What `f` makes of a block, if it is here. Others wait for `f` who bring or drop blocks: it only copies.
    pub(crate) fn get<T>(&self, p: Pointer, f: impl FnOnce(&Block) -> T) -> Option<T> {
        let shard = self.shard(p).read();
        let slot = shard.slot(p)?;
        let uses = &shard.uses[slot];
        let count = uses.load(Relaxed);
        if count < USES_MAX {
            // Of two who count at once one may be lost.
            uses.store(count + 1, Relaxed);
        }
        Some(f(shard.block(slot)))
    }

    /// Brings near what a [`get`](Self::get) of each of these will look at: first of all their places in the table, then
    /// of those that are here the beginning of the block, whose rest the processor brings by itself.
    pub(crate) fn expect(&self, pointers: &[Pointer]) {
        for &p in pointers {
            let shard = self.shard(p).read();
            if !shard.table.is_empty() {
                bring_near(&shard.table[shard.home(p.to_raw())]);
            }
        }
        for &p in pointers {
            let shard = self.shard(p).read();
            if let Some(slot) = shard.slot(p) {
                bring_near(shard.block(slot));
            }
        }
    }

    /// Keeps a copy of a block. One that is here stays: a pointer never changes meaning.
    pub(crate) fn insert(&self, p: Pointer, block: &Block) {
        let mut shard = self.shard(p).write();
        if shard.slot(p).is_none() {
            shard.insert(p, block);
        }
    }

    /// A block is needed less from now on: not at all, if it was never hit.
    pub(crate) fn supersede(&self, p: Pointer) {
        let mut shard = self.shard(p).write();
        let Some(slot) = shard.slot(p) else {
            return;
        };
        // One that several volumes share may be hit all the time.
        if shard.uses[slot].swap(0, Relaxed) == 0 {
            shard.forget(p);
            shard.pointers[slot] = Pointer::HOLE;
            shard.free.push(slot);
        }
    }

    #[cfg(test)]
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            let mut shard = shard.write();
            *shard = Shard::new(shard.slots_max);
        }
    }

    /// Bytes taken.
    pub(crate) fn bytes(&self) -> u64 {
        let blocks = |shard: &RwLock<Shard>| shard.read().pointers.len() as u64;
        self.shards.iter().map(blocks).sum::<u64>() * ENTRY_BYTES
    }
}

impl Shard {
    const fn new(slots_max: usize) -> Self {
        Shard {
            table: Vec::new(),
            pointers: Vec::new(),
            uses: Vec::new(),
            chunks: Vec::new(),
            free: Vec::new(),
            slots_max,
            hand: 0,
        }
    }

    fn home(&self, raw: u64) -> usize {
        let line = hash(raw >> LINE_BITS) as usize;
        let within = raw as usize & ((1 << LINE_BITS) - 1);
        (line << LINE_BITS | within) & (self.table.len() - 1)
    }

    /// Where in the table a pointer is, or the empty place where it would be.
    fn find(&self, raw: u64) -> usize {
        let mut at = self.home(raw);
        while self.table[at][0] != raw && self.table[at] != EMPTY {
            at = (at + 1) & (self.table.len() - 1);
        }
        at
    }

    fn slot(&self, p: Pointer) -> Option<usize> {
        if self.table.is_empty() || p.is_hole() {
            return None;
        }
        let entry = self.table[self.find(p.to_raw())];
        (entry != EMPTY).then_some(entry[1] as usize)
    }

    fn block(&self, slot: usize) -> &Block {
        &self.chunks[slot / CHUNK][slot % CHUNK]
    }

    /// A pointer that is not here.
    fn insert(&mut self, p: Pointer, block: &Block) {
        let Some(slot) = self.free_slot(p) else {
            return;
        };
        self.chunks[slot / CHUNK][slot % CHUNK] = *block;
        let at = self.find(p.to_raw());
        self.table[at] = [p.to_raw(), slot as u64];
    }

    /// A slot for `p`, a new one or that of what is needed least. `None` if there may be none at all.
    fn free_slot(&mut self, p: Pointer) -> Option<usize> {
        if let Some(slot) = self.free.pop() {
            self.pointers[slot] = p;
            return Some(slot);
        }
        let count = self.pointers.len();
        if count < self.slots_max {
            if (count + 1) * 3 > self.table.len() * 2 {
                self.grow_table();
            }
            if count == self.chunks.len() * CHUNK {
                self.chunks.push(vec![[0; BLOCK_SIZE]; CHUNK].into());
            }
            self.pointers.push(p);
            self.uses.push(AtomicU8::new(0));
            return Some(count);
        }
        if count == 0 {
            return None;
        }
        loop {
            let slot = self.hand;
            self.hand = (slot + 1) % count;
            let uses = self.uses[slot].load(Relaxed);
            if uses == 0 {
                self.forget(self.pointers[slot]);
                self.pointers[slot] = p;
                return Some(slot);
            }
            self.uses[slot].store(uses - 1, Relaxed);
        }
    }

    /// While no slot is free.
    fn grow_table(&mut self) {
        let len = (self.table.len() * 2).max(TABLE_MIN);
        self.table = vec![EMPTY; len];
        for slot in 0..self.pointers.len() {
            let raw = self.pointers[slot].to_raw();
            let at = self.find(raw);
            self.table[at] = [raw, slot as u64];
        }
    }

    /// Takes a pointer out of the table; what comes behind it without a gap moves up if that brings it nearer to its home.
    fn forget(&mut self, p: Pointer) {
        let mask = self.table.len() - 1;
        let mut gap = self.find(p.to_raw());
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let entry = self.table[at];
            if entry == EMPTY {
                break;
            }
            let from_home = at.wrapping_sub(self.home(entry[0])) & mask;
            if from_home >= (at.wrapping_sub(gap) & mask) {
                self.table[gap] = entry;
                gap = at;
            }
        }
        self.table[gap] = EMPTY;
    }
}

/// Keys are ours: this need not withstand anybody.
const fn hash(key: u64) -> u64 {
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 29)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use types::PackId;

    fn pointer(n: u64) -> Pointer {
        Pointer::new(PackId(1 + n / 1024), (n % 1024) as u16)
    }

    fn block(n: u64) -> Block {
        let mut block = [n as u8; BLOCK_SIZE];
        block[..8].copy_from_slice(&n.to_le_bytes());
        block
    }

    fn has(cache: &BlockCache, n: u64) -> bool {
        let found = cache.get(pointer(n), |found| *found == block(n));
        assert_ne!(found, Some(false), "block {n} is another's");
        found.is_some()
    }

    /// Every slot is found, and nothing else.
    fn self_check(cache: &BlockCache) {
        for shard in &cache.shards {
            let shard = shard.read();
            for (slot, &p) in shard.pointers.iter().enumerate() {
                let place = (!p.is_hole()).then_some(slot);
                assert_eq!(shard.slot(p), place, "{p:?}");
            }
            let holes = shard.pointers.iter().filter(|p| p.is_hole());
            assert_eq!(holes.count(), shard.free.len());
            let entries = shard.table.iter().filter(|entry| **entry != EMPTY);
            assert_eq!(entries.count() + shard.free.len(), shard.pointers.len());
            assert!(shard.pointers.len() <= shard.slots_max);
        }
    }

    #[test]
    fn a_cache_without_room_keeps_nothing() {
        let cache = BlockCache::new(ENTRY_BYTES - 1);
        cache.insert(pointer(1), &block(1));
        assert!(!has(&cache, 1));
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn everything_is_kept_while_there_is_room() {
        let cache = BlockCache::new(64 << 20);
        (0..1500).for_each(|n| cache.insert(pointer(n), &block(n)));
        assert!((0..1500).all(|n| has(&cache, n)));
        assert_eq!(cache.bytes(), 1500 * ENTRY_BYTES);
        self_check(&cache);
    }

    #[test]
    fn what_was_hit_outlives_a_scan() {
        let cache = BlockCache::new(64 * ENTRY_BYTES);
        (0..8).for_each(|n| cache.insert(pointer(n), &block(n)));
        for _ in 0..USES_MAX {
            assert!((0..8).all(|n| has(&cache, n)));
        }
        (1000..1150).for_each(|n| cache.insert(pointer(n), &block(n)));
        assert!((0..8).all(|n| has(&cache, n)));
        // But not for ever.
        (2000..2300).for_each(|n| cache.insert(pointer(n), &block(n)));
        assert!(!(0..8).any(|n| has(&cache, n)));
        self_check(&cache);
    }

    #[test]
    fn what_is_superseded_makes_room() {
        // One shard.
        let cache = BlockCache::new(128 * ENTRY_BYTES);
        (0..100).for_each(|n| cache.insert(pointer(n), &block(n)));
        assert!(has(&cache, 7));
        (0..100).for_each(|n| cache.supersede(pointer(n)));
        self_check(&cache);
        assert!((0..100).all(|n| has(&cache, n) == (n == 7)));
        // What comes takes the place of what went.
        let taken = cache.bytes();
        (100..199).for_each(|n| cache.insert(pointer(n), &block(n)));
        assert_eq!(cache.bytes(), taken);
        assert!((100..199).all(|n| has(&cache, n)));
        self_check(&cache);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_is_found_is_what_was_kept(
            room in 1_u64..300,
            steps in prop::collection::vec((0_u64..2000, 1_u64..20, 0..3), 1..120),
        ) {
            let cache = BlockCache::new(room * ENTRY_BYTES);
            for (first, count, what) in steps {
                let pointers: Vec<_> = (first..first + count).map(pointer).collect();
                cache.expect(&pointers);
                cache.expect(&[Pointer::HOLE]);
                for n in first..first + count {
                    match what {
                        0 => {
                            cache.insert(pointer(n), &block(n));
                            prop_assert!(has(&cache, n), "the last one is always there");
                        }
                        1 => cache.supersede(pointer(n)),
                        _ => {
                            has(&cache, n);
                        }
                    }
                }
                self_check(&cache);
            }
            prop_assert!(cache.bytes() <= room * ENTRY_BYTES);
        }
    }
}
