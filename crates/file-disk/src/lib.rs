//! Disks that are plain image files, used in place: raw and qcow2.
//!
//! ```text
//!  front ends ── block::BlockDevice ──┬─ RawDisk ────────────────┐
//!                                     └─ Qcow2Disk ── imago      ├─ env::File ── INSTANCE/DISK below a root
//!  create, take over, look at, move, remove ── Place ────────────┘
//! ```
//! A file is named by its [`Place`]: a directory that the administrator trusts, and a path below it, on which no
//! symbolic link is followed. While a disk is open its file has the locks that QEMU's programs take, so that
//! neither of two users of one image goes wrong.
//!
//! **Invariant:** nothing but the named file is opened, whatever is in it.

mod error;
mod look;
mod place;
mod qcow2;
mod raw;

pub use error::{Error, ErrorKind};
pub use look::{Found, look};
pub use place::{Place, Roots, disk_path};
pub use qcow2::{Qcow2Disk, Snapshot};
pub use raw::RawDisk;

use block::BlockDevice;
use env::{Env, OpenOptions};
use std::sync::Arc;
use types::{FileDriver, FileFormat};

/// How a disk is opened.
#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// What the file must be.
    pub format: FileFormat,
    /// How its bytes are read and written.
    pub driver: FileDriver,
    /// Refuse writes; several may then have it open.
    pub read_only: bool,
}

fn driver(driver: FileDriver) -> env::Driver {
    match driver {
        FileDriver::Threads => env::Driver::Threads,
        FileDriver::IoUring => env::Driver::IoUring,
    }
}

/// A disk that is a file.
pub trait Disk: BlockDevice {
    /// Gives it another size, bytes, while it is in use.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if its format cannot do that.
    fn resize(&self, size: u64) -> Result<(), Error>;

    /// Its own snapshots, in no order.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    fn snapshots(&self) -> Result<Vec<Snapshot>, Error>;

    /// Takes one, while it is in use; `now_s` are seconds since the Unix epoch. The name is free.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if its format has none, [`ErrorKind::NoSpace`]: the disk stays as it is then.
    fn create_snapshot(&self, name: &str, now_s: u32) -> Result<(), Error>;

    /// Removes one.
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot).
    fn remove_snapshot(&self, name: &str) -> Result<(), Error>;

    /// Sets the disk back to one, its size included.
    ///
    /// # Errors
    /// As [`create_snapshot`](Self::create_snapshot), and [`ErrorKind::NotFound`].
    fn apply_snapshot(&self, name: &str) -> Result<(), Error>;

    /// One of them, to be read.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    fn open_snapshot(self: Arc<Self>, name: &str) -> Result<Arc<dyn BlockDevice>, Error>;
}

/// Opens a disk of `size` bytes whose file is there.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::InUse`] if another program has it open, [`ErrorKind::Refused`] for a symbolic
/// link, [`ErrorKind::Invalid`] if it is not of that format, [`ErrorKind::Damaged`] if it is smaller.
pub fn open(env: &Env, place: &Place, how: Open, size: u64) -> Result<Arc<dyn Disk>, Error> {
    let options = OpenOptions {
        write: !how.read_only,
        ..OpenOptions::default()
    };
    let file = env
        .files
        .open_below(&place.root, &place.path, options, driver(how.driver))
        .map_err(|e| Error::io(place, "cannot be opened", e))?;
    file.lock_image(!how.read_only)
        .map_err(|e| Error::io(place, "cannot be locked", e))?;
    match how.format {
        // Whatever is in it: a guest may write what it likes to the beginning of its disk.
        FileFormat::Raw => {
            let len = file
                .len()
                .map_err(|e| Error::io(place, "cannot be read", e))?;
            if len < size {
                let why =
                    format!("{place} has {len} bytes and should have {size}: something cut it");
                return Err(Error::new(ErrorKind::Damaged, why));
            }
            Ok(Arc::new(RawDisk::new(file, size, how.read_only)))
        }
        FileFormat::Qcow2 => {
            let disk = Qcow2Disk::open(file, how.read_only, size);
            let disk = disk.map_err(|e| Error::io(place, "cannot be opened", e))?;
            if disk.info().size < size {
                let is = disk.info().size;
                let why = format!("{place} is a disk of {is} bytes and should have {size}");
                return Err(Error::new(ErrorKind::Damaged, why));
            }
            Ok(Arc::new(disk))
        }
    }
}

/// The snapshots of a disk, in the order in which they were taken, whether it is open or not; none of one that is raw.
///
/// # Errors
/// As [`look`].
pub fn snapshots(env: &Env, place: &Place, format: FileFormat) -> Result<Vec<Snapshot>, Error> {
    if format == FileFormat::Raw {
        return Ok(Vec::new());
    }
    let options = OpenOptions::default();
    env.files
        .open_below(&place.root, &place.path, options, env::Driver::Threads)
        .and_then(|file| qcow2::list_snapshots(&*file))
        .map_err(|e| Error::io(place, "cannot be read", e))
}

/// Makes an empty disk of `size` bytes: a sparse file, durable with its name when this returns.
///
/// # Errors
/// [`ErrorKind::Exists`] if something is there; [`ErrorKind::NoSpace`]; [`ErrorKind::Refused`] for a symbolic link on the way.
/// Nothing is left then.
pub fn create(env: &Env, place: &Place, size: u64, how: Open) -> Result<(), Error> {
    place.make_dirs(env)?;
    let options = OpenOptions {
        write: true,
        create_new: true,
        direct: false,
    };
    let file = env
        .files
        .open_below(&place.root, &place.path, options, driver(how.driver))
        .map_err(|e| Error::io(place, "cannot be made", e))?;
    let made = match how.format {
        FileFormat::Raw => file.set_len(size),
        FileFormat::Qcow2 => qcow2::create(&file, size),
    };
    let made = made.and_then(|()| file.sync_data());
    let made = made
        .map_err(|e| Error::io(place, "cannot be made", e))
        .and_then(|()| place.sync(env));
    made.inspect_err(|_| {
        let _ = place.remove(env);
    })
}
