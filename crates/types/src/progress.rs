//! Telling how far long work has come, and being told to stop.

/// Whoever asked for the work asked for its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cancelled")]
pub struct Cancelled;

/// Long work reports to this at least every few mebibytes.
pub trait Progress: Send + Sync {
    /// `done` of `total` units (bytes, unless the work says otherwise) are finished; a total of 0
    /// is not known yet.
    ///
    /// # Errors
    /// [`Cancelled`]: clean up and return.
    fn report(&self, done: u64, total: u64) -> Result<(), Cancelled>;
    /// So many bytes were stored of what the next [`report`](Self::report) tells: zeroes, duplicates, and what compression takes off, are not
    /// among them. Work that stores nothing does not say so.
    fn stored(&self, bytes: u64);
}

/// Nobody is watching.
#[derive(Clone, Copy, Debug)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn report(&self, _done: u64, _total: u64) -> Result<(), Cancelled> {
        Ok(())
    }

    fn stored(&self, _bytes: u64) {}
}
