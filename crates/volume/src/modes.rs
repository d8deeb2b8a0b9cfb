//! Disk modes: what becomes of what a machine wrote when it is powered off.
//!
//! ```text
//!              set_mode                     commit: the base is now        discard: now is the base
//!  persistent ──────────▶ base ── writes ──▶ ● ──────────────▶ base         base ◀────────────── ●
//!             ◀──────────
//!               nothing changed
//! ```
//! A volume of another mode than persistent has a *base*: a snapshot of the moment from which on writes are kept apart.
//! They go where they always go; to discard them is a rollback, to keep them is another snapshot. All of it is O(1),
//! and one commit: a crash leaves what was, and the choice open.

use crate::{
    error::{Error, ErrorKind},
    group::{Along, Kind},
    layer::Layer,
    snapshot::removal,
    store::{Shared, Store},
    volume::{Committed, State, Volume},
};
use catalog::{Change, SnapshotRecord, VolumeRecord};
use std::sync::atomic::Ordering::Relaxed;
use types::{DiskMode, Name, SnapshotId, VolumeId, VolumeRef};

/// What a volume's writes are kept apart from.
#[derive(Clone, Debug)]
pub struct Base {
    /// The state that discarding goes back to.
    pub snapshot: SnapshotRecord,
    /// Whether anything was written since.
    pub changed: bool,
}

impl Store {
    /// Gives a volume a mode. From persistent to another one its base is what it is now.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if it is to be persistent and what was written is neither kept nor discarded yet, or if it is
    /// a plain file.
    pub fn set_mode(&self, name: &Name, mode: DiskMode) -> Result<VolumeRecord, Error> {
        let record = self.shared.find(name)?;
        Shared::refuse_file(&record)?;
        if record.base.is_none() {
            if mode != DiskMode::Persistent {
                if record.source.is_some() {
                    let message =
                        format!("'{name}' is still being imported; try again when that is done");
                    return Err(Error::new(ErrorKind::Refused, message));
                }
                self.new_base(&record, mode)?;
            }
            return self.shared.find(name);
        }
        let volume = self.shared.volume(record.id)?;
        let _managing = volume.manage.lock();
        let mut committed = volume.record.lock();
        let mut record = committed.record.clone();
        record.mode = mode;
        let mut ended = None;
        if let Some(base) = record.base.filter(|_| mode == DiskMode::Persistent) {
            let base = self.shared.snapshot_of(record.id, base)?;
            if changed(&committed, &volume.state.read(), &base) {
                let message = format!(
                    "what was written to '{name}' is kept apart: keep it with 'volume commit {name}', or end it with 'volume discard {name}'"
                );
                return Err(Error::new(ErrorKind::Refused, message));
            }
            record.base = None;
            ended = Some(base);
        }
        let mut changes = vec![Change::PutVolume(record.clone())];
        changes.extend(ended.as_ref().map(removal));
        self.shared.catalog.commit(&changes)?;
        volume.replace_record(&mut committed, record);
        ended.iter().for_each(|base| committed.forget(base));
        Ok(committed.record.clone())
    }

    /// What a volume's writes are kept apart from, if they are.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn base(&self, record: &VolumeRecord) -> Result<Option<Base>, Error> {
        let Some(base) = record.base else {
            return Ok(None);
        };
        let in_use = self.shared.volumes.lock().get(&record.id).cloned();
        let Some(volume) = in_use else {
            let snapshot = self.shared.snapshot_of(record.id, base)?;
            let changed = moved(record, &snapshot);
            return Ok(Some(Base { snapshot, changed }));
        };
        let committed = volume.record.lock();
        let snapshot = self.shared.snapshot_of(record.id, base)?;
        let changed = changed(&committed, &volume.state.read(), &snapshot);
        Ok(Some(Base { snapshot, changed }))
    }

    /// Keeps what was written: the base is now. Whoever writes goes on.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if nothing is kept apart.
    pub fn commit_changes(&self, name: &Name) -> Result<VolumeRecord, Error> {
        let record = self.shared.find(name)?;
        self.base_of(&record)?;
        self.new_base(&record, record.mode)?;
        self.shared.find(name)
    }

    /// Discards what was written: the volume is its base. Only if it was opened [`opens`](Self::opens) times until then,
    /// so that nobody has seen what is discarded since somebody looked whether it is in use.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if nothing is kept apart, [`ErrorKind::InUse`] if it was opened meanwhile.
    pub fn discard_changes(&self, name: &Name, opens: u64) -> Result<VolumeRecord, Error> {
        let record = self.shared.find(name)?;
        let base = self.base_of(&record)?;
        if self.base(&record)?.is_some_and(|base| !base.changed) {
            return Ok(record);
        }
        let back = VolumeRef {
            volume: name.clone(),
            snapshot: Some(base.name),
        };
        self.set_back(&[back], Some(opens))?;
        self.shared.find(name)
    }

    /// How often a volume was opened since the store was.
    #[must_use]
    pub fn opens(&self, id: VolumeId) -> u64 {
        let volume = self.shared.volumes.lock().get(&id).cloned();
        volume.map_or(0, |volume| volume.opens.load(Relaxed))
    }

    fn base_of(&self, record: &VolumeRecord) -> Result<SnapshotRecord, Error> {
        let base = record.base.ok_or_else(|| {
            let message = format!("'{}' is persistent: nothing is kept apart", record.name);
            Error::new(ErrorKind::Invalid, message)
        })?;
        self.shared.snapshot_of(record.id, base)
    }

    /// Takes a snapshot that is the base from then on, in place of the one that `seen` has: one commit.
    fn new_base(&self, seen: &VolumeRecord, mode: DiskMode) -> Result<(), Error> {
        // The version of the record makes it unique.
        let base = format!("base-{}-{}", self.shared.now_ms(), seen.version);
        let invalid = |e: types::NameError| Error::new(ErrorKind::Invalid, e.to_string());
        let r = VolumeRef {
            volume: seen.name.clone(),
            snapshot: Some(base.parse().map_err(invalid)?),
        };
        self.take_snapshots(&[&r], Kind::default(), &|record, snapshot| {
            if (record.id, record.base) != (seen.id, seen.base) {
                let message = format!("'{}' was changed meanwhile; try again", seen.name);
                return Err(Error::new(ErrorKind::Conflict, message));
            }
            let old = record.base;
            let mut record = record.clone();
            record.mode = mode;
            record.base = Some(snapshot.id);
            let removed = old.map(|old| self.shared.snapshot_of(record.id, old));
            let removed = removed.transpose()?;
            Ok(Some(Along { record, removed }))
        })
    }

    /// Refuses what would give a volume's data up while some of them are kept apart.
    pub(crate) fn refuse_mode(record: &VolumeRecord) -> Result<(), Error> {
        if record.mode == DiskMode::Persistent {
            return Ok(());
        }
        let name = &record.name;
        let message = format!(
            "what is written to '{name}' is kept apart; end that first: 'volume set {name} mode=persistent'"
        );
        Err(Error::new(ErrorKind::Refused, message))
    }
}

impl Shared {
    fn snapshot_of(&self, volume: VolumeId, id: SnapshotId) -> Result<SnapshotRecord, Error> {
        let mut snapshots = self.catalog.snapshots(volume)?.into_iter();
        let found = snapshots.find(|snapshot| snapshot.id == id);
        found.ok_or_else(|| Error::new(ErrorKind::Damaged, "the base of a volume is missing"))
    }
}

impl Volume {
    /// Refuses what would take the base away.
    pub(crate) fn refuse_base(
        committed: &Committed,
        snapshot: &SnapshotRecord,
    ) -> Result<(), Error> {
        let record = &committed.record;
        if record.base != Some(snapshot.id) {
            return Ok(());
        }
        let volume = &record.name;
        let message = format!(
            "'{volume}@{}' is what '{volume}' goes back to; end that first: 'volume set {volume} mode=persistent'",
            snapshot.name
        );
        Err(Error::new(ErrorKind::Refused, message))
    }
}

/// Whether anything was written since the snapshot.
fn changed(committed: &Committed, state: &State, base: &SnapshotRecord) -> bool {
    let newer = |layer: &Layer| base.root.is_some() || layer.number > base.generation;
    let mut layers = state.layers();
    layers.any(|layer| !layer.is_empty() && newer(layer)) || moved(&committed.record, base)
}

/// Whether a volume's root is another one than the snapshot's, or its size.
fn moved(record: &VolumeRecord, base: &SnapshotRecord) -> bool {
    record.size != base.size || base.root.is_some_and(|root| root != record.root)
}
