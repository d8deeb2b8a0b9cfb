//! Telling how far long work has come, and being told to stop.

use std::{fmt, sync::Arc};

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

    /// Whether the work was cancelled, for who waits for others and cannot report meanwhile. Who never says so only cancels work
    /// that reports.
    fn cancellation(&self) -> Cancel {
        Cancel::never()
    }
}

/// Whether something is to be given up: asked by who waits for others, a program or a server, that may never answer. Clones tell the
/// same.
#[derive(Clone)]
pub struct Cancel(Arc<dyn Fn() -> bool + Send + Sync>);

impl Cancel {
    /// As `is_set` says, which is asked many times a second, and does not change back.
    pub fn new(is_set: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Cancel(Arc::new(is_set))
    }

    /// It is not.
    #[must_use]
    pub fn never() -> Self {
        Cancel::new(|| false)
    }

    /// Whether it is.
    #[must_use]
    pub fn is_set(&self) -> bool {
        (self.0)()
    }

    /// Whether it, or the other one, is.
    #[must_use]
    pub fn or(&self, other: &Cancel) -> Self {
        let (one, other) = (self.clone(), other.clone());
        Cancel::new(move || one.is_set() || other.is_set())
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancel({})", self.is_set())
    }
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
