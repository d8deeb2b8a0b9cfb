//! Writes queued submits: encode into a buffer, write, sync.
//!
//! # Order of what reaches the disk
//! 1. A segment's last records are synced before its successor's header is written. So if a header is
//!    there, all records before its first one are.
//! 2. A header goes in one write with the first records behind it, into a file that says durably that it is
//!    unused or free. Torn, it leaves that, or a header with records that nobody has been told of.
//! 3. The header is written once more, as it was, with the second commit of its segment: a disk that lost the first
//!    write of a segment would else hide all that is behind it, as the file says that it is free. So a segment that
//!    holds more than the last commit cannot be overlooked because of one write.
//! 4. A commit is written only after the one before was synced. So only the last commit can be torn, and
//!    a record says which ones before it cannot.

use crate::{error::Error, state::Queued, supply::SegmentFile};
use env::{AlignedBuf, Env};
use format::journal::{PAGE, RecordHeader, SegmentHeader, SegmentState, seal};
use std::{collections::VecDeque, io};
use sync::bring_near;
use types::{Block, JournalSeq, SharedBlock, StoreId};

/// Longer commits are written in pieces of at most this.
const BUFFER_LEN: u64 = 4 << 20;

/// Blocks lie scattered in memory: so many are waited for at a time.
const AHEAD: usize = 8;

/// The segment that is being written.
struct Current {
    segment: SegmentFile,
    number: u64,
    salt: u64,
    /// To be written again.
    header: Option<AlignedBuf>,
}

pub(crate) struct Writer {
    env: Env,
    store: StoreId,
    current: Option<Current>,
    /// The segment that the last record went to; the one after it needs a file.
    pub(crate) number: u64,
    /// Files for the segments that come next.
    pub(crate) stock: VecDeque<SegmentFile>,
    buffer: AlignedBuf,
    /// Bytes of the buffer that wait to be written, at this offset of the current segment.
    filled: usize,
    offset: u64,
    /// Something was written to the current segment since its last sync.
    unsynced: bool,
    pub(crate) tally: Tally,
}

/// What a commit did.
#[derive(Clone, Copy, Default)]
pub(crate) struct Tally {
    pub(crate) bytes: u64,
    pub(crate) syncs: u64,
}

/// What the state was when a commit began.
#[derive(Clone, Copy)]
pub(crate) struct Begin {
    pub(crate) durable: JournalSeq,
    pub(crate) tail: u64,
}

impl Writer {
    /// Begins with the segment after `number`; segments are of `segment_len` bytes.
    pub(crate) fn new(env: &Env, store: StoreId, number: u64, segment_len: u64) -> Self {
        Writer {
            env: env.clone(),
            store,
            current: None,
            number,
            stock: VecDeque::new(),
            buffer: AlignedBuf::zeroed(segment_len.min(BUFFER_LEN) as usize),
            filled: 0,
            offset: 0,
            unsynced: false,
            tally: Tally::default(),
        }
    }

    /// Makes `queue` durable. `begun` hears of each segment that gets its file.
    ///
    /// # Errors
    /// An I/O failed; what is durable is not known, and this writer must not be used any more.
    pub(crate) fn commit(
        &mut self,
        queue: &[Queued],
        begin: Begin,
        begun: &mut dyn FnMut(u64, &SegmentFile),
    ) -> Result<(), Error> {
        self.write_header_again()?;
        for submit in queue {
            let mut blocks = submit.batches.iter().flat_map(|batch| &batch.blocks);
            for planned in &submit.records {
                if planned.number != self.number {
                    self.sync()?;
                    self.begin(planned.number, planned.seq, begin.tail);
                    if let Some(current) = &self.current {
                        begun(current.number, &current.segment);
                    }
                }
                let len = PAGE * (1 + planned.blocks);
                if self.buffer.len() - self.filled < len {
                    self.write()?;
                }
                let header = RecordHeader {
                    salt: self.current.as_ref().map_or(0, |current| current.salt),
                    number: planned.number,
                    seq: planned.seq,
                    durable: begin.durable,
                    volume: submit.volume,
                    epoch: submit.epoch,
                    before: submit.before,
                    first: planned.first,
                    last: planned.last,
                };
                assert_eq!(
                    self.offset + self.filled as u64,
                    planned.page * PAGE as u64,
                    "records are written where they were planned"
                );
                let record = &mut self.buffer[self.filled..self.filled + len];
                header.encode(&planned.extents, record);
                copy_blocks(&mut blocks, &mut record[PAGE..]);
                seal(record);
                self.filled += len;
            }
        }
        self.sync()
    }

    /// Goes on in a new segment, whose header is put first into the buffer.
    fn begin(&mut self, number: u64, first_seq: JournalSeq, tail: u64) {
        let segment = self.stock.pop_front();
        let mut segment =
            segment.expect("as many files are in stock as the queue was planned to need");
        segment.number = number;
        let salt = env::random_u64(&*self.env.random);
        let header = SegmentHeader {
            store: self.store,
            number,
            salt,
            first_seq,
            tail,
            len: segment.len,
            state: SegmentState::Active,
        };
        header.encode(&mut self.buffer[..PAGE]);
        let mut again = AlignedBuf::zeroed(PAGE);
        again.copy_from_slice(&self.buffer[..PAGE]);
        (self.filled, self.offset) = (PAGE, 0);
        self.number = number;
        self.current = Some(Current {
            segment,
            number,
            salt,
            header: Some(again),
        });
    }

    /// Rule 3, if something but this was written to the segment before.
    fn write_header_again(&mut self) -> Result<(), Error> {
        let offset = self.offset;
        let Some(current) = self.current.as_mut().filter(|_| offset > 0) else {
            return Ok(());
        };
        let Some(header) = current.header.take() else {
            return Ok(());
        };
        let SegmentFile { file, path, .. } = &current.segment;
        file.write_at(0, &header)
            .map_err(|e| Error::io("append", path, e).into_failed())?;
        self.tally.bytes += PAGE as u64;
        self.unsynced = true;
        Ok(())
    }

    fn write(&mut self) -> Result<(), Error> {
        let Some(current) = self.current.as_ref().filter(|_| self.filled > 0) else {
            return Ok(());
        };
        let SegmentFile { file, path, .. } = &current.segment;
        file.write_at(self.offset, &self.buffer[..self.filled])
            .map_err(|e| Error::io("append", path, e).into_failed())?;
        self.tally.bytes += self.filled as u64;
        self.offset += self.filled as u64;
        self.filled = 0;
        self.unsynced = true;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), Error> {
        self.write()?;
        let Some(current) = self.current.as_ref().filter(|_| self.unsynced) else {
            return Ok(());
        };
        let SegmentFile { file, path, .. } = &current.segment;
        let synced: io::Result<()> = file.sync_data();
        synced.map_err(|e| Error::io("sync", path, e).into_failed())?;
        self.tally.syncs += 1;
        self.unsynced = false;
        Ok(())
    }
}

/// The next blocks of a submit, to fill `payload`.
fn copy_blocks<'a>(
    blocks: &mut impl Iterator<Item = &'a (types::BlockIndex, SharedBlock)>,
    payload: &mut [u8],
) {
    for places in payload.chunks_mut(AHEAD * PAGE) {
        let next = blocks.by_ref().take(places.len() / PAGE);
        let next: Vec<&Block> = next.map(|(_, block)| block.bytes()).collect();
        for &block in &next {
            bring_near(block);
        }
        for (place, block) in places.chunks_exact_mut(PAGE).zip(next) {
            place.copy_from_slice(block);
        }
    }
}
