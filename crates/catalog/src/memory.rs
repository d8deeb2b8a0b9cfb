//! A catalog that forgets: for tests, and to say in the fewest words what the others must do.
//!
//! A commit works on a copy of everything and checks everything. Slow, and hard to get wrong.

use crate::{Catalog, Change, Error, ErrorKind, IdKind, Settings, SnapshotRecord, VolumeRecord};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, HashSet},
    ops::Range,
};
use types::{Epoch, Name, PackId, SnapshotId, VolumeId};

/// A catalog in memory.
#[derive(Debug, Default)]
pub struct MemoryCatalog(Mutex<State>);

#[derive(Clone, Debug, Default)]
struct State {
    settings: Settings,
    volumes: BTreeMap<VolumeId, VolumeRecord>,
    snapshots: BTreeMap<(VolumeId, SnapshotId), SnapshotRecord>,
    /// How many packs, volumes and snapshots were handed out.
    handed_out: [u64; 3],
    epoch: Epoch,
}

impl MemoryCatalog {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Catalog for MemoryCatalog {
    fn settings(&self) -> Result<Settings, Error> {
        Ok(self.0.lock().settings.clone())
    }

    fn volume(&self, id: VolumeId) -> Result<Option<VolumeRecord>, Error> {
        Ok(self.0.lock().volumes.get(&id).cloned())
    }

    fn find(&self, name: &Name) -> Result<Option<VolumeRecord>, Error> {
        let state = self.0.lock();
        let mut live = state.volumes.values().filter(|v| v.trashed.is_none());
        Ok(live.find(|v| v.name == *name).cloned())
    }

    fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        Ok(self.0.lock().volumes.values().cloned().collect())
    }

    fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotRecord>, Error> {
        let state = self.0.lock();
        let of_volume = state.snapshots.values().filter(|s| s.volume == volume);
        Ok(of_volume.cloned().collect())
    }

    fn find_snapshot(
        &self,
        volume: VolumeId,
        name: &Name,
    ) -> Result<Option<SnapshotRecord>, Error> {
        let mut snapshots = self.snapshots(volume)?.into_iter();
        Ok(snapshots.find(|s| s.name == *name))
    }

    fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        let refused = |kind| Error::new(kind, "commit");
        let mut state = self.0.lock();
        let mut next = state.clone();
        let mut named = HashSet::new();
        for change in changes {
            if !named.insert(change.record()) {
                return Err(refused(ErrorKind::Invalid));
            }
            next.apply(change).map_err(refused)?;
        }
        next.check().map_err(refused)?;
        *state = next;
        Ok(())
    }

    fn reserve(&self, kind: IdKind, count: u64) -> Result<Range<u64>, Error> {
        let (index, limit) = match kind {
            IdKind::Pack => (0, PackId::LIMIT),
            IdKind::Volume => (1, u64::MAX),
            IdKind::Snapshot => (2, u64::MAX),
        };
        let mut state = self.0.lock();
        let first = state.handed_out[index] + 1;
        let end = first.checked_add(count).filter(|&end| end <= limit);
        let end = end.ok_or(Error::new(ErrorKind::Invalid, "reserve"))?;
        state.handed_out[index] = end - 1;
        Ok(first..end)
    }

    fn next_store_epoch(&self) -> Result<Epoch, Error> {
        let mut state = self.0.lock();
        state.epoch = state.epoch.next();
        Ok(state.epoch)
    }
}

impl State {
    fn apply(&mut self, change: &Change) -> Result<(), ErrorKind> {
        match change {
            Change::PutSettings(new) => {
                expect(new.version, self.settings.version)?;
                self.settings = Settings {
                    version: new.version + 1,
                    ..new.clone()
                };
            }
            Change::PutVolume(new) => {
                let old = self.volumes.get(&new.id);
                if old.is_some_and(|old| old.epoch > new.epoch) {
                    return Err(ErrorKind::StaleEpoch);
                }
                expect(new.version, old.map_or(0, |old| old.version))?;
                let version = new.version + 1;
                let new = new.clone();
                self.volumes.insert(new.id, VolumeRecord { version, ..new });
            }
            Change::RemoveVolume { id, version } => {
                let old = self.volumes.remove(id).ok_or(ErrorKind::Conflict)?;
                expect(*version, old.version)?;
            }
            Change::PutSnapshot(new) => {
                let key = (new.volume, new.id);
                expect(
                    new.version,
                    self.snapshots.get(&key).map_or(0, |s| s.version),
                )?;
                let version = new.version + 1;
                let new = new.clone();
                self.snapshots
                    .insert(key, SnapshotRecord { version, ..new });
            }
            Change::RemoveSnapshot {
                volume,
                id,
                version,
            } => {
                let old = self.snapshots.remove(&(*volume, *id));
                expect(*version, old.ok_or(ErrorKind::Conflict)?.version)?;
            }
        }
        Ok(())
    }

    /// What must hold after every commit.
    fn check(&self) -> Result<(), ErrorKind> {
        let mut names = HashSet::new();
        let live = self.volumes.values().filter(|v| v.trashed.is_none());
        let mut snapshots = self.snapshots.values();
        if snapshots
            .clone()
            .any(|s| !self.volumes.contains_key(&s.volume))
        {
            return Err(ErrorKind::Invalid);
        }
        let mut snapshot_names = HashSet::new();
        let unique = live.clone().all(|v| names.insert(&v.name))
            && snapshots.all(|s| snapshot_names.insert((s.volume, &s.name)));
        if unique {
            Ok(())
        } else {
            Err(ErrorKind::Exists)
        }
    }
}

fn expect(version: u64, stored: u64) -> Result<(), ErrorKind> {
    if version == stored {
        Ok(())
    } else {
        Err(ErrorKind::Conflict)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conforms() {
        crate::conformance::suite(&|| Box::new(MemoryCatalog::new()));
    }
}
