//! A catalog that forgets: for tests, and to say in the fewest words what the others must do.
//!
//! A commit works on a copy of everything and checks everything. Slow, and hard to get wrong.

use crate::{
    Catalog, Change, Contents, Error, IdKind, Settings, SnapshotRecord, Step, VolumeRecord,
};
use parking_lot::Mutex;
use std::ops::Range;
use types::{Epoch, Name, VolumeId};

/// A catalog in memory.
#[derive(Debug, Default)]
pub struct MemoryCatalog(Mutex<Contents>);

impl MemoryCatalog {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes a step whole, or answers why not.
    fn step(&self, operation: &'static str, step: &Step) -> Result<Contents, Error> {
        let refused = |kind| Error::new(kind, operation);
        let mut contents = self.0.lock();
        let mut next = contents.clone();
        next.apply(step).map_err(refused)?;
        next.check().map_err(refused)?;
        *contents = next.clone();
        Ok(next)
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
        let contents = self.0.lock();
        let mut live = contents.volumes.values().filter(|v| v.trashed.is_none());
        Ok(live.find(|v| v.name == *name).cloned())
    }

    fn volumes(&self) -> Result<Vec<VolumeRecord>, Error> {
        Ok(self.0.lock().volumes.values().cloned().collect())
    }

    fn snapshots(&self, volume: VolumeId) -> Result<Vec<SnapshotRecord>, Error> {
        let contents = self.0.lock();
        let of_volume = contents.snapshots.values().filter(|s| s.volume == volume);
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

    fn contents(&self) -> Result<Contents, Error> {
        Ok(self.0.lock().clone())
    }

    fn commit(&self, changes: &[Change]) -> Result<(), Error> {
        if !changes.is_empty() {
            self.step("commit", &Step::Commit(changes.to_vec()))?;
        }
        Ok(())
    }

    fn reserve(&self, kind: IdKind, count: u64) -> Result<Range<u64>, Error> {
        let after = self.step("reserve", &Step::Reserve(kind, count))?;
        let end = after.last_id(kind) + 1;
        Ok(end - count..end)
    }

    fn next_store_epoch(&self) -> Result<Epoch, Error> {
        Ok(self.step("next_store_epoch", &Step::Epoch)?.epoch)
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
