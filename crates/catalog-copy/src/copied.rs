//! A catalog that keeps its copy up to date.

use crate::{Found, read, writer::Writer};
use catalog::{
    Catalog, Change, Contents, Error, IdKind, Settings, SnapshotRecord, Step, VolumeRecord,
};
use env::Env;
use std::{fmt, ops::Range, path::Path, sync::Arc};
use sync::Mutex;
use types::{Epoch, Name, StoreId, VolumeId};

/// A catalog and its copy. Everybody commits through this.
pub struct Copied {
    catalog: Arc<dyn Catalog>,
    copy: Mutex<Copy>,
}

struct Copy {
    writer: Writer,
    /// The catalog's last commit.
    commit: u64,
    /// Writing has failed, and that was said.
    behind: bool,
}

/// Why a catalog cannot be used with the copy that is there.
#[derive(Debug)]
pub enum OpenError {
    /// The catalog has fewer commits than its copy, or others: it is not the one that the copy is of, but older.
    Stale {
        /// The catalog's last commit.
        catalog: u64,
        /// The copy's.
        copy: u64,
    },
    /// The catalog's own error.
    Catalog(Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::Stale { catalog, copy } => write!(
                f,
                "the catalog is older than its copy (commit {catalog}, the copy has {copy})"
            ),
            OpenError::Catalog(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            OpenError::Stale { .. } => None,
            OpenError::Catalog(error) => Some(error),
        }
    }
}

impl Copied {
    /// Compares a catalog with the copy in `dir`, and begins a new copy of it there.
    ///
    /// # Behavior
    /// A copy that cannot be read or written is no reason to refuse: the log says so.
    ///
    /// # Errors
    /// [`OpenError::Stale`]: then nothing was changed. What the catalog answers.
    pub fn open(
        env: &Env,
        dir: &Path,
        store: StoreId,
        catalog: Arc<dyn Catalog>,
    ) -> Result<Self, OpenError> {
        let contents = catalog.contents().map_err(OpenError::Catalog)?;
        let found = read(env, dir, store).unwrap_or_else(|error| {
            tracing::warn!(%error, "the catalog's copy cannot be read");
            Found::default()
        });
        for name in &found.damaged {
            tracing::warn!(name, "a copy of the catalog is damaged, or was cut short");
        }
        if let Some(copy) = found.contents
            && (copy.commit > contents.commit || is_another(&copy, &contents))
        {
            return Err(OpenError::Stale {
                catalog: contents.commit,
                copy: copy.commit,
            });
        }
        let mut copy = Copy {
            writer: Writer::new(env, dir, store),
            commit: contents.commit,
            behind: false,
        };
        copy.begin(&contents);
        Ok(Copied {
            catalog,
            copy: Mutex::new(copy),
        })
    }

    /// Commits, and then appends what was committed: under one lock, so that steps are in their order.
    fn step<T>(
        &self,
        commit: impl FnOnce(&dyn Catalog) -> Result<T, Error>,
        step: impl FnOnce() -> Step,
    ) -> Result<T, Error> {
        let mut copy = self.copy.lock();
        let done = commit(&*self.catalog)?;
        copy.commit += 1;
        copy.take(&*self.catalog, &step());
        Ok(done)
    }
}

/// As many commits, but others. A program that did not count would have taken an epoch at least.
fn is_another(copy: &Contents, catalog: &Contents) -> bool {
    copy.commit == catalog.commit && copy.epoch >= catalog.epoch && copy != catalog
}

impl Copy {
    fn begin(&mut self, contents: &Contents) {
        let begun = self.writer.begin(contents);
        match begun {
            Ok(()) => self.behind = false,
            Err(error) if !self.behind => {
                tracing::warn!(%error, "the catalog's copy cannot be written; trying again with the next commit");
                self.behind = true;
            }
            Err(_) => {}
        }
    }

    fn take(&mut self, catalog: &dyn Catalog, step: &Step) {
        if !self.writer.wants_contents() && self.writer.append(self.commit, step).is_ok() {
            return;
        }
        match catalog.contents() {
            Ok(contents) => self.begin(&contents),
            Err(error) => tracing::warn!(%error, "the catalog cannot be copied"),
        }
    }
}

impl Catalog for Copied {
    fn settings(&self) -> Result<Settings, Error> {
        self.catalog.settings()
    }

    fn volume(&self, id: VolumeId) -> Result<Option<VolumeRecord>, Error> {
        self.catalog.volume(id)
    }

    fn find(&self, name: &Name) -> Result<Option<VolumeRecord>, Error> {
        self.catalog.find(name)
    }

    /// Waits for commits under way: what collection finds garbage must be garbage for the copy, too.
    fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        let _copied = self.copy.lock();
        self.catalog.volumes()
    }

    /// As [`volumes`](Self::volumes).
    fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotRecord>, Error> {
        let _copied = self.copy.lock();
        self.catalog.snapshots(volume)
    }

    fn find_snapshot(
        &self,
        volume: VolumeId,
        name: &Name,
    ) -> Result<Option<SnapshotRecord>, Error> {
        self.catalog.find_snapshot(volume, name)
    }

    fn contents(&self) -> Result<Contents, Error> {
        self.catalog.contents()
    }

    fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        if changes.is_empty() {
            return self.catalog.commit(changes);
        }
        self.step(
            |catalog| catalog.commit(changes),
            || Step::Commit(changes.to_vec()),
        )
    }

    fn reserve(&self, kind: IdKind, count: u64) -> Result<Range<u64>, Error> {
        self.step(
            |catalog| catalog.reserve(kind, count),
            || Step::Reserve(kind, count),
        )
    }

    fn next_store_epoch(&self) -> Result<Epoch, Error> {
        self.step(|catalog| catalog.next_store_epoch(), || Step::Epoch)
    }
}
