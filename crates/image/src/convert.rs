//! An image in another format than raw, from a volume or a snapshot: qemu-img reads it over NBD.

use crate::{
    backing::{Backing, Named, Unchanged},
    error::{Error, ErrorKind},
    target::{TargetPath, cannot, look_at},
    unfinished::Unfinished,
};
use block::{Bitmap, BlockDevice};
use env::Env;
use qemu::{Conversion, Failed};
use std::{
    any::Any,
    fs::{self, File},
    io,
    os::{
        fd::OwnedFd,
        unix::{fs::MetadataExt, net::UnixStream},
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use types::{ImageFormat, ImageShape, Progress};

/// Progress is told so often.
const TICK: Duration = Duration::from_millis(100);
/// What the system counts the storage of files in, bytes.
const STAT_BLOCK: u64 = 512;

/// Serves a device over NBD to who is at the other end of a socket, as its default export, until what is answered is dropped; a bitmap,
/// if there is one, under any name.
pub type Serve<'a> =
    &'a dyn Fn(Arc<dyn BlockDevice>, Option<Arc<dyn Bitmap>>, OwnedFd) -> io::Result<Box<dyn Any>>;

/// What is written. It does not change meanwhile.
pub struct Frozen {
    /// All of it.
    pub device: Arc<dyn BlockDevice>,
    /// What a qcow2 image of it stands upon, if it is to hold no more than the difference.
    pub backing: Option<Backing>,
}

/// Where an image goes to, and how it is to be.
pub struct Convert {
    /// An absolute path. The image appears there when it is complete.
    pub path: PathBuf,
    /// Whether a file may be replaced.
    pub overwrite: bool,
    /// How it is written.
    pub shape: ImageShape,
}

/// Writes a device as an image of any format; `source` is what the log says.
///
/// # Behavior
/// With a [`Backing`] the image has the clusters in which anything changed, and names the image of the rest as seen from its own place; of that
/// one only the beginning is read, for its size.
///
/// The image is written in a directory `PATH.partial`, and moved to its place when it is complete and durable; of a VMDK of several files
/// the descriptor comes last. Holes of the device are not read. Progress is in bytes of the disk.
///
/// # Errors
/// As [`export`](crate::export())'s; [`ErrorKind::Invalid`] also if there is no such format, if it has no disks like this one, or if qemu-img
/// is missing, or what is to stand behind it cannot be what it should be.
pub fn convert(
    frozen: impl FnOnce() -> Result<Frozen, Error>,
    env: &Env,
    store: &Path,
    source: &str,
    to: Convert,
    serve: Serve<'_>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let Convert {
        path,
        overwrite,
        shape,
    } = to;
    shape.check().map_err(Error::invalid)?;
    file_target(env, &path, overwrite, store)?;
    let Frozen { device, backing } = frozen()?;
    let size = device.info().size;
    let behind = match &backing {
        None => None,
        Some(_) if shape.format != ImageFormat::Qcow2 => {
            let message = format!(
                "a {} image has no other one behind it; qcow2 can have",
                shape.format
            );
            return Err(Error::invalid(message));
        }
        Some(backing) => Some((backing, backing.look_at(env, &path)?)),
    };
    progress.report(0, size)?;
    let unfinished = Unfinished::create(&path)?;
    let image = Image {
        path: &unfinished.image(),
        shown: &path.display().to_string(),
        source,
        shape: &shape,
    };
    match behind {
        None => image.write(device, None, serve, progress)?,
        Some((backing, named)) => image.write_upon(device, backing, &named, serve, progress)?,
    }
    progress.report(size, size)?;
    unfinished.publish(overwrite)?;
    tracing::info!(source, size, format = %shape.format, "exported");
    Ok(())
}

/// Refuses paths that a file cannot, or must not, be written to.
pub(crate) fn file_target(
    env: &Env,
    path: &Path,
    overwrite: bool,
    store: &Path,
) -> Result<(), Error> {
    match look_at(env, path, overwrite, store)? {
        TargetPath::File => Ok(()),
        TargetPath::BlockDevice => Err(Error::invalid(format!(
            "{} is a block device, which gets a raw image; name a file",
            path.display()
        ))),
    }
}

/// An image that qemu-img writes.
pub(crate) struct Image<'a> {
    /// An absolute path at which there is nothing.
    pub(crate) path: &'a Path,
    /// What errors call it.
    pub(crate) shown: &'a str,
    /// What errors call the disk.
    pub(crate) source: &'a str,
    pub(crate) shape: &'a ImageShape,
}

/// What stands in the place of what is behind an image, and of that what has not changed.
pub(crate) struct StandIn<'a> {
    path: &'a Path,
    unchanged: Arc<dyn Bitmap>,
}

impl Image<'_> {
    pub(crate) fn write(
        &self,
        device: Arc<dyn BlockDevice>,
        stand_in: Option<StandIn<'_>>,
        serve: Serve<'_>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let size = device.info().size;
        let cannot = |e| Error::io("cannot serve the disk to qemu-img", e);
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        let (behind, unchanged) = stand_in.map(|it| (it.path, it.unchanged)).unzip();
        let _server = serve(device, unchanged, ours.into()).map_err(cannot)?;
        let (theirs, shape) = (theirs.into(), self.shape);
        let conversion = Conversion::start(theirs, self.path, self.shown, shape, behind)?;
        self.follow(&conversion, size, progress)
    }

    /// QEMU need not open what is behind: it is not asked for what is there. What it opens in its place has as many bytes.
    fn write_upon(
        &self,
        device: Arc<dyn BlockDevice>,
        backing: &Backing,
        named: &Named,
        serve: Serve<'_>,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        let size = device.info().size;
        let mut path = self.path.to_owned().into_os_string();
        path.push(".behind");
        let path = PathBuf::from(path);
        let made = File::create_new(&path).and_then(|file| file.set_len(backing.size));
        made.map_err(cannot("create", &path))?;
        let stand_in = StandIn {
            path: &path,
            unchanged: Arc::new(Unchanged {
                changed: Arc::clone(&backing.changed),
                size,
            }),
        };
        self.write(device, Some(stand_in), serve, progress)?;
        fs::remove_file(&path).map_err(cannot("remove", &path))?;
        let Named { name, format } = named;
        let naming = Conversion::name_backing(self.path, self.shown, name, *format)?;
        self.follow(&naming, size, progress)
    }

    fn follow(
        &self,
        conversion: &Conversion,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<(), Error> {
        loop {
            match conversion.wait(TICK) {
                Some(ended) => {
                    progress.stored(allocated(self.path));
                    return ended.map_err(|e| failed(self.shown, self.source, e));
                }
                None => {
                    progress.stored(allocated(self.path));
                    progress.report(conversion.done(size), size)?;
                }
            }
        }
    }
}

/// Bytes that an image takes, with all that is in the directory that it has for itself.
fn allocated(image: &Path) -> u64 {
    let directory = image.parent().unwrap_or(image);
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| entry.metadata().ok());
    found.map(|found| found.blocks() * STAT_BLOCK).sum()
}

fn failed(shown: &str, source: &str, failed: Failed) -> Error {
    let (kind, what, why) = match failed {
        Failed::Source(why) => (ErrorKind::Damaged, format!("{source} cannot be read"), why),
        Failed::Space(why) => (
            ErrorKind::NoSpace,
            format!("{shown} cannot be written"),
            why,
        ),
        Failed::Other(why) => (
            ErrorKind::Invalid,
            format!("{shown} cannot be written"),
            why,
        ),
    };
    Error::new(kind, format!("{what}: {why}"))
}
