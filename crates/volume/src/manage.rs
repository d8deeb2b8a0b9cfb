//! Rollback: a volume becomes what a snapshot of it is. And how a volume is taken out of use.

use crate::{error::Error, store::Store, volume::Volume};
use catalog::VolumeRecord;
use std::sync::Arc;
use types::{Name, VolumeRef};

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
        self.set_back(&[r], None)?;
        self.shared.find(volume)
    }
}

impl Volume {
    /// Destages every frozen generation, so that snapshots have their roots; the head stays.
    pub(crate) fn settle_frozen(self: &Arc<Self>) -> Result<(), Error> {
        let last = self
            .state
            .read()
            .frozen
            .back()
            .map(|frozen| frozen.layer.number);
        last.map_or(Ok(()), |last| self.settle(last))
    }

    /// Destages everything that was written before.
    pub(crate) fn settle_now(self: &Arc<Self>) -> Result<(), Error> {
        let last = self.state.write().freeze();
        self.settle(last)
    }

    /// Destages everything and does `last`, with nobody writing and nobody destaging meanwhile: clients are
    /// told that the volume is gone. If anything fails they go on with it as if nothing had been. The
    /// caller holds `manage`.
    pub(crate) fn retire<T>(
        self: &Arc<Self>,
        last: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        // Most of it before, so that clients are not cut off for long if it fails.
        self.settle_now()?;
        {
            let mut state = self.state.write();
            state.check_open()?;
            state.closed = true;
        }
        let _destaging = self.destage.lock();
        let done = self.destage_rest().and_then(|()| last());
        if done.is_err() {
            self.state.write().closed = false;
        }
        done
    }
}
