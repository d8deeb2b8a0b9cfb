//! What an image is written to: files with holes, block devices, streams.

use crate::error::{Error, ErrorKind};
use env::{Env, File, FileKind, Files, OpenOptions};
use std::{
    io::{self, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::size::format_size;

/// Zeroes are written in parts of this.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];
/// Where zeroes are written one by one, progress is told after so many.
const STEP: u64 = 4 << 20;

/// Takes an image in order, without gaps.
pub(crate) trait Sink {
    /// Bytes from `start`; outside of `runs` they are zeroes.
    fn data(&mut self, start: u64, bytes: &[u8], runs: &[Range<usize>]) -> Result<(), Error>;
    /// Zeroes; at most [`hole_step`](Self::hole_step) at once.
    fn hole(&mut self, range: Range<u64>) -> Result<(), Error>;
    /// Bytes of a hole that take no more than a moment.
    fn hole_step(&self) -> u64;
    /// Whether holes take no storage.
    fn keeps_holes(&self) -> bool;
    /// That was all: makes it durable, and seen.
    fn finish(self: Box<Self>) -> Result<(), Error>;
}

/// What is at a path that will be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TargetPath {
    /// Nothing, or a file that may be replaced.
    File,
    /// A block device that may be written.
    BlockDevice,
}

/// Refuses paths that an image cannot, or must not, be written to.
pub(crate) fn look_at(
    env: &Env,
    path: &Path,
    overwrite: bool,
    store: &Path,
) -> Result<TargetPath, Error> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(Error::invalid(format!("'{shown}' is not an absolute path")));
    }
    if path.starts_with(store) {
        let message = format!("{shown} lies in the store itself; choose a path outside of it");
        return Err(Error::invalid(message));
    }
    let kind = match env.files.kind(path) {
        Ok(kind) => kind,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(TargetPath::File),
        Err(e) => return Err(Error::io(format!("cannot look at {shown}"), e)),
    };
    match kind {
        FileKind::Directory => {
            let message = format!("{shown} is a directory; name a file in it");
            Err(Error::invalid(message))
        }
        FileKind::Other => {
            let message = format!("{shown} is neither a file nor a block device");
            Err(Error::invalid(message))
        }
        FileKind::Regular if overwrite => Ok(TargetPath::File),
        FileKind::BlockDevice if overwrite => Ok(TargetPath::BlockDevice),
        FileKind::Regular => Err(exists(path)),
        FileKind::BlockDevice => {
            let message =
                format!("{shown} is a block device; allow overwriting to lose what is on it");
            Err(Error::new(ErrorKind::Exists, message))
        }
    }
}

pub(crate) fn exists(path: &Path) -> Error {
    let message = format!(
        "{} exists already; choose another path, or allow overwriting",
        path.display()
    );
    Error::new(ErrorKind::Exists, message)
}

pub(crate) fn cannot(what: &'static str, path: &Path) -> impl Fn(io::Error) -> Error {
    move |e| Error::io(format!("cannot {what} {}", path.display()), e)
}

/// A file that is not seen before it is complete. Dropped earlier, it is removed.
pub(crate) struct FileSink {
    files: Arc<dyn Files>,
    file: Arc<dyn File>,
    partial: PathBuf,
    path: PathBuf,
    overwrite: bool,
    complete: bool,
}

impl FileSink {
    pub(crate) fn create(
        env: &Env,
        path: PathBuf,
        overwrite: bool,
        size: u64,
    ) -> Result<Self, Error> {
        let mut partial = path.clone().into_os_string();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let options = OpenOptions {
            write: true,
            create_new: true,
            direct: false,
        };
        let file = env.files.open(&partial, options).map_err(|e| {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return cannot("create", &partial)(e);
            }
            let message = format!(
                "{0} exists: another export is writing it, or one was interrupted and it can be removed: rm {0}",
                partial.display()
            );
            Error::new(ErrorKind::Exists, message)
        })?;
        let sink = FileSink {
            files: Arc::clone(&env.files),
            file,
            partial,
            path,
            overwrite,
            complete: false,
        };
        let sized = sink.file.set_len(size);
        sized.map_err(cannot("set the size of", &sink.partial))?;
        Ok(sink)
    }
}

impl Sink for FileSink {
    fn data(&mut self, start: u64, bytes: &[u8], runs: &[Range<usize>]) -> Result<(), Error> {
        runs.iter()
            .try_for_each(|run| {
                self.file
                    .write_at(start + run.start as u64, &bytes[run.clone()])
            })
            .map_err(cannot("write", &self.partial))
    }

    fn hole(&mut self, _: Range<u64>) -> Result<(), Error> {
        Ok(())
    }

    fn keeps_holes(&self) -> bool {
        true
    }

    fn hole_step(&self) -> u64 {
        u64::MAX
    }

    fn finish(mut self: Box<Self>) -> Result<(), Error> {
        let synced = self.file.sync_data();
        synced.map_err(cannot("sync", &self.partial))?;
        // It took a while: somebody may have put something there.
        let taken = self.files.exists(&self.path);
        if taken.map_err(cannot("look at", &self.path))? && !self.overwrite {
            return Err(exists(&self.path));
        }
        let renamed = self.files.rename(&self.partial, &self.path);
        renamed.map_err(cannot("create", &self.path))?;
        self.complete = true;
        let directory = self.path.parent().unwrap_or(Path::new("/"));
        let synced = self.files.sync_dir(directory);
        synced.map_err(cannot("sync", directory))
    }
}

impl Drop for FileSink {
    fn drop(&mut self) {
        if self.complete {
            return;
        }
        if let Err(error) = self.files.remove(&self.partial) {
            let path = self.partial.display();
            tracing::warn!(%path, %error, "cannot remove what is left of an export");
        }
    }
}

/// A block device.
pub(crate) struct DeviceSink {
    file: Arc<dyn File>,
    path: PathBuf,
    /// Whether it can make zeroes by itself.
    punches: bool,
}

impl DeviceSink {
    pub(crate) fn open(env: &Env, path: &Path, size: u64) -> Result<Self, Error> {
        let options = OpenOptions {
            write: true,
            create_new: false,
            direct: false,
        };
        let file = env.files.open(path, options);
        let file = file.map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => {
                let message = format!(
                    "{} is in use, mounted or part of another device; end that first",
                    path.display()
                );
                Error::invalid(message).with_source(e)
            }
            _ => cannot("open", path)(e),
        })?;
        let len = file.len().map_err(cannot("tell the size of", path))?;
        if len < size {
            return Err(Error::invalid(format!(
                "{} has {}, the image needs {}",
                path.display(),
                format_size(len),
                format_size(size)
            )));
        }
        let (path, punches) = (path.to_owned(), true);
        Ok(DeviceSink {
            file,
            path,
            punches,
        })
    }
}

impl Sink for DeviceSink {
    fn data(&mut self, start: u64, bytes: &[u8], _: &[Range<usize>]) -> Result<(), Error> {
        let written = self.file.write_at(start, bytes);
        written.map_err(cannot("write", &self.path))
    }

    fn hole(&mut self, range: Range<u64>) -> Result<(), Error> {
        let len = range.end - range.start;
        self.punches = self.punches && self.file.punch_hole(range.start, len).is_ok();
        if self.punches {
            return Ok(());
        }
        // It cannot, or would not: then zeroes are written, and tell if the device is broken.
        let mut at = range.start;
        while at < range.end {
            let part = &ZEROES[..(range.end - at).min(ZEROES.len() as u64) as usize];
            let written = self.file.write_at(at, part);
            written.map_err(cannot("write", &self.path))?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn keeps_holes(&self) -> bool {
        self.punches
    }

    fn hole_step(&self) -> u64 {
        if self.punches { 16 * STEP } else { STEP }
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        self.file.sync_data().map_err(cannot("sync", &self.path))
    }
}

/// A stream.
pub(crate) struct StreamSink<'a>(&'a mut (dyn Write + Send));

impl<'a> StreamSink<'a> {
    pub(crate) fn new(writer: &'a mut (dyn Write + Send)) -> Self {
        StreamSink(writer)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let written = self.0.write_all(bytes);
        written.map_err(|e| Error::io("writing the stream failed", e))
    }
}

impl Sink for StreamSink<'_> {
    fn data(&mut self, _: u64, bytes: &[u8], _: &[Range<usize>]) -> Result<(), Error> {
        self.write(bytes)
    }

    fn hole(&mut self, range: Range<u64>) -> Result<(), Error> {
        let mut rest = range.end - range.start;
        while rest > 0 {
            let part = rest.min(ZEROES.len() as u64);
            self.write(&ZEROES[..part as usize])?;
            rest -= part;
        }
        Ok(())
    }

    fn keeps_holes(&self) -> bool {
        false
    }

    fn hole_step(&self) -> u64 {
        STEP
    }

    fn finish(self: Box<Self>) -> Result<(), Error> {
        let flushed = self.0.flush();
        flushed.map_err(|e| Error::io("writing the stream failed", e))
    }
}
