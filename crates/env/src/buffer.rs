//! Memory that direct I/O accepts.

#![expect(
    unsafe_code,
    reason = "aligned allocation has no safe interface in std"
)]

use crate::DIRECT_ALIGNMENT;
use std::{
    alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error},
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// Zeroed bytes whose address and capacity are multiples of [`DIRECT_ALIGNMENT`].
pub struct AlignedBuf {
    /// What was allocated: as much more as aligning it may cost. The allocator gives zeroed memory of an alignment
    /// of its own choice as the kernel does, untouched; of another it would fill it.
    allocated: NonNull<u8>,
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: the buffer owns its memory, and hands out references by the usual rules of borrowing.
unsafe impl Send for AlignedBuf {}
// SAFETY: as above.
unsafe impl Sync for AlignedBuf {}

impl AlignedBuf {
    /// `len` zero bytes; rounded up to a multiple of [`DIRECT_ALIGNMENT`], and not zero.
    #[must_use]
    pub fn zeroed(len: usize) -> Self {
        let len = len.max(1).next_multiple_of(DIRECT_ALIGNMENT);
        let layout = Self::layout(len);
        // SAFETY: the layout's size is not zero.
        let allocated = unsafe { alloc_zeroed(layout) };
        let Some(allocated) = NonNull::new(allocated) else {
            handle_alloc_error(layout)
        };
        let before = allocated.align_offset(DIRECT_ALIGNMENT);
        assert!(before < DIRECT_ALIGNMENT, "addresses can be aligned");
        AlignedBuf {
            allocated,
            // SAFETY: within what was allocated, which is longer than `len` by the alignment.
            start: unsafe { allocated.add(before) },
            len,
        }
    }

    /// Where it is.
    pub(crate) fn as_non_null(&self) -> NonNull<[u8]> {
        NonNull::slice_from_raw_parts(self.start, self.len)
    }

    fn layout(len: usize) -> Layout {
        Layout::from_size_align(len + DIRECT_ALIGNMENT, 1)
            .expect("a buffer is far below isize::MAX")
    }
}

impl Drop for AlignedBuf {
    fn drop(&mut self) {
        // SAFETY: allocated by `zeroed` with the same layout, and freed once.
        unsafe { dealloc(self.allocated.as_ptr(), Self::layout(self.len)) }
    }
}

impl Deref for AlignedBuf {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        // SAFETY: `len` bytes from `start` are ours and initialized.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for AlignedBuf {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes us the only user.
        unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}
