//! How many bytes may be in flight.

use sync::Mutex;

/// Bytes in flight in the whole server, beside what each connection has in reserve. Nobody waits for them: who
/// gets none does with less memory, and more slowly, what it has to do.
pub(crate) struct Budget {
    used: Mutex<u64>,
    limit: u64,
}

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Budget {
            used: Mutex::new(0),
            limit,
        }
    }

    /// Takes `bytes` if they can be had now.
    pub(crate) fn try_take(&self, bytes: u64) -> bool {
        let mut used = self.used.lock();
        let had = *used + bytes <= self.limit;
        if had {
            *used += bytes;
        }
        had
    }

    pub(crate) fn give(&self, bytes: u64) {
        *self.used.lock() -= bytes;
    }
}
