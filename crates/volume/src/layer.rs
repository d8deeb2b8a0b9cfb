//! One generation's writes, in memory.

use crate::ranges::RangeSet;
use journal::After;
use rustc_hash::FxHashMap;
use std::{ops::Range, sync::Arc};
use types::{BLOCK_SIZE, BlockIndex, Generation, SharedBlock};
use write_buffer::{Page, RANGE_COST, Ranges};

/// Entries of a log that are not worth looking through.
const LOG_SLACK: usize = 1024;

/// What a layer knows of a block.
#[derive(Clone, Copy)]
pub(crate) enum Found<'a> {
    /// It was written.
    Block(&'a SharedBlock),
    /// It was zeroed or discarded.
    Zero,
    /// Nothing: look below.
    Absent,
}

struct Slot {
    block: SharedBlock,
    /// Whether the journal has these very bytes.
    journaled: bool,
}

/// What was written to a volume during one generation. Blocks hide zeroed ranges.
pub(crate) struct Layer {
    pub(crate) number: Generation,
    blocks: FxHashMap<u64, Slot>,
    zeroes: RangeSet,
    /// The same, as it was done, for who comes after us.
    ranges: Ranges,
    /// Blocks that are in no map, as far as is known: never fewer than there are.
    fresh: u64,
    log: Log,
}

/// What the journal has not of a layer.
#[derive(Clone, Default)]
pub(crate) struct Log {
    /// How many submits have something of the layer.
    submits: u64,
    /// Possibly with repetitions, and with blocks that are gone.
    blocks: Vec<u64>,
    zeroes: RangeSet,
}

impl Log {
    /// One more submit was made: the journal has everything.
    pub(crate) fn submitted(&mut self) {
        *self = Log {
            submits: self.submits + 1,
            ..Log::default()
        };
    }

    /// How many submits have something of the layer.
    pub(crate) fn submits(&self) -> u64 {
        self.submits
    }

    /// The same once the journal has everything.
    pub(crate) fn submits_in_all(&self) -> u64 {
        self.submits + u64::from(!self.is_empty())
    }

    /// What comes before a batch that is made of it; `whole`: the journal has all of the generation before.
    pub(crate) fn after(&self, whole: bool) -> After {
        match (self.submits, whole) {
            (1.., _) => After::Same,
            (0, false) => After::Packs,
            (0, true) => After::Journal,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.zeroes.is_empty()
    }

    /// Bytes that a flush has to log, at most.
    pub(crate) fn bytes(&self) -> u64 {
        self.blocks.len() as u64 * BLOCK_SIZE as u64
    }
}

/// What a flush logs of a layer.
#[derive(Default)]
pub(crate) struct Pending {
    pub(crate) zeroes: Vec<(BlockIndex, u64)>,
    pub(crate) blocks: Vec<(BlockIndex, SharedBlock)>,
}

impl Layer {
    pub(crate) fn new(number: Generation) -> Self {
        Layer {
            number,
            blocks: FxHashMap::default(),
            zeroes: RangeSet::default(),
            ranges: Ranges::default(),
            fresh: 0,
            log: Log::default(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.blocks.is_empty() && self.zeroes.is_empty()
    }

    /// What it takes of the budget for dirty data.
    pub(crate) fn cost(&self) -> u64 {
        let ranges = self
            .ranges
            .cost()
            .max(self.zeroes.len() as u64 * RANGE_COST);
        self.blocks.len() as u64 * BLOCK_SIZE as u64 + ranges
    }

    pub(crate) fn find(&self, index: u64) -> Found<'_> {
        match self.blocks.get(&index) {
            Some(slot) => Found::Block(&slot.block),
            None if !self.zeroes.is_empty() && self.zeroes.contains(index) => Found::Zero,
            None => Found::Absent,
        }
    }

    /// Sets a block.
    pub(crate) fn insert(&mut self, index: u64, block: SharedBlock) {
        match self.blocks.get_mut(&index) {
            Some(slot) => {
                slot.block = block;
                if slot.journaled {
                    slot.journaled = false;
                    self.note(index);
                }
            }
            None => {
                self.blocks.insert(
                    index,
                    Slot {
                        block,
                        journaled: false,
                    },
                );
                self.fresh += 1;
                self.note(index);
            }
        }
    }

    /// The journal has not what a block holds now.
    fn note(&mut self, index: u64) {
        let log = &mut self.log.blocks;
        log.push(index);
        // A block that is written and zeroed again and again has many entries and costs nothing of the budget.
        if log.len() > 2 * self.blocks.len() + LOG_SLACK {
            log.sort_unstable();
            log.dedup();
            log.retain(|index| self.blocks.get(index).is_some_and(|slot| !slot.journaled));
        }
    }

    /// Blocks that no map has, at most.
    pub(crate) fn fresh(&self) -> u64 {
        self.fresh
    }

    /// Somebody has looked: so many are in no map.
    pub(crate) fn set_fresh(&mut self, fresh: u64) {
        self.fresh = fresh;
    }

    /// Sets a range of blocks to zero.
    pub(crate) fn zero(&mut self, range: Range<u64>) {
        if range.end - range.start > self.blocks.len() as u64 {
            self.blocks.retain(|index, _| !range.contains(index));
        } else {
            for index in range.clone() {
                self.blocks.remove(&index);
            }
        }
        self.zeroes.insert(range.clone());
        self.log.zeroes.insert(range);
    }

    /// What [`zero`](Self::zero) does is also to be found in these ranges.
    pub(crate) fn ranges(&mut self) -> &mut Ranges {
        &mut self.ranges
    }

    /// Sets a range of blocks to zero as a former process did, whose note of it stays.
    pub(crate) fn zero_again(&mut self, range: Range<u64>, page: &Page) {
        self.zero(range);
        self.ranges.take_over(page);
    }

    /// From the journal: what it has already.
    pub(crate) fn replay(
        &mut self,
        zeroes: impl Iterator<Item = Range<u64>>,
        blocks: impl Iterator<Item = (u64, SharedBlock)>,
    ) {
        for range in zeroes {
            self.zero(range);
        }
        for (index, block) in blocks {
            self.blocks.insert(
                index,
                Slot {
                    block,
                    journaled: true,
                },
            );
        }
        self.fresh = self.blocks.len() as u64;
        self.log.submitted();
    }

    pub(crate) fn log(&self) -> &Log {
        &self.log
    }

    /// Separates what the journal has not, for a layer that will not change any more: O(1).
    pub(crate) fn take_log(&mut self) -> Log {
        std::mem::take(&mut self.log)
    }

    /// What a flush logs, given this layer's log.
    pub(crate) fn pending(&self, log: &Log) -> Pending {
        let mut indexes = log.blocks.clone();
        indexes.sort_unstable();
        indexes.dedup();
        let block = |index: u64| {
            let slot = self.blocks.get(&index)?;
            (!slot.journaled).then(|| (BlockIndex(index), Arc::clone(&slot.block)))
        };
        let range = |r: Range<u64>| (BlockIndex(r.start), r.end - r.start);
        Pending {
            zeroes: log.zeroes.iter().map(range).collect(),
            blocks: indexes.into_iter().filter_map(block).collect(),
        }
    }

    /// The journal has everything now.
    pub(crate) fn set_journaled(&mut self) {
        if self.log.is_empty() {
            return;
        }
        let blocks = std::mem::take(&mut self.log.blocks);
        self.log.submitted();
        for index in blocks {
            if let Some(slot) = self.blocks.get_mut(&index) {
                slot.journaled = true;
            }
        }
    }

    /// The blocks, in order.
    pub(crate) fn sorted(&self) -> Vec<(u64, SharedBlock)> {
        let pair = |(&index, slot): (&u64, &Slot)| (index, Arc::clone(&slot.block));
        let mut blocks: Vec<_> = self.blocks.iter().map(pair).collect();
        blocks.sort_unstable_by_key(|&(index, _)| index);
        blocks
    }

    /// The zeroed ranges, in order; blocks hide parts of them.
    pub(crate) fn zeroes(&self) -> &RangeSet {
        &self.zeroes
    }

    /// Marks in `kinds`, which begins at block `start`, what this layer says of each block: a
    /// lower layer's opinion is overwritten.
    pub(crate) fn paint(&self, start: u64, kinds: &mut [Option<bool>]) {
        let range = start..start + kinds.len() as u64;
        for part in self.zeroes.overlaps(range.clone()) {
            kinds[(part.start - start) as usize..(part.end - start) as usize].fill(Some(false));
        }
        if kinds.len() > self.blocks.len() {
            for &index in self.blocks.keys().filter(|index| range.contains(index)) {
                kinds[(index - start) as usize] = Some(true);
            }
        } else {
            for index in range.filter(|index| self.blocks.contains_key(index)) {
                kinds[(index - start) as usize] = Some(true);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(byte: u8) -> SharedBlock {
        Arc::new([byte; BLOCK_SIZE])
    }

    #[test]
    fn a_flush_logs_what_is_new_once() {
        let mut layer = Layer::new(Generation(1));
        layer.insert(5, block(1));
        layer.insert(7, block(2));
        layer.insert(5, block(3));
        let pending = layer.pending(layer.log());
        assert_eq!(
            pending
                .blocks
                .iter()
                .map(|(i, b)| (i.0, b[0]))
                .collect::<Vec<_>>(),
            [(5, 3), (7, 2)]
        );
        assert_eq!(layer.log().after(true), After::Journal);
        layer.set_journaled();
        assert_eq!(layer.log().after(true), After::Same);
        assert_eq!(layer.log().submits(), 1);
        layer.set_journaled();
        assert_eq!(layer.log().submits_in_all(), 1);
        assert!(layer.pending(layer.log()).blocks.is_empty());
        layer.insert(7, block(9));
        assert_eq!(layer.pending(layer.log()).blocks.len(), 1);
        assert_eq!(layer.log().submits_in_all(), 2);
        layer.zero(0..6);
        layer.insert(3, block(4));
        let pending = layer.pending(layer.log());
        assert_eq!(pending.zeroes, [(BlockIndex(0), 6)]);
        assert_eq!(
            pending.blocks.iter().map(|(i, _)| i.0).collect::<Vec<_>>(),
            [3, 7]
        );
    }

    #[test]
    fn a_flush_that_logs_nothing_begins_nothing() {
        let mut layer = Layer::new(Generation(1));
        layer.set_journaled();
        layer.insert(5, block(1));
        assert_eq!(layer.log().after(false), After::Packs);
    }

    #[test]
    fn blocks_that_come_and_go_do_not_fill_the_log() {
        let mut layer = Layer::new(Generation(1));
        layer.insert(1, block(1));
        layer.set_journaled();
        layer.insert(2, block(2));
        for _ in 0..10 * LOG_SLACK {
            layer.zero(3..4);
            layer.insert(3, block(3));
            assert!(layer.log().blocks.len() <= 2 * layer.blocks.len() + LOG_SLACK);
        }
        layer.insert(4, block(4));
        let pending = layer.pending(layer.log());
        assert_eq!(
            pending.blocks.iter().map(|(i, _)| i.0).collect::<Vec<_>>(),
            [2, 3, 4]
        );
    }

    #[test]
    fn blocks_hide_zeroes_and_zeroes_remove_blocks() {
        let mut layer = Layer::new(Generation(1));
        layer.insert(5, block(1));
        layer.zero(0..1 << 40);
        assert!(matches!(layer.find(5), Found::Zero));
        layer.insert(5, block(2));
        assert!(matches!(layer.find(5), Found::Block(b) if b[0] == 2));
        assert!(matches!(layer.find(1 << 40), Found::Absent));
        let mut kinds = [None; 3];
        layer.paint(4, &mut kinds);
        assert_eq!(kinds, [Some(false), Some(true), Some(false)]);
        assert_eq!(layer.cost(), 4096 + RANGE_COST);
    }

    #[test]
    fn what_a_flush_took_does_not_change_under_it() {
        let mut layer = Layer::new(Generation(1));
        layer.insert(1, block(1));
        let taken = layer.pending(layer.log());
        layer.insert(1, block(2));
        assert_eq!(taken.blocks[0].1[0], 1);
    }
}
