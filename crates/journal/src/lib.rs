//! The write-ahead log of a host: what was flushed and not yet destaged.
//!
//! All volumes of a host share one journal, so that many flushes become durable in one sync (group
//! commit). A submit gets its place in memory at once; whoever waits first writes all that is queued.
//!
//! ```text
//!  submit ─▶ queue ─ wait: the first waiter leads ─▶ write ─▶ sync ─▶ all waiters of that queue return
//!                                                     │
//!   journal/00000001.seg  00000002.seg  00000003.seg ◀┘        destaged ─▶ the front of the ring is free,
//!            └ tail (oldest needed) ─────────▶ head             and its files are used again
//! ```
//! Segments form a ring: a segment is free when nothing in it, nor in one before it, is needed.
//! The bytes are described in [`format::journal`], the order in which they reach the disk in `writer`,
//! what a crash can leave and how that is told from damage in `recover`.
//!
//! # Guarantees
//! 1. A submit whose [`Journal::wait`] returned is given to `replay` by every [`Journal::open`] until it is destaged.
//! 2. What `replay` gets of the submits that were not destaged is a prefix of their order, each one whole.
//! 3. No submit of an epoch below a volume's fence is taken.
//! 4. Bytes that make no sense are an error or the end of the log; never a panic.

mod error;
mod plan;
mod recover;
mod state;
mod supply;
mod writer;

pub use error::{Error, ErrorKind};
pub use format::journal::{After, Before};
pub use recover::{Salvaged, salvage};

use env::Env;
use format::journal::PAGE;
use state::State;
use std::{collections::VecDeque, path::Path};
use supply::{SegmentFile, Supply};
use sync::{Condvar, Mutex};
use types::{BlockIndex, Epoch, Generation, JournalSeq, SharedBlock, StoreId, VolumeId};
use writer::{Begin, Writer};

/// The smallest segment: a header, and a record with a few blocks.
const SEGMENT_BYTES_MIN: u64 = 4 * PAGE as u64;

/// Sizes of a journal. They may change between one opening and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one segment; rounded down to whole pages, at least 16 KiB.
    pub segment_bytes: u64,
    /// Bytes of all segments; at least two are used.
    pub capacity_bytes: u64,
}

impl Default for Config {
    /// 16 segments of 32 MiB.
    fn default() -> Self {
        Config {
            segment_bytes: 32 << 20,
            capacity_bytes: 512 << 20,
        }
    }
}

impl Config {
    fn segment_len(&self) -> u64 {
        let page = PAGE as u64;
        (self.segment_bytes / page * page).max(SEGMENT_BYTES_MIN)
    }

    fn segments_max(&self) -> u64 {
        (self.capacity_bytes / self.segment_len()).max(2)
    }
}

/// What one submit logs of one generation of a volume.
///
/// # Behavior
/// The zeroed ranges come before the blocks: a block that is in both has data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The generation; in a submit, batches are in ascending order of it.
    pub generation: Generation,
    /// What comes before it.
    pub after: After,
    /// Ranges that are zeroed: the first block, and how many.
    pub zeroes: Vec<(BlockIndex, u64)>,
    /// Blocks with their data.
    pub blocks: Vec<(BlockIndex, SharedBlock)>,
}

/// A submit that recovery found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Whose it was.
    pub volume: VolumeId,
    /// The epoch that it was made under.
    pub epoch: Epoch,
    /// Of its last record; grows from submit to submit.
    pub seq: JournalSeq,
    /// What it comes after.
    pub before: Before,
    /// What was submitted.
    pub batches: Vec<Batch>,
}

/// A submit's place in the order; good for the journal that gave it, as often as one likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(JournalSeq);

impl Ticket {
    /// Of the submit's last record: what [`Replayed::seq`] will be.
    #[must_use]
    pub const fn seq(self) -> JournalSeq {
        self.0
    }
}

/// Figures, since the journal was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Bytes that the segments may take in all.
    pub capacity: u64,
    /// Bytes of segments' files that there are.
    pub allocated: u64,
    /// Bytes of segments that are not free.
    pub used: u64,
    /// Bytes written, headers and padding included.
    pub appended: u64,
    /// Syncs of commits.
    pub syncs: u64,
    /// Submits taken.
    pub submits: u64,
}

/// An open journal.
pub struct Journal {
    state: Mutex<State>,
    /// A commit has ended.
    ended: Condvar,
    /// Whoever leads a commit.
    writer: Mutex<Writer>,
    /// Whoever makes or marks files. Taken before `ready` and `state`, after `writer`.
    supply: Mutex<Supply>,
    /// Files that the writer may use as they are.
    ready: Mutex<VecDeque<SegmentFile>>,
}

impl Journal {
    /// Opens the journal in `dir`, making the directory if it is missing (whose name the caller makes
    /// durable), and gives every complete submit that may still be needed to `replay`, in order.
    ///
    /// # Behavior
    /// What was destaged before may be replayed again, if its segment was not used again since; the caller
    /// knows by its generation, and says so with [`destaged`](Self::destaged) for every volume, also
    /// (with the highest generation there is) for removed ones. The fences are those of the epochs replayed.
    /// The log is not written to, only synced: a crash in here changes nothing.
    ///
    /// `reached` is an [`end`](Self::end) that the journal is known to have had, or 0. Without it the loss of the last
    /// commit looks like a crash during it.
    ///
    /// # Errors
    /// `Corrupt` if acknowledged submits are damaged or missing, or the journal is another store's;
    /// `NewerFormat`; `Io`; whatever `replay` answers.
    pub fn open(
        env: &Env,
        dir: &Path,
        store: StoreId,
        config: Config,
        reached: JournalSeq,
        replay: &mut dyn FnMut(Replayed) -> Result<(), Error>,
    ) -> Result<Journal, Error> {
        env.files
            .create_dir_all(dir)
            .map_err(|e| Error::io("make the directory", dir, e))?;
        let mut supply = Supply {
            env: env.clone(),
            dir: dir.to_owned(),
            store,
            len: config.segment_len(),
            next_name: 1,
            files: 0,
            bytes: 0,
        };
        let found = recover::recover(&mut supply, reached, replay)?;
        let number = found.last_number;
        let mut state = State::recovered(found.log, number, &config);
        state.stats.allocated = supply.bytes;
        Ok(Journal {
            state: Mutex::new(state),
            ended: Condvar::new(),
            writer: Mutex::new(Writer::new(env, store, number, config.segment_len())),
            supply: Mutex::new(supply),
            ready: Mutex::new(found.ready),
        })
    }

    /// Gives a submit its place in the order. No I/O; a few microseconds.
    ///
    /// # Behavior
    /// It raises the volume's fence to `epoch`. The blocks must not change afterwards.
    ///
    /// # Errors
    /// `Full` if it does not fit, and then nothing has changed; `StaleEpoch`; `Failed`.
    pub fn submit(
        &self,
        volume: VolumeId,
        epoch: Epoch,
        batches: Vec<Batch>,
    ) -> Result<Ticket, Error> {
        self.state.lock().submit(volume, epoch, batches).map(Ticket)
    }

    /// Returns when that submit, and all before it, are durable.
    ///
    /// # Errors
    /// `Failed`: a write or a sync failed, now or earlier. `NoSpace` or `Io`: a segment could not be made;
    /// the submit keeps its place, and waiting again tries again.
    pub fn wait(&self, ticket: Ticket) -> Result<(), Error> {
        let mut state = self.state.lock();
        loop {
            if state.durable >= ticket.0 {
                return Ok(());
            }
            if state.failed {
                return Err(Error::new(ErrorKind::Failed, "wait"));
            }
            if !state.leading {
                break;
            }
            self.ended.wait(&mut state);
        }
        // All that was queued before is written now, so one commit is enough.
        state.leading = true;
        drop(state);
        let _leading = Leading(self);
        self.lead()
    }

    /// The seq after the last submit that is durable.
    #[must_use]
    pub fn end(&self) -> JournalSeq {
        self.state.lock().durable.next()
    }

    /// Everything of `volume` up to `generation` is durable elsewhere. No I/O.
    pub fn destaged(&self, volume: VolumeId, generation: Generation) {
        self.state.lock().destaged(volume, generation);
    }

    /// From now on submits for `volume` below `epoch` are refused. What was submitted before stays.
    pub fn fence(&self, volume: VolumeId, epoch: Epoch) {
        let mut state = self.state.lock();
        let fence = state.epochs.entry(volume).or_default();
        *fence = epoch.max(*fence);
    }

    /// What it did and how full it is.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.state.lock().stats()
    }

    /// Whether a write or a sync failed: nothing is taken any more until it is opened anew.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Who keeps the oldest segment that anybody needs: what must be destaged to free space.
    #[must_use]
    pub fn oldest(&self) -> Option<(VolumeId, Generation)> {
        self.state.lock().oldest()
    }

    /// Makes the next segment ready, if none is, so that no commit has to; to be called now and then
    /// by whoever destages. True if there was something to do.
    ///
    /// # Errors
    /// `NoSpace` or `Io`; nothing is spoiled, and commits go on.
    pub fn prepare(&self) -> Result<bool, Error> {
        let mut supply = self.supply.lock();
        if self.has_failed() || !self.ready.lock().is_empty() {
            return Ok(false);
        }
        let room = {
            let state = self.state.lock();
            !state.freed.is_empty() || supply.files < state.segments_max
        };
        if room {
            let file = self.supply_one(&mut supply)?;
            self.ready.lock().push_back(file);
        }
        Ok(room)
    }

    /// A file that was freed, or a new one.
    fn supply_one(&self, supply: &mut Supply) -> Result<SegmentFile, Error> {
        let (freed, durable, tail) = {
            let mut state = self.state.lock();
            (state.freed.pop(), state.durable, state.tail())
        };
        let made = match &freed {
            Some(freed) => supply.recycle(freed, durable.next(), tail),
            None => supply.make(),
        };
        let mut state = self.state.lock();
        state.stats.allocated = supply.bytes;
        if made.is_err() {
            state.freed.extend(freed);
        }
        made
    }

    /// Commits all that is queued. The caller is the one who leads.
    fn lead(&self) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        let (queue, begin) = self.take_queue(&mut writer)?;
        let result = writer.commit(&queue, begin, &mut |number, file| {
            if let Some(segment) = self.state.lock().segment(number) {
                segment.file = Some(file.clone());
            }
        });
        let last = queue.last().and_then(|submit| submit.records.last());
        let mut state = self.state.lock();
        match (&result, last) {
            (Ok(()), Some(last)) => state.committed(last.seq, last.number),
            (Ok(()), None) => {}
            (Err(_), _) => state.failed = true,
        }
        state.tally(std::mem::take(&mut writer.tally));
        result
    }

    /// The queue, once there are files for all the segments that it needs.
    fn take_queue(&self, writer: &mut Writer) -> Result<(Vec<state::Queued>, Begin), Error> {
        loop {
            {
                let mut state = self.state.lock();
                let needed = state.cursor.number - writer.number;
                if state.queue.is_empty() || writer.stock.len() as u64 >= needed {
                    let begin = Begin {
                        durable: state.durable,
                        tail: state.tail(),
                    };
                    return Ok((std::mem::take(&mut state.queue), begin));
                }
            }
            let ready = self.ready.lock().pop_front();
            let file = match ready {
                Some(file) => file,
                None => {
                    let mut supply = self.supply.lock();
                    // Somebody may have made one while we waited for the lock.
                    let ready = self.ready.lock().pop_front();
                    match ready {
                        Some(file) => file,
                        None => self.supply_one(&mut supply)?,
                    }
                }
            };
            writer.stock.push_back(file);
        }
    }
}

/// Whoever leads. When it is dropped the others go on, even if the leader panicked.
struct Leading<'a>(&'a Journal);

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.failed |= std::thread::panicking();
        state.leading = false;
        drop(state);
        self.0.ended.notify_all();
    }
}

impl std::fmt::Debug for Journal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Journal")
            .field("stats", &self.stats())
            .finish()
    }
}
