//! Parts of an image's tables, read when they are needed; the last ones are kept.

use crate::{error::Error, source::Source};
use parking_lot::Mutex;
use std::{collections::VecDeque, sync::Arc};

/// Of a table so much is read at once.
pub(crate) const PART_BYTES_MAX: u64 = 64 << 10;
const PARTS_KEPT: usize = 32;

/// Part of a table.
pub(crate) type Part = Arc<Vec<u8>>;

/// The parts of tables in one file that were used last, by offset; the newest at the end.
pub(crate) struct Tables {
    source: Source,
    parts: Mutex<VecDeque<(u64, Part)>>,
}

impl Tables {
    pub(crate) fn new(source: Source) -> Self {
        let parts = Mutex::default();
        Tables { source, parts }
    }

    pub(crate) fn source(&self) -> &Source {
        &self.source
    }

    /// `len` bytes at `start`: always the same for the same start, and at most [`PART_BYTES_MAX`].
    pub(crate) fn part(&self, start: u64, len: u64) -> Result<Part, Error> {
        let mut parts = self.parts.lock();
        if let Some(found) = parts.iter().rposition(|(offset, _)| *offset == start)
            && let Some(used) = parts.remove(found)
        {
            let part = Arc::clone(&used.1);
            parts.push_back(used);
            return Ok(part);
        }
        drop(parts);
        let part = Arc::new(self.source.bytes(start, len, PART_BYTES_MAX as usize)?);
        let mut parts = self.parts.lock();
        if parts.len() >= PARTS_KEPT {
            parts.pop_front();
        }
        parts.push_back((start, Arc::clone(&part)));
        Ok(part)
    }
}
