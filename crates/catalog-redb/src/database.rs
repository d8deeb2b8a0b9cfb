//! Making, opening and running the database.

use crate::{
    backend::FileBackend,
    commit, fill,
    guard::{Cause, guarded},
    tables,
};
use catalog::{
    Catalog, Change, Contents, Error, ErrorKind, IdKind, Settings, SnapshotRecord, VolumeRecord,
};
use env::{Env, File, OpenOptions};
use parking_lot::RwLock;
use redb::{Builder, Database, ReadTransaction, ReadableDatabase, WriteTransaction};
use std::{
    io,
    ops::Range,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use types::{Epoch, Name, PackId, VolumeId};

/// Memory for pages, bytes. A catalog of 10,000 records is about 3 MiB.
const CACHE_SIZE: usize = 8 << 20;
/// A file shorter than redb's header was never a catalog. redb would make an empty one of an empty file.
const FILE_LEN_MIN: u64 = 4096;

/// The catalog of one host. One process may have it open at a time: the store's lock sees to that.
///
/// Dropping it closes the file cleanly; not to be dropped costs the next open a few milliseconds.
pub struct RedbCatalog {
    env: Env,
    path: PathBuf,
    slot: RwLock<Slot>,
}

/// The open database, if it can be trusted.
struct Slot {
    opened: Option<Opened>,
    /// How often it was opened: who failed with an older one need not open it again.
    generation: u64,
}

struct Opened {
    database: Database,
    /// The file could not grow.
    full: Arc<AtomicBool>,
}

/// What became of the database after a failure.
enum Aftermath {
    /// As it was: only the call was refused.
    Unharmed,
    /// Opened again after space ran out.
    Reopened,
    /// Given up.
    Closed,
}

impl RedbCatalog {
    /// Makes an empty catalog.
    ///
    /// # Behavior
    /// The file appears whole and durable, or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] if there is a file of this name already.
    pub fn create(env: &Env, path: &Path) -> Result<Self, Error> {
        Self::create_with(env, path, &Contents::default())
    }

    /// Makes a catalog that has these contents.
    ///
    /// # Behavior
    /// As [`create`](Self::create).
    ///
    /// # Errors
    /// [`ErrorKind::Exists`] if there is a file of this name already, [`ErrorKind::Corrupt`] if the contents are
    /// not [sound](Contents::is_sound).
    pub fn create_with(env: &Env, path: &Path, contents: &Contents) -> Result<Self, Error> {
        let io = |error: io::Error| Cause::from(redb::StorageError::Io(error)).into_error("create");
        if env.files.exists(path).map_err(io)? {
            return Err(Error::new(ErrorKind::Exists, "create"));
        }
        let mut unfinished = path.as_os_str().to_owned();
        unfinished.push(".new");
        let unfinished = PathBuf::from(unfinished);
        if env.files.exists(&unfinished).map_err(io)? {
            env.files.remove(&unfinished).map_err(io)?;
        }
        guarded(|| make(env, &unfinished, contents)).map_err(|c| c.into_error("create"))?;
        env.files.rename(&unfinished, path).map_err(io)?;
        env.files
            .sync_dir(path.parent().unwrap_or(Path::new("/")))
            .map_err(io)?;
        Self::open(env, path)
    }

    /// Opens the catalog that is there, and verifies all of it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if it is damaged or no catalog, [`ErrorKind::NewerFormat`].
    pub fn open(env: &Env, path: &Path) -> Result<Self, Error> {
        let opened = guarded(|| open_existing(env, path)).map_err(|c| c.into_error("open"))?;
        Ok(RedbCatalog {
            env: env.clone(),
            path: path.to_owned(),
            slot: RwLock::new(Slot {
                opened: Some(opened),
                generation: 0,
            }),
        })
    }

    fn read<T>(
        &self,
        operation: &'static str,
        body: impl Fn(&ReadTransaction) -> Result<T, Cause>,
    ) -> Result<T, Error> {
        let attempt = || self.run(operation, |db| body(&db.begin_read()?));
        match attempt() {
            // A writer ran out of space meanwhile; that is nothing to a reader.
            Err((_, Aftermath::Reopened)) => attempt().map_err(|(error, _)| error),
            other => other.map_err(|(error, _)| error),
        }
    }

    fn write<T>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&WriteTransaction) -> Result<T, Cause>,
    ) -> Result<T, Error> {
        // Transactions of other threads wait within `begin_write`.
        self.run(operation, |db| {
            let txn = begin_write(db)?;
            let result = body(&txn)?;
            count_up(&txn, tables::COMMIT, 1, u64::MAX)?;
            txn.commit()?;
            Ok(result)
        })
        .map_err(|(error, _)| error)
    }

    fn run<T>(
        &self,
        operation: &'static str,
        body: impl FnOnce(&Database) -> Result<T, Cause>,
    ) -> Result<T, (Error, Aftermath)> {
        let slot = self.slot.read();
        let Some(opened) = &slot.opened else {
            return Err((Error::new(ErrorKind::Io, operation), Aftermath::Closed));
        };
        let generation = slot.generation;
        let result = guarded(|| body(&opened.database));
        drop(slot);
        result.map_err(|cause| {
            let aftermath = self.recover(&cause, generation);
            let error = match aftermath {
                Aftermath::Reopened => Error::new(ErrorKind::NoSpace, operation),
                Aftermath::Unharmed | Aftermath::Closed => cause.into_error(operation),
            };
            (error, aftermath)
        })
    }

    /// After a failure of the database: opens it again if that can help, or gives it up.
    fn recover(&self, cause: &Cause, generation: u64) -> Aftermath {
        // A record that makes no sense is no reason to refuse the others.
        if matches!(
            cause,
            Cause::Refused(_) | Cause::Damaged(_) | Cause::Newer(_)
        ) {
            return Aftermath::Unharmed;
        }
        let mut slot = self.slot.write();
        if slot.generation != generation {
            return Aftermath::Reopened;
        }
        let Some(opened) = slot.opened.take() else {
            return Aftermath::Closed;
        };
        let full = opened.full.load(Ordering::Acquire);
        close(opened);
        if full && cause.kind() == ErrorKind::Io {
            slot.opened = guarded(|| open_existing(&self.env, &self.path)).ok();
        }
        if slot.opened.is_some() {
            slot.generation += 1;
            Aftermath::Reopened
        } else {
            Aftermath::Closed
        }
    }
}

impl Drop for RedbCatalog {
    fn drop(&mut self) {
        if let Some(opened) = self.slot.get_mut().opened.take() {
            close(opened);
        }
    }
}

impl Catalog for RedbCatalog {
    fn settings(&self) -> Result<Settings, Error> {
        self.read("settings", |txn| {
            tables::settings(&txn.open_table(tables::SETTINGS)?)
        })
    }

    fn volume(&self, id: VolumeId) -> Result<Option<VolumeRecord>, Error> {
        self.read("volume", |txn| {
            tables::volume(&txn.open_table(tables::VOLUMES)?, id)
        })
    }

    fn find(&self, name: &Name) -> Result<Option<VolumeRecord>, Error> {
        self.read("find", |txn| {
            let names = txn.open_table(tables::NAMES)?;
            tables::find(&names, &txn.open_table(tables::VOLUMES)?, name)
        })
    }

    fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        self.read("volumes", |txn| {
            tables::volumes(&txn.open_table(tables::VOLUMES)?)
        })
    }

    fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotRecord>, Error> {
        self.read("snapshots", |txn| {
            tables::snapshots(&txn.open_table(tables::SNAPSHOTS)?, volume)
        })
    }

    fn find_snapshot(
        &self,
        volume: VolumeId,
        name: &Name,
    ) -> Result<Option<SnapshotRecord>, Error> {
        self.read("find_snapshot", |txn| {
            let names = txn.open_table(tables::SNAPSHOT_NAMES)?;
            let snapshots = txn.open_table(tables::SNAPSHOTS)?;
            tables::find_snapshot(&names, &snapshots, volume, name)
        })
    }

    fn contents(&self) -> Result<Contents, Error> {
        self.read("contents", fill::contents)
    }

    fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        self.write("commit", |txn| commit::apply(txn, changes))
    }

    fn reserve(&self, kind: IdKind, count: u64) -> Result<Range<u64>, Error> {
        let limit = match kind {
            IdKind::Pack => PackId::LIMIT,
            IdKind::Volume | IdKind::Snapshot => u64::MAX,
        };
        self.write("reserve", |txn| {
            count_up(txn, tables::counter_of(kind), count, limit)
        })
    }

    fn next_store_epoch(&self) -> Result<Epoch, Error> {
        self.write("next_store_epoch", |txn| {
            let next = count_up(txn, tables::STORE_EPOCH, 1, u64::MAX)?;
            Ok(Epoch(next.start))
        })
    }
}

/// The `count` numbers after the counter's; all below `limit`.
fn count_up(
    txn: &WriteTransaction,
    name: &'static str,
    count: u64,
    limit: u64,
) -> Result<Range<u64>, Cause> {
    let mut counters = txn.open_table(tables::COUNTERS)?;
    let last = tables::counter(&counters, name)?;
    let end = last
        .checked_add(1)
        .and_then(|first| first.checked_add(count))
        .filter(|&end| end <= limit)
        .ok_or(Cause::Refused(ErrorKind::Invalid))?;
    let bytes = tables::counter_bytes(name, end - 1)?;
    counters.insert(name, bytes.as_slice())?;
    Ok(last + 1..end)
}

fn begin_write(database: &Database) -> Result<WriteTransaction, Cause> {
    let mut txn = database.begin_write()?;
    txn.set_two_phase_commit(true);
    Ok(txn)
}

fn make(env: &Env, path: &Path, contents: &Contents) -> Result<(), Cause> {
    let options = OpenOptions {
        write: true,
        create_new: true,
        direct: false,
    };
    let file = env
        .files
        .open(path, options)
        .map_err(redb::StorageError::Io)?;
    let backend = FileBackend::new(file, Arc::default());
    let database = Builder::new()
        .set_cache_size(CACHE_SIZE)
        .create_with_backend(backend)?;
    let txn = begin_write(&database)?;
    fill::fill(&txn, contents)?;
    txn.commit()?;
    Ok(())
}

fn open_existing(env: &Env, path: &Path) -> Result<Opened, Cause> {
    let options = OpenOptions {
        write: true,
        create_new: false,
        direct: false,
    };
    let file = env
        .files
        .open(path, options)
        .map_err(redb::StorageError::Io)?;
    if file.len().map_err(redb::StorageError::Io)? < FILE_LEN_MIN {
        return Err(Cause::damaged("the file is cut short"));
    }
    check_regions(&*file)?;
    let full = Arc::new(AtomicBool::new(false));
    let walked = Arc::new(AtomicBool::new(false));
    let walks = Arc::clone(&walked);
    let mut database = Builder::new()
        .set_cache_size(CACHE_SIZE)
        .set_repair_callback(move |_| walks.store(true, Ordering::Relaxed))
        .create_with_backend(FileBackend::new(file, Arc::clone(&full)))?;
    if !walked.load(Ordering::Relaxed) {
        // What it may find fit to repair is the allocator's state: a damaged tree is an error, as
        // every commit is two-phase.
        database.check_integrity()?;
    }
    check_format(&database)?;
    Ok(Opened { database, full })
}

/// redb makes room for as many pages as the header of a file that was closed says, in memory and in the file, whether they
/// are there or not.
/// (Where it was not closed, redb goes by the file's length.)
fn check_regions(file: &dyn File) -> Result<(), Cause> {
    let mut header = [0; 32];
    file.read_at(0, &mut header)
        .map_err(redb::StorageError::Io)?;
    let number = |at: usize| {
        let bytes = header[at..at + 4].iter().rev();
        bytes.fold(0_u64, |n, &byte| n << 8 | u64::from(byte))
    };
    let (page_bytes, region_pages, regions, more) =
        (number(12), number(20), number(24), number(28));
    let closed = header[9] & 2 == 0;
    let len = file.len().map_err(redb::StorageError::Io)?;
    let pages = u128::from(region_pages) * u128::from(regions) + u128::from(more);
    let needed = u128::from(page_bytes) * pages;
    if closed && needed > u128::from(len) {
        return Err(Cause::damaged("the file is shorter than its header says"));
    }
    Ok(())
}

fn check_format(database: &Database) -> Result<(), Cause> {
    let txn = database.begin_read()?;
    let format = tables::counter(&txn.open_table(tables::COUNTERS)?, tables::FORMAT)?;
    if format > tables::FORMAT_VERSION {
        return Err(Cause::Newer("its tables are of a newer format"));
    }
    if format != tables::FORMAT_VERSION {
        return Err(Cause::damaged("it is of no known format"));
    }
    txn.open_table(tables::SETTINGS)?;
    txn.open_table(tables::VOLUMES)?;
    txn.open_table(tables::NAMES)?;
    txn.open_table(tables::SNAPSHOTS)?;
    txn.open_table(tables::SNAPSHOT_NAMES)?;
    Ok(())
}

/// Closes cleanly if it can: redb's own drop may panic once it has panicked before.
fn close(opened: Opened) {
    let closed = guarded(|| {
        drop(opened);
        Ok(())
    });
    // Not closed cleanly, it is recovered by the next open.
    drop(closed);
}
