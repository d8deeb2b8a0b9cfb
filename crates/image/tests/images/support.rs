//! A store in a directory of its own, and images beside it.

use env::Env;
use image::{Error, Exported, Import, Source, Target};
use std::{
    fs,
    io::{Seek, SeekFrom, Write},
    ops::Range,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use tempfile::TempDir;
use types::{Cancelled, NoProgress, Progress, VolumeRef};
use volume::{Config, InitOptions, Store, VolumeRecord};

pub(crate) struct World {
    pub(crate) dir: TempDir,
    pub(crate) env: Env,
    pub(crate) store: Store,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let env = Env::real();
        let at = dir.path().join("store");
        Store::init(&env, &at, &InitOptions::default()).unwrap();
        let store = Store::open(&env, &at, Config::small()).unwrap();
        fs::create_dir(dir.path().join("images")).unwrap();
        World { dir, env, store }
    }

    /// A path for an image.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("images").join(name)
    }

    pub(crate) fn images(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir.path().join("images"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn import(&self, name: &str, path: &Path) -> Result<VolumeRecord, Error> {
        let request = from_path(name, path);
        let imported = image::import(&self.store, &self.env, request, &NoProgress)?;
        Ok(imported.volume)
    }

    pub(crate) fn export(&self, name: &str, path: &Path) -> Result<Exported, Error> {
        self.export_with(name, path, false, &NoProgress)
    }

    pub(crate) fn export_with(
        &self,
        name: &str,
        path: &Path,
        overwrite: bool,
        progress: &dyn Progress,
    ) -> Result<Exported, Error> {
        let path = path.to_owned();
        let target = Target::Path { path, overwrite };
        image::export(&self.store, &self.env, &of(name), target, progress)
    }

    /// The whole of a volume, through its device.
    pub(crate) fn contents(&self, name: &str) -> Vec<u8> {
        let device = self.store.device(&of(name)).unwrap();
        let mut bytes = vec![0; device.info().size as usize];
        device.read(0, &mut bytes).unwrap();
        bytes
    }
}

pub(crate) fn of(name: &str) -> VolumeRef {
    name.parse().unwrap()
}

pub(crate) fn from_path<'a>(name: &str, path: &Path) -> Import<'a> {
    Import::new(name.parse().unwrap(), Source::Path(path.to_owned()))
}

/// A file of `len` bytes with data that does not compress where `data` says.
pub(crate) fn sparse(path: &Path, len: u64, data: &[Range<u64>]) {
    let mut file = fs::File::create(path).unwrap();
    file.set_len(len).unwrap();
    for range in data {
        file.seek(SeekFrom::Start(range.start)).unwrap();
        let size = range.end - range.start;
        file.write_all(&noise(range.start, size as usize)).unwrap();
    }
}

pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..len.div_ceil(8))
        .flat_map(|_| next().to_le_bytes())
        .take(len)
        .collect()
}

/// Cancels at the n-th report; keeps the last one before.
pub(crate) struct CancelAfter {
    pub(crate) reports: u64,
    pub(crate) seen: AtomicU64,
    pub(crate) done: AtomicU64,
    pub(crate) total: AtomicU64,
    pub(crate) stored: AtomicU64,
}

impl CancelAfter {
    pub(crate) fn reports(reports: u64) -> Self {
        CancelAfter {
            reports,
            seen: AtomicU64::new(0),
            done: AtomicU64::new(0),
            total: AtomicU64::new(0),
            stored: AtomicU64::new(0),
        }
    }

    pub(crate) fn never() -> Self {
        Self::reports(u64::MAX)
    }
}

/// Does something whenever progress is told.
pub(crate) struct Meanwhile<F>(pub(crate) F);

impl<F: Fn() + Send + Sync> Progress for Meanwhile<F> {
    fn report(&self, _: u64, _: u64) -> Result<(), Cancelled> {
        (self.0)();
        Ok(())
    }

    fn stored(&self, _: u64) {}
}

impl Progress for CancelAfter {
    fn report(&self, done: u64, total: u64) -> Result<(), Cancelled> {
        if self.seen.fetch_add(1, Relaxed) >= self.reports {
            return Err(Cancelled);
        }
        assert!(self.done.swap(done, Relaxed) <= done, "goes back");
        self.total.store(total, Relaxed);
        Ok(())
    }

    fn stored(&self, bytes: u64) {
        self.stored.store(bytes, Relaxed);
    }
}
