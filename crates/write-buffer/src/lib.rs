//! Where written blocks wait for their destage: memory that outlives the process.
//!
//! A guest that goes on over a crash of the daemon has been told that its writes were done. So they are kept where
//! the next daemon finds them: in a region of shared memory, from which they go when the machine loses its power, as
//! they would from a disk's cache.
//!
//! ```text
//!  header │ chunk: 1024 entries of 64 bytes │ 1024 slots of 4 KiB │ chunk …
//!         entry: seq · volume · generation · kind · first · CRC
//!         slot:  a block, or a page of ranges that were zeroed: (seq · first · count · CRC) …
//! ```
//!
//! A slot is filled, then its entry is written, its sequence number last: a process that dies in between leaves
//! nothing. A block that is written again takes a new slot with a higher number. So nothing is ever changed in place, no
//! block is torn, and giving a slot back stores nothing: an entry counts only if no other of the same block has a
//! higher number, and its generation is not in packs.
//!
//! Whether an entry counts at all depends on who wrote the volume last. The header lists the epochs of the daemons that
//! used this buffer; a volume whose epoch is not among them was written by somebody else since. And what a daemon wrote
//! goes on top of what it had found in the journal: the header says how far that went.
//!
//! **Invariant:** what an entry refers to is not touched again while anybody holds the slot. Only
//! the module `slots` touches the region.

mod header;
mod ranges;
mod recover;
mod slots;

pub use ranges::{RANGE_COST, Ranges};
pub use recover::{Page, Survivor, What};
pub use slots::{NewBlock, Place};

use env::Env;
use slots::Slots;
use std::{io, sync::Arc};
use types::{Epoch, JournalSeq, StoreId};

/// Where written blocks wait. Cheap to clone.
#[derive(Clone)]
pub struct WriteBuffer(Option<Arc<Slots>>);

/// What went wrong with the shared memory.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system has none to give.
    #[error("no shared memory for the write buffer: {0}")]
    Memory(#[from] io::Error),
    /// Nobody will give slots back any more.
    #[error("the write buffer is closed")]
    Closed,
}

impl Error {
    /// Whether there is a buffer, of somebody else.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        matches!(self, Error::Memory(e) if e.kind() == io::ErrorKind::PermissionDenied)
    }
}

impl WriteBuffer {
    /// A buffer on the heap: what is in it dies with the process.
    #[must_use]
    pub fn on_heap() -> Self {
        WriteBuffer(None)
    }

    /// Opens a store's buffer for about `bytes` of blocks, made if missing; and what is in it, by sequence number.
    /// Nothing is used before [`adopt`](Self::adopt).
    ///
    /// # Errors
    /// If this machine has no shared memory, or too little.
    pub fn open(env: &Env, store: StoreId, bytes: u64) -> Result<(Self, Vec<Survivor>), Error> {
        let (slots, survivors) = Slots::open(env, store, bytes)?;
        Ok((WriteBuffer(Some(slots)), survivors))
    }

    /// Whether an entry of a volume that was last written under this epoch can count.
    #[must_use]
    pub fn knows(&self, epoch: Epoch) -> bool {
        self.0.as_ref().is_some_and(|slots| slots.knows(epoch))
    }

    /// Whether nobody has adopted it: it was made just now.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.0.as_ref().is_some_and(|slots| slots.is_new())
    }

    /// The seq after the last submit that was in the journal when the buffer was adopted; what is in the buffer goes on
    /// top of it. 0 if that is not known.
    #[must_use]
    pub fn journal_end(&self) -> JournalSeq {
        self.0
            .as_ref()
            .map_or(JournalSeq(0), |slots| slots.journal_end())
    }

    /// The journal was replaced by one whose numbers are others.
    pub fn forget_journal(&self) {
        if let Some(slots) = &self.0 {
            slots.set_journal_end(JournalSeq(0));
        }
    }

    /// Forgets all survivors that nobody holds any more, and notes that `epoch` goes on with those that are held, on top
    /// of a journal that ends before `journal_end`. `others` are the epochs that these were written under.
    pub fn adopt(
        &self,
        epoch: Epoch,
        others: impl IntoIterator<Item = Epoch>,
        journal_end: JournalSeq,
    ) {
        if let Some(slots) = &self.0 {
            slots.forget_free();
            slots.set_journal_end(journal_end);
            slots.set_lineage(others.into_iter().chain([epoch]));
        }
    }

    /// Whether what is in it outlives the process.
    #[must_use]
    pub fn survives(&self) -> bool {
        self.0.is_some()
    }

    /// Places for `count` blocks, all or none. Waits while the buffer is full.
    ///
    /// # Errors
    /// If there is no memory and nothing that could be given back, or after [`close`](Self::close).
    pub fn take(&self, count: usize) -> Result<Vec<NewBlock>, Error> {
        match &self.0 {
            Some(slots) => slots.take(count),
            None => Ok((0..count).map(|_| NewBlock::on_heap()).collect()),
        }
    }

    /// Who waits for a place gets an error from now on.
    pub fn close(&self) {
        if let Some(slots) = &self.0 {
            slots.close();
        }
    }

    /// Gives memory back that is not used now.
    pub fn trim(&self) {
        if let Some(slots) = &self.0 {
            slots.trim();
        }
    }

    /// Whether nobody holds anything of it: nothing would survive.
    #[must_use]
    pub fn is_unused(&self) -> bool {
        self.0.as_ref().is_none_or(|slots| slots.is_unused())
    }

    /// Forgets the buffer: nothing that is in it is needed any more.
    ///
    /// # Errors
    /// If the region cannot be removed.
    pub fn remove(&self) -> Result<(), Error> {
        match &self.0 {
            Some(slots) => slots.remove(),
            None => Ok(()),
        }
    }

    /// Bytes of shared memory that it takes now.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.0.as_ref().map_or(0, |slots| slots.allocated())
    }
}
