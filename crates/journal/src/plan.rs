//! Cuts submits into records and gives them their places, before anything is written.
//!
//! Places are decided when a submit is made, so that whether it fits is known then and exactly.

use crate::Batch;
use format::journal::{BLOCKS_MAX, EXTENTS_MAX, Extent};
use types::{BlockIndex, JournalSeq};

/// Where the next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    /// The segment.
    pub(crate) number: u64,
    /// The first free page in it.
    pub(crate) page: u64,
    /// The record's number.
    pub(crate) seq: JournalSeq,
}

/// A record that has its place.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) number: u64,
    pub(crate) page: u64,
    pub(crate) seq: JournalSeq,
    pub(crate) extents: Vec<Extent>,
    /// Blocks that it carries.
    pub(crate) blocks: usize,
    pub(crate) first: bool,
    pub(crate) last: bool,
}

/// The batches as runs: of each, first what is zeroed and then the blocks. A batch of nothing
/// is kept as an empty run.
pub(crate) fn extents_of(batches: &[Batch]) -> Vec<Extent> {
    let mut extents: Vec<Extent> = Vec::with_capacity(batches.len());
    for batch in batches {
        let extent = |first, blocks, zeroed| Extent {
            generation: batch.generation,
            first,
            blocks,
            zeroed,
            after: batch.after,
        };
        for &(first, blocks) in &batch.zeroes {
            extents.push(extent(first, blocks, true));
        }
        let begin = extents.len();
        for &(index, _) in &batch.blocks {
            match extents[begin..].last_mut() {
                Some(run) if run.first.0 + run.blocks == index.0 => run.blocks += 1,
                _ => extents.push(extent(index, 1, false)),
            }
        }
        if batch.zeroes.is_empty() && batch.blocks.is_empty() {
            extents.push(extent(BlockIndex(0), 0, true));
        }
    }
    extents
}

/// Gives one submit's extents to records from `cursor` on, in segments of `pages` pages, and
/// moves `cursor` behind them. A submit of nothing is one empty record.
pub(crate) fn plan(extents: Vec<Extent>, cursor: &mut Cursor, pages: u64) -> Vec<Planned> {
    let mut records: Vec<Planned> = Vec::with_capacity(1);
    let mut rest = extents.into_iter().peekable();
    let mut split: Option<Extent> = None;
    loop {
        // Page 0 is the header. A record that can carry no block is not worth its page.
        if cursor.page + 2 > pages {
            cursor.number += 1;
            cursor.page = 1;
        }
        let room = (pages - cursor.page - 1).min(BLOCKS_MAX as u64);
        let mut taken = Vec::with_capacity(rest.len().min(EXTENTS_MAX - 1) + 1);
        let mut blocks = 0;
        while taken.len() < EXTENTS_MAX {
            let Some(next) = split.take().or_else(|| rest.next()) else {
                break;
            };
            let (head, tail) = split_at(next, room - blocks);
            blocks += head.map_or(0, |head| head.payload());
            taken.extend(head);
            split = tail;
            if split.is_some() {
                break;
            }
        }
        let last = split.is_none() && rest.peek().is_none();
        records.push(Planned {
            number: cursor.number,
            page: cursor.page,
            seq: cursor.seq,
            extents: taken,
            blocks: blocks as usize,
            first: records.is_empty(),
            last,
        });
        cursor.page += 1 + blocks;
        cursor.seq = cursor.seq.next();
        if last {
            return records;
        }
    }
}

/// What of an extent goes into a record with room for `room` more blocks, and what does not.
fn split_at(extent: Extent, room: u64) -> (Option<Extent>, Option<Extent>) {
    if extent.payload() <= room {
        return (Some(extent), None);
    }
    let head = Extent {
        blocks: room,
        ..extent
    };
    let tail = Extent {
        first: BlockIndex(extent.first.0 + room),
        blocks: extent.blocks - room,
        ..extent
    };
    ((room > 0).then_some(head), Some(tail))
}

#[cfg(test)]
mod tests {
    use super::*;
    use format::journal::After;
    use proptest::prelude::*;

    fn run(first: u64, blocks: u64, zeroed: bool) -> Extent {
        Extent {
            generation: types::Generation(1),
            first: BlockIndex(first),
            blocks,
            zeroed,
            after: After::Same,
        }
    }

    proptest! {
        #[test]
        fn records_hold_everything_once_in_order_and_within_segments(
            runs in prop::collection::vec((0u64..1000, 1u64..600, any::<bool>()), 0..400),
            pages in 3u64..400,
            page in 1u64..400,
        ) {
            let runs: Vec<_> = runs.into_iter().map(|(f, n, z)| run(f, n, z)).collect();
            let mut cursor = Cursor { number: 5, page: page.min(pages), seq: JournalSeq(7) };
            let mut at = cursor;
            let records = plan(runs.clone(), &mut cursor, pages);
            prop_assert!(records[0].first && records[records.len() - 1].last);
            for record in &records {
                prop_assert_eq!(record.seq, at.seq);
                if record.number != at.number {
                    prop_assert!(at.page + 2 > pages, "left more than a page unused");
                    at = Cursor { number: at.number + 1, page: 1, ..at };
                }
                prop_assert_eq!((record.number, record.page), (at.number, at.page));
                at.page += 1 + record.blocks as u64;
                at.seq = at.seq.next();
                prop_assert!(at.page <= pages);
                prop_assert!(record.blocks <= BLOCKS_MAX && record.extents.len() <= EXTENTS_MAX);
                let carried: u64 = record.extents.iter().map(Extent::payload).sum();
                prop_assert_eq!(carried, record.blocks as u64);
            }
            prop_assert_eq!(at, cursor);
            let expand = |extents: Vec<Extent>| -> Vec<(u64, bool)> {
                extents.iter().flat_map(|e| (0..e.blocks).map(|n| (e.first.0 + n, e.zeroed))).collect()
            };
            let planned = records.into_iter().flat_map(|r| r.extents).collect();
            prop_assert_eq!(expand(planned), expand(runs));
        }
    }
}
