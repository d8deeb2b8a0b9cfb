//! A split virtqueue, as the device sees it (VirtIO 1.3, 2.7).
//!
//! `virtio-queue` has one too. Ours tells a chain that is broken from one that ends, publishes many answers with one store,
//! and finds its rings once rather than at every access.
#![expect(
    unsafe_code,
    reason = "rings are shared with a guest, and reached by address"
)]

use crate::memory::{Broken, Memory};
use std::{
    hint,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering, fence},
    },
};
use virtio_bindings::virtio_ring::{VRING_AVAIL_F_NO_INTERRUPT, VRING_USED_F_NO_NOTIFY};

/// Looks at the ring before a sleep that nobody might end: some microseconds.
const MORE_LOOKS: u32 = 128;

/// Where a ring is: addresses of the guest's monitor.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Addresses {
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    /// Where the guest has its used ring, if writes to it are to be logged.
    pub(crate) log: Option<u64>,
}

/// What the guest said of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Descriptor {
    pub(crate) address: u64,
    pub(crate) len: u32,
    pub(crate) flags: u16,
    pub(crate) next: u16,
}

impl Descriptor {
    pub(crate) const SIZE: usize = 16;

    pub(crate) fn decode(bytes: [u8; Self::SIZE]) -> Self {
        let value = u128::from_le_bytes(bytes);
        Descriptor {
            address: value as u64,
            len: (value >> 64) as u32,
            flags: (value >> 96) as u16,
            next: (value >> 112) as u16,
        }
    }
}

/// A virtqueue's three parts. What is in them can change at any time; every access is one atomic load or store.
pub(crate) struct Ring {
    size: u16,
    descriptors: NonNull<AtomicU64>,
    available: NonNull<AtomicU16>,
    used: NonNull<AtomicU16>,
    event_index: bool,
    log: Option<u64>,
    /// Keeps the parts mapped.
    memory: Arc<Memory>,
}

// SAFETY: the parts are shared with another process anyway, and only reached by atomic operations.
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// Entries, at most: as many as QEMU allows.
    pub(crate) const SIZE_MAX: u16 = 1024;

    /// Finds the parts of a ring of `size` entries.
    ///
    /// # Errors
    /// The size is none that a ring can have, or a part is not in memory, or not aligned.
    pub(crate) fn new(
        memory: Arc<Memory>,
        size: u16,
        at: Addresses,
        event_index: bool,
    ) -> Result<Self, Broken> {
        if !Self::is_size(size) {
            return Err(Broken("a ring of a size that it cannot have"));
        }
        let entries = u64::from(size);
        let part = |address: u64, len: u64, align: usize| {
            let place = memory.ring(address, len)?;
            let aligned = (place.as_ptr() as usize).is_multiple_of(align);
            aligned
                .then_some(place)
                .ok_or(Broken("a ring is not aligned"))
        };
        let descriptors = part(at.descriptors, 16 * entries, 16)?;
        let available = part(at.available, 6 + 2 * entries, 2)?;
        let used = part(at.used, 6 + 8 * entries, 4)?;
        Ok(Ring {
            size,
            descriptors: descriptors.cast(),
            available: available.cast(),
            used: used.cast(),
            event_index,
            log: at.log,
            memory,
        })
    }

    /// Whether a ring can have so many entries.
    pub(crate) const fn is_size(size: u16) -> bool {
        size.is_power_of_two() && size <= Self::SIZE_MAX
    }

    pub(crate) const fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    fn available(&self, at: usize) -> &AtomicU16 {
        assert!(at < 3 + usize::from(self.size), "beyond a ring");
        // SAFETY: `new` saw to it that there are as many, aligned.
        unsafe { self.available.add(at).as_ref() }
    }

    fn used(&self, at: usize) -> &AtomicU16 {
        assert!(at < 3 + 4 * usize::from(self.size), "beyond a ring");
        // SAFETY: as above.
        unsafe { self.used.add(at).as_ref() }
    }

    /// What the guest has made available so far.
    pub(crate) fn available_index(&self) -> u16 {
        u16::from_le(self.available(1).load(Ordering::Acquire))
    }

    /// The head of the chain that was made available as number `n`.
    pub(crate) fn available_head(&self, n: u16) -> u16 {
        let slot = usize::from(n % self.size);
        u16::from_le(self.available(2 + slot).load(Ordering::Relaxed))
    }

    /// A descriptor of the table; `None` beyond it.
    pub(crate) fn descriptor(&self, index: u16) -> Option<Descriptor> {
        if index >= self.size {
            return None;
        }
        let word = |at: usize| {
            // SAFETY: two words for each descriptor below `size`; aligned.
            unsafe { self.descriptors.add(2 * usize::from(index) + at).as_ref() }
                .load(Ordering::Relaxed)
        };
        let (low, high) = (u128::from(word(0).to_le()), u128::from(word(1).to_le()));
        Some(Descriptor::decode((low | high << 64).to_le_bytes()))
    }

    /// Notes as number `n` of what is used: the chain of `head`, into which `len` bytes were written.
    pub(crate) fn put_used(&self, n: u16, head: u16, len: u32) {
        let slot = usize::from(n % self.size);
        let halves = |at: usize| {
            let half: *const AtomicU16 = self.used(2 + 4 * slot + at);
            // SAFETY: an entry is two aligned words of 32 bits within the ring.
            unsafe { &*half.cast::<AtomicU32>() }
        };
        halves(0).store(u32::from(head).to_le(), Ordering::Relaxed);
        halves(2).store(len.to_le(), Ordering::Relaxed);
        if let Some(log) = self.log {
            self.memory.log_write(log + 4 + 8 * slot as u64, 8);
        }
    }

    /// What is used so far.
    pub(crate) fn used_index(&self) -> u16 {
        u16::from_le(self.used(1).load(Ordering::Acquire))
    }

    /// Shows the guest everything that was put before.
    pub(crate) fn publish(&self, index: u16) {
        self.used(1).store(index.to_le(), Ordering::Release);
        if let Some(log) = self.log {
            self.memory.log_write(log, 4);
        }
    }

    /// Whether the guest wants to be told that what is used has gone from `old` to `new`.
    pub(crate) fn wants_call(&self, old: u16, new: u16) -> bool {
        // It has to see what was published before we look at what it wants, or both would wait.
        fence(Ordering::SeqCst);
        if self.event_index {
            let event = self.available(2 + usize::from(self.size));
            let event = u16::from_le(event.load(Ordering::Relaxed));
            return passes(event, old, new);
        }
        let flags = u16::from_le(self.available(0).load(Ordering::Relaxed));
        u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0
    }

    /// Asks for a kick at whatever comes after number `next`; `true` if it has come already.
    pub(crate) fn want_kick(&self, next: u16) -> bool {
        if self.event_index {
            self.set_event(next);
        } else {
            self.used(0).store(0, Ordering::Relaxed);
        }
        // As in `wants_call`, the other way round.
        fence(Ordering::SeqCst);
        let has_come = || self.available_index() != next;
        // A driver that forgets its barrier may have looked at the flag before what it has added is seen. It will be in a
        // moment. (virtio-driver, which has no event indexes, forgets it.)
        let looks = if self.event_index { 0 } else { MORE_LOOKS };
        has_come()
            || (0..looks).any(|_| {
                hint::spin_loop();
                has_come()
            })
    }

    /// Says that we look by ourselves for now. (With event indexes the guest keeps quiet by itself until it reaches the
    /// one that was set last.)
    pub(crate) fn want_no_kick(&self) {
        if !self.event_index {
            let flags = VRING_USED_F_NO_NOTIFY as u16;
            self.used(0).store(flags.to_le(), Ordering::Relaxed);
        }
    }

    fn set_event(&self, next: u16) {
        let at = 2 + 4 * usize::from(self.size);
        self.used(at).store(next.to_le(), Ordering::Relaxed);
        if let Some(log) = self.log {
            self.memory.log_write(log + 2 * at as u64, 2);
        }
    }
}

/// Whether going from `old` to `new` passes `event` (VirtIO 1.3, 2.7.10.1).
const fn passes(event: u16, old: u16, new: u16) -> bool {
    new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_passed_once_also_where_numbers_wrap() {
        assert!(passes(0, 0, 1));
        assert!(!passes(1, 0, 1));
        assert!(passes(1, 0, 2));
        assert!(!passes(5, 6, 9));
        assert!(passes(u16::MAX, u16::MAX, 0));
        assert!(passes(u16::MAX, u16::MAX - 3, 2));
        assert!(!passes(2, u16::MAX, 2));
    }

    #[test]
    fn descriptors_are_little_endian() {
        let mut bytes = [0; 16];
        bytes[0] = 1;
        bytes[9] = 2;
        bytes[12] = 3;
        bytes[14] = 4;
        let expected = Descriptor {
            address: 1,
            len: 512,
            flags: 3,
            next: 4,
        };
        assert_eq!(Descriptor::decode(bytes), expected);
    }
}
