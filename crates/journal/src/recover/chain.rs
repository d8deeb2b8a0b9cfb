//! Follows the records of the needed segments, and puts submits together.

use super::{Headed, NUMBER_LIMIT};
use crate::{
    Batch, Replayed,
    error::Error,
    state::{Latest, Pins},
    supply::SegmentFile,
};
use env::AlignedBuf;
use format::journal::{Before, Extent, PAGE, Record, RecordHeader, Unverified};
use std::{collections::BTreeMap, sync::Arc};
use types::{BlockIndex, Epoch, Generation, JournalSeq, SharedBlock, VolumeId};

/// Bytes that are read at a time; more than the longest record.
const WINDOW_LEN: u64 = 2 << 20;

/// Gets each complete submit.
type Replay<'a> = &'a mut dyn FnMut(Replayed) -> Result<(), Error>;

/// The records read so far.
pub(super) struct Chain<'a> {
    pub(super) window: Window,
    pub(super) submits: Submits<'a>,
    /// The seq that the next record must have.
    pub(super) next: JournalSeq,
}

impl<'a> Chain<'a> {
    /// The first record will be `next`; no file is longer than `file_len_max`.
    pub(super) fn new(next: JournalSeq, file_len_max: u64, replay: Replay<'a>) -> Self {
        Chain {
            window: Window::new(file_len_max),
            submits: Submits {
                replay,
                end: next,
                open: None,
                begun: false,
                torn: Pins::new(),
                pins: Vec::new(),
                epochs: BTreeMap::new(),
                latest: Latest::new(),
            },
            next,
        }
    }

    /// The seq after the last complete submit.
    pub(super) fn end(&self) -> JournalSeq {
        self.submits.end
    }

    /// For each segment that was read who needs it, the newest epochs, the last submits.
    pub(super) fn into_parts(self) -> (Vec<Pins>, BTreeMap<VolumeId, Epoch>, Latest) {
        (self.submits.pins, self.submits.epochs, self.submits.latest)
    }

    /// Whose submits are not whole, but for those that a crash may leave so.
    pub(super) fn into_torn(self) -> Pins {
        self.submits.torn
    }

    /// Follows the records through `segments`, which have consecutive numbers.
    pub(super) fn read(&mut self, segments: &[Headed]) -> Result<(), Error> {
        for (n, segment) in segments.iter().enumerate() {
            self.submits.pins.push(Pins::new());
            let later = segments.get(n + 1..).unwrap_or_default();
            // What a later segment begins anew was dropped by the recovery before that segment.
            let limit = later.iter().map(|s| s.header.first_seq).min();
            let first = segment.header.first_seq;
            if limit.is_some_and(|limit| limit <= first) {
                continue;
            }
            if first != self.next {
                let what = "recovery: records before this segment are missing";
                return Err(Error::corrupt(what, &segment.file.path, 0));
            }
            self.read_segment(segment, limit)?;
        }
        Ok(())
    }

    fn read_segment(&mut self, segment: &Headed, limit: Option<JournalSeq>) -> Result<(), Error> {
        let mut offset = PAGE as u64;
        while limit != Some(self.next) {
            let record = self.window.record(segment, offset)?;
            let Some(record) = record.filter(|record| record.header.seq == self.next) else {
                return match limit {
                    Some(_) => {
                        let what = "recovery: a record that was durable is damaged";
                        Err(Error::corrupt(what, &segment.file.path, offset))
                    }
                    None => self.check_end(segment, offset),
                };
            };
            let len = PAGE * (1 + record.blocks.len());
            self.submits
                .take(&record)
                .map_err(|what| Error::corrupt(what, &segment.file.path, offset))??;
            self.next = self.next.next();
            offset += len as u64;
        }
        Ok(())
    }

    /// The log ends at `offset`, unless a later record says that the one there was durable.
    fn check_end(&mut self, segment: &Headed, offset: u64) -> Result<(), Error> {
        let mut at = offset;
        while at < segment.header.len {
            if let Some(record) = self.window.record(segment, at)?
                && record.header.durable >= self.next
            {
                let what = "recovery: a record that was durable is damaged";
                return Err(Error::corrupt(what, &segment.file.path, offset));
            }
            at += PAGE as u64;
        }
        Ok(())
    }

    /// A segment whose header is lost must hold nothing that follows the end of the log; if the header is zeroes,
    /// nothing that says so of what came before it, for a crash in its first commit leaves that commit.
    pub(super) fn check_unreadable(
        &mut self,
        file: &SegmentFile,
        zeroes: bool,
    ) -> Result<(), Error> {
        let end = self.submits.end;
        let mut lost = false;
        self.window.each_record(file, &mut |_, header| {
            lost |= if zeroes {
                header.durable >= end
            } else {
                header.seq >= end
            };
        })?;
        if lost {
            let what = "recovery: the header of a segment that is needed is damaged";
            return Err(Error::corrupt(what, &file.path, 0));
        }
        Ok(())
    }
}

/// Submits as their records come in.
pub(super) struct Submits<'a> {
    replay: Replay<'a>,
    pub(super) end: JournalSeq,
    open: Option<Open>,
    /// A first record was seen. Those before it are the rest of a submit that began in a segment that
    /// was freed: all of it was destaged.
    begun: bool,
    /// Whose submits a hole has torn, and their newest generations.
    pub(super) torn: Pins,
    pub(super) pins: Vec<Pins>,
    epochs: BTreeMap<VolumeId, Epoch>,
    latest: Latest,
}

/// A submit whose last record has not come yet.
struct Open {
    volume: VolumeId,
    epoch: Epoch,
    before: Before,
    batches: Vec<Batch>,
    /// Its first segment.
    segment: usize,
}

impl Submits<'_> {
    pub(super) fn newest_epoch(&self) -> Epoch {
        self.epochs.values().copied().max().unwrap_or_default()
    }

    /// Records are missing here: what is begun has no end, and what comes next may have no beginning.
    pub(super) fn tear(&mut self) {
        if let Some(open) = self.open.take() {
            let newest = open.batches.iter().map(|batch| batch.generation).max();
            tear(&mut self.torn, open.volume, newest);
        }
        self.begun = false;
    }

    /// The outer error says how the record does not fit; the inner one is of the replay.
    pub(super) fn take(&mut self, record: &Record<'_>) -> Result<Result<(), Error>, &'static str> {
        let header = &record.header;
        let mut open = match (self.open.take(), header.first) {
            (None, true) => Open {
                volume: header.volume,
                epoch: header.epoch,
                before: header.before,
                batches: Vec::new(),
                segment: self.pins.len() - 1,
            },
            (Some(open), false) => open,
            (None, false) if !self.begun => {
                let newest = record.extents.iter().map(|extent| extent.generation).max();
                tear(&mut self.torn, header.volume, newest);
                if header.last {
                    self.end = header.seq.next();
                }
                return Ok(Ok(()));
            }
            _ => return Err("recovery: a submit begins within another, or has no beginning"),
        };
        self.begun = true;
        if (open.volume, open.epoch) != (header.volume, header.epoch) {
            return Err("recovery: a submit's records are of several volumes");
        }
        if !append(&mut open.batches, record) || header.epoch.0 >= NUMBER_LIMIT {
            return Err("recovery: a submit's generations or its epoch make no sense");
        }
        if header.last {
            self.end = header.seq.next();
            return Ok(self.complete(open, header.seq));
        }
        self.open = Some(open);
        Ok(Ok(()))
    }

    fn complete(&mut self, open: Open, seq: JournalSeq) -> Result<(), Error> {
        let Open {
            volume,
            epoch,
            before,
            batches,
            segment,
        } = open;
        let newest = batches.iter().map(|batch| batch.generation).max();
        for pins in self.pins.iter_mut().skip(segment) {
            if let Some(newest) = newest {
                let pin = pins.entry(volume).or_default();
                *pin = newest.max(*pin);
            }
        }
        let earlier = self.latest.get(&volume).map(|(_, newest)| *newest);
        if let Some(newest) = newest.max(earlier) {
            self.latest.insert(volume, (seq, newest));
        }
        let known = self.epochs.entry(volume).or_default();
        *known = epoch.max(*known);
        (self.replay)(Replayed {
            volume,
            epoch,
            seq,
            before,
            batches,
        })
    }
}

fn tear(torn: &mut Pins, volume: VolumeId, newest: Option<Generation>) {
    let known = torn.entry(volume).or_default();
    *known = newest.unwrap_or_default().max(*known);
}

/// Adds what a record carries. A new batch begins with a new generation; `false` if it is not a later one, or
/// none that is ever reached.
fn append(batches: &mut Vec<Batch>, record: &Record<'_>) -> bool {
    let mut blocks = record.blocks.iter();
    for extent in &record.extents {
        let newest = batches.last().map(|batch| batch.generation);
        if Some(extent.generation) < newest || extent.generation.0 >= NUMBER_LIMIT {
            return false;
        }
        let continues = batches.last().is_some_and(|batch| {
            batch.generation == extent.generation && (batch.blocks.is_empty() || !extent.zeroed)
        });
        if !continues {
            batches.push(Batch {
                generation: extent.generation,
                after: extent.after,
                zeroes: Vec::new(),
                blocks: Vec::new(),
            });
        }
        let Some(batch) = batches.last_mut() else {
            continue;
        };
        if !extent.zeroed {
            let data = blocks.by_ref().take(extent.blocks as usize);
            batch
                .blocks
                .extend(indices(extent).zip(data.map(|block| Arc::new(*block) as SharedBlock)));
        } else if extent.blocks > 0 {
            batch.zeroes.push((extent.first, extent.blocks));
        }
    }
    true
}

fn indices(extent: &Extent) -> impl Iterator<Item = BlockIndex> {
    (extent.first.0..extent.first.0 + extent.blocks).map(BlockIndex)
}

/// The part of a segment that is in memory.
pub(super) struct Window {
    bytes: AlignedBuf,
    /// Of which file, from where on, and how much.
    path: std::path::PathBuf,
    offset: u64,
    len: usize,
}

impl Window {
    pub(super) fn new(file_len_max: u64) -> Self {
        Window {
            bytes: AlignedBuf::zeroed(file_len_max.min(WINDOW_LEN) as usize),
            path: std::path::PathBuf::new(),
            offset: 0,
            len: 0,
        }
    }

    /// `len` bytes at `offset`, or `None` if they are not all before `end`.
    fn get(
        &mut self,
        file: &SegmentFile,
        offset: u64,
        len: usize,
        end: u64,
    ) -> Result<Option<&[u8]>, Error> {
        if end.checked_sub(offset).is_none_or(|left| left < len as u64) {
            return Ok(None);
        }
        let loaded = self.path == file.path
            && offset >= self.offset
            && offset + len as u64 <= self.offset + self.len as u64;
        if !loaded {
            self.len = 0;
            let count = (end - offset).min(self.bytes.len() as u64) as usize;
            let read = file.file.read_at(offset, &mut self.bytes[..count]);
            read.map_err(|e| Error::io("recovery: read a segment", &file.path, e))?;
            self.path.clone_from(&file.path);
            (self.offset, self.len) = (offset, count);
        }
        let begin = (offset - self.offset) as usize;
        Ok(self.bytes.get(begin..begin + len))
    }

    /// The record of `segment` at `offset`, if a good one is there.
    pub(super) fn record(
        &mut self,
        segment: &Headed,
        offset: u64,
    ) -> Result<Option<Record<'_>>, Error> {
        let found = self.claim(segment, offset)?;
        self.verify(&segment.file, offset, segment.header.len, found)
    }

    /// What the page at `offset` of `segment` says of the record that begins there, right or wrong.
    pub(super) fn claim(
        &mut self,
        segment: &Headed,
        offset: u64,
    ) -> Result<Option<Unverified>, Error> {
        let header = &segment.header;
        let page = self.get(&segment.file, offset, PAGE, header.len)?;
        Ok(page.and_then(|page| Unverified::look(page, header.salt, header.number)))
    }

    /// Every good record of a file, of whatever use of it; and where it is. What a record carries is none: guests wrote
    /// that.
    pub(super) fn each_record(
        &mut self,
        file: &SegmentFile,
        f: &mut dyn FnMut(u64, &RecordHeader),
    ) -> Result<(), Error> {
        let end = file.len / PAGE as u64 * PAGE as u64;
        let mut at = PAGE as u64;
        while at < end {
            let page = self.get(file, at, PAGE, end)?;
            let found = page.and_then(Unverified::look_for_any);
            let record = self.verify(file, at, end, found)?;
            let blocks = record.map_or(0, |record| {
                f(at, &record.header);
                record.blocks.len()
            });
            at += (PAGE * (1 + blocks)) as u64;
        }
        Ok(())
    }

    fn verify(
        &mut self,
        file: &SegmentFile,
        offset: u64,
        end: u64,
        found: Option<Unverified>,
    ) -> Result<Option<Record<'_>>, Error> {
        let Some(found) = found else {
            return Ok(None);
        };
        let record = self.get(file, offset, found.byte_len(), end)?;
        Ok(record.and_then(|record| found.verify(record).ok()))
    }
}
