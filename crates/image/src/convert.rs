//! An image in another format than raw, from a volume or a snapshot: qemu-img reads it over NBD.

use crate::{
    error::{Error, ErrorKind},
    target::{TargetPath, cannot, exists, look_at},
};
use block::BlockDevice;
use env::Env;
use qemu::{Conversion, Failed};
use std::{
    any::Any,
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{DirBuilderExt, PermissionsExt},
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use types::{ImageShape, Progress};

/// Progress is told so often.
const TICK: Duration = Duration::from_millis(100);

/// Serves a device over NBD to who is at the other end of a socket, as its default export, until what is answered is dropped.
pub type Serve<'a> = &'a dyn Fn(Arc<dyn BlockDevice>, OwnedFd) -> io::Result<Box<dyn Any>>;

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
/// The image is written in a directory `PATH.partial`, and moved to its place when it is complete and durable; of a VMDK of several files
/// the descriptor comes last. Holes of the device are not read. Progress is in bytes of the disk.
///
/// # Errors
/// As [`export`](crate::export())'s; [`ErrorKind::Invalid`] also if there is no such format, if it has no disks like this one, or if qemu-img
/// is missing.
pub fn convert(
    device: impl FnOnce() -> Result<Arc<dyn BlockDevice>, Error>,
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
    if look_at(env, &path, overwrite, store)? == TargetPath::BlockDevice {
        let message = format!(
            "{} is a block device, which gets a raw image; name a file",
            path.display()
        );
        return Err(Error::invalid(message));
    }
    let device = device()?;
    let size = device.info().size;
    progress.report(0, size)?;
    let unfinished = Unfinished::create(&path)?;
    let cannot = |e| Error::io("cannot serve the disk to qemu-img", e);
    let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
    let _server = serve(device, ours.into()).map_err(cannot)?;
    let shown = path.display().to_string();
    let conversion = Conversion::start(theirs.into(), &unfinished.image(), &shown, &shape)?;
    loop {
        match conversion.wait(TICK) {
            Some(ended) => break ended.map_err(|e| failed(&shown, source, e))?,
            None => progress.report(conversion.done(size), size)?,
        }
    }
    unfinished.publish(overwrite)?;
    progress.report(size, size)?;
    tracing::info!(source, size, format = %shape.format, "exported");
    Ok(())
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

/// A directory beside an image to be, with the files that it has so far. Dropped, it is removed.
struct Unfinished {
    directory: PathBuf,
    path: PathBuf,
    name: OsString,
}

impl Unfinished {
    fn create(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let name = path.file_name();
        let name = name
            .ok_or_else(|| Error::invalid(format!("{shown} names no file")))?
            .to_owned();
        let mut directory = path.to_owned().into_os_string();
        directory.push(".partial");
        let directory = PathBuf::from(directory);
        DirBuilder::new().mode(0o700).create(&directory).map_err(|e| {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return cannot("create", &directory)(e);
            }
            let message = format!(
                "{0} exists: another export is writing it, or one was interrupted and it can be removed: rm -r {0}",
                directory.display()
            );
            Error::new(ErrorKind::Exists, message)
        })?;
        Ok(Unfinished {
            directory,
            path: path.to_owned(),
            name,
        })
    }

    /// Where the image is written.
    fn image(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Moves everything to its place, and makes that durable.
    fn publish(&self, overwrite: bool) -> Result<(), Error> {
        let mut beside = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(cannot("list", &self.directory))? {
            let entry = entry.map_err(cannot("list", &self.directory))?;
            let synced = File::open(entry.path()).and_then(|file| {
                file.set_permissions(Permissions::from_mode(0o600))?;
                file.sync_all()
            });
            synced.map_err(cannot("sync", &entry.path()))?;
            if entry.file_name() != self.name {
                beside.push(entry.file_name());
            }
        }
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let targets = beside.iter().map(|name| parent.join(name));
        if !overwrite {
            // It took a while: somebody may have put something there.
            for target in targets.chain([self.path.clone()]) {
                if fs::symlink_metadata(&target).is_ok() {
                    return Err(exists(&target));
                }
            }
        } else if !beside.is_empty() {
            // An old descriptor must not be found with new extents.
            match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(cannot("replace", &self.path)(e));
                }
                _ => {}
            }
        }
        beside.sort();
        for name in beside.iter().chain([&self.name]) {
            let target = parent.join(name);
            fs::rename(self.directory.join(name), &target).map_err(cannot("create", &target))?;
        }
        let synced = File::open(parent).and_then(|directory| directory.sync_all());
        synced.map_err(cannot("sync", parent))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            let path = self.directory.display();
            tracing::warn!(%path, %error, "cannot remove what is left of an export");
        }
    }
}
