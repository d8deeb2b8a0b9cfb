//! Who waits for a disk, since when, and what disks answered last.
//!
//! [`Watch::files`] stands in front of other [`Files`] and notes every call that may wait for storage while
//! it runs, and every error that says that storage is sick. Looking at a [`Watch`] waits for nothing, so that
//! it tells of a disk that stalls while it does.

use crate::{Clock, File, FileKind, Files, Lock, LockError, OpenOptions, Space};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// A call that takes longer is a stall.
pub const STALL: Duration = Duration::from_secs(5);

/// What is known of the disks behind [`Watch::files`].
pub struct Watch {
    clock: Arc<dyn Clock>,
    /// A real lock in model checks, too: libraries do I/O under locks of their own, which the model does not know.
    seen: Mutex<Seen>,
}

#[derive(Default)]
struct Seen {
    next: u64,
    /// Calls that run, in the order in which they began.
    running: BTreeMap<u64, Call>,
    stalls: u64,
    errors: u64,
    last_error: Option<String>,
}

#[derive(Clone)]
struct Call {
    what: &'static str,
    path: Arc<Path>,
    since: Duration,
}

/// How the disks are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskHealth {
    /// The call that has been running for longest, if that is a stall: what it does, and for how long.
    pub stalled: Option<(String, Duration)>,
    /// Calls that took longer than [`STALL`], those that still run left out.
    pub stalls: u64,
    /// Calls that failed because storage is sick.
    pub errors: u64,
    /// The last of those.
    pub last_error: Option<String>,
}

impl Watch {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Watch {
            clock,
            seen: Mutex::default(),
        })
    }

    /// `files`, watched.
    #[must_use]
    pub fn files(self: &Arc<Self>, files: Arc<dyn Files>) -> Arc<dyn Files> {
        Arc::new(Watched {
            watch: Arc::clone(self),
            files,
        })
    }

    /// How the disks are now.
    #[must_use]
    pub fn health(&self) -> DiskHealth {
        let now = self.clock.monotonic();
        let seen = self.seen.lock();
        let oldest = seen.running.values().next();
        let stalled = oldest
            .map(|call| (call, now.saturating_sub(call.since)))
            .filter(|(_, took)| *took >= STALL)
            .map(|(call, took)| (format!("{} {}", call.what, call.path.display()), took));
        DiskHealth {
            stalled,
            stalls: seen.stalls,
            errors: seen.errors,
            last_error: seen.last_error.clone(),
        }
    }

    fn call<T>(
        &self,
        what: &'static str,
        path: &Arc<Path>,
        body: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let since = self.clock.monotonic();
        let key = {
            let mut seen = self.seen.lock();
            seen.next += 1;
            let key = seen.next;
            let path = Arc::clone(path);
            seen.running.insert(key, Call { what, path, since });
            key
        };
        let done = body();
        let took = self.clock.monotonic().saturating_sub(since);
        let mut seen = self.seen.lock();
        seen.running.remove(&key);
        seen.stalls += u64::from(took >= STALL);
        if let Some(error) = done.as_ref().err().filter(|error| is_sickness(error)) {
            seen.errors += 1;
            seen.last_error = Some(format!("{what} {}: {error}", path.display()));
        }
        done
    }
}

/// Not what a caller asked for wrongly, and not a lack of space, which is told elsewhere.
fn is_sickness(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    !matches!(
        error.kind(),
        Kind::NotFound
            | Kind::AlreadyExists
            | Kind::UnexpectedEof
            | Kind::InvalidInput
            | Kind::Unsupported
            | Kind::Interrupted
            | Kind::StorageFull
            | Kind::QuotaExceeded
            | Kind::ResourceBusy
    )
}

struct Watched {
    watch: Arc<Watch>,
    files: Arc<dyn Files>,
}

impl Watched {
    fn call<T>(
        &self,
        what: &'static str,
        path: &Path,
        body: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.watch.call(what, &Arc::from(path), body)
    }
}

impl Files for Watched {
    fn open_max(&self) -> usize {
        self.files.open_max()
    }

    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        let path: Arc<Path> = Arc::from(path);
        let file = self
            .watch
            .call("opening", &path, || self.files.open(&path, options))?;
        Ok(Arc::new(WatchedFile {
            watch: Arc::clone(&self.watch),
            path,
            file,
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call("renaming", from, || self.files.rename(from, to))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call("removing", path, || self.files.remove(path))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.call("making", path, || self.files.create_dir_all(path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.call("listing", path, || self.files.list(path))
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.files.exists(path)
    }

    fn kind(&self, path: &Path) -> io::Result<FileKind> {
        self.files.kind(path)
    }

    fn sync_data(&self, files: &[Arc<dyn File>]) -> io::Result<()> {
        // They are watched, each for itself.
        self.files.sync_data(files)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.call("syncing", path, || self.files.sync_dir(path))
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.files.is_link(path)
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.files.space(path)
    }

    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.files.lock(path)
    }
}

struct WatchedFile {
    watch: Arc<Watch>,
    path: Arc<Path>,
    file: Arc<dyn File>,
}

impl WatchedFile {
    fn call<T>(&self, what: &'static str, body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        self.watch.call(what, &self.path, body)
    }
}

impl File for WatchedFile {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn allocated(&self) -> io::Result<u64> {
        self.file.allocated()
    }

    fn modified(&self) -> io::Result<Duration> {
        self.file.modified()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.call("reading", || self.file.read_at(offset, buf))
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        // It never waits.
        self.file.try_read_at(offset, buf)
    }

    fn forget_cached(&self) -> io::Result<()> {
        self.file.forget_cached()
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.call("writing", || self.file.write_at(offset, data))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.call("syncing", || self.file.sync_data())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.call("resizing", || self.file.set_len(len))
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        self.call("allocating", || self.file.allocate(len))
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.call("punching holes in", || self.file.punch_hole(offset, len))
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<Range<u64>>> {
        self.file.next_data(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sync::atomic::{AtomicU64, Ordering::SeqCst};

    #[derive(Default)]
    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> Duration {
            self.monotonic()
        }
        fn monotonic(&self) -> Duration {
            Duration::from_secs(self.0.load(SeqCst))
        }
    }

    #[test]
    fn a_call_that_waits_is_seen_while_it_does() {
        let clock = Arc::new(Hand::default());
        let watch = Watch::new(Arc::clone(&clock) as Arc<dyn Clock>);
        let path: Arc<Path> = Arc::from(Path::new("/a"));
        let later: Arc<Path> = Arc::from(Path::new("/b"));
        let call = watch.call("syncing", &path, || {
            clock.0.store(4, SeqCst);
            assert_eq!(watch.health().stalled, None);
            watch.call("writing", &later, || {
                clock.0.store(7, SeqCst);
                let stalled = Some(("syncing /a".to_owned(), Duration::from_secs(7)));
                assert_eq!(watch.health().stalled, stalled);
                Ok(())
            })
        });
        call.unwrap();
        let health = watch.health();
        assert_eq!((health.stalled, health.stalls), (None, 1));
    }

    #[test]
    fn what_says_that_a_disk_is_sick_is_remembered() {
        let watch = Watch::new(Arc::new(Hand::default()));
        let path: Arc<Path> = Arc::from(Path::new("/a"));
        for errno in [libc::ENOENT, libc::ENOSPC, libc::EEXIST] {
            let failed = || Err::<(), _>(io::Error::from_raw_os_error(errno));
            assert!(watch.call("writing", &path, failed).is_err());
        }
        assert_eq!(watch.health(), DiskHealth::default());
        for errno in [libc::EIO, libc::EROFS, libc::EACCES] {
            let failed = || Err::<(), _>(io::Error::from_raw_os_error(errno));
            assert!(watch.call("writing", &path, failed).is_err());
        }
        let health = watch.health();
        assert_eq!(health.errors, 3);
        assert!(
            health
                .last_error
                .unwrap()
                .starts_with("writing /a: Permission denied")
        );
    }
}
