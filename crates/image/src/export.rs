//! A raw image from a volume or a snapshot.

use crate::{
    error::Error,
    pieces::{Piece, VolumeDisk, in_order},
    target::{DeviceSink, FileSink, Sink, StreamSink, TargetPath, look_at},
};
use block::BlockDevice;
use env::Env;
use std::{
    io::Write,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::{Progress, VolumeRef};
use volume::Store;

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
///
/// [`ErrorKind::NotFound`]: crate::ErrorKind::NotFound
/// [`ErrorKind::Exists`]: crate::ErrorKind::Exists
/// [`ErrorKind::Invalid`]: crate::ErrorKind::Invalid
/// [`ErrorKind::NoSpace`]: crate::ErrorKind::NoSpace
/// [`ErrorKind::Damaged`]: crate::ErrorKind::Damaged
/// [`ErrorKind::Cancelled`]: crate::ErrorKind::Cancelled
pub fn export(
    store: &Store,
    env: &Env,
    source: &VolumeRef,
    target: Target<'_>,
    progress: &dyn Progress,
) -> Result<Exported, Error> {
    let device = || Ok(store.frozen_device(source)?);
    export_device(
        device,
        env,
        store.dir(),
        &source.to_string(),
        target,
        progress,
    )
}

/// As [`export`], of any device, which is opened once the target was looked at; `store` is the directory that
/// nothing is written to, `source` what the log says.
///
/// # Errors
/// As [`export`]'s.
pub fn export_device(
    device: impl FnOnce() -> Result<Arc<dyn BlockDevice>, Error>,
    env: &Env,
    store: &Path,
    source: &str,
    target: Target<'_>,
    progress: &dyn Progress,
) -> Result<Exported, Error> {
    let found = match &target {
        Target::Path { path, overwrite } => Some(look_at(env, path, *overwrite, store)?),
        Target::Writer(_) => None,
    };
    let device = device()?;
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
    let data = copy(&*device, &mut *sink, progress)?;
    sink.finish()?;
    tracing::info!(source, size, data, "exported");
    Ok(Exported { size, data })
}

/// Reads ahead on threads, and writes in order on this one; answers the bytes of data.
fn copy(
    device: &dyn BlockDevice,
    sink: &mut dyn Sink,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let size = device.info().size;
    if sink.keeps_holes() {
        progress.stored(0);
    }
    progress.report(0, size)?;
    let mut data = 0;
    in_order(&VolumeDisk::new(device), |piece| match piece {
        Piece::Hole(range) => {
            let mut at = range.start;
            while at < range.end {
                let end = range.end.min(at.saturating_add(sink.hole_step()));
                sink.hole(at..end)?;
                progress.report(end, size)?;
                at = end;
            }
            Ok(())
        }
        Piece::Data { start, bytes, runs } => {
            sink.data(start, &bytes, &runs)?;
            data += runs.iter().map(|run| run.len() as u64).sum::<u64>();
            if sink.keeps_holes() {
                progress.stored(data);
            }
            Ok(progress.report(start + bytes.len() as u64, size)?)
        }
    })?;
    Ok(data)
}
