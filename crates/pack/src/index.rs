//! From hashes to pointers: in memory, bounded, sparse, and only advice.
//!
//! The index keeps the hashes whose low *k* bits are zero. k is 0 until the memory is used up; then it grows
//! by one, and half of the entries are dropped. What is found is verified against the header of the pack it
//! is said to be in, so entries may be stale. Tables of open addressing, a number of them so that growing
//! one takes little memory and little time under its lock; each has its own k.

use sync::Mutex;
use types::Pointer;

/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: u64 = 16;
const FIRST_LEN: usize = 64;
const SHARD_LEN: u64 = 4096;

/// The index.
pub struct Index {
    shards: Box<[Mutex<Table>]>,
}

#[derive(Clone, Copy)]
struct Entry {
    prefix: u64,
    pointer: Pointer,
}

const FREE: Entry = Entry {
    prefix: 0,
    pointer: Pointer::HOLE,
};

struct Table {
    slots: Box<[Entry]>,
    used: usize,
    len_max: usize,
    k: u32,
}

impl Index {
    /// Of at most so many bytes.
    #[must_use]
    pub fn new(bytes_max: u64) -> Self {
        let len_max = bytes_max / ENTRY_BYTES;
        let shards = (len_max / SHARD_LEN).clamp(1, 256).next_power_of_two();
        let len_max = usize::try_from(len_max / shards).unwrap_or(usize::MAX);
        let table = || {
            Mutex::new(Table {
                slots: Box::new([]),
                used: 0,
                len_max,
                k: 0,
            })
        };
        Index {
            shards: std::iter::repeat_with(table)
                .take(shards as usize)
                .collect(),
        }
    }

    /// Where a block of this hash prefix may be.
    #[must_use]
    pub fn get(&self, prefix: u64) -> Option<Pointer> {
        self.shard(prefix).lock().get(prefix)
    }

    /// Remembers it in place of what was known of this prefix.
    pub fn insert(&self, prefix: u64, pointer: Pointer) {
        self.shard(prefix).lock().insert(prefix, pointer, true);
    }

    /// Remembers it if nothing is known of this prefix.
    pub fn insert_if_absent(&self, prefix: u64, pointer: Pointer) {
        self.shard(prefix).lock().insert(prefix, pointer, false);
    }

    /// Forgets that it is at `pointer`.
    pub fn forget(&self, prefix: u64, pointer: Pointer) {
        self.shard(prefix).lock().forget(prefix, pointer);
    }

    /// Entries, bytes of memory, and the largest k.
    #[must_use]
    pub fn usage(&self) -> (u64, u64, u32) {
        self.shards.iter().fold((0, 0, 0), |(n, bytes, k), shard| {
            let table = shard.lock();
            let len = table.slots.len() as u64;
            (
                n + table.used as u64,
                bytes + len * ENTRY_BYTES,
                k.max(table.k),
            )
        })
    }

    /// By bits that are neither those of sampling (low) nor those of the place in the table (high).
    fn shard(&self, prefix: u64) -> &Mutex<Table> {
        &self.shards[(prefix >> 24) as usize & (self.shards.len() - 1)]
    }
}

impl Table {
    fn sampled(&self, prefix: u64) -> bool {
        self.k == 0 || prefix & ((1 << self.k) - 1) == 0
    }

    /// Where the search for `prefix` begins: its high bits, scaled.
    fn home(&self, prefix: u64) -> usize {
        ((u128::from(prefix) * self.slots.len() as u128) >> 64) as usize
    }

    fn after(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() {
            0
        } else {
            at + 1
        }
    }

    /// The slot of `prefix`, or the free one where the search ends. There always is one.
    fn find(&self, prefix: u64) -> usize {
        let mut at = self.home(prefix);
        while !self.slots[at].pointer.is_hole() && self.slots[at].prefix != prefix {
            at = self.after(at);
        }
        at
    }

    fn get(&self, prefix: u64) -> Option<Pointer> {
        if self.slots.is_empty() || !self.sampled(prefix) {
            return None;
        }
        let pointer = self.slots[self.find(prefix)].pointer;
        (!pointer.is_hole()).then_some(pointer)
    }

    fn insert(&mut self, prefix: u64, pointer: Pointer, replace: bool) {
        while self.sampled(prefix) && self.is_full() {
            if self.len_max < 8 {
                return;
            }
            self.make_room();
        }
        if !self.sampled(prefix) {
            return;
        }
        let at = self.find(prefix);
        let slot = &mut self.slots[at];
        if slot.pointer.is_hole() {
            *slot = Entry { prefix, pointer };
            self.used += 1;
        } else if replace {
            slot.pointer = pointer;
        }
    }

    /// At seven eighths searches become long.
    fn is_full(&self) -> bool {
        (self.used + 1) * 8 > self.slots.len() * 7
    }

    fn make_room(&mut self) {
        let len = (self.slots.len() * 2).max(FIRST_LEN).min(self.len_max);
        if len == self.slots.len() {
            self.k += 1;
        }
        let old = std::mem::replace(&mut self.slots, vec![FREE; len].into());
        self.used = 0;
        for entry in old {
            if !entry.pointer.is_hole() && self.sampled(entry.prefix) {
                let at = self.find(entry.prefix);
                self.slots[at] = entry;
                self.used += 1;
            }
        }
    }

    fn forget(&mut self, prefix: u64, pointer: Pointer) {
        if self.get(prefix) != Some(pointer) {
            return;
        }
        let mut hole = self.find(prefix);
        self.used -= 1;
        // Entries after it move up if their search would have passed it.
        let mut at = self.after(hole);
        while !self.slots[at].pointer.is_hole() {
            let (home, len) = (self.home(self.slots[at].prefix), self.slots.len());
            let from_home = (at + len - home) % len;
            let from_hole = (at + len - hole) % len;
            if from_home >= from_hole {
                self.slots[hole] = self.slots[at];
                hole = at;
            }
            at = self.after(at);
        }
        self.slots[hole] = FREE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use types::PackId;

    fn mix(x: u64) -> u64 {
        let x = (x ^ (x >> 31)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_is_a_map_while_memory_lasts(
            steps in prop::collection::vec((0..4, 0_u64..200, 1_u64..50), 0..600),
        ) {
            let index = Index::new(1 << 20);
            let mut model = HashMap::new();
            for (what, key, pack) in steps {
                // Few different homes: searches collide and wrap around.
                let (prefix, pointer) = (mix(key) | 0xfff << 52, Pointer::new(PackId(pack), 1));
                match what {
                    0 => {
                        index.insert(prefix, pointer);
                        model.insert(prefix, pointer);
                    }
                    1 => {
                        index.insert_if_absent(prefix, pointer);
                        model.entry(prefix).or_insert(pointer);
                    }
                    2 => {
                        index.forget(prefix, pointer);
                        if model.get(&prefix) == Some(&pointer) {
                            model.remove(&prefix);
                        }
                    }
                    _ => prop_assert_eq!(index.get(prefix), model.get(&prefix).copied()),
                }
            }
            prop_assert_eq!(index.usage().0, model.len() as u64);
            for (prefix, pointer) in model {
                prop_assert_eq!(index.get(prefix), Some(pointer));
            }
        }

        #[test]
        fn a_full_index_keeps_exactly_the_samples(count in 1_u64..20_000, bytes in 200_u64..100_000) {
            let index = Index::new(bytes);
            for key in 0..count {
                index.insert(mix(key), Pointer::new(PackId(key + 1), 0));
            }
            let (entries, used, _) = index.usage();
            prop_assert!(used <= bytes, "{} of {}", used, bytes);
            let mut sampled = 0;
            for key in 0..count {
                let k = index.shard(mix(key)).lock().k;
                let expected = (mix(key) & ((1 << k) - 1) == 0)
                    .then(|| Pointer::new(PackId(key + 1), 0));
                sampled += u64::from(expected.is_some());
                prop_assert_eq!(index.get(mix(key)), expected);
            }
            prop_assert_eq!(entries, sampled);
        }
    }

    #[test]
    fn an_idle_index_takes_nothing() {
        assert_eq!(Index::new(1 << 30).usage(), (0, 0, 0));
        let tiny = Index::new(0);
        tiny.insert(1, Pointer::new(PackId(1), 1));
        assert_eq!(tiny.get(1), None);
    }
}
