//! The seam between packs and where they are kept.
//!
//! A brick keeps immutable objects by pack id and knows nothing of what is in them. Its verbs block;
//! a brick across a network waits inside them. A pool of threads, not a runtime, stands behind the read
//! path: what is in memory never reaches a brick, and what does is waiting for a device anyway.

pub mod conformance;

use std::{error::Error as StdError, fmt, ops::Range, sync::Arc};
use types::{Epoch, PackId};

/// A place that keeps packs.
///
/// # Behavior
/// Mutations carry the epoch of the store's writer; once one of a higher epoch was seen, those of
/// lower ones are refused with [`ErrorKind::StaleEpoch`].
pub trait Brick: Send + Sync {
    /// Keeps `bytes` as `pack`, whole or not at all, in place of what it may have kept under that
    /// id. Readers see the old or the new object at each call. Durable after [`sync`](Self::sync).
    fn put(&self, epoch: Epoch, pack: PackId, bytes: &[u8]) -> Result<(), Error>;
    /// Fills `buf` from `offset` of the object.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] if there is no such object or it ends before.
    fn read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<(), Error>;
    /// As [`read`](Self::read) if that needs no waiting, else `false`, quickly.
    fn try_read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<bool, Error>;
    /// Forgets what caches have of the object, if it is kept: the next read gets what the medium has.
    fn refresh(&self, pack: PackId) -> Result<(), Error>;
    /// Replaces `mark.1` at offset `mark.0`, makes that durable, and only then gives the space of
    /// `holes` (byte ranges) back; the bytes there are undefined afterwards.
    fn trim(
        &self,
        epoch: Epoch,
        pack: PackId,
        mark: (u64, &[u8]),
        holes: &[Range<u64>],
    ) -> Result<(), Error>;
    /// Forgets an object, if it has it. Durable after [`sync`](Self::sync).
    fn remove(&self, epoch: Epoch, pack: PackId) -> Result<(), Error>;
    /// Makes every put and remove that returned before durable.
    fn sync(&self) -> Result<(), Error>;
    /// Everything kept, in order of id.
    fn list(&self) -> Result<Vec<PackStat>, Error>;
    /// Size and free space.
    fn space(&self) -> Result<Space, Error>;
}

/// One object of a brick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackStat {
    /// Its id.
    pub pack: PackId,
    /// Its length in bytes.
    pub len: u64,
    /// Bytes of storage that it takes.
    pub stored: u64,
}

/// Space of a brick, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free.
    pub free: u64,
}

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Treat the pack as lost (or look for another replica).
    NotFound,
    /// Free space.
    NoSpace,
    /// Stop writing: somebody newer owns the store.
    StaleEpoch,
    /// Treat it as failed; what was not synced may be gone.
    Io,
}

/// An error of a brick.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    pack: Option<PackId>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `operation` on `pack`.
    #[must_use]
    pub const fn new(kind: ErrorKind, operation: &'static str, pack: Option<PackId>) -> Self {
        Error {
            kind,
            operation,
            pack,
            source: None,
        }
    }

    /// With its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::NotFound => "no such pack, or it is cut short",
            ErrorKind::NoSpace => "the brick is full",
            ErrorKind::StaleEpoch => "a newer writer owns the store",
            ErrorKind::Io => "input/output error",
        };
        match self.pack {
            Some(pack) => write!(f, "brick {} of pack {pack}: {what}", self.operation),
            None => write!(f, "brick {}: {what}", self.operation),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.source
            .as_ref()
            .map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
