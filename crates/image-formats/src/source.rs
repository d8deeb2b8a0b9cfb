//! The bytes that a reader of a format works on: a file or a part of one.

use crate::error::Error;
use env::{Env, File, FileKind, OpenOptions};
use std::{ops::Range, path::Path, sync::Arc};

/// A file, or a part of one, with its name for errors. Offsets are within the part.
#[derive(Clone)]
pub struct Source {
    file: Arc<dyn File>,
    shown: Arc<str>,
    start: u64,
    len: u64,
}

impl Source {
    /// Opens a file or a block device to read.
    ///
    /// # Errors
    /// If there is none, or it is something else: opening a pipe could wait for ever.
    pub fn open(env: &Env, path: &Path) -> Result<Self, Error> {
        let shown = path.display().to_string();
        if !path.is_absolute() {
            return Err(Error::invalid(format!("'{shown}' is not an absolute path")));
        }
        let cannot = |what| move |e| Error::io(format!("cannot {what} {}", path.display()), e);
        match env.files.kind(path).map_err(cannot("open"))? {
            FileKind::Regular | FileKind::BlockDevice => {}
            FileKind::Directory => {
                let message = format!("{shown} is a directory; name an image in it");
                return Err(Error::invalid(message));
            }
            FileKind::Other => {
                let message =
                    format!("{shown} is neither a file nor a block device; pipe it in instead");
                return Err(Error::invalid(message));
            }
        }
        let opened = env.files.open(path, OpenOptions::default());
        let file = opened.map_err(cannot("open"))?;
        let len = file.len().map_err(cannot("tell the size of"))?;
        Ok(Source {
            file,
            shown: shown.into(),
            start: 0,
            len,
        })
    }

    /// A part of it, named `shown`.
    ///
    /// # Errors
    /// If it does not lie in what there is.
    pub fn part(&self, shown: String, start: u64, len: u64) -> Result<Self, Error> {
        self.check(start, len)?;
        Ok(Source {
            file: Arc::clone(&self.file),
            shown: shown.into(),
            start: self.start + start,
            len,
        })
    }

    /// Bytes.
    #[must_use]
    pub const fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The file's path, for people.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The file, if this is the whole of it.
    #[must_use]
    pub fn whole(&self) -> Option<&Arc<dyn File>> {
        (self.start == 0 && self.file.len().is_ok_and(|len| len == self.len)).then_some(&self.file)
    }

    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// Also if it ends before.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.check(offset, buf.len() as u64)?;
        let read = self.file.read_at(self.start + offset, buf);
        read.map_err(|e| Error::io(format!("{} cannot be read at byte {offset}", self.shown), e))
    }

    /// The first bytes at or after `offset` that are not in a hole of the file.
    ///
    /// # Errors
    /// If the file cannot tell.
    pub fn next_data(&self, offset: u64) -> Result<Option<Range<u64>>, Error> {
        let cannot = |e| Error::io(format!("cannot look for holes in {}", self.shown), e);
        let found = self.file.next_data(self.start + offset).map_err(cannot)?;
        let end = self.start + self.len;
        Ok(found
            .map(|data| data.start.min(end) - self.start..data.end.min(end) - self.start)
            .filter(|data| !data.is_empty()))
    }

    /// A part of it that is held in memory: at most `max` bytes of it, whatever the image says.
    ///
    /// # Errors
    /// Also if there are less, or `len` is larger than `max`.
    pub fn bytes(&self, offset: u64, len: u64, max: usize) -> Result<Vec<u8>, Error> {
        self.check(offset, len)?;
        if len > max as u64 {
            return Err(self.damaged(offset, format_args!("a table has {len} bytes, over {max}")));
        }
        let mut bytes = vec![0; len as usize];
        self.read_at(offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The first bytes: `len` of them, or all.
    ///
    /// # Errors
    /// If reading fails.
    pub fn head(&self, len: usize) -> Result<Vec<u8>, Error> {
        self.bytes(0, self.len.min(len as u64), len)
    }

    /// Says what is wrong with it, and where.
    #[must_use]
    pub fn damaged(&self, offset: u64, what: impl std::fmt::Display) -> Error {
        Error::invalid(format!("{}, at byte {offset}: {what}", self.shown))
    }

    fn check(&self, offset: u64, len: u64) -> Result<(), Error> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.damaged(
                offset,
                format_args!(
                    "{len} bytes expected, but it ends at byte {}: it is damaged or was cut",
                    self.len
                ),
            )),
        }
    }
}
