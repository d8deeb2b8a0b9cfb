//! A disk whose bytes are those of a file.

use crate::{Disk, Snapshot, error::of_device};
use block::{
    BlockDevice, Demand, DeviceInfo, Durability, Error, ErrorKind, Extent, ExtentKind, Turn,
    check_range,
};
use env::File;
use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};
use types::BLOCK_SIZE;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Zeroes that are written at once where holes cannot be made, bytes.
const ZEROES: &[u8] = &[0; 64 << 10];

/// A raw image in use.
///
/// # Behavior
/// The page cache is the disk's cache: a write is seen at once, also by other programs, and is on the disk after a flush.
/// What is zeroed or discarded becomes a hole in the file where the file system can.
pub struct RawDisk {
    file: Arc<dyn File>,
    size: AtomicU64,
    read_only: bool,
    /// A sync failed: nobody knows what of the earlier writes is on the disk, so nothing is promised any more.
    failed: AtomicBool,
}

impl RawDisk {
    /// The first `size` bytes of a file.
    #[must_use]
    pub fn new(file: Arc<dyn File>, size: u64, read_only: bool) -> Self {
        RawDisk {
            file,
            size: AtomicU64::new(size),
            read_only,
            failed: AtomicBool::new(false),
        }
    }

    fn check(&self, operation: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        check_range(operation, offset, len, self.size.load(Relaxed))
    }

    fn check_change(&self, operation: &'static str, offset: u64, len: u64) -> Result<(), Error> {
        self.check(operation, offset, len)?;
        if self.read_only {
            return Err(Error::new(ErrorKind::ReadOnly, operation));
        }
        if self.failed.load(Relaxed) {
            return Err(lost(operation));
        }
        Ok(())
    }

    /// Does what makes earlier writes durable.
    fn durably(
        &self,
        operation: &'static str,
        sync: impl FnOnce() -> io::Result<()>,
    ) -> Result<(), Error> {
        if self.failed.load(Relaxed) {
            return Err(lost(operation));
        }
        sync().map_err(|e| {
            self.failed.store(true, Relaxed);
            of_device(operation, e)
        })
    }

    fn zero(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
        durability: Durability,
    ) -> Result<(), Error> {
        if len > 0 {
            make_zero(&*self.file, offset, len).map_err(|e| of_device(operation, e))?;
        }
        match durability {
            Durability::Volatile => Ok(()),
            Durability::Durable => self.durably(operation, || self.file.sync_data()),
        }
    }
}

fn lost(operation: &'static str) -> Error {
    let why = "an earlier flush failed: what it should have kept may be lost; reopen the volume";
    Error::new(ErrorKind::Io, operation).with_source(io::Error::other(why))
}

/// Makes a range of a file read as zeroes, as a hole if that can be.
pub(crate) fn make_zero(file: &dyn File, offset: u64, len: u64) -> io::Result<()> {
    match file.punch_hole(offset, len) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => {
            let mut at = offset;
            while at < offset + len {
                let step = (offset + len - at).min(ZEROES.len() as u64);
                file.write_at(at, &ZEROES[..step as usize])?;
                at += step;
            }
            Ok(())
        }
        done => done,
    }
}

/// The whole blocks within a range: start and length.
pub(crate) fn whole_blocks(offset: u64, len: u64) -> (u64, u64) {
    let (start, end) = (
        offset.next_multiple_of(BLOCK),
        (offset + len) / BLOCK * BLOCK,
    );
    (start, end.saturating_sub(start))
}

/// Adds to a list of extents, which joins what is alike.
pub(crate) fn push(extents: &mut Vec<Extent>, kind: ExtentKind, len: u64) {
    match extents.last_mut() {
        _ if len == 0 => {}
        Some(last) if last.kind == kind => last.len += len,
        _ => extents.push(Extent { len, kind }),
    }
}

/// Adds what is data and what are holes in a range of a file; at least until there are more than `max`.
pub(crate) fn push_extents(
    file: &dyn File,
    extents: &mut Vec<Extent>,
    offset: u64,
    len: u64,
    max: usize,
) -> io::Result<()> {
    let (mut at, end) = (offset, offset + len);
    while at < end && extents.len() <= max {
        let data = file.next_data(at)?.unwrap_or(end..end);
        let start = data.start.clamp(at, end);
        let stop = data.end.clamp(start, end);
        push(extents, ExtentKind::Hole, start - at);
        push(extents, ExtentKind::Data, stop - start);
        at = stop;
    }
    Ok(())
}

impl Disk for RawDisk {
    fn resize(&self, size: u64) -> Result<(), crate::Error> {
        let failed = |e: io::Error| crate::Error::new(crate::ErrorKind::Io, e.to_string());
        if size < self.size.load(Relaxed) {
            self.size.store(size, Relaxed);
        }
        self.file.set_len(size).map_err(failed)?;
        self.file.sync_data().map_err(failed)?;
        self.size.store(size, Relaxed);
        Ok(())
    }

    fn snapshots(&self) -> Result<Vec<Snapshot>, crate::Error> {
        Ok(Vec::new())
    }

    fn create_snapshot(&self, _: &str, _: u32) -> Result<(), crate::Error> {
        Err(no_snapshots())
    }

    fn remove_snapshot(&self, _: &str) -> Result<(), crate::Error> {
        Err(no_snapshots())
    }

    fn apply_snapshot(&self, _: &str) -> Result<(), crate::Error> {
        Err(no_snapshots())
    }

    fn open_snapshot(self: Arc<Self>, _: &str) -> Result<Arc<dyn BlockDevice>, crate::Error> {
        Err(no_snapshots())
    }
}

fn no_snapshots() -> crate::Error {
    let why = "a raw image has no snapshots; a qcow2 image has";
    crate::Error::new(crate::ErrorKind::Invalid, why)
}

impl BlockDevice for RawDisk {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.size.load(Relaxed),
            read_only: self.read_only,
            block_size: BLOCK_SIZE as u32,
        }
    }

    fn admit(&self, _: Demand, _: Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.check("read", offset, buf.len() as u64)?;
        self.file
            .read_at(offset, buf)
            .map_err(|e| of_device("read", e))
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        self.check("read", offset, buf.len() as u64)?;
        self.file
            .try_read_at(offset, buf)
            .map_err(|e| of_device("read", e))
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), Error> {
        self.check_change("write", offset, data.len() as u64)?;
        match durability {
            Durability::Volatile => self
                .file
                .write_at(offset, data)
                .map_err(|e| of_device("write", e)),
            Durability::Durable => {
                self.durably("write", || self.file.write_durable_at(offset, data))
            }
        }
    }

    fn write_zeroes(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.check_change("write zeroes", offset, len)?;
        self.zero("write zeroes", offset, len, durability)
    }

    fn discard(&self, offset: u64, len: u64, durability: Durability) -> Result<(), Error> {
        self.check_change("discard", offset, len)?;
        let (offset, len) = whole_blocks(offset, len);
        self.zero("discard", offset, len, durability)
    }

    fn flush(&self) -> Result<(), Error> {
        if self.read_only {
            return Ok(());
        }
        self.durably("flush", || self.file.sync_data())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        self.check("block status", offset, len)?;
        let mut extents = Vec::new();
        push_extents(&*self.file, &mut extents, offset, len, max)
            .map_err(|e| of_device("block status", e))?;
        extents.truncate(max);
        Ok(extents)
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), Error> {
        // The kernel reads ahead by itself.
        self.check("prefetch", offset, len)
    }
}
