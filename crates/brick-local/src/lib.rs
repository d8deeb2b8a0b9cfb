//! A brick in a local directory.
//!
//! ```text
//! brick/
//!   07/00000000000007a3.pack    an object; the directory is bits 8 to 15 of its id
//!   tmp/00000000000007a4.1      put, not synced yet
//! ```
//! An object gets its name when its bytes are durable, in [`sync`](Brick::sync): what a crash leaves in `tmp/` is
//! removed when the brick is opened, so that no torn object is ever listed. Until then it is read from where it is.
//! 256 packs with ids next to each other share a directory: a destage syncs one of them, not many.

mod names;
mod unsynced;

use brick::{Brick, Error, ErrorKind, PackStat, Space};
use env::{DIRECT_ALIGNMENT, Env, File, OpenOptions};
use names::Names;
use quick_cache::sync::Cache;
use std::{io, ops::Range, path::Path, sync::Arc};
use sync::{
    Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
};
use types::{Epoch, PackId};
use unsynced::Unsynced;

/// More objects than this are not left unsynced: it bounds open files and dirty memory.
const UNSYNCED_MAX: usize = 64;
/// Holes begin and end at multiples of this.
const PAGE: u64 = 4096;

/// A brick in a local directory.
pub struct LocalBrick {
    env: Env,
    names: Names,
    files: Cache<PackId, Arc<dyn File>>,
    unsynced: Mutex<Unsynced>,
    /// Held through a sync, so that who finds nothing left to sync waits for who is at it.
    syncing: Mutex<()>,
    epoch: AtomicU64,
    poisoned: AtomicBool,
    syncs: AtomicU64,
}

impl LocalBrick {
    /// Opens the brick in `dir`, made if it is not there, in a directory that is durable. Removes what was never
    /// synced.
    ///
    /// # Errors
    /// The directory cannot be made, read or written.
    pub fn open(env: Env, dir: &Path) -> Result<Self, Error> {
        let names = Names::open(&env, dir).map_err(|e| failed("open", None, e))?;
        let open_max = env.files.open_max();
        Ok(LocalBrick {
            env,
            names,
            files: Cache::new(open_max),
            unsynced: Mutex::default(),
            syncing: Mutex::new(()),
            epoch: AtomicU64::new(0),
            poisoned: AtomicBool::new(false),
            syncs: AtomicU64::new(0),
        })
    }

    /// How often files and directories were synced.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.syncs.load(SeqCst)
    }

    /// Refuses writers of the past, and everybody after a failed sync.
    fn admit(&self, operation: &'static str, epoch: Epoch, pack: PackId) -> Result<(), Error> {
        if self.epoch.fetch_max(epoch.0, SeqCst) > epoch.0 {
            return Err(Error::new(ErrorKind::StaleEpoch, operation, Some(pack)));
        }
        self.check_poison(operation)
    }

    fn check_poison(&self, operation: &'static str) -> Result<(), Error> {
        if self.poisoned.load(SeqCst) {
            let why = io::Error::other("a sync failed before: reopen the store");
            return Err(failed(operation, None, why));
        }
        Ok(())
    }

    /// Counts a sync; poisons the brick if it fails.
    fn synced(&self, done: io::Result<()>) -> io::Result<()> {
        self.syncs.fetch_add(1, SeqCst);
        if done.is_err() {
            self.poisoned.store(true, SeqCst);
        }
        done
    }

    fn file(&self, pack: PackId) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.files.get(&pack) {
            return Ok(file);
        }
        // The lock keeps a put or a remove from happening between opening and caching.
        let unsynced = self.unsynced.lock();
        if let Some(put) = unsynced.get(pack) {
            return Ok(Arc::clone(&put.file));
        }
        let write = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let file = self.env.files.open(&self.names.object(pack), write)?;
        self.files.insert(pack, Arc::clone(&file));
        Ok(file)
    }

    /// Writes a new file around the page cache: what is copied there costs twenty times as much, and most of it nobody
    /// reads before it is dropped. Its readers do use the page cache.
    fn write_new(&self, path: &Path, bytes: &[u8]) -> io::Result<Arc<dyn File>> {
        let new = OpenOptions {
            write: true,
            create_new: true,
            direct: is_direct(bytes),
        };
        let file = self.env.files.open(path, new)?;
        let written = file.write_at(0, bytes);
        let read = OpenOptions {
            create_new: false,
            direct: false,
            ..new
        };
        let done = written.and_then(|()| match new.direct {
            true => self.env.files.open(path, read),
            false => Ok(file),
        });
        if done.is_err() {
            // The space is needed; the error that matters is the first.
            let _ = self.env.files.remove(path);
        }
        done
    }

    /// Makes durable and names what was put, then makes names durable. The caller holds `syncing`.
    fn sync_all(&self) -> io::Result<()> {
        let (puts, mut dirs) = self.unsynced.lock().begin_sync();
        let files: Vec<_> = puts.iter().map(|(_, put)| Arc::clone(&put.file)).collect();
        self.syncs.fetch_add(files.len() as u64, SeqCst);
        // An error poisons: the caller sees to it.
        self.env.files.sync_data(&files)?;
        for (pack, put) in puts {
            let dir = self.names.dir(pack);
            if self.names.make(&self.env, &dir)? {
                dirs.insert(self.names.root().to_owned());
            }
            let mut unsynced = self.unsynced.lock();
            if unsynced.is(pack, &put) {
                self.env.files.rename(&put.path, &self.names.object(pack))?;
                unsynced.named(pack);
                dirs.insert(dir);
            }
        }
        for dir in dirs {
            self.synced(self.env.files.sync_dir(&dir))?;
        }
        Ok(())
    }

    fn stat(&self, pack: PackId) -> io::Result<PackStat> {
        let cached = self.files.peek(&pack);
        let put = self
            .unsynced
            .lock()
            .get(pack)
            .map(|put| Arc::clone(&put.file));
        let file = match put.or(cached) {
            Some(file) => file,
            None => self
                .env
                .files
                .open(&self.names.object(pack), OpenOptions::default())?,
        };
        Ok(PackStat {
            pack,
            len: file.len()?,
            stored: file.allocated()?,
        })
    }
}

impl Brick for LocalBrick {
    fn put(&self, epoch: Epoch, pack: PackId, bytes: &[u8]) -> Result<(), Error> {
        self.admit("put", epoch, pack)?;
        if self.unsynced.lock().len() >= UNSYNCED_MAX {
            self.sync()?;
        }
        let path = self.names.temporary(pack);
        let file = self
            .write_new(&path, bytes)
            .map_err(|e| failed("put", Some(pack), e))?;
        let mut unsynced = self.unsynced.lock();
        let replaced = unsynced.put(pack, path, Arc::clone(&file));
        self.files.insert(pack, file);
        drop(unsynced);
        if let Some(old) = replaced {
            let removed = self.env.files.remove(&old.path);
            removed.map_err(|e| failed("put", Some(pack), e))?;
        }
        Ok(())
    }

    fn read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.file(pack)
            .and_then(|file| file.read_at(offset, buf))
            .map_err(|e| failed("read", Some(pack), e))
    }

    fn try_read(&self, pack: PackId, offset: u64, buf: &mut [u8]) -> Result<bool, Error> {
        // Opening a file may wait for its directory.
        let Some(file) = self.files.get(&pack) else {
            return Ok(false);
        };
        file.try_read_at(offset, buf)
            .map_err(|e| failed("read", Some(pack), e))
    }

    fn refresh(&self, pack: PackId) -> Result<(), Error> {
        match self.file(pack).and_then(|file| file.forget_cached()) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(|e| failed("refresh", Some(pack), e)),
        }
    }

    fn trim(
        &self,
        epoch: Epoch,
        pack: PackId,
        mark: (u64, &[u8]),
        holes: &[Range<u64>],
    ) -> Result<(), Error> {
        self.admit("trim", epoch, pack)?;
        let named = self.unsynced.lock().get(pack).is_none();
        if !named {
            self.sync()?;
        }
        let trim = || {
            let file = self.file(pack)?;
            file.write_at(mark.0, mark.1)?;
            self.synced(file.sync_data())?;
            for hole in holes {
                let start = hole.start.next_multiple_of(PAGE);
                let end = hole.end / PAGE * PAGE;
                if start < end && !punch(&*file, start, end - start)? {
                    break;
                }
            }
            Ok(())
        };
        trim().map_err(|e| failed("trim", Some(pack), e))
    }

    fn remove(&self, epoch: Epoch, pack: PackId) -> Result<(), Error> {
        self.admit("remove", epoch, pack)?;
        let mut unsynced = self.unsynced.lock();
        let put = unsynced.remove(pack);
        self.files.remove(&pack);
        let remove = |path: &Path| match self.env.files.remove(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|()| true),
        };
        let done = put
            .map_or(Ok(false), |put| remove(&put.path))
            .and_then(|_| remove(&self.names.object(pack)));
        if done.map_err(|e| failed("remove", Some(pack), e))? {
            unsynced.changed(self.names.dir(pack));
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        let _one = self.syncing.lock();
        // Under the lock: a file whose sync failed may well succeed for the next one who tries, and have lost data.
        self.check_poison("sync")?;
        let done = self.sync_all();
        if done.is_err() {
            // Also where no sync failed but a rename: the caller cannot know what is durable.
            self.poisoned.store(true, SeqCst);
        }
        done.map_err(|e| failed("sync", None, e))
    }

    fn list(&self) -> Result<Vec<PackStat>, Error> {
        let named = self.names.list(&self.env);
        let mut packs = named.map_err(|e| failed("list", None, e))?;
        packs.extend(self.unsynced.lock().packs());
        packs.sort_unstable();
        packs.dedup();
        let mut stats = Vec::with_capacity(packs.len());
        for pack in packs {
            match self.stat(pack) {
                // Removed since.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                other => stats.push(other.map_err(|e| failed("list", Some(pack), e))?),
            }
        }
        Ok(stats)
    }

    fn space(&self) -> Result<Space, Error> {
        let space = self.env.files.space(self.names.root());
        let space = space.map_err(|e| failed("space", None, e))?;
        Ok(Space {
            total: space.total,
            free: space.free,
        })
    }
}

/// Whether these bytes may be written around the page cache.
fn is_direct(bytes: &[u8]) -> bool {
    bytes.len().is_multiple_of(DIRECT_ALIGNMENT)
        && bytes.as_ptr().align_offset(DIRECT_ALIGNMENT) == 0
}

/// Gives storage back; `false` where the file system cannot: then it stays taken, which harms nobody.
fn punch(file: &dyn File, offset: u64, len: u64) -> io::Result<bool> {
    match file.punch_hole(offset, len) {
        Err(e) if e.kind() == io::ErrorKind::Unsupported => Ok(false),
        done => done.map(|()| true),
    }
}

fn failed(operation: &'static str, pack: Option<PackId>, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof => ErrorKind::NotFound,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    Error::new(kind, operation, pack).with_source(error)
}

#[cfg(test)]
mod tests;
