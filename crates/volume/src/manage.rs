//! Rollback: a volume becomes what a snapshot of it is.

use crate::{
    error::Error,
    layer::Layer,
    store::Store,
    volume::{State, Volume},
};
use catalog::VolumeRecord;
use std::sync::Arc;
use types::{Generation, Name, VolumeRef};

impl Store {
    /// Sets a volume back to one of its snapshots, in place. What was written since is lost; snapshots
    /// taken since stay.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub fn rollback(&self, volume: &Name, snapshot: &Name) -> Result<VolumeRecord, Error> {
        let r = VolumeRef {
            volume: volume.clone(),
            snapshot: Some(snapshot.clone()),
        };
        let _roots = self.shared.roots.read();
        let (rooted, size) = self.shared.rooted(&r)?;
        let volume = self.shared.volume(self.shared.find(volume)?.id)?;
        let _managing = volume.manage.lock();
        volume.settle_frozen()?;
        let _destaging = volume.destage.lock();
        let mut committed = volume.record.lock();
        let mut record = committed.record.clone();
        let mut state = volume.state.write();
        state.check_open()?;
        // The journal's records of everything up to now become old with the same commit.
        let last = state.head.number;
        (record.root, record.mapped_blocks, record.size) =
            (rooted.root, rooted.mapped_blocks, size);
        record.destaged = last;
        volume.commit_record(&mut committed, record)?;
        let fresh = State {
            version: state.version + 1,
            ..State::new(last.next(), rooted.root)
        };
        let old = std::mem::replace(&mut *state, fresh);
        drop(state);
        self.shared.budget.release(old.dirty());
        self.shared.journal.destaged(volume.id, last);
        Ok(committed.record.clone())
    }
}

impl Volume {
    /// Destages every frozen generation, so that snapshots have their roots; the head stays.
    fn settle_frozen(self: &Arc<Self>) -> Result<(), Error> {
        let last = self
            .state
            .read()
            .frozen
            .back()
            .map(|frozen| frozen.layer.number);
        last.map_or(Ok(()), |last| self.settle(last))
    }

    /// Takes the volume out of use: everything is in packs, and who still has it open is told that
    /// it is gone. Answers the last generation that the journal can know of.
    pub(crate) fn retire(self: &Arc<Self>) -> Result<Generation, Error> {
        let last = self.state.write().freeze();
        self.settle(last)?;
        let mut state = self.state.write();
        state.closed = true;
        // What was written since is given up: nobody was promised that it stays.
        let last = state.head.number;
        let dirty = state.dirty();
        state.frozen.clear();
        state.head = Layer::new(last.next());
        drop(state);
        self.shared.budget.release(dirty);
        Ok(last)
    }
}
