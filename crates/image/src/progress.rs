//! Progress of work that has parts.

use types::{Cancelled, Progress};

/// Progress of a part of the work.
pub(crate) struct PartOf<'a> {
    pub(crate) all: &'a dyn Progress,
    /// What is done already, and all that there is to do, bytes.
    pub(crate) before: u64,
    pub(crate) total: u64,
    /// What is stored already, bytes.
    pub(crate) stored_before: u64,
}

impl Progress for PartOf<'_> {
    fn report(&self, done: u64, _: u64) -> Result<(), Cancelled> {
        self.all
            .report(self.before.saturating_add(done), self.total)
    }

    fn stored(&self, bytes: u64) {
        self.all.stored(self.stored_before.saturating_add(bytes));
    }
}
