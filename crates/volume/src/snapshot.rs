//! Snapshots: freezes that have a name.

use crate::{
    error::{Error, ErrorKind},
    group::{Kind, NOTHING},
    store::{Shared, Store},
    volume::{Committed, Rooted, Volume, Wanted},
};
use catalog::{Change, SnapshotRecord};
use std::sync::{Arc, OnceLock};
use types::{Name, VolumeRef};

impl Store {
    /// The snapshots of a volume, oldest first.
    ///
    /// # Errors
    /// If there is no such volume.
    pub fn snapshots(&self, volume: &Name) -> Result<Vec<SnapshotRecord>, Error> {
        Ok(self
            .shared
            .catalog
            .snapshots(self.shared.find(volume)?.id)?)
    }

    /// Takes a snapshot. Writers are not held up; what they wrote before is in it.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if the name is taken.
    pub fn create_snapshot(&self, volume: &Name, name: &Name) -> Result<SnapshotRecord, Error> {
        let r = VolumeRef {
            volume: volume.clone(),
            snapshot: Some(name.clone()),
        };
        self.take_snapshots(&[&r], Kind::default(), NOTHING)?;
        self.shared.snapshot(&r)
    }

    /// Removes a snapshot; what nothing else refers to is collected later.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn remove_snapshot(&self, volume: &Name, name: &Name) -> Result<(), Error> {
        let r = VolumeRef {
            volume: volume.clone(),
            snapshot: Some(name.clone()),
        };
        self.remove_if(&r, |_| true)
    }

    /// Removes a snapshot if it is the right one.
    pub(crate) fn remove_if(
        &self,
        r: &VolumeRef,
        right: impl Fn(&SnapshotRecord) -> bool,
    ) -> Result<(), Error> {
        let snapshot = self.shared.snapshot(r)?;
        let volume = self.shared.volume(snapshot.volume)?;
        let _managing = volume.manage.lock();
        let mut committed = volume.record.lock();
        // Under the lock: destaging may have just changed the record.
        let snapshot = self.shared.snapshot(r)?;
        if !right(&snapshot) {
            let message = format!("'{r}' is another snapshot now");
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        Volume::refuse_base(&committed, &snapshot)?;
        let removal = [removal(&snapshot)];
        self.shared
            .ballast
            .or_without(|| Ok(self.shared.catalog.commit(&removal)?))?;
        committed.forget(&snapshot);
        Ok(())
    }
}

/// The change that removes a snapshot.
pub(crate) fn removal(snapshot: &SnapshotRecord) -> Change {
    Change::RemoveSnapshot {
        volume: snapshot.volume,
        id: snapshot.id,
        version: snapshot.version,
    }
}

impl Committed {
    /// Nobody waits for the root of a snapshot that is gone.
    pub(crate) fn forget(&mut self, snapshot: &SnapshotRecord) {
        if let Some(wanted) = self.wanted.get_mut(&snapshot.generation) {
            wanted.retain(|w| !matches!(w, Wanted::Snapshot(s) if s.id == snapshot.id));
        }
    }
}

impl Volume {
    /// The root that holds exactly what is written now, destaged for the purpose, and the size in bytes.
    pub(crate) fn rooted_now(self: &Arc<Self>) -> Result<(Rooted, u64), Error> {
        let cell = Arc::new(OnceLock::new());
        let (generation, size) = {
            let mut committed = self.record.lock();
            let mut state = self.state.write();
            state.check_open()?;
            // The record's: while the volume is being shrunk, what is to be cut off may still be there.
            let size = committed.record.size;
            let generation = state.freeze();
            if state.frozen.is_empty() {
                return Ok((rooted(&committed), size));
            }
            let wanted = committed.wanted.entry(generation).or_default();
            wanted.push(Wanted::Root(Arc::clone(&cell)));
            (generation, size)
        };
        self.settle(generation)?;
        let lost = || Error::new(ErrorKind::Closed, "the volume changed meanwhile; try again");
        let rooted = cell.get().cloned().ok_or_else(lost)?;
        Ok((rooted, size))
    }
}

pub(crate) fn rooted(committed: &Committed) -> Rooted {
    Rooted {
        root: committed.record.root,
        mapped_blocks: committed.record.mapped_blocks,
        below: committed.below.clone(),
    }
}

impl Shared {
    /// A snapshot by name; its root may still be waited for.
    pub(crate) fn snapshot(&self, r: &VolumeRef) -> Result<SnapshotRecord, Error> {
        let missing = || Error::new(ErrorKind::NotFound, format!("there is no snapshot '{r}'"));
        let name = r.snapshot.as_ref().ok_or_else(missing)?;
        let volume = self.find(&r.volume)?;
        self.catalog
            .find_snapshot(volume.id, name)?
            .ok_or_else(missing)
    }

    /// The root of a snapshot, or of a volume as it is now, and its size in bytes. The caller
    /// holds `roots`, until it has put the root where collection sees it.
    pub(crate) fn rooted(self: &Arc<Self>, r: &VolumeRef) -> Result<(Rooted, u64), Error> {
        let record = self.find(&r.volume)?;
        if r.snapshot.is_none() {
            Self::refuse_file(&record)?;
            return self.volume(record.id)?.rooted_now();
        }
        // Before the snapshot is looked up: without it, its root has everything.
        let importing = record.source.is_some();
        let mut snapshot = self.snapshot(r)?;
        if snapshot.root.is_none() {
            self.volume(snapshot.volume)?.settle(snapshot.generation)?;
            snapshot = self.snapshot(r)?;
        }
        let unsettled = || Error::new(ErrorKind::Damaged, format!("'{r}' has no root"));
        let mut below = None;
        if importing {
            // Both change in one commit, under the lock.
            let volume = self.volume(snapshot.volume)?;
            let committed = volume.record.lock();
            below.clone_from(&committed.below);
            snapshot = self.snapshot(r)?;
        }
        let rooted = Rooted {
            root: snapshot.root.ok_or_else(unsettled)?,
            mapped_blocks: snapshot.mapped_blocks,
            below,
        };
        Ok((rooted, snapshot.size))
    }
}
