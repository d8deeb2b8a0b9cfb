//! A raw image from a volume or a snapshot.

use crate::{
    error::{Error, ErrorKind},
    plan::{Plan, Planned},
    target::{DeviceSink, FileSink, Sink, StreamSink, TargetPath, look_at},
};
use block::BlockDevice;
use env::Env;
use parking_lot::Mutex;
use std::{
    io::Write,
    ops::Range,
    path::PathBuf,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
};
use types::{Progress, VolumeRef};
use volume::Store;

/// Threads that read.
const READERS: usize = 2;
/// Pieces that are read, or being read, before somebody writes them.
const PIECES_AHEAD: usize = 3;

/// Where a raw image goes to.
pub enum Target<'a> {
    /// A file or a block device: an absolute path.
    Path {
        /// The path. A file appears there when it is complete.
        path: PathBuf,
        /// Whether a file, or what is on a block device, may be replaced.
        overwrite: bool,
    },
    /// A stream; gets zeroes for holes.
    Writer(&'a mut (dyn Write + Send)),
}

/// What was exported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Bytes of the image.
    pub size: u64,
    /// Bytes of it that are not in holes.
    pub data: u64,
}

/// Writes a volume as it is now, or a snapshot, as a raw image.
///
/// # Behavior
/// A file keeps the holes. It is written as `PATH.partial`, and renamed when it is complete and durable. A block device
/// keeps what it has beyond the image. Progress is in bytes of the image; it ends with the size.
///
/// # Errors
/// [`ErrorKind::NotFound`] if there is no such volume; [`ErrorKind::Exists`] if there is something at the path
/// and `overwrite` is not set, or another export is writing there; [`ErrorKind::Invalid`] if the path cannot be written,
/// lies in the store, or the device is too small; [`ErrorKind::NoSpace`]; [`ErrorKind::Damaged`] if the volume cannot be
/// read; [`ErrorKind::Cancelled`]. No file is left then.
pub fn export(
    store: &Store,
    env: &Env,
    source: &VolumeRef,
    target: Target<'_>,
    progress: &dyn Progress,
) -> Result<Exported, Error> {
    let found = match &target {
        Target::Path { path, overwrite } => Some(look_at(env, path, *overwrite, store.dir())?),
        Target::Writer(_) => None,
    };
    let device = store.frozen_device(source)?;
    let size = device.info().size;
    let mut sink: Box<dyn Sink + '_> = match (target, found) {
        (Target::Writer(writer), _) => Box::new(StreamSink::new(writer)),
        (Target::Path { path, .. }, Some(TargetPath::BlockDevice)) => {
            Box::new(DeviceSink::open(env, &path, size)?)
        }
        (Target::Path { path, overwrite }, _) => {
            Box::new(FileSink::create(env, path, overwrite, size)?)
        }
    };
    let data = copy(&*device, size, &mut *sink, progress)?;
    sink.finish()?;
    tracing::info!(%source, size, data, "exported");
    Ok(Exported { size, data })
}

/// Reads ahead on threads, and writes in order on this one; answers the bytes of data.
fn copy(
    device: &dyn BlockDevice,
    size: u64,
    sink: &mut dyn Sink,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    progress.report(0, size)?;
    let plan = Mutex::new(Plan::new(device, size));
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
        let written = write_in_order(&pieces, size, sink, progress);
        // The readers end when they find nobody there.
        drop(pieces);
        for reader in readers {
            // A panic was met by who waited for its piece.
            let _ = reader.join();
        }
        written
    })
}

fn write_in_order(
    pieces: &Receiver<Slot>,
    size: u64,
    sink: &mut dyn Sink,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let panicked = || Error::new(ErrorKind::Io, "reading the volume panicked");
    let (mut done, mut data) = (0, 0);
    while done < size {
        let slot = pieces.recv().map_err(|_| panicked())?;
        match slot.recv().map_err(|_| panicked())?? {
            Piece::Hole(range) => {
                let mut at = range.start;
                while at < range.end {
                    let end = range.end.min(at.saturating_add(sink.hole_step()));
                    sink.hole(at..end)?;
                    progress.report(end, size)?;
                    at = end;
                }
                done = range.end;
            }
            Piece::Data { start, bytes, runs } => {
                sink.data(start, &bytes, &runs)?;
                data += runs.iter().map(|run| run.len() as u64).sum::<u64>();
                done = start + bytes.len() as u64;
                progress.report(done, size)?;
            }
        }
    }
    Ok(data)
}

/// A part of the image. Pieces follow each other without gaps.
enum Piece {
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

/// Takes pieces from the plan, reads them, and delivers them; the slots arrive in the plan's order.
fn read_ahead(plan: &Mutex<Plan<'_>>, order: &SyncSender<Slot>) {
    loop {
        let mut planning = plan.lock();
        let Some(planned) = planning.next().transpose() else {
            return;
        };
        let device = planning.device;
        let (deliver, slot) = sync_channel(1);
        // Waits here while enough is read ahead: with the lock, so that the order is the plan's.
        if order.send(slot).is_err() {
            return;
        }
        drop(planning);
        let piece = planned.and_then(|planned| read(device, planned));
        let failed = piece.is_err();
        if deliver.send(piece).is_err() || failed {
            return;
        }
    }
}

fn read(device: &dyn BlockDevice, planned: Planned) -> Result<Piece, Error> {
    let Planned { range, runs } = planned;
    if runs.is_empty() {
        return Ok(Piece::Hole(range));
    }
    let mut bytes = vec![0; (range.end - range.start) as usize];
    device.read(range.start, &mut bytes).map_err(|e| {
        let error = Error::from(e);
        let why = format!("the volume cannot be read at byte {}: {error}", range.start);
        Error::new(error.kind(), why).with_source(error)
    })?;
    let start = range.start;
    Ok(Piece::Data { start, bytes, runs })
}
