//! What a journal knows in memory: its segments and who needs them, the queue, the fences.

use crate::{
    Batch, Config, Stats,
    error::{Error, ErrorKind},
    plan::{Cursor, Planned, extents_of, plan},
    recover::Log,
    supply::SegmentFile,
    writer::Tally,
};
use format::journal::{Before, PAGE};
use std::collections::{BTreeMap, VecDeque};
use types::{Epoch, Generation, JournalSeq, VolumeId};

/// Volumes, and the newest generation of each that needs a segment.
pub(crate) type Pins = BTreeMap<VolumeId, Generation>;

/// The last submit of each volume that is not in packs as far as is known, and the newest generation up to it.
pub(crate) type Latest = BTreeMap<VolumeId, (JournalSeq, Generation)>;

/// A segment that is needed, or that records were given places in.
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// `None` until the first record in it is about to be written.
    pub(crate) file: Option<SegmentFile>,
    pub(crate) pins: Pins,
}

/// A submit that waits to be written.
pub(crate) struct Queued {
    pub(crate) volume: VolumeId,
    pub(crate) epoch: Epoch,
    pub(crate) before: Before,
    pub(crate) records: Vec<Planned>,
    pub(crate) batches: Vec<Batch>,
}

pub(crate) struct State {
    pub(crate) cursor: Cursor,
    /// Of consecutive numbers; a ring: only the front is ever freed.
    pub(crate) segments: VecDeque<Segment>,
    /// The segment of the last record that is durable, or the one to begin with. It and those after it
    /// are not freed.
    pub(crate) written: u64,
    /// Not needed any more, and not yet marked so.
    pub(crate) freed: Vec<SegmentFile>,
    pub(crate) queue: Vec<Queued>,
    pub(crate) durable: JournalSeq,
    /// Somebody is committing.
    pub(crate) leading: bool,
    pub(crate) failed: bool,
    pub(crate) epochs: BTreeMap<VolumeId, Epoch>,
    pub(crate) destaged: Pins,
    pub(crate) latest: Latest,
    pub(crate) stats: Stats,
    pub(crate) segment_pages: u64,
    pub(crate) segments_max: u64,
}

impl State {
    /// As recovery found it; the next record begins the segment after `last_number`.
    pub(crate) fn recovered(log: Log, last_number: u64, config: &Config) -> Self {
        let segment_pages = config.segment_len() / PAGE as u64;
        State {
            cursor: Cursor {
                number: last_number,
                page: segment_pages,
                seq: log.next_seq,
            },
            segments: log.segments,
            written: last_number + 1,
            freed: log.freed,
            queue: Vec::new(),
            durable: JournalSeq(log.next_seq.0 - 1),
            leading: false,
            failed: false,
            epochs: log.epochs,
            destaged: Pins::new(),
            latest: log.latest,
            stats: Stats {
                capacity: config.segments_max() * config.segment_len(),
                ..Stats::default()
            },
            segment_pages,
            segments_max: config.segments_max(),
        }
    }

    /// Gives a submit its place. What it says of the journal's state changes only if it fits.
    pub(crate) fn submit(
        &mut self,
        volume: VolumeId,
        epoch: Epoch,
        batches: Vec<Batch>,
    ) -> Result<JournalSeq, Error> {
        if self.failed {
            return Err(Error::new(ErrorKind::Failed, "submit"));
        }
        if self.epochs.get(&volume).is_some_and(|&fence| epoch < fence) {
            return Err(Error::new(ErrorKind::StaleEpoch, "submit"));
        }
        let mut cursor = self.cursor;
        let records = plan(extents_of(&batches), &mut cursor, self.segment_pages);
        if cursor.number + 1 - self.tail() > self.segments_max {
            return Err(Error::new(ErrorKind::Full, "submit"));
        }
        self.cursor = cursor;
        self.epochs.insert(volume, epoch);
        self.pin(volume, &records, &batches);
        let before = self.follow(volume, JournalSeq(cursor.seq.0 - 1), &batches);
        self.queue.push(Queued {
            volume,
            epoch,
            before,
            records,
            batches,
        });
        self.stats.submits += 1;
        Ok(JournalSeq(cursor.seq.0 - 1))
    }

    /// What the submit that ends with `seq` comes after; the next one comes after it.
    fn follow(&mut self, volume: VolumeId, seq: JournalSeq, batches: &[Batch]) -> Before {
        let before = self.latest.get(&volume).copied();
        let newest = batches.iter().map(|batch| batch.generation).max();
        let newest = newest.max(before.map(|(_, generation)| generation));
        if let Some(newest) = newest.filter(|newest| self.destaged.get(&volume) < Some(newest)) {
            self.latest.insert(volume, (seq, newest));
        }
        before.map_or(Before::Packs, |(seq, generation)| {
            Before::Submit(seq, generation)
        })
    }

    /// Every segment that a submit touches is needed until all of the submit is destaged: else
    /// recovery would find half of it.
    fn pin(&mut self, volume: VolumeId, records: &[Planned], batches: &[Batch]) {
        let newest = batches.iter().map(|batch| batch.generation).max();
        let newest = newest.filter(|newest| self.destaged.get(&volume) < Some(newest));
        for record in records {
            while self.next_number() <= record.number {
                let number = self.next_number();
                self.segments.push_back(Segment {
                    number,
                    file: None,
                    pins: Pins::new(),
                });
            }
            if let (Some(newest), Some(segment)) = (newest, self.segment(record.number)) {
                let pin = segment.pins.entry(volume).or_default();
                *pin = newest.max(*pin);
            }
        }
    }

    /// The oldest segment that is needed, or the next one if none is.
    pub(crate) fn tail(&self) -> u64 {
        self.segments
            .front()
            .map_or(self.written, |front| front.number)
    }

    fn next_number(&self) -> u64 {
        self.segments
            .back()
            .map_or(self.written, |back| back.number + 1)
    }

    pub(crate) fn segment(&mut self, number: u64) -> Option<&mut Segment> {
        let front = self.segments.front()?.number;
        let index = usize::try_from(number.checked_sub(front)?).ok()?;
        self.segments.get_mut(index)
    }

    pub(crate) fn destaged(&mut self, volume: VolumeId, generation: Generation) {
        let known = self.destaged.entry(volume).or_default();
        *known = generation.max(*known);
        if self
            .latest
            .get(&volume)
            .is_some_and(|(_, newest)| *newest <= generation)
        {
            self.latest.remove(&volume);
        }
        for segment in &mut self.segments {
            if segment
                .pins
                .get(&volume)
                .is_some_and(|pin| *pin <= generation)
            {
                segment.pins.remove(&volume);
            }
        }
        self.free();
    }

    /// Gives up segments at the front that nobody needs.
    pub(crate) fn free(&mut self) {
        let written = self.written;
        while let Some(front) = self
            .segments
            .pop_front_if(|front| front.pins.is_empty() && front.number < written)
        {
            self.freed.extend(front.file);
        }
    }

    /// All up to `seq`, the last of it in segment `number`, is durable.
    pub(crate) fn committed(&mut self, seq: JournalSeq, number: u64) {
        self.durable = seq;
        self.written = number;
        self.free();
    }

    pub(crate) fn tally(&mut self, tally: Tally) {
        self.stats.appended += tally.bytes;
        self.stats.syncs += tally.syncs;
    }

    pub(crate) fn stats(&self) -> Stats {
        Stats {
            used: self.segments.len() as u64 * self.segment_pages * PAGE as u64,
            ..self.stats
        }
    }

    /// Who keeps the oldest segment that anybody needs.
    pub(crate) fn oldest(&self) -> Option<(VolumeId, Generation)> {
        self.segments
            .iter()
            .find_map(|segment| segment.pins.first_key_value())
            .map(|(&volume, &generation)| (volume, generation))
    }
}
