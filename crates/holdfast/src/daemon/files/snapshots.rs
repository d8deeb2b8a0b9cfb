//! Snapshots of volumes that are qcow2 images: the image has them, the catalog knows nothing of them.

use super::{Files, Result, api_error, refuse_for_file};
use crate::daemon::{control::Daemon, convert as words};
use api_types::{ApiError, ErrorCode, Snapshot, Volume};
use catalog::{ImageFile, VolumeRecord};
use file_disk::Disk;
use std::sync::Arc;
use types::{FileFormat, Name, VolumeRef};

impl Files {
    /// The names of a volume's snapshots; none if its image cannot be read.
    pub(crate) fn snapshot_names(&self, file: &ImageFile) -> Vec<String> {
        let listed = file_disk::snapshots(&self.env, &self.place(file), file.format);
        let names = listed.map(|all| all.into_iter().map(|s| s.name).collect());
        names.unwrap_or_default()
    }
}

impl Daemon {
    /// The disk of a volume whose image has snapshots.
    fn qcow2(&self, record: &VolumeRecord, file: &ImageFile) -> Result<Arc<dyn Disk>> {
        match file.format {
            FileFormat::Raw => {
                refuse_for_file(
                    record,
                    "snapshots: it is raw, and only a qcow2 image has them",
                )?;
            }
            FileFormat::Qcow2 => {}
        }
        self.files.device(record, file).map_err(api_error)
    }

    /// Oldest first.
    pub(crate) fn file_snapshots(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
    ) -> Result<Vec<Snapshot>> {
        let place = self.files.place(file);
        let all = file_disk::snapshots(&self.env, &place, file.format).map_err(api_error)?;
        let told = all.into_iter().map(|snapshot| Snapshot {
            id: snapshot.id.parse().unwrap_or(0),
            volume: record.name.to_string(),
            name: snapshot.name,
            size: snapshot.size,
            // The image does not say.
            used: 0,
            created_ms: u64::from(snapshot.taken_s) * 1000,
            group: None,
            scheduled: false,
            vhost: None,
        });
        Ok(told.collect())
    }

    pub(crate) fn file_snapshot(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        name: &str,
    ) -> Result<Snapshot> {
        let all = self.file_snapshots(record, file)?;
        all.into_iter().find(|s| s.name == name).ok_or_else(|| {
            let message = format!("there is no snapshot '{}@{name}'", record.name);
            ApiError::new(ErrorCode::NotFound, message)
        })
    }

    pub(crate) fn create_file_snapshot(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        name: &Name,
    ) -> Result<Snapshot> {
        let disk = self.qcow2(record, file)?;
        if self.file_snapshot(record, file, name.as_str()).is_ok() {
            let message = format!("the snapshot '{}@{name}' exists already", record.name);
            return Err(ApiError::new(ErrorCode::Conflict, message));
        }
        let now_s = u32::try_from(self.env.clock.now().as_secs()).unwrap_or(u32::MAX);
        disk.create_snapshot(name.as_str(), now_s)
            .map_err(api_error)?;
        self.file_snapshot(record, file, name.as_str())
    }

    pub(crate) fn remove_file_snapshot(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        name: &Name,
    ) -> Result<()> {
        self.file_snapshot(record, file, name.as_str())?;
        let disk = self.qcow2(record, file)?;
        disk.remove_snapshot(name.as_str()).map_err(api_error)
    }

    pub(crate) fn roll_back_file(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        name: &Name,
    ) -> Result<Volume> {
        let snapshot = self.file_snapshot(record, file, name.as_str())?;
        let disk = self.qcow2(record, file)?;
        disk.apply_snapshot(name.as_str()).map_err(api_error)?;
        let update = volume::Update {
            size: Some(snapshot.size),
            allow_data_loss: true,
            ..Default::default()
        };
        let updated = self.store.update_volume(&record.name, &update);
        self.describe(updated.map_err(words::api_error)?)
    }

    /// The device of a volume that is a file, or of one of its snapshots; none if its data are in the store.
    pub(crate) fn file_device(
        &self,
        record: &VolumeRecord,
        r: &VolumeRef,
    ) -> Result<Option<Arc<dyn block::BlockDevice>>> {
        let Some(file) = record.backend.file() else {
            return Ok(None);
        };
        self.files
            .open(record, file, r)
            .map(Some)
            .map_err(api_error)
    }
}

impl Files {
    /// A volume's device, or that of one of its snapshots.
    pub(crate) fn open(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        r: &VolumeRef,
    ) -> std::result::Result<Arc<dyn block::BlockDevice>, file_disk::Error> {
        let disk = self.device(record, file)?;
        match &r.snapshot {
            None => Ok(disk),
            Some(name) => disk.open_snapshot(name.as_str()),
        }
    }
}
