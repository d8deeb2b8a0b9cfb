//! Which volumes and snapshots are served as vhost-user-blk devices. Kept here for the daemon, which serves them.

use crate::{
    error::Error,
    store::Store,
    volume::{Volume, Wanted},
};
use catalog::Change;
use types::VolumeRef;

impl Store {
    /// Notes of a volume or a snapshot with how many queues it is served; 0: not.
    ///
    /// # Errors
    /// [`NotFound`](crate::ErrorKind::NotFound).
    pub fn set_vhost_queues(&self, r: &VolumeRef, queues: u16) -> Result<(), Error> {
        let volume = self.shared.volume(self.shared.find(&r.volume)?.id)?;
        let _managing = volume.manage.lock();
        if r.snapshot.is_some() {
            return volume.set_queues_of_snapshot(r, queues);
        }
        volume.state.read().check_open()?;
        let mut committed = volume.record.lock();
        let mut record = committed.record.clone();
        record.vhost_queues = queues;
        volume.commit_record(&mut committed, record)
    }
}

impl Volume {
    fn set_queues_of_snapshot(&self, r: &VolumeRef, queues: u16) -> Result<(), Error> {
        // Under the lock: destaging changes the record, too, and knows which one it is about to change.
        let mut committed = self.record.lock();
        let mut snapshot = self.shared.snapshot(r)?;
        snapshot.vhost_queues = queues;
        let change = Change::PutSnapshot(snapshot.clone());
        self.shared.catalog.commit(&[change])?;
        snapshot.version += 1;
        for wanted in committed.wanted.values_mut().flatten() {
            if let Wanted::Snapshot(waiting) = wanted
                && waiting.id == snapshot.id
            {
                *waiting = snapshot.clone();
            }
        }
        Ok(())
    }
}
