//! The disk that an image describes.

use crate::error::Error;

/// A disk to read anywhere, by many threads.
pub trait Disk: Send + Sync {
    /// Bytes.
    fn size(&self) -> u64;
    /// What is there from `offset` on, which is below the size: runs in order without gaps, at least one, neighbours
    /// of different kinds. They may end before the disk does.
    ///
    /// # Errors
    /// If the image's tables are damaged or cannot be read.
    fn runs(&self, offset: u64) -> Result<Vec<Run>, Error>;
    /// Fills `buf` from `offset`; both ends lie in the disk.
    ///
    /// # Errors
    /// If the image is damaged or cannot be read.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error>;
}

/// A part of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes, not zero.
    pub len: u64,
    /// Whether there may be something other than zeroes.
    pub data: bool,
}

/// Runs that are added one by one; neighbours of one kind become one.
#[derive(Debug, Default)]
pub(crate) struct Runs(Vec<Run>);

impl Runs {
    pub(crate) fn push(&mut self, len: u64, data: bool) {
        match self.0.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.data == data => last.len += len,
            _ => self.0.push(Run { len, data }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn into_vec(self) -> Vec<Run> {
        self.0
    }
}
