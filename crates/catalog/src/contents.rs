//! Everything that a catalog has, as one value; and how one commit leads to the next.

use crate::{Change, ErrorKind, IdKind, Settings, SnapshotRecord, VolumeRecord};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashSet};
use types::{Epoch, PackId, SnapshotId, VolumeId};

/// Everything that a catalog has, as of one commit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contents {
    /// How many commits led here: of two states of one catalog the one with more is the newer.
    pub commit: u64,
    /// The store-wide record.
    pub settings: Settings,
    /// Volumes, those in the trash included.
    pub volumes: BTreeMap<VolumeId, VolumeRecord>,
    /// Snapshots.
    pub snapshots: BTreeMap<(VolumeId, SnapshotId), SnapshotRecord>,
    /// The last pack id handed out.
    pub last_pack: u64,
    /// The last volume id handed out.
    pub last_volume: u64,
    /// The last snapshot id handed out.
    pub last_snapshot: u64,
    /// The last epoch of the store.
    pub epoch: Epoch,
}

/// What one commit does to a catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// [`Catalog::commit`](crate::Catalog::commit), of at least one change.
    Commit(Vec<Change>),
    /// [`Catalog::reserve`](crate::Catalog::reserve).
    Reserve(IdKind, u64),
    /// [`Catalog::next_store_epoch`](crate::Catalog::next_store_epoch).
    Epoch,
}

impl Contents {
    /// The last id of a kind that was handed out.
    #[must_use]
    pub const fn last_id(&self, kind: IdKind) -> u64 {
        match kind {
            IdKind::Pack => self.last_pack,
            IdKind::Volume => self.last_volume,
            IdKind::Snapshot => self.last_snapshot,
        }
    }

    /// Takes a step. What [`check`](Self::check) checks is not checked.
    ///
    /// # Errors
    /// Why it cannot be taken; some of it may be done then.
    pub fn apply(&mut self, step: &Step) -> Result<(), ErrorKind> {
        match step {
            Step::Commit(changes) => {
                let mut named = HashSet::new();
                for change in changes {
                    if !named.insert(change.record()) {
                        return Err(ErrorKind::Invalid);
                    }
                    self.change(change)?;
                }
            }
            Step::Reserve(kind, count) => {
                let (last, limit) = match kind {
                    IdKind::Pack => (&mut self.last_pack, PackId::LIMIT),
                    IdKind::Volume => (&mut self.last_volume, u64::MAX),
                    IdKind::Snapshot => (&mut self.last_snapshot, u64::MAX),
                };
                let next = last.checked_add(*count).filter(|&next| next < limit);
                *last = next.ok_or(ErrorKind::Invalid)?;
            }
            Step::Epoch => self.epoch = Epoch(next(self.epoch.0)?),
        }
        self.commit = next(self.commit)?;
        Ok(())
    }

    fn change(&mut self, change: &Change) -> Result<(), ErrorKind> {
        match change {
            Change::PutSettings(new) => {
                expect(new.version, self.settings.version)?;
                let version = next(new.version)?;
                let new = new.clone();
                self.settings = Settings { version, ..new };
            }
            Change::PutVolume(new) => {
                let old = self.volumes.get(&new.id);
                if old.is_some_and(|old| old.epoch > new.epoch) {
                    return Err(ErrorKind::StaleEpoch);
                }
                expect(new.version, old.map_or(0, |old| old.version))?;
                let version = next(new.version)?;
                let new = new.clone();
                self.volumes.insert(new.id, VolumeRecord { version, ..new });
            }
            Change::RemoveVolume { id, version } => {
                let old = self.volumes.remove(id).ok_or(ErrorKind::Conflict)?;
                expect(*version, old.version)?;
            }
            Change::PutSnapshot(new) => {
                let key = (new.volume, new.id);
                let old = self.snapshots.get(&key);
                expect(new.version, old.map_or(0, |old| old.version))?;
                let version = next(new.version)?;
                let new = new.clone();
                let new = SnapshotRecord { version, ..new };
                self.snapshots.insert(key, new);
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

    /// What must hold after every commit: snapshots have their volumes, names are unique.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] or [`ErrorKind::Exists`].
    pub fn check(&self) -> Result<(), ErrorKind> {
        let mut snapshots = self.snapshots.values();
        if !snapshots
            .clone()
            .all(|s| self.volumes.contains_key(&s.volume))
        {
            return Err(ErrorKind::Invalid);
        }
        let mut names = HashSet::new();
        let mut snapshot_names = HashSet::new();
        let mut live = self.volumes.values().filter(|v| v.trashed.is_none());
        let unique = live.all(|v| names.insert(&v.name))
            && snapshots.all(|s| snapshot_names.insert((s.volume, &s.name)));
        if unique {
            Ok(())
        } else {
            Err(ErrorKind::Exists)
        }
    }

    /// Whether this could have come from a catalog: what bytes that were decoded may lack. Keys are those of
    /// the records, roots are roots, and what [`check`](Self::check) checks.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let volumes = self.volumes.iter();
        let snapshots = self.snapshots.iter();
        self.last_pack < PackId::LIMIT
            && self.check().is_ok()
            && volumes.clone().all(|(id, v)| *id == v.id && v.is_sound())
            && snapshots
                .clone()
                .all(|(key, s)| *key == (s.volume, s.id) && s.is_sound())
    }
}

fn expect(version: u64, stored: u64) -> Result<(), ErrorKind> {
    if version == stored {
        Ok(())
    } else {
        Err(ErrorKind::Conflict)
    }
}

fn next(number: u64) -> Result<u64, ErrorKind> {
    number.checked_add(1).ok_or(ErrorKind::Invalid)
}
