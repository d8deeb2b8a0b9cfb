//! Buffers that are used again.

use sync::Mutex;

/// Bytes that are zeroed only once: growing into room that was used before costs nothing.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    len: usize,
}

impl Buffer {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Appends `len` bytes with any contents and gives them out.
    pub(crate) fn grow(&mut self, len: usize) -> &mut [u8] {
        let start = self.len;
        self.len += len;
        if self.bytes.len() < self.len {
            let room = self.len.next_multiple_of(64 << 10);
            self.bytes.resize(room.max(self.bytes.len() * 2), 0);
        }
        &mut self.bytes[start..self.len]
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.grow(bytes.len()).copy_from_slice(bytes);
    }

    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    pub(crate) fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// Buffers at rest, of all connections.
#[derive(Default)]
pub(crate) struct Recycler(Mutex<Vec<Buffer>>);

impl Recycler {
    /// At most so many rest here …
    const COUNT_MAX: usize = 32;
    /// … and none that is larger.
    const LEN_MAX: usize = 2 << 20;

    pub(crate) fn take(&self) -> Buffer {
        self.0.lock().pop().unwrap_or_default()
    }

    pub(crate) fn give(&self, mut buffer: Buffer) {
        if buffer.bytes.is_empty() || buffer.bytes.len() > Self::LEN_MAX {
            return;
        }
        buffer.truncate(0);
        let mut resting = self.0.lock();
        if resting.len() < Self::COUNT_MAX {
            resting.push(buffer);
        }
    }
}
