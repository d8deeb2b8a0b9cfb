//! Applying a commit's changes in one write transaction.
//!
//! Records are replaced one by one, each checked against the version and the epoch that are stored;
//! names and the ties between volumes and snapshots are checked when all are in place, since they
//! must hold after the commit only. Whoever finds a fault drops the transaction, which undoes it.

use crate::{guard::Cause, record, tables};
use catalog::{Change, ErrorKind, Settings, SnapshotRecord, VolumeRecord};
use redb::{ReadableTable, Table, WriteTransaction};
use std::collections::{BTreeSet, HashSet};
use types::{Name, SnapshotId, VolumeId};

type Refusal = Result<(), Cause>;

/// Applies all changes in `txn`, or says why not; then `txn` must be dropped.
pub(crate) fn apply(txn: &WriteTransaction, changes: &[Change]) -> Refusal {
    let mut commit = Commit::begin(txn)?;
    let mut named = HashSet::new();
    for change in changes {
        if !named.insert(change.record()) {
            return refuse(ErrorKind::Invalid);
        }
        match change {
            Change::PutSettings(new) => commit.put_settings(new)?,
            Change::PutVolume(new) => commit.put_volume(new)?,
            Change::RemoveVolume { id, version } => commit.remove_volume(*id, *version)?,
            Change::PutSnapshot(new) => commit.put_snapshot(new)?,
            Change::RemoveSnapshot {
                volume,
                id,
                version,
            } => commit.remove_snapshot(*volume, *id, *version)?,
        }
    }
    commit.check_ties()?;
    commit.move_names()
}

struct Commit<'txn> {
    settings: Table<'txn, u8, &'static [u8]>,
    volumes: Table<'txn, u64, &'static [u8]>,
    names: Table<'txn, &'static str, u64>,
    snapshots: Table<'txn, (u64, u64), &'static [u8]>,
    snapshot_names: Table<'txn, (u64, &'static str), u64>,
    /// Names that volumes gave up, and those that they take.
    freed: Vec<Name>,
    taken: Vec<(Name, VolumeId)>,
    freed_of_snapshots: Vec<(VolumeId, Name)>,
    taken_of_snapshots: Vec<(VolumeId, Name, SnapshotId)>,
    removed_volumes: Vec<VolumeId>,
    volumes_of_snapshots: BTreeSet<VolumeId>,
}

impl<'txn> Commit<'txn> {
    fn begin(txn: &'txn WriteTransaction) -> Result<Self, Cause> {
        Ok(Commit {
            settings: txn.open_table(tables::SETTINGS)?,
            volumes: txn.open_table(tables::VOLUMES)?,
            names: txn.open_table(tables::NAMES)?,
            snapshots: txn.open_table(tables::SNAPSHOTS)?,
            snapshot_names: txn.open_table(tables::SNAPSHOT_NAMES)?,
            freed: Vec::new(),
            taken: Vec::new(),
            freed_of_snapshots: Vec::new(),
            taken_of_snapshots: Vec::new(),
            removed_volumes: Vec::new(),
            volumes_of_snapshots: BTreeSet::new(),
        })
    }

    fn put_settings(&mut self, new: &Settings) -> Refusal {
        expect(new.version, tables::settings(&self.settings)?.version)?;
        let stored = Settings {
            version: next(new.version)?,
            ..new.clone()
        };
        let bytes = record::encode(&stored)?;
        self.settings.insert(0, bytes.as_slice())?;
        Ok(())
    }

    fn put_volume(&mut self, new: &VolumeRecord) -> Refusal {
        let old = tables::volume(&self.volumes, new.id)?;
        if old.as_ref().is_some_and(|old| old.epoch > new.epoch) {
            return refuse(ErrorKind::StaleEpoch);
        }
        expect(new.version, old.as_ref().map_or(0, |old| old.version))?;
        let stored = VolumeRecord {
            version: next(new.version)?,
            ..new.clone()
        };
        let bytes = record::encode(&stored)?;
        self.volumes.insert(new.id.0, bytes.as_slice())?;
        let had = old.filter(|old| old.trashed.is_none()).map(|old| old.name);
        let has = new.trashed.is_none().then(|| new.name.clone());
        if had != has {
            self.freed.extend(had);
            self.taken.extend(has.map(|name| (name, new.id)));
        }
        Ok(())
    }

    fn remove_volume(&mut self, id: VolumeId, version: u64) -> Refusal {
        let old = tables::volume(&self.volumes, id)?.ok_or(Cause::Refused(ErrorKind::Conflict))?;
        expect(version, old.version)?;
        self.volumes.remove(id.0)?;
        if old.trashed.is_none() {
            self.freed.push(old.name);
        }
        self.removed_volumes.push(id);
        Ok(())
    }

    fn put_snapshot(&mut self, new: &SnapshotRecord) -> Refusal {
        let old = tables::snapshot(&self.snapshots, new.volume, new.id)?;
        expect(new.version, old.as_ref().map_or(0, |old| old.version))?;
        let stored = SnapshotRecord {
            version: next(new.version)?,
            ..new.clone()
        };
        let bytes = record::encode(&stored)?;
        self.snapshots
            .insert((new.volume.0, new.id.0), bytes.as_slice())?;
        self.volumes_of_snapshots.insert(new.volume);
        let had = old.map(|old| old.name);
        if had.as_ref() != Some(&new.name) {
            self.freed_of_snapshots
                .extend(had.map(|name| (new.volume, name)));
            self.taken_of_snapshots
                .push((new.volume, new.name.clone(), new.id));
        }
        Ok(())
    }

    fn remove_snapshot(&mut self, volume: VolumeId, id: SnapshotId, version: u64) -> Refusal {
        let old = tables::snapshot(&self.snapshots, volume, id)?
            .ok_or(Cause::Refused(ErrorKind::Conflict))?;
        expect(version, old.version)?;
        self.snapshots.remove((volume.0, id.0))?;
        self.freed_of_snapshots.push((volume, old.name));
        Ok(())
    }

    /// Every snapshot has its volume.
    fn check_ties(&self) -> Refusal {
        for volume in &self.volumes_of_snapshots {
            if self.volumes.get(volume.0)?.is_none() {
                return refuse(ErrorKind::Invalid);
            }
        }
        for volume in &self.removed_volumes {
            let of_volume = (volume.0, 0)..=(volume.0, u64::MAX);
            if self.snapshots.range(of_volume)?.next().is_some() {
                return refuse(ErrorKind::Invalid);
            }
        }
        Ok(())
    }

    /// First all are given up, then all are taken, so that two can swap theirs.
    fn move_names(&mut self) -> Refusal {
        for name in &self.freed {
            let was = self.names.remove(name.as_str())?;
            was.ok_or(Cause::damaged("a volume's name is not in the index"))?;
        }
        for (volume, name) in &self.freed_of_snapshots {
            let was = self.snapshot_names.remove((volume.0, name.as_str()))?;
            was.ok_or(Cause::damaged("a snapshot's name is not in the index"))?;
        }
        for (name, id) in &self.taken {
            if self.names.insert(name.as_str(), id.0)?.is_some() {
                return refuse(ErrorKind::Exists);
            }
        }
        for (volume, name, id) in &self.taken_of_snapshots {
            let key = (volume.0, name.as_str());
            if self.snapshot_names.insert(key, id.0)?.is_some() {
                return refuse(ErrorKind::Exists);
            }
        }
        Ok(())
    }
}

fn refuse<T>(kind: ErrorKind) -> Result<T, Cause> {
    Err(Cause::Refused(kind))
}

fn expect(version: u64, stored: u64) -> Refusal {
    if version == stored {
        Ok(())
    } else {
        refuse(ErrorKind::Conflict)
    }
}

fn next(version: u64) -> Result<u64, Cause> {
    version
        .checked_add(1)
        .ok_or(Cause::damaged("a record's version is at its end"))
}
