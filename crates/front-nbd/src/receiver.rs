//! The buffer that requests are received into, many at a time.

use crate::socket::Socket;
use std::io;

/// Bytes received and not yet parsed.
pub(crate) struct Receiver {
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl Receiver {
    /// What it can hold; memory is touched only as far as it is used.
    pub(crate) const CAPACITY: usize = 256 << 10;

    pub(crate) fn new() -> Self {
        Receiver {
            buf: vec![0; Self::CAPACITY],
            start: 0,
            end: 0,
        }
    }

    pub(crate) fn available(&self) -> &[u8] {
        &self.buf[self.start..self.end]
    }

    pub(crate) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.end - self.start);
        self.start += len;
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
    }

    /// Waits for more bytes; `false` is the end. There must be room: see [`make_room`](Self::make_room).
    pub(crate) fn fill(&mut self, socket: &Socket) -> io::Result<bool> {
        let n = socket.recv(&mut self.buf[self.end..])?;
        self.end += n;
        Ok(n > 0)
    }

    /// As [`fill`](Self::fill), but `None` if nothing came for long.
    pub(crate) fn fill_soon(&mut self, socket: &Socket) -> io::Result<Option<bool>> {
        let n = socket.recv_soon(&mut self.buf[self.end..])?;
        self.end += n.unwrap_or(0);
        Ok(n.map(|n| n > 0))
    }

    /// As [`fill`](Self::fill), but `None` where it would wait.
    pub(crate) fn try_fill(&mut self, socket: &Socket) -> io::Result<Option<bool>> {
        let n = socket.try_recv(&mut self.buf[self.end..])?;
        self.end += n.unwrap_or(0);
        Ok(n.map(|n| n > 0))
    }

    /// Sees to it that `len` bytes from the first one on fit.
    pub(crate) fn make_room(&mut self, len: usize) {
        debug_assert!(len <= Self::CAPACITY);
        if self.start + len > self.buf.len() {
            self.buf.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Moves what is there, at most all of `out`, into `out`; says how much that was.
    pub(crate) fn take(&mut self, out: &mut [u8]) -> usize {
        let len = out.len().min(self.end - self.start);
        out[..len].copy_from_slice(&self.available()[..len]);
        self.consume(len);
        len
    }
}
