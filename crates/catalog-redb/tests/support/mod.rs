//! What the tests of this crate share: records, and files that fail when told to.

#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use catalog::{Properties, SnapshotRecord, VolumeRecord};
use env::{Env, File, Files, Lock, LockError, OpenOptions, Space};
use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
};
use types::{Epoch, Generation, Name, Root, SnapshotId, VolumeId};

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn volume(id: u64, text: &str) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        version: 0,
        name: name(text),
        epoch: Epoch(1),
        size: 1 << 30,
        root: Root::EMPTY,
        destaged: Generation(0),
        mapped_blocks: 0,
        properties: Properties::default(),
        created_ms: 1,
        origin: None,
        trashed: None,
    }
}

pub fn snapshot(volume: u64, id: u64, text: &str) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId(id),
        version: 0,
        volume: VolumeId(volume),
        name: name(text),
        size: 1 << 30,
        generation: Generation(1),
        root: None,
        mapped_blocks: 0,
        created_ms: 2,
    }
}

/// What fails from now on; each is a countdown of calls that still succeed, or negative for never.
#[derive(Default)]
pub struct Faults {
    /// Bytes that the file system has left for growing files, or negative for any number.
    pub space: AtomicI64,
    pub writes: AtomicI64,
    pub syncs: AtomicI64,
    pub reads: AtomicI64,
}

impl Faults {
    pub fn none() -> Arc<Self> {
        let faults = Faults::default();
        faults.heal();
        Arc::new(faults)
    }

    pub fn heal(&self) {
        for countdown in [&self.space, &self.writes, &self.syncs, &self.reads] {
            countdown.store(-1, Ordering::SeqCst);
        }
    }

    fn step(countdown: &AtomicI64) -> io::Result<()> {
        let left = countdown.load(Ordering::SeqCst);
        if left == 0 {
            return Err(io::Error::from_raw_os_error(5));
        }
        countdown.store((left - 1).max(-1), Ordering::SeqCst);
        Ok(())
    }
}

/// An environment of real files that fail as `faults` says.
pub fn faulty(faults: &Arc<Faults>) -> Env {
    let real = Env::real();
    Env {
        files: Arc::new(FaultyFiles(Arc::clone(&real.files), Arc::clone(faults))),
        ..real
    }
}

struct FaultyFiles(Arc<dyn Files>, Arc<Faults>);

impl Files for FaultyFiles {
    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        let file = self.0.open(path, options)?;
        Ok(Arc::new(FaultyFile(file, Arc::clone(&self.1))))
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.0.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.0.exists(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.sync_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.0.space(path)
    }
    fn lock(&self, path: &Path) -> Result<Box<dyn Lock>, LockError> {
        self.0.lock(path)
    }
}

struct FaultyFile(Arc<dyn File>, Arc<Faults>);

impl FaultyFile {
    /// As a file system does, storage is taken when a hole is written to.
    fn take_space(&self, offset: u64, len: u64) -> io::Result<()> {
        let space = self.1.space.load(Ordering::SeqCst);
        if space < 0 {
            return Ok(());
        }
        let mut held = vec![0; len as usize];
        let is_hole = self.0.read_at(offset, &mut held).is_err()
            || held.iter().all(|&byte| byte == 0) && self.0.allocated()? < self.0.len()?;
        if !is_hole {
            return Ok(());
        }
        if (space as u64) < len {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.1.space.store(space - len as i64, Ordering::SeqCst);
        Ok(())
    }
}

impl File for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }
    fn allocated(&self) -> io::Result<u64> {
        self.0.allocated()
    }
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        Faults::step(&self.1.reads)?;
        self.0.read_at(offset, buf)
    }
    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<bool> {
        self.0.try_read_at(offset, buf)
    }
    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        Faults::step(&self.1.writes)?;
        self.take_space(offset, data.len() as u64)?;
        self.0.write_at(offset, data)
    }
    fn sync_data(&self) -> io::Result<()> {
        Faults::step(&self.1.syncs)?;
        self.0.sync_data()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
    fn punch_hole(&self, offset: u64, len: u64) -> io::Result<()> {
        self.0.punch_hole(offset, len)
    }
}
