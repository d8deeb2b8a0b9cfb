//! The only door to files, clock, randomness, shared memory and threads.
//!
//! Everything that promises something about crashes takes an [`Env`] and does all its I/O through it,
//! so that the simulator runs the very code that the daemon runs.

mod below;
mod buffer;
mod child;
mod image_lock;
mod memory;
mod pool;
mod real;
mod scope;
mod share;
mod socket;
mod turns;
mod uring;
mod vigil;
mod watch;

pub use buffer::AlignedBuf;
pub use child::Child;
pub use memory::{Memory, RealMemory, Region, heap_copy, heap_region};
pub use pool::{Pool, Task};
pub use real::{RealClock, RealFiles, RealRandom, spawn};
pub use scope::{Scope, scope};
pub use share::{Share, Shares, give_way};
pub use socket::{SocketFile, bind_unix};
pub use vigil::Vigil;
pub use watch::{DiskHealth, STALL, Watch};

use std::{fmt, io, ops::Range, path::Path, path::PathBuf, sync::Arc, time::Duration};

/// Offsets, lengths and buffers of files opened with [`OpenOptions::direct`] are multiples of this.
pub const DIRECT_ALIGNMENT: usize = 4096;

/// The outside world.
#[derive(Clone)]
pub struct Env {
    /// Files and directories.
    pub files: Arc<dyn Files>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Memory that outlives the process.
    pub memory: Arc<dyn Memory>,
}

impl Env {
    /// The machine that we are on.
    #[must_use]
    pub fn real() -> Self {
        Env {
            files: Arc::new(RealFiles),
            clock: Arc::new(RealClock::new()),
            random: Arc::new(RealRandom),
            memory: Arc::new(RealMemory),
        }
    }
}

impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Env")
    }
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpenOptions {
    /// For writing too.
    pub write: bool,
    /// The file must not exist, and is made (mode 0600). Durable after [`Files::sync_dir`] of its directory.
    pub create_new: bool,
    /// Around the page cache where the file system can; see [`DIRECT_ALIGNMENT`].
    pub direct: bool,
}

/// How calls reach the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// One system call each, on the caller's thread.
    #[default]
    Threads,
    /// Through io_uring: long requests in pieces at once, durable writes in one call.
    IoUring,
}

/// A file that is open. Reads and writes take `&self` and may come from many threads.
pub trait File: Send + Sync {
    /// Its length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Bytes of storage that it takes: holes take none.
    fn allocated(&self) -> io::Result<u64>;
    /// When its contents were changed last, since the Unix epoch.
    ///
    /// # Behavior
    /// Who does not know says that it was then, as this body does.
    fn modified(&self) -> io::Result<Duration> {
        Ok(Duration::ZERO)
    }
    /// Fills `buf` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` if the file ends before.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()>;
    /// As [`read_at`](Self::read_at) if that needs no waiting for storage, else `false` with `buf` in any state;
    /// storage may begin with it, as who asks so is about to wait for it.
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool>;
    /// Writes all of `data` at `offset`; the file grows if need be. Durable after [`sync_data`](Self::sync_data).
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()>;
    /// Forgets what the page cache has of it, unless that is to be written yet: the next read gets what is on the medium.
    ///
    /// # Behavior
    /// Who reads from nothing else has nothing to forget, as this body does.
    fn forget_cached(&self) -> io::Result<()> {
        Ok(())
    }
    /// Makes everything written before durable, with what is needed to read it back.
    ///
    /// # Behavior
    /// After an error nobody knows what is durable: the file must not be trusted until it was read anew.
    fn sync_data(&self) -> io::Result<()>;
    /// Cuts or extends it (with a hole).
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes storage for the first `len` bytes, and makes the file so long if it is shorter. What is new reads as
    /// zeroes.
    ///
    /// # Behavior
    /// Where there is no such verb zeroes are written behind the file's end, as this body does.
    fn allocate(&self, len: u64) -> io::Result<()> {
        append_zeroes(self, len)
    }
    /// Writes all of `data` at `offset`; it is durable when this returns.
    fn write_durable_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.write_at(offset, data)?;
        self.sync_data()
    }
    /// Keeps other programs from using it in ways that do not go with ours, by the locks that QEMU uses; until it is
    /// dropped. Many may read, or one may read and write.
    ///
    /// # Behavior
    /// Where there are no other programs nobody is kept off, as this body says.
    ///
    /// # Errors
    /// `ResourceBusy` if another program uses it.
    fn lock_image(&self, _write: bool) -> io::Result<()> {
        Ok(())
    }
    /// Gives storage back: `[offset, offset + len)` reads as zeroes. The length of the file stays.
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()>;
    /// The first bytes that may be other than zero, at or after `offset`; none if only a hole follows.
    ///
    /// # Behavior
    /// Who knows nothing of holes says that everything is data, as this body does.
    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        let len = self.len()?;
        Ok((offset < len).then_some(offset..len))
    }
}

/// Writes zeroes behind the end of `file` until it has `len` bytes.
fn append_zeroes<F: File + ?Sized>(file: &F, len: u64) -> io::Result<()> {
    const ZEROES: &[u8] = &[0; 64 << 10];
    let mut at = file.len()?;
    while at < len {
        let step = (len - at).min(ZEROES.len() as u64);
        file.write_at(at, &ZEROES[..step as usize])?;
        at += step;
    }
    Ok(())
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A block device.
    BlockDevice,
    /// A pipe, a socket, a character device.
    Other,
}

/// Space of a file system, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: u64,
    /// Free for us.
    pub free: u64,
}

/// Why a lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody has it.
    #[error("held by process {0}")]
    Held(u32),
    /// The lock file could not be opened or read.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A lock that is released when this is dropped, or when the process dies.
pub trait Lock: Send + Sync {}

/// Files and directories. Paths are absolute.
pub trait Files: Send + Sync {
    /// Opens a file. A block device is opened for writing only while nobody else has claimed it, as a
    /// mounted file system does.
    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>>;
    /// How many files a single store may keep open, so that there are some left for others.
    fn open_max(&self) -> usize;
    /// Opens a regular file at `path` below `root`, without following a symbolic link there or leaving `root`.
    ///
    /// # Behavior
    /// Where there are no symbolic links paths are only joined, as this body does, and those of the verbs that end so.
    ///
    /// # Errors
    /// `PermissionDenied` for a symbolic link or a way out, `InvalidInput` for what is no regular file,
    /// `Unsupported` if the kernel does not let us have io_uring.
    fn open_below(
        &self,
        root: &Path,
        path: &Path,
        options: OpenOptions,
        _driver: Driver,
    ) -> io::Result<Arc<dyn File>> {
        self.open(&root.join(path), options)
    }
    /// Makes the directory `path` below `root`, whose parent is there, if it is not there (mode 0700).
    fn make_dir_below(&self, root: &Path, path: &Path) -> io::Result<()> {
        self.create_dir_all(&root.join(path))
    }
    /// Gives a file a second name, which must be free; `(root, path)` each. Durable after
    /// [`sync_dir_below`](Self::sync_dir_below).
    ///
    /// # Behavior
    /// Where there are no second names it is an error, as this body says.
    fn link_below(&self, _from: (&Path, &Path), _to: (&Path, &Path)) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    /// Removes a file, and then its directory if that lies below `root` and is empty.
    fn remove_below(&self, root: &Path, path: &Path) -> io::Result<()> {
        self.remove(&root.join(path))
    }
    /// As [`sync_dir`](Self::sync_dir), of `path` below `root`.
    fn sync_dir_below(&self, root: &Path, path: &Path) -> io::Result<()> {
        self.sync_dir(&root.join(path))
    }
    /// Renames a file over another; atomic; durable after [`sync_dir`](Self::sync_dir) of the directory.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable after [`sync_dir`](Self::sync_dir).
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes a directory and its missing parents (mode 0700).
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Names in a directory, in no order; `.` and `..` left out.
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Whether something is there.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// What is at `path`, or at the end of its symbolic links. Opening a pipe could wait for ever: look first.
    ///
    /// # Behavior
    /// Where there are no devices, what can be opened is a regular file, as this body says.
    fn kind(&self, path: &Path) -> io::Result<FileKind> {
        self.open(path, OpenOptions::default())
            .map(|_| FileKind::Regular)
    }
    /// Whether `path` itself is a symbolic link.
    fn is_link(&self, path: &Path) -> io::Result<bool>;
    /// Makes all that was written to these files durable, as [`File::sync_data`] of each does.
    ///
    /// # Behavior
    /// Where one sync can serve several they are done together; this body does one after the other.
    fn sync_data(&self, files: &[Arc<dyn File>]) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync_data())
    }
    /// Makes names that were created, renamed and removed in `path` durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The file system that `path` is on.
    fn space(&self, path: &Path) -> io::Result<Space>;
    /// Takes the exclusive lock `path` (made if missing) and writes our process id into it.
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError>;

    /// The whole of a small file.
    fn read_all(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open(path, OpenOptions::default())?;
        let len = usize::try_from(file.len()?).map_err(io::Error::other)?;
        let mut bytes = vec![0; len];
        file.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Replaces or makes a small file: whole or not at all, durable when it returns.
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let tmp = path.with_extension("tmp");
        if self.exists(&tmp)? {
            self.remove(&tmp)?;
        }
        let file = self.open(
            &tmp,
            OpenOptions {
                write: true,
                create_new: true,
                direct: false,
            },
        )?;
        file.write_at(0, bytes)?;
        file.sync_data()?;
        self.rename(&tmp, path)?;
        self.sync_dir(path.parent().unwrap_or(Path::new("/")))
    }
}

/// Time.
pub trait Clock: Send + Sync {
    /// Since the Unix epoch.
    fn now(&self) -> Duration;
    /// Since some fixed moment; never goes back.
    fn monotonic(&self) -> Duration;
}

/// Randomness, good enough for keys.
pub trait Random: Send + Sync {
    /// Fills `bytes`.
    fn fill(&self, bytes: &mut [u8]);
}

/// A random number.
pub fn random_u64(random: &dyn Random) -> u64 {
    let mut bytes = [0; 8];
    random.fill(&mut bytes);
    u64::from_le_bytes(bytes)
}
