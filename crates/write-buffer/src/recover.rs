//! What a former process left.

use crate::{
    Place, Ranges,
    ranges::read_page,
    slots::{Kind, Slot},
};
use std::{
    ops,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed},
    },
};
use types::{BlockIndex, Generation, SharedBlock, VolumeId};

/// An entry of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) sequence: u64,
    pub(crate) kind: Kind,
    pub(crate) place: Place,
}

/// What a former process wrote and did not destage. It is kept while anybody holds it.
pub struct Survivor {
    /// Whose it is.
    pub volume: VolumeId,
    /// Of the volume.
    pub generation: Generation,
    /// What was done.
    pub what: What,
    pub(crate) sequence: u64,
}

/// What a former process did.
pub enum What {
    /// It wrote a block.
    Wrote(BlockIndex, SharedBlock),
    /// It zeroed a range.
    Zeroed(ops::Range<u64>, Page),
}

/// Keeps the page that a range is in.
pub struct Page(Arc<Slot>);

impl Ranges {
    /// Takes over what a former process zeroed: the page stays.
    pub fn take_over(&mut self, page: &Page) {
        self.hold(&page.0);
    }
}

impl Entry {
    pub(crate) fn encode(&self) -> [u64; 6] {
        let place = self.place;
        let mut words = [
            self.sequence,
            place.volume.0,
            place.generation.0,
            self.kind as u64,
            place.index.0,
            0,
        ];
        words[5] = checksum(&words[..5]);
        words
    }

    /// None if there is nothing, or nothing whole.
    pub(crate) fn decode(from: &[AtomicU64]) -> Option<Self> {
        let mut words = [0; 6];
        words[0] = from[0].load(Acquire);
        for (word, from) in words.iter_mut().zip(from).skip(1) {
            *word = from.load(Relaxed);
        }
        let [sequence, volume, generation, kind, index, sum] = words;
        let kind = [Kind::Block, Kind::Ranges]
            .into_iter()
            .find(|known| *known as u64 == kind)?;
        let place = Place {
            volume: VolumeId(volume),
            generation: Generation(generation),
            index: BlockIndex(index),
        };
        (is_number(sequence) && sum == checksum(&words[..5])).then_some(Entry {
            sequence,
            kind,
            place,
        })
    }

    /// The highest sequence number that the slot has to do with.
    pub(crate) fn last_sequence(&self, slot: &Slot) -> u64 {
        match self.kind {
            Kind::Block => self.sequence,
            Kind::Ranges => {
                let ranges = read_page(slot.as_words()).map(|range| range.sequence);
                ranges.max().unwrap_or(0).max(self.sequence)
            }
        }
    }

    pub(crate) fn survivors(self, slot: Slot, to: &mut Vec<Survivor>) {
        let slot = Arc::new(slot);
        let Place {
            volume,
            generation,
            index,
        } = self.place;
        let survivor = |sequence, what| Survivor {
            volume,
            generation,
            what,
            sequence,
        };
        match self.kind {
            Kind::Block => to.push(survivor(self.sequence, What::Wrote(index, slot))),
            Kind::Ranges => to.extend(read_page(slot.as_words()).map(|range| {
                let blocks = range.first..range.first + range.count;
                survivor(
                    range.sequence,
                    What::Zeroed(blocks, Page(Arc::clone(&slot))),
                )
            })),
        }
    }
}

/// Whether this is a sequence number: none is ever so high that no other could come behind it.
pub(crate) const fn is_number(sequence: u64) -> bool {
    sequence != 0 && sequence < 1 << 62
}

/// Of some words, in a word.
pub(crate) fn checksum(words: &[u64]) -> u64 {
    let sum = words.iter().fold(0, |sum, word| {
        crc32c::crc32c_append(sum, &word.to_le_bytes())
    });
    u64::from(sum)
}
