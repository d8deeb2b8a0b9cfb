//! Reading a disk ahead, on threads, and handing it on in order.

use crate::{
    error::{Error, ErrorKind},
    plan::{Plan, Planned},
};
use block::{BlockDevice, ExtentKind};
use image_formats::{Disk, Run};
use parking_lot::Mutex;
use std::{
    ops::Range,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};

/// Threads that read.
const READERS: usize = 2;
/// Pieces that are read, or being read, before somebody takes them.
const PIECES_AHEAD: usize = 3;
/// Extents that are asked for at once.
const EXTENTS_MAX: usize = 1024;

/// A part of a disk. Pieces follow each other without gaps.
pub(crate) enum Piece {
    /// Zeroes.
    Hole(Range<u64>),
    Data {
        start: u64,
        bytes: Vec<u8>,
        /// Where in `bytes` there is data; the rest is small holes.
        runs: Vec<Range<usize>>,
    },
}

/// Where a piece arrives.
type Slot = Receiver<Result<Piece, Error>>;

/// Reads all of `disk` and hands it to `take`, piece by piece in order.
///
/// # Errors
/// Those of the disk and of `take`: the first one ends it.
pub(crate) fn in_order(
    disk: &dyn Disk,
    take: impl FnMut(Piece) -> Result<(), Error>,
) -> Result<(), Error> {
    let size = disk.size();
    let plan = Mutex::new(Plan::new(disk));
    env::scope(|scope| {
        let (order, pieces) = sync_channel(PIECES_AHEAD);
        let mut readers = Vec::new();
        for _ in 0..READERS {
            let (plan, order) = (&plan, order.clone());
            let reader = scope
                .spawn("image-read", move || read_ahead(plan, &order))
                .map_err(|e| Error::io("cannot start a thread", e))?;
            readers.push(reader);
        }
        drop(order);
        let taken = take_all(&pieces, size, take);
        // The readers end when they find nobody there.
        drop(pieces);
        for reader in readers {
            // A panic was met by who waited for its piece.
            let _ = reader.join();
        }
        taken
    })
}

fn take_all(
    pieces: &Receiver<Slot>,
    size: u64,
    mut take: impl FnMut(Piece) -> Result<(), Error>,
) -> Result<(), Error> {
    let panicked = || Error::new(ErrorKind::Io, "reading the disk panicked");
    let mut done = 0;
    while done < size {
        let slot = pieces.recv().map_err(|_| panicked())?;
        let piece = slot.recv().map_err(|_| panicked())??;
        done = match &piece {
            Piece::Hole(range) => range.end,
            Piece::Data { start, bytes, .. } => start + bytes.len() as u64,
        };
        take(piece)?;
    }
    Ok(())
}

/// Takes pieces from the plan, reads them, and delivers them; the slots arrive in the plan's order.
fn read_ahead(plan: &Mutex<Plan<'_>>, order: &SyncSender<Slot>) {
    loop {
        let mut planning = plan.lock();
        let Some(planned) = planning.next().transpose() else {
            return;
        };
        let disk = planning.disk;
        let (deliver, slot) = sync_channel(1);
        // Waits here while enough is read ahead: with the lock, so that the order is the plan's.
        if order.send(slot).is_err() {
            return;
        }
        drop(planning);
        let piece = planned.and_then(|planned| read(disk, planned));
        let failed = piece.is_err();
        if deliver.send(piece).is_err() || failed {
            return;
        }
    }
}

fn read(disk: &dyn Disk, planned: Planned) -> Result<Piece, Error> {
    let Planned { range, runs } = planned;
    if runs.is_empty() {
        return Ok(Piece::Hole(range));
    }
    let mut bytes = vec![0; (range.end - range.start) as usize];
    disk.read(range.start, &mut bytes)?;
    let start = range.start;
    Ok(Piece::Data { start, bytes, runs })
}

/// A volume, or a snapshot, as a disk to read.
pub(crate) struct VolumeDisk<'a> {
    device: &'a dyn BlockDevice,
    size: u64,
}

impl<'a> VolumeDisk<'a> {
    pub(crate) fn new(device: &'a dyn BlockDevice) -> Self {
        let size = device.info().size;
        VolumeDisk { device, size }
    }
}

fn unreadable(at: u64) -> impl Fn(block::Error) -> image_formats::Error {
    move |e| image_formats::Error::device(format_args!("the volume cannot be read at byte {at}"), e)
}

impl Disk for VolumeDisk<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self, offset: u64) -> Result<Vec<Run>, image_formats::Error> {
        let extents = self.device.extents(offset, self.size - offset, EXTENTS_MAX);
        let extents = extents.map_err(unreadable(offset))?;
        let run = |extent: &block::Extent| Run {
            len: extent.len,
            data: extent.kind == ExtentKind::Data,
        };
        Ok(extents.iter().map(run).collect())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), image_formats::Error> {
        self.device.read(offset, buf).map_err(unreadable(offset))
    }
}
