//! Files that do as they are told to by a test.

use env::{Env, File, Files, Lock, LockError, OpenOptions, Space};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use sync::{Condvar, Mutex};

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Sync {
    #[default]
    Works,
    /// The next one stops.
    Stop,
    Stopped,
    /// The one that stopped fails.
    Fail,
}

/// What goes wrong.
#[derive(Default)]
pub(super) struct Faults {
    sync: Mutex<Sync>,
    changed: Condvar,
    no_holes: Mutex<bool>,
}

impl Faults {
    fn set(&self, sync: Sync) {
        *self.sync.lock() = sync;
        self.changed.notify_all();
    }

    /// The next sync of a file stops before it does anything.
    pub(super) fn stop_sync(&self) {
        self.set(Sync::Stop);
    }

    pub(super) fn wait_stopped(&self) {
        let mut sync = self.sync.lock();
        self.changed
            .wait_while(&mut sync, |sync| *sync != Sync::Stopped);
    }

    /// The sync that stopped fails; later ones work.
    pub(super) fn fail_sync(&self) {
        self.set(Sync::Fail);
    }

    pub(super) fn no_holes(&self) {
        *self.no_holes.lock() = true;
    }

    fn meet(&self) -> io::Result<()> {
        let mut sync = self.sync.lock();
        if *sync != Sync::Stop {
            return Ok(());
        }
        *sync = Sync::Stopped;
        self.changed.notify_all();
        self.changed
            .wait_while(&mut sync, |sync| *sync == Sync::Stopped);
        *sync = Sync::Works;
        Err(io::Error::other("told to fail"))
    }
}

/// The same machine, with faults.
pub(super) fn env(inner: &Env) -> (Env, Arc<Faults>) {
    let faults = Arc::new(Faults::default());
    let files = FaultyFiles(Arc::clone(&inner.files), Arc::clone(&faults));
    let env = Env {
        files: Arc::new(files),
        ..inner.clone()
    };
    (env, faults)
}

struct FaultyFiles(Arc<dyn Files>, Arc<Faults>);

macro_rules! forward {
    ($($verb:ident($($arg:ident: $type:ty),*) -> $out:ty;)*) => {
        $(fn $verb(&self, $($arg: $type),*) -> $out { self.0.$verb($($arg),*) })*
    };
}

impl Files for FaultyFiles {
    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        let file = self.0.open(path, options)?;
        Ok(Arc::new(FaultyFile(file, Arc::clone(&self.1))))
    }

    forward! {
        open_max() -> usize;
        rename(from: &Path, to: &Path) -> io::Result<()>;
        remove(path: &Path) -> io::Result<()>;
        create_dir_all(path: &Path) -> io::Result<()>;
        list(path: &Path) -> io::Result<Vec<PathBuf>>;
        exists(path: &Path) -> io::Result<bool>;
        is_link(path: &Path) -> io::Result<bool>;
        sync_dir(path: &Path) -> io::Result<()>;
        space(path: &Path) -> io::Result<Space>;
        lock(path: &Path) -> Result<Box<dyn Lock>, LockError>;
    }
}

struct FaultyFile(Arc<dyn File>, Arc<Faults>);

impl File for FaultyFile {
    forward! {
        len() -> io::Result<u64>;
        allocated() -> io::Result<u64>;
        read_at(offset: u64, buf: &mut [u8]) -> io::Result<()>;
        try_read_at(offset: u64, buf: &mut [u8]) -> io::Result<bool>;
        write_at(offset: u64, data: &[u8]) -> io::Result<()>;
        set_len(len: u64) -> io::Result<()>;
    }

    fn sync_data(&self) -> io::Result<()> {
        self.1.meet()?;
        self.0.sync_data()
    }

    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        if *self.1.no_holes.lock() {
            // EOPNOTSUPP.
            return Err(io::Error::from_raw_os_error(95));
        }
        self.0.punch_hole(offset, len)
    }
}
