//! How many bytes may be in flight.

use sync::{Condvar, Mutex};

/// Bytes in flight in the whole server.
pub(crate) struct Budget {
    used: Mutex<u64>,
    freed: Condvar,
    limit: u64,
}

impl Budget {
    /// A request of this size passes whenever its connection has no other in flight, so that
    /// greedy connections slow the others but never stop them.
    pub(crate) const SMALL: u64 = 128 << 10;

    pub(crate) const fn new(limit: u64) -> Self {
        Budget {
            used: Mutex::new(0),
            freed: Condvar::new(),
            limit,
        }
    }

    /// Takes `bytes` if they can be had now; `first` if the connection has nothing else in flight.
    pub(crate) fn try_take(&self, bytes: u64, first: bool) -> bool {
        let mut used = self.used.lock();
        let had = self.fits(*used, bytes, first);
        if had {
            *used += bytes;
        }
        had
    }

    /// As [`try_take`](Self::try_take), but waits.
    pub(crate) fn take(&self, bytes: u64, first: bool) {
        let mut used = self.used.lock();
        while !self.fits(*used, bytes, first) {
            self.freed.wait(&mut used);
        }
        *used += bytes;
    }

    const fn fits(&self, used: u64, bytes: u64, first: bool) -> bool {
        used == 0 || used + bytes <= self.limit || (first && bytes <= Self::SMALL)
    }

    pub(crate) fn give(&self, bytes: u64) {
        if bytes > 0 {
            *self.used.lock() -= bytes;
            self.freed.notify_all();
        }
    }
}
