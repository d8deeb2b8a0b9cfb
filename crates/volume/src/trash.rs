//! Removal, and the time in which it can be taken back.

use crate::{
    below::Below,
    error::{Error, ErrorKind},
    store::Store,
    volume::Volume,
};
use catalog::{Change, Trashed, VolumeRecord};
use types::{Name, VolumeId};

impl Store {
    /// Volumes in the trash.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn trash(&self) -> Result<Vec<VolumeRecord>, Error> {
        let mut volumes = self.shared.catalog.volumes()?;
        volumes.retain(|volume| volume.trashed.is_some());
        Ok(volumes)
    }

    /// Moves a volume with its snapshots to the trash. Who has it open is cut off.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; or if its last writes cannot be destaged.
    pub fn remove_volume(&self, name: &Name) -> Result<VolumeRecord, Error> {
        let volume = self.shared.volume(self.shared.find(name)?.id)?;
        // An image that does not answer holds nobody up who does not need it any more.
        let below = volume.record.lock().below.clone();
        below.iter().for_each(Below::give_up);
        let _managing = volume.manage.lock();
        let removed = self
            .shared
            .ballast
            .or_without(|| volume.retire(|| self.move_to_trash(&volume)))?;
        self.shared.volumes.lock().remove(&volume.id);
        volume.limiter.close();
        Ok(removed)
    }

    fn move_to_trash(&self, volume: &Volume) -> Result<VolumeRecord, Error> {
        let mut committed = volume.record.lock();
        let record = self.trashed_record(&committed.record)?;
        volume.commit_record(&mut committed, record)?;
        Ok(committed.record.clone())
    }

    /// A volume's record as it is in the trash from now on.
    pub(crate) fn trashed_record(&self, record: &VolumeRecord) -> Result<VolumeRecord, Error> {
        let keep_s = self.shared.catalog.settings()?.trash_keep_s;
        let at_ms = self.shared.now_ms();
        let mut record = record.clone();
        record.trashed = Some(Trashed {
            at_ms,
            until_ms: at_ms.saturating_add(keep_s.saturating_mul(1000)),
        });
        Ok(record)
    }

    /// Brings a volume back from the trash.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], or [`ErrorKind::Conflict`] if its name was taken meanwhile.
    pub fn restore_volume(&self, id: VolumeId, name: Option<Name>) -> Result<VolumeRecord, Error> {
        let mut record = self.trashed(id)?;
        if let Some(name) = name {
            record.name = name;
        }
        if self.shared.catalog.find(&record.name)?.is_some() {
            let message = format!(
                "the name '{}' is taken; restore it with --name NEW",
                record.name
            );
            return Err(Error::new(ErrorKind::Conflict, message));
        }
        record.trashed = None;
        self.shared
            .catalog
            .commit(&[Change::PutVolume(record.clone())])?;
        record.version += 1;
        Ok(record)
    }

    /// Removes a volume of the trash, and its snapshots, for good.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn purge_volume(&self, id: VolumeId) -> Result<VolumeRecord, Error> {
        let record = self.trashed(id)?;
        let snapshots = self.shared.catalog.snapshots(id)?.into_iter();
        let mut changes: Vec<Change> = snapshots
            .map(|s| Change::RemoveSnapshot {
                volume: id,
                id: s.id,
                version: s.version,
            })
            .collect();
        changes.push(Change::RemoveVolume {
            id,
            version: record.version,
        });
        self.shared
            .ballast
            .or_without(|| Ok(self.shared.catalog.commit(&changes)?))?;
        Ok(record)
    }

    /// Purges what has been in the trash long enough; answers what that was.
    ///
    /// # Errors
    /// If the catalog fails.
    pub fn purge_expired(&self) -> Result<Vec<VolumeRecord>, Error> {
        let now = self.shared.now_ms();
        let expired = |v: &VolumeRecord| v.trashed.is_some_and(|t| t.until_ms <= now);
        let due: Vec<_> = self.trash()?.into_iter().filter(expired).collect();
        due.iter()
            .map(|volume| self.purge_volume(volume.id))
            .collect()
    }

    fn trashed(&self, id: VolumeId) -> Result<VolumeRecord, Error> {
        let missing = || {
            Error::new(
                ErrorKind::NotFound,
                format!("there is no volume {id} in the trash"),
            )
        };
        self.shared
            .catalog
            .volume(id)?
            .filter(|v| v.trashed.is_some())
            .ok_or_else(missing)
    }
}
