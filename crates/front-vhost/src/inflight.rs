//! The inflight region: which requests were taken and not yet answered, in memory that the guest's monitor keeps when
//! this process dies (vhost-user, "Inflight I/O tracking", split virtqueues).
//!
//! # Why doing a request again is right
//! A request counts as answered once the used index covers it, not before, and the guest sees nothing earlier than that.
//! So after a crash each request that was taken is in one of two states. Either the index covers it: then its mark here
//! may not have been taken away yet, which [`Inflight::recover`] makes up for, and it is never done again. Or it does not: then
//! it is done again, whether it had been done or not. That changes nothing a guest could see: the guest may not count on
//! any order among requests that are not answered, and whatever it asked for after an answer was answered later than that
//! one, so nothing is redone over something newer. Reads, writes, zeroes, discards and flushes leave the same behind
//! however often they are done.
//!
//! The kill of a process keeps the order in which it stored: what it wrote to shared memory stays as it is.
#![expect(
    unsafe_code,
    reason = "the region is shared memory, reached by address"
)]

use crate::memory::{Broken, Mapping};
use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering::Relaxed, Ordering::Release},
    },
};

/// The first and only version of the layout.
const VERSION: u16 = 1;

/// What the region says of one queue.
#[repr(C)]
struct Header {
    features: AtomicU64,
    version: AtomicU16,
    descriptors: AtomicU16,
    last_batch_head: AtomicU16,
    used_index: AtomicU16,
}

/// And of one chain of it, at the place of its head.
#[repr(C)]
struct State {
    inflight: AtomicU8,
    padding: [u8; 5],
    next: AtomicU16,
    counter: AtomicU64,
}

/// A queue's part of the region.
pub(crate) struct Inflight {
    at: NonNull<u8>,
    size: u16,
    /// Keeps it mapped.
    _mapping: Arc<Mapping>,
}

// SAFETY: another process has it too; it is only reached by atomic operations.
unsafe impl Send for Inflight {}
// SAFETY: as above.
unsafe impl Sync for Inflight {}

/// What a queue has to do before anything new.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Recovered {
    /// Heads of chains that were taken and not answered, in the order in which they were taken.
    pub(crate) again: Vec<u16>,
    /// The number of the next request.
    pub(crate) counter: u64,
}

/// Bytes of the region for each queue of `size` entries.
pub(crate) const fn queue_len(size: u16) -> u64 {
    let len = size_of::<Header>() + size_of::<State>() * size as usize;
    (len as u64).next_multiple_of(64)
}

impl Inflight {
    /// The part of queue `index`.
    ///
    /// # Errors
    /// The region is too small for it.
    pub(crate) fn new(mapping: Arc<Mapping>, index: u16, size: u16) -> Result<Self, Broken> {
        let len = queue_len(size);
        let place = mapping.at(u64::from(index) * len, len);
        let at = place.ok_or(Broken("the inflight region is too small"))?;
        if !(at.as_ptr() as usize).is_multiple_of(align_of::<Header>()) {
            return Err(Broken("the inflight region is not aligned"));
        }
        Ok(Inflight {
            at,
            size,
            _mapping: mapping,
        })
    }

    fn header(&self) -> &Header {
        // SAFETY: mapped and aligned, as `new` saw to.
        unsafe { self.at.cast().as_ref() }
    }

    fn state(&self, head: u16) -> &State {
        assert!(head < self.size, "beyond the inflight region");
        // SAFETY: `new` saw to it that there are `size` of them behind the header.
        unsafe {
            let first = self.at.add(size_of::<Header>()).cast::<State>();
            first.add(usize::from(head)).as_ref()
        }
    }

    /// Puts the region right after whatever happened, and says what has to be done again. `used` is the index in the
    /// ring.
    ///
    /// # Errors
    /// It is of another version, or of a queue of another size.
    pub(crate) fn recover(&self, used: u16) -> Result<Recovered, Broken> {
        let header = self.header();
        if header.version.load(Relaxed) == 0 {
            header.descriptors.store(self.size, Relaxed);
            header.used_index.store(used, Relaxed);
            header.version.store(VERSION, Release);
            return Ok(Recovered::default());
        }
        if header.version.load(Relaxed) != VERSION || header.descriptors.load(Relaxed) != self.size
        {
            return Err(Broken("the inflight region is of another queue"));
        }
        // The last batch was shown to the guest, and its marks stayed.
        let mut head = header.last_batch_head.load(Relaxed);
        for _ in 0..used
            .wrapping_sub(header.used_index.load(Relaxed))
            .min(self.size)
        {
            if head >= self.size {
                return Err(Broken(
                    "the inflight region names a chain that there is not",
                ));
            }
            self.state(head).inflight.store(0, Relaxed);
            head = self.state(head).next.load(Relaxed);
        }
        header.used_index.store(used, Release);
        let marked = |&head: &u16| self.state(head).inflight.load(Relaxed) == 1;
        let mut again: Vec<u16> = (0..self.size).filter(marked).collect();
        let number = |head: u16| self.state(head).counter.load(Relaxed);
        again.sort_by_key(|&head| number(head));
        let last = again.last().map(|&head| number(head));
        Ok(Recovered {
            counter: last.map_or(0, |number| number.wrapping_add(1)),
            again,
        })
    }

    /// The chain of `head` is taken, as number `counter`.
    pub(crate) fn begin(&self, head: u16, counter: u64) {
        let state = self.state(head);
        state.counter.store(counter, Relaxed);
        state.inflight.store(1, Release);
    }

    /// The chains of `heads` are about to be shown as used.
    pub(crate) fn answer(&self, heads: impl Iterator<Item = u16>) {
        let last = &self.header().last_batch_head;
        for head in heads {
            self.state(head).next.store(last.load(Relaxed), Release);
            last.store(head, Release);
        }
    }

    /// They were, and the used index is `used` now.
    pub(crate) fn end(&self, heads: impl Iterator<Item = u16>, used: u16) {
        for head in heads {
            self.state(head).inflight.store(0, Release);
        }
        self.header().used_index.store(used, Release);
    }
}
