//! Volumes whose data are not in the store but in image files: here they are records of the catalog and nothing else.
//!
//! Their map is empty, so that destaging, collection and checks find nothing of theirs. Who reads, writes, snapshots or clones one goes
//! around this crate; what comes here is refused.

use crate::{
    error::{Error, ErrorKind},
    ingest::Ingest,
    store::{Shared, Store},
    volume::Rooted,
};
use catalog::{Backend, Change, ImageFile, Properties, VolumeRecord};
use types::Name;

impl Store {
    /// Notes a volume of `size` bytes whose data are in `file`.
    ///
    /// # Errors
    /// As [`create_volume`](Self::create_volume).
    pub fn create_file_volume(
        &self,
        name: &Name,
        size: u64,
        read_only: bool,
        file: ImageFile,
    ) -> Result<VolumeRecord, Error> {
        self.check_free(name)?;
        let _roots = self.shared.roots.read();
        let record = self.file_record(name, size, read_only, file)?;
        self.insert(record)
    }

    /// Notes that a volume's file, its format or its driver is another one now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn set_file(&self, name: &Name, file: ImageFile) -> Result<VolumeRecord, Error> {
        let volume = self.shared.volume(self.shared.find(name)?.id)?;
        let _managing = volume.manage.lock();
        let mut committed = volume.record.lock();
        let mut record = committed.record.clone();
        record.backend = Backend::File(file);
        volume.commit_record(&mut committed, record)?;
        Ok(committed.record.clone())
    }

    /// Puts a volume that has its data in `file` in the place of one of the store, which goes to the trash: in one commit.
    /// Nobody writes to the old one any more; what it is now is what `copy` was given.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Refused`] if it has snapshots; or what `copy` answers: the volume stays as it is then.
    pub fn convert_to_file(
        &self,
        name: &Name,
        copy: impl FnOnce() -> Result<ImageFile, Error>,
    ) -> Result<VolumeRecord, Error> {
        let volume = self.shared.volume(self.shared.find(name)?.id)?;
        let _managing = volume.manage.lock();
        {
            let committed = volume.record.lock();
            Self::refuse_mode(&committed.record)?;
            Self::refuse_scheduled(&committed.record)?;
        }
        if !self.shared.catalog.snapshots(volume.id)?.is_empty() {
            let message =
                format!("'{name}' has snapshots, which a file cannot take over: remove them first");
            return Err(Error::new(ErrorKind::Refused, message));
        }
        volume.settle_now()?;
        let file = copy()?;
        let converted = volume.retire(|| {
            let committed = volume.record.lock();
            let old = self.trashed_record(&committed.record)?;
            let properties = old.properties;
            let record = self.file_record(name, old.size, properties.read_only, file)?;
            let record = VolumeRecord {
                created_ms: old.created_ms,
                origin: old.origin.clone(),
                independent: old.independent,
                properties,
                ..record
            };
            let changes = [Change::PutVolume(old), Change::PutVolume(record.clone())];
            self.shared.catalog.commit(&changes)?;
            Ok(VolumeRecord {
                version: 1,
                ..record
            })
        })?;
        self.shared.volumes.lock().remove(&volume.id);
        Ok(converted)
    }

    /// Begins to fill a volume that will be in the place of one that has its data in a file.
    ///
    /// # Errors
    /// If the catalog cannot be read.
    pub fn convert_to_store(&self, old: &VolumeRecord) -> Result<Ingest<'_>, Error> {
        self.ingest_as(&old.name, old.properties)
    }

    /// Forgets a volume that has its data in a file; what becomes of the file is not this crate's business.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn forget_file_volume(&self, name: &Name) -> Result<(), Error> {
        let record = self.remove_volume(name)?;
        self.purge_volume(record.id).map(|_| ())
    }

    fn file_record(
        &self,
        name: &Name,
        size: u64,
        read_only: bool,
        file: ImageFile,
    ) -> Result<VolumeRecord, Error> {
        let properties = Properties {
            read_only,
            ..self.shared.catalog.settings()?.defaults
        };
        let record = self.new_record(name.clone(), size, properties, Rooted::EMPTY, None)?;
        let backend = Backend::File(file);
        Ok(VolumeRecord { backend, ..record })
    }
}

impl Shared {
    /// Refuses what only the blocks of the store can do.
    pub(crate) fn refuse_file(record: &VolumeRecord) -> Result<(), Error> {
        match record.backend {
            Backend::Store => Ok(()),
            Backend::File(_) => {
                let message = format!(
                    "'{}' is a plain file, which cannot do that; 'volume convert {} --backend store' makes a volume of the store of it",
                    record.name, record.name
                );
                Err(Error::new(ErrorKind::Refused, message))
            }
        }
    }
}
