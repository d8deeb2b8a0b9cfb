//! Ranges that were zeroed, in pages.

use crate::{
    NewBlock, Place,
    recover::{checksum, is_number},
    slots::{Kind, Slot},
};
use std::sync::{
    Arc,
    atomic::{
        AtomicU64,
        Ordering::{Relaxed, Release},
    },
};
use types::BLOCK_SIZE;

/// Sequence number, first block, count, checksum.
const RANGE_WORDS: usize = 4;
const PAGE_RANGES: usize = BLOCK_SIZE / 8 / RANGE_WORDS;
/// What a range costs of a budget, bytes: about what it takes in memory elsewhere.
pub const RANGE_COST: u64 = 64;

/// The ranges that were zeroed in one generation of a volume, in the order in which they were.
#[derive(Default)]
pub struct Ranges {
    /// Shared memory only.
    pages: Vec<Arc<Slot>>,
    count: usize,
}

impl Ranges {
    /// Adds a range of `count` blocks from `place` on. `spare` is used if there is no room otherwise.
    pub fn push(&mut self, spare: NewBlock, place: Place, count: u64) {
        let at = self.count % PAGE_RANGES * RANGE_WORDS;
        if let Some(page) = self.page(spare, place) {
            let range = &page.as_words()[at..at + RANGE_WORDS];
            let words = [page.slots().next_sequence(), place.index.0, count];
            range[1].store(words[1], Relaxed);
            range[2].store(words[2], Relaxed);
            range[3].store(checksum(&words), Relaxed);
            range[0].store(words[0], Release);
        }
        self.count += 1;
    }

    /// The page that the next range goes to.
    fn page(&mut self, mut spare: NewBlock, place: Place) -> Option<&Slot> {
        if self.count.is_multiple_of(PAGE_RANGES) {
            spare.fill(&[0; BLOCK_SIZE]);
            let page = spare.into_slot()?;
            page.publish(Kind::Ranges, place);
            self.pages.push(page);
        }
        self.pages.last().map(|page| &**page)
    }

    /// Holds a page of a former process: nothing is added to it.
    pub(crate) fn hold(&mut self, page: &Arc<Slot>) {
        let held = self.pages.last();
        if !held.is_some_and(|held| Arc::ptr_eq(held, page)) {
            self.pages.push(Arc::clone(page));
        }
        self.count += 1;
    }

    /// What they take of a budget, bytes.
    #[must_use]
    pub fn cost(&self) -> u64 {
        self.count as u64 * RANGE_COST + self.pages.len() as u64 * BLOCK_SIZE as u64
    }
}

/// A range of a page: its sequence number, first block and count.
pub(crate) struct Range {
    pub(crate) sequence: u64,
    pub(crate) first: u64,
    pub(crate) count: u64,
}

/// The ranges of a page, up to the first that is not whole.
pub(crate) fn read_page(page: &[AtomicU64]) -> impl Iterator<Item = Range> + '_ {
    page.chunks_exact(RANGE_WORDS).map_while(|words| {
        let [sequence, first, count] = [0, 1, 2].map(|n| words[n].load(Relaxed));
        let sound = is_number(sequence)
            && words[3].load(Relaxed) == checksum(&[sequence, first, count])
            && first.checked_add(count).is_some();
        sound.then_some(Range {
            sequence,
            first,
            count,
        })
    })
}
