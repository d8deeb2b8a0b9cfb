//! The seam between front ends and volumes: a block device.
//!
//! Front ends parse and answer; they know nothing of packs, journals or catalogs.

pub mod conformance;
mod lines;
mod memory;

pub use lines::Lines;
pub use memory::MemoryDevice;

use std::{error::Error as StdError, fmt, sync::Arc};

/// A fixed-size array of bytes with the semantics of a disk with a volatile write cache.
///
/// # Behavior
/// Offsets and lengths are bytes, in any alignment. A write that returned is seen by every read that
/// begins later, on any thread. It is durable once a [`flush`](Self::flush) that began after it
/// returned, or at once with [`Durability::Durable`]. A flush covers completed writes of every
/// thread and connection. Calls may come from any number of threads, and may block.
///
/// Buffers may be memory that a guest reads and writes meanwhile. So `data` is read once: what depends on its content
/// (a checksum, whether it is zero) is found out from the copy; and nothing is decided by what was put into `buf`.
///
/// # Errors
/// Every verb answers [`ErrorKind::OutOfRange`] beyond the end, and mutations answer
/// [`ErrorKind::ReadOnly`] on a snapshot or a read-only volume.
pub trait BlockDevice: Send + Sync {
    /// What the device is now; the size may grow while it is open.
    fn info(&self) -> DeviceInfo;
    /// Whether a request may begin, as far as limits of the device go. A front end asks once for each read, write,
    /// zeroing and discard before it does it; of a flush and of all others nobody asks.
    ///
    /// # Behavior
    /// Never waits. After [`Turn::Later`] and an answer of `false` the waiter is called once, by any thread, when the
    /// request may begin: in the order of asking among those of one [`Access`], and at the latest when the device is
    /// gone. Requests that may begin and then fail, or are not done at all, count.
    fn admit(&self, demand: Demand, turn: Turn) -> bool;
    /// Fills `buf` from `offset`.
    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error>;
    /// As [`read`](Self::read) if everything is in memory; else `false`, quickly, `buf` in any state.
    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error>;
    /// Short reads at these offsets are about to be tried, one by one. A hint: where each would wait for memory, all
    /// can wait at once.
    ///
    /// # Behavior
    /// Who has nothing to do for it does nothing, as this body does. Offsets may be anything.
    fn expect(&self, _offsets: &[u64]) {}
    /// Writes all of `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), Error>;
    /// Makes `[offset, offset + len)` read as zeroes; space may be given back.
    fn write_zeroes(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error>;
    /// Says that `[offset, offset + len)` is not needed: it reads as zeroes afterwards where whole
    /// blocks were discarded, and unchanged elsewhere.
    fn discard(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error>;
    /// Makes everything that was written before durable.
    fn flush(&self) -> Result<(), Error>;
    /// What is allocated in `[offset, offset + len)`: extents in order, without gaps, from exactly
    /// `offset`, neighbours of different kinds, at least one, at most `max`; together they may end before the range
    /// does only if `max` is reached or looking further would take long.
    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error>;
    /// Brings `[offset, offset + len)` into memory if that is cheap. A hint.
    fn prefetch(&self, offset: u64, len: u64) -> Result<(), Error>;
}

/// What a request takes of a device's limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// What it does.
    pub access: Access,
    /// Bytes that go over the wire: of a zeroing or a discard, none.
    pub bytes: u64,
}

/// What a request does, as limits count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It reads.
    Read,
    /// It writes, zeroes or discards.
    Write,
}

/// Somebody who waits until a request may begin.
pub trait Waiter: Send {
    /// Whether it still does. Who does not is not called, and takes nothing.
    fn waits(&self) -> bool;
    /// The request may begin. It must be quick; it may ask again, and nothing waits for it.
    fn begin(self: Box<Self>);
}

/// When a request begins that asks whether it may.
pub enum Turn {
    /// Now; if it may not, it asks again.
    Now,
    /// When this is called, if not now.
    Later(Box<dyn Waiter>),
    /// Never: somebody who waited [does not wait](Waiter::waits) any more. Takes nothing, and the answer says nothing.
    Gone,
    /// In any case. What it takes is held against later ones.
    Owed,
}

/// What a device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Bytes; a multiple of 512.
    pub size: u64,
    /// Whether mutations are refused.
    pub read_only: bool,
    /// The unit in which it is stored, bytes: aligned requests of this size are best.
    pub block_size: u32,
}

/// When a mutation may return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Once it is seen by reads; a later flush makes it durable.
    Volatile,
    /// Once it is durable (FUA).
    Durable,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes, not zero.
    pub len: u64,
    /// Data, or a hole that reads as zeroes.
    pub kind: ExtentKind,
}

/// What an extent is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Stored.
    Data,
    /// Not stored; reads as zeroes.
    Hole,
}

/// What has changed in a device since some point in its history.
pub trait Bitmap: Send + Sync {
    /// What has changed in `[offset, offset + len)`: runs in order, without gaps, from exactly `offset`, neighbours of
    /// different kinds, at least one, at most `max`; together they may end before the range does only if `max` is
    /// reached or looking further would take long. What is said to be unchanged is.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] beyond the end of the device.
    fn changed(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, Error>;
}

/// A run of bytes that changed, or did not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes, not zero.
    pub len: u64,
    /// Whether they may have changed.
    pub changed: bool,
}

/// What the caller of a block device must do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Ask for something within the device.
    OutOfRange,
    /// Not write here.
    ReadOnly,
    /// Free space, then try again.
    NoSpace,
    /// Look in the log: what is stored there is damaged or cannot be reached.
    Io,
    /// Reconnect: the device is gone (removed, or the daemon is ending).
    Gone,
}

/// An error of a block device.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error that has no deeper cause.
    #[must_use]
    pub const fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Error {
            kind,
            operation,
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
            ErrorKind::OutOfRange => "beyond the end of the device",
            ErrorKind::ReadOnly => "the device is read-only",
            ErrorKind::NoSpace => "the store is full",
            ErrorKind::Io => "stored data is damaged or cannot be reached",
            ErrorKind::Gone => "the device is gone",
        };
        write!(f, "{}: {what}", self.operation)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// Checks that a request lies within a device of `size` bytes.
///
/// # Errors
/// [`ErrorKind::OutOfRange`].
pub fn check_range(operation: &'static str, offset: u64, len: u64, size: u64) -> Result<(), Error> {
    match offset.checked_add(len) {
        Some(end) if end <= size => Ok(()),
        _ => Err(Error::new(ErrorKind::OutOfRange, operation)),
    }
}

/// Finds devices by name for front ends.
pub trait Exports: Send + Sync {
    /// The names that can be opened, `volume` and `volume@snapshot`.
    fn list(&self) -> Vec<String>;
    /// Opens one.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if there is none of that name.
    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, Error>;
    /// Names of points in the history of the device `name` that [`bitmap`](Self::bitmap) knows; others may be known as
    /// well.
    fn bitmaps(&self, name: &str) -> Vec<String>;
    /// What has changed in the device `name` since `point`.
    ///
    /// # Errors
    /// [`ErrorKind::Gone`] if there is no such device or point.
    fn bitmap(&self, name: &str, point: &str) -> Result<Arc<dyn Bitmap>, Error>;
    /// A client that had the device `name` open is gone.
    fn left(&self, name: &str, how: Departure);
}

/// How a client left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Departure {
    /// It said so, or hung up: it was not cut off.
    pub by_itself: bool,
    /// It wrote, zeroed or discarded anything.
    pub wrote: bool,
}
