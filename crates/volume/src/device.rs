//! Volumes and snapshots as block devices.

use crate::{
    error::Error,
    read::pieces,
    store::{PinnedRoot, Shared, Store, blocks},
    volume::{Base, Volume},
};
use block::{
    BlockDevice, Demand, DeviceInfo, Durability, Error as BlockError, ErrorKind, Extent,
    ExtentKind, Turn, check_range,
};
use limits::Limited;
use std::sync::{Arc, atomic::Ordering::Relaxed};
use types::{BLOCK_SIZE, Name, VolumeId, VolumeRef};

/// Blocks that one look at what is written covers: 1 GiB.
const WINDOW: u64 = 1 << 18;

struct VolumeDevice(Arc<Volume>);

impl VolumeDevice {
    fn check(&self, operation: &'static str, offset: u64, len: u64) -> Result<(), BlockError> {
        check_range(operation, offset, len, self.0.size())
    }

    fn check_write(
        &self,
        operation: &'static str,
        offset: u64,
        len: u64,
    ) -> Result<(), BlockError> {
        self.check(operation, offset, len)?;
        if self.0.read_only.load(Relaxed) {
            return Err(BlockError::new(ErrorKind::ReadOnly, operation));
        }
        Ok(())
    }

    fn finish(
        &self,
        request: Request,
        result: Result<(), Error>,
        durability: Durability,
    ) -> Result<(), BlockError> {
        let flushed = result.and_then(|()| match durability {
            Durability::Volatile => Ok(()),
            Durability::Durable => self.0.flush(),
        });
        flushed.map_err(|e| self.0.failed(request, e))
    }
}

/// What was asked for, and where.
#[derive(Clone, Copy)]
struct Request {
    operation: &'static str,
    offset: u64,
    len: u64,
}

const fn request(operation: &'static str, offset: u64, len: u64) -> Request {
    Request {
        operation,
        offset,
        len,
    }
}

/// An error on its way to a client: told to the log, which alone can name everything. Of many only some.
fn failed(
    shared: &Shared,
    of: &dyn std::fmt::Display,
    request: Request,
    error: Error,
) -> BlockError {
    use crate::ErrorKind as Kind;
    let Request {
        operation,
        offset,
        len,
    } = request;
    let expected = matches!(error.kind(), Kind::NoSpace | Kind::Closed | Kind::Invalid);
    if !expected && let Some(left_out) = shared.may_log() {
        tracing::error!(volume = %of, operation, offset, len, left_out, error = ?error, "request failed");
    }
    error.into_block(operation)
}

impl Volume {
    fn failed(&self, request: Request, error: Error) -> BlockError {
        failed(&self.shared, &*self.name.lock(), request, error)
    }
}

impl BlockDevice for VolumeDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.0.size(),
            read_only: self.0.read_only.load(Relaxed),
            block_size: BLOCK_SIZE as u32,
        }
    }

    fn admit(&self, _: Demand, _: Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check("read", offset, buf.len() as u64)?;
        self.0
            .read(offset, buf)
            .map_err(|e| self.0.failed(request("read", offset, buf.len() as u64), e))
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, BlockError> {
        self.check("read", offset, buf.len() as u64)?;
        self.0
            .try_read(offset, buf)
            .map_err(|e| self.0.failed(request("read", offset, buf.len() as u64), e))
    }

    fn expect(&self, offsets: &[u64]) {
        self.0.expect(offsets);
    }

    fn write(&self, offset: u64, data: &[u8], durability: Durability) -> Result<(), BlockError> {
        self.check_write("write", offset, data.len() as u64)?;
        let request = request("write", offset, data.len() as u64);
        self.finish(request, self.0.write(offset, data), durability)
    }

    fn write_zeroes(&self, offset: u64, len: u64, d: Durability) -> Result<(), BlockError> {
        self.check_write("write zeroes", offset, len)?;
        let request = request("write zeroes", offset, len);
        self.finish(request, self.0.zero(offset, len), d)
    }

    fn discard(&self, offset: u64, len: u64, durability: Durability) -> Result<(), BlockError> {
        self.check_write("discard", offset, len)?;
        let request = request("discard", offset, len);
        self.finish(request, self.0.discard(offset, len), durability)
    }

    fn flush(&self) -> Result<(), BlockError> {
        self.0
            .flush()
            .map_err(|e| self.0.failed(request("flush", 0, 0), e))
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, BlockError> {
        self.check("extents", offset, len)?;
        self.0
            .extents(offset, len, max)
            .map_err(|e| self.0.failed(request("extents", offset, len), e))
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check("prefetch", offset, len)?;
        prefetch(offset, len, |at, buf| self.0.read(at, buf))
            .map_err(|e| self.0.failed(request("prefetch", offset, len), e))
    }
}

impl Volume {
    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, Error> {
        let _pass = self.shared.gate.enter();
        let first = offset / BLOCK_SIZE as u64;
        let end = blocks(offset + len);
        let Painted { base, end, kinds } = self.paint(first, end)?;
        let runs = self.shared.map_extents(&base, first, end, max, &kinds)?;
        Ok(extents(&clip(runs, offset, len, max)))
    }

    /// What memory says of the blocks from `first` to `end`, or of the first of them. The caller has passed the gate.
    pub(crate) fn paint(&self, first: u64, end: u64) -> Result<Painted, Error> {
        let window = end.min(first + WINDOW);
        let state = self.state.read();
        state.check_open()?;
        let base = state.base.clone();
        if state.layers().all(|layer| layer.is_empty()) {
            let kinds = Vec::new();
            return Ok(Painted { base, end, kinds });
        }
        let mut kinds = vec![None; (window - first) as usize];
        for layer in state.layers().rev() {
            layer.paint(first, &mut kinds);
        }
        let end = window;
        Ok(Painted { base, end, kinds })
    }
}

/// What memory says of a range of blocks.
pub(crate) struct Painted {
    /// What is below.
    pub(crate) base: Base,
    /// The end of what was looked at.
    pub(crate) end: u64,
    /// Of each block whether it has data, or no opinion; empty if there is none of any.
    pub(crate) kinds: Vec<Option<bool>>,
}

impl Shared {
    /// The volume of that name. One that is in use is found even if the catalog has failed: its clients go on, and
    /// so must those that connect again.
    pub(crate) fn by_name(self: &Arc<Self>, name: &Name) -> Result<Arc<Volume>, Error> {
        let failed = match self.find(name) {
            Ok(record) => return self.volume(record.id),
            Err(e) if e.kind() == crate::ErrorKind::NotFound => return Err(e),
            Err(e) => e,
        };
        let mut open = self.open_volumes().into_iter();
        // Who holds a record is about to learn of the failure: it is not waited for.
        let is_it = |volume: &Arc<Volume>| {
            let record = volume.record.try_lock();
            record.is_some_and(|committed| committed.record.name == *name)
        };
        open.find(is_it).ok_or(failed)
    }

    /// Runs of blocks by what the map says, and `kinds`, where it has an opinion, says instead.
    fn map_extents(
        &self,
        base: &Base,
        first: u64,
        end: u64,
        max: usize,
        kinds: &[Option<bool>],
    ) -> Result<Vec<(u64, bool)>, Error> {
        let nodes = crate::nodes::Nodes(&self.packs);
        let mapped = match &base.below {
            None => {
                let limit = if kinds.is_empty() { max } else { usize::MAX };
                blockmap::extents(&nodes, base.root, first..end, limit)?
            }
            Some(below) => {
                let end = end.min(first + WINDOW);
                let mapped = blockmap::extents(&nodes, base.root, first..end, usize::MAX)?;
                below.add_data(first, mapped)
            }
        };
        Ok(overlay(mapped, kinds, |data, kind| kind.unwrap_or(data)))
    }
}

/// Runs of blocks, each as `decide` has it from what a map says and what memory says.
pub(crate) fn overlay(
    mapped: Vec<(u64, bool)>,
    kinds: &[Option<bool>],
    decide: impl Fn(bool, Option<bool>) -> bool,
) -> Vec<(u64, bool)> {
    if kinds.is_empty() {
        return mapped;
    }
    let mut runs: Vec<(u64, bool)> = Vec::new();
    let each = mapped
        .into_iter()
        .flat_map(|(len, data)| std::iter::repeat_n(data, len as usize));
    for (mapped, kind) in each.zip(kinds) {
        let decided = decide(mapped, *kind);
        match runs.last_mut() {
            Some(last) if last.1 == decided => last.0 += 1,
            _ => runs.push((1, decided)),
        }
    }
    runs
}

/// From runs of blocks to runs of bytes that begin and end where the request does.
pub(crate) fn clip(runs: Vec<(u64, bool)>, offset: u64, len: u64, max: usize) -> Vec<(u64, bool)> {
    let block = BLOCK_SIZE as u64;
    let mut at = offset / block * block;
    let mut clipped = Vec::with_capacity(runs.len().min(max));
    for (count, kind) in runs.into_iter().take(max) {
        let (start, end) = (at.max(offset), (at + count * block).min(offset + len));
        at += count * block;
        if start < end {
            clipped.push((end - start, kind));
        }
    }
    clipped
}

fn extents(runs: &[(u64, bool)]) -> Vec<Extent> {
    let extent = |&(len, data): &(u64, bool)| Extent {
        len,
        kind: match data {
            true => ExtentKind::Data,
            false => ExtentKind::Hole,
        },
    };
    runs.iter().map(extent).collect()
}

/// Reads a range, in pieces that end at blocks, for what it leaves in the caches; at most 32 MiB of it.
fn prefetch(
    offset: u64,
    len: u64,
    read: impl Fn(u64, &mut [u8]) -> Result<(), Error>,
) -> Result<(), Error> {
    let mut block = [0; BLOCK_SIZE];
    let len = len.min(32 << 20) as usize;
    pieces(offset, len).try_for_each(|piece| {
        read(
            offset + piece.of_request.start as u64,
            &mut block[..piece.within.len()],
        )
    })
}

/// A snapshot that somebody reads. It cannot be removed meanwhile.
struct SnapshotDevice {
    shared: Arc<Shared>,
    pinned: Arc<PinnedRoot>,
    base: Base,
    /// What it is called when it is opened.
    name: String,
}

impl SnapshotDevice {
    fn failed(&self, request: Request, error: Error) -> BlockError {
        failed(&self.shared, &self.name, request, error)
    }

    fn check(&self, operation: &'static str, offset: u64, len: u64) -> Result<(), BlockError> {
        check_range(operation, offset, len, self.pinned.size)
    }

    fn refuse(&self, operation: &'static str, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check(operation, offset, len)?;
        Err(BlockError::new(ErrorKind::ReadOnly, operation))
    }
}

impl BlockDevice for SnapshotDevice {
    fn info(&self) -> DeviceInfo {
        DeviceInfo {
            size: self.pinned.size,
            read_only: true,
            block_size: BLOCK_SIZE as u32,
        }
    }

    /// A volume's limits are its guest's: who saves a snapshot takes nothing from them.
    fn admit(&self, _: Demand, _: Turn) -> bool {
        true
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), BlockError> {
        self.check("read", offset, buf.len() as u64)?;
        let all: Vec<_> = pieces(offset, buf.len()).collect();
        self.shared
            .read_pieces(&self.base, &all, buf)
            .map_err(|e| self.failed(request("read", offset, buf.len() as u64), e))
    }

    fn try_read(&self, offset: u64, buf: &mut [u8]) -> Result<bool, BlockError> {
        self.check("read", offset, buf.len() as u64)?;
        let all: Vec<_> = pieces(offset, buf.len()).collect();
        self.shared
            .try_read_pieces(&self.base, &all, buf)
            .map_err(|e| self.failed(request("read", offset, buf.len() as u64), e))
    }

    fn expect(&self, offsets: &[u64]) {
        self.shared.expect(&self.base, offsets);
    }

    fn write(&self, offset: u64, data: &[u8], _: Durability) -> Result<(), BlockError> {
        self.refuse("write", offset, data.len() as u64)
    }

    fn write_zeroes(&self, offset: u64, len: u64, _: Durability) -> Result<(), BlockError> {
        self.refuse("write zeroes", offset, len)
    }

    fn discard(&self, offset: u64, len: u64, _: Durability) -> Result<(), BlockError> {
        self.refuse("discard", offset, len)
    }

    fn flush(&self) -> Result<(), BlockError> {
        Ok(())
    }

    fn extents(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Extent>, BlockError> {
        self.check("extents", offset, len)?;
        let (first, end) = (offset / BLOCK_SIZE as u64, blocks(offset + len));
        let runs = self.shared.map_extents(&self.base, first, end, max, &[]);
        let runs = runs.map_err(|e| self.failed(request("extents", offset, len), e))?;
        Ok(extents(&clip(runs, offset, len, max)))
    }

    fn prefetch(&self, offset: u64, len: u64) -> Result<(), BlockError> {
        self.check("prefetch", offset, len)?;
        prefetch(offset, len, |at, buf| {
            let all: Vec<_> = pieces(at, buf.len()).collect();
            self.shared.read_pieces(&self.base, &all, buf)
        })
        .map_err(|e| self.failed(request("prefetch", offset, len), e))
    }
}

impl Store {
    /// Opens a volume, or a snapshot to read.
    ///
    /// # Errors
    /// If there is none of that name, a snapshot's last writes cannot be destaged, or the image that it is still
    /// imported from is not there as it was.
    pub fn device(&self, r: &VolumeRef) -> Result<Arc<dyn BlockDevice>, Error> {
        match &r.snapshot {
            None => {
                let volume = self.shared.by_name(&r.volume)?;
                Shared::refuse_file(&volume.record.lock().record)?;
                let below = volume.state.read().base.below.clone();
                below.map_or(Ok(()), |below| below.check())?;
                {
                    let _nobody_sets_it_back = volume.state.read();
                    volume.opens.fetch_add(1, Relaxed);
                }
                let limiter = Arc::clone(&volume.limiter);
                Ok(Arc::new(Limited::new(
                    Arc::new(VolumeDevice(volume)),
                    limiter,
                )))
            }
            Some(_) => self.frozen_device(r),
        }
    }

    /// The device of a volume whose data are elsewhere, with the volume's limits.
    ///
    /// # Errors
    /// If there is no such volume.
    pub fn limited(
        &self,
        id: VolumeId,
        device: Arc<dyn BlockDevice>,
    ) -> Result<Arc<dyn BlockDevice>, Error> {
        let limiter = Arc::clone(&self.shared.volume(id)?.limiter);
        Ok(Arc::new(Limited::new(device, limiter)))
    }

    /// Opens a snapshot, or a volume as it is now, to read: what is written later is not seen.
    ///
    /// # Errors
    /// As [`device`](Self::device).
    pub fn frozen_device(&self, r: &VolumeRef) -> Result<Arc<dyn BlockDevice>, Error> {
        self.reader(r, Arc::new(self.pinned(r, "reader of")?))
    }

    /// A device with what a root has, which is called `r`.
    pub(crate) fn reader(
        &self,
        r: &VolumeRef,
        pinned: Arc<PinnedRoot>,
    ) -> Result<Arc<dyn BlockDevice>, Error> {
        let base = pinned.base();
        base.below.as_ref().map_or(Ok(()), |below| below.check())?;
        Ok(Arc::new(SnapshotDevice {
            shared: Arc::clone(&self.shared),
            base,
            pinned,
            name: r.to_string(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_begin_and_end_with_the_request() {
        let clipped = clip(vec![(1, true), (2, false), (1, true)], 100, 4096 * 3, 8);
        assert_eq!(clipped, [(3996, true), (8192, false), (100, true)]);
    }
}
