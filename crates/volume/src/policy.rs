//! Snapshots that volumes' policies ask for. When, and which of them go, is for the caller to know.

use crate::{
    error::{Error, ErrorKind},
    group::{Along, Kind},
    store::Store,
};
use catalog::{SnapshotPolicy, SnapshotRecord, VolumeRecord};
use types::{SnapshotId, VolumeId, VolumeRef};

/// A snapshot that a volume's policy asks for.
#[derive(Clone, Debug)]
pub struct Scheduled {
    /// The volume that is meant, whatever has its name now.
    pub volume: VolumeId,
    /// Its name, and that of the snapshot to be.
    pub snapshot: VolumeRef,
    /// All runs of the policy up to this moment are done with it; milliseconds since the Unix epoch.
    pub done_ms: u64,
}

impl Store {
    /// Takes snapshots that policies ask for, at one instant: all of them, or none. That they are done is noted in the same
    /// commit, so that no crash makes one twice.
    ///
    /// # Errors
    /// As [`create_group`](Self::create_group); [`ErrorKind::Conflict`] also if a volume has no schedule any more.
    pub fn take_scheduled(&self, scheduled: &[Scheduled]) -> Result<Vec<SnapshotRecord>, Error> {
        let refs: Vec<&VolumeRef> = scheduled.iter().map(|one| &one.snapshot).collect();
        let kind = Kind {
            grouped: scheduled.len() > 1,
            scheduled: true,
        };
        self.take_snapshots(&refs, kind, &|record, snapshot| {
            let asked = scheduled.iter().find(|one| one.volume == record.id);
            let (Some(asked), Some(policy)) = (asked, scheduled_by(record)) else {
                let message = format!("'{}' was changed meanwhile", record.name);
                return Err(Error::new(ErrorKind::Conflict, message));
            };
            let policy = SnapshotPolicy {
                done_ms: asked.done_ms,
                last_ms: Some(snapshot.created_ms),
                ..policy.clone()
            };
            let record = VolumeRecord {
                policy: Some(Box::new(policy)),
                ..record.clone()
            };
            let removed = None;
            Ok(Some(Along { record, removed }))
        })?;
        refs.into_iter().map(|r| self.shared.snapshot(r)).collect()
    }

    /// Removes a snapshot that a policy asked for, unless another one has its name now.
    ///
    /// # Errors
    /// As [`remove_snapshot`](Self::remove_snapshot).
    pub fn remove_scheduled(&self, snapshot: &VolumeRef, id: SnapshotId) -> Result<(), Error> {
        self.remove_if(snapshot, |found| found.id == id && found.scheduled)
    }

    /// Notes that all runs of a volume's policy up to a moment are done, or that those after it are not.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], also if the volume has no policy.
    pub fn set_scheduled(&self, volume: VolumeId, done_ms: u64) -> Result<(), Error> {
        let volume = self.shared.volume(volume)?;
        let mut committed = volume.record.lock();
        let mut record = committed.record.clone();
        let none = || Error::new(ErrorKind::NotFound, "the volume has no policy");
        record.policy.as_mut().ok_or_else(none)?.done_ms = done_ms;
        volume.commit_record(&mut committed, record)
    }

    /// Refuses what would end a volume's schedule without a word.
    pub(crate) fn refuse_scheduled(record: &VolumeRecord) -> Result<(), Error> {
        if scheduled_by(record).is_none() {
            return Ok(());
        }
        let name = &record.name;
        let message = format!(
            "snapshots of '{name}' are scheduled, which a plain file does not have; end that first: 'volume set {name} snapshots.schedule='"
        );
        Err(Error::new(ErrorKind::Refused, message))
    }
}

/// The policy of a volume, if it asks for snapshots.
fn scheduled_by(record: &VolumeRecord) -> Option<&SnapshotPolicy> {
    let policy = record.policy.as_deref();
    policy.filter(|policy| !policy.schedule.is_empty())
}
