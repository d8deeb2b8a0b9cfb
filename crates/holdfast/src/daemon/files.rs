//! Volumes that are plain files: which file is whose, and which are open.

mod control;
mod convert;
mod moves;
mod snapshots;
mod verify;

use super::{
    control::{Daemon, LEAVING},
    convert as words,
};
use api_types::{ApiError, CreateVolume, ErrorCode, FileInfo, FileSpec, UpdateVolume};
use catalog::{Backend, ImageFile, VolumeRecord};
use env::Env;
use file_disk::{Disk, Open, Place, Roots};
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};
use types::{FileDriver, FileFormat, Name, VolumeId};
use volume::Update;

type Result<T> = std::result::Result<T, ApiError>;

/// The store's own directory for image files, in the store's.
const OWN: &str = "file-storage";

/// The image files of a store's volumes.
pub(crate) struct Files {
    env: Env,
    roots: Roots,
    /// What clients have open: one device for all of them, as another would not get the file's locks.
    open: Mutex<BTreeMap<VolumeId, Weak<dyn Disk>>>,
}

pub(crate) fn api_error(e: file_disk::Error) -> ApiError {
    use file_disk::ErrorKind as Kind;
    let code = match e.kind() {
        Kind::NotFound => ErrorCode::NotFound,
        Kind::Exists => ErrorCode::Conflict,
        Kind::Invalid => ErrorCode::Invalid,
        Kind::InUse => ErrorCode::InUse,
        Kind::Refused => ErrorCode::Refused,
        Kind::NoSpace => ErrorCode::NoSpace,
        Kind::Damaged => ErrorCode::Damaged,
        Kind::Io => ErrorCode::Internal,
    };
    ApiError::new(code, e.to_string())
}

impl Files {
    pub(crate) fn new(env: &Env, store: &Path, allowed: Vec<PathBuf>) -> Result<Self> {
        let own = store.join(OWN);
        let made = env.files.create_dir_all(&own);
        made.map_err(|e| ApiError::new(ErrorCode::Internal, format!("{}: {e}", own.display())))?;
        if let Some(relative) = allowed.iter().find(|dir| dir.is_relative()) {
            let message = format!(
                "[files] allowed: '{}' is not an absolute path",
                relative.display()
            );
            return Err(ApiError::new(ErrorCode::Invalid, message));
        }
        Ok(Files {
            env: env.clone(),
            roots: Roots::new(own, allowed),
            open: Mutex::default(),
        })
    }

    pub(crate) fn place(&self, file: &ImageFile) -> Place {
        self.roots.recorded(file.root.as_deref(), &file.path)
    }

    /// The record of a file at a place.
    fn image_file(
        &self,
        place: &Place,
        format: FileFormat,
        driver: FileDriver,
    ) -> Result<ImageFile> {
        let text = |path: &Path| {
            let unreadable =
                || ApiError::new(ErrorCode::Invalid, format!("{} is no text", path.display()));
            path.to_str().map(str::to_owned).ok_or_else(unreadable)
        };
        let root = (!self.roots.is_own(&place.root)).then(|| text(&place.root));
        Ok(ImageFile {
            root: root.transpose()?,
            path: text(&place.path)?,
            format,
            driver,
        })
    }

    /// Where a volume's file is to be.
    fn place_for(&self, name: &Name, directory: Option<&str>) -> Result<Place> {
        let directory = Path::new(directory.unwrap_or(""));
        let place = self.roots.place(directory).map_err(api_error)?;
        Ok(place.join(&file_disk::disk_path(name)))
    }

    pub(crate) fn info(&self, file: &ImageFile) -> FileInfo {
        FileInfo {
            path: self.place(file).to_string(),
            format: file.format,
            driver: file.driver,
        }
    }

    /// Bytes of storage that a volume's file takes; 0 if it cannot be looked at.
    pub(crate) fn allocated(&self, file: &ImageFile) -> u64 {
        let found = file_disk::look(&self.env, &self.place(file));
        found.map_or(0, |found| found.allocated)
    }

    /// The device of a volume that is a file, opened if nobody has it open.
    pub(crate) fn device(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
    ) -> std::result::Result<Arc<dyn Disk>, file_disk::Error> {
        let clock = &self.env.clock;
        let end = clock.monotonic() + LEAVING;
        loop {
            match self.try_device(record, file) {
                Err(e) if e.kind() == file_disk::ErrorKind::InUse && clock.monotonic() < end => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                other => return other,
            }
        }
    }

    fn try_device(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
    ) -> std::result::Result<Arc<dyn Disk>, file_disk::Error> {
        let mut open = self.open.lock();
        open.retain(|_, disk| disk.strong_count() > 0);
        if let Some(disk) = open.get(&record.id).and_then(Weak::upgrade) {
            return Ok(disk);
        }
        let how = Open {
            format: file.format,
            driver: file.driver,
            read_only: record.properties.read_only,
        };
        let place = self.place(file);
        if !self.roots.allows(&place.root) {
            let why =
                format!("{place} is in a directory that the configuration does not allow any more");
            return Err(file_disk::Error::new(file_disk::ErrorKind::Refused, why));
        }
        let disk = file_disk::open(&self.env, &place, how, record.size)?;
        open.insert(record.id, Arc::downgrade(&disk));
        Ok(disk)
    }

    /// Removes a volume's file; that it is gone already is no error.
    pub(crate) fn remove(&self, file: &ImageFile) -> Result<()> {
        match self.place(file).remove(&self.env) {
            Err(e) if e.kind() != file_disk::ErrorKind::NotFound => Err(api_error(e)),
            _ => Ok(()),
        }
    }
}

/// Refuses what only blocks of the store have.
pub(crate) fn refuse_for_file(record: &VolumeRecord, what: &str) -> Result<()> {
    match record.backend {
        Backend::Store => Ok(()),
        Backend::File(_) => {
            let name = &record.name;
            let message = format!("'{name}' is a plain file, which has no {what}");
            Err(ApiError::new(ErrorCode::Refused, message).hint(format!(
                "'holdfast volume convert {name} --backend store' makes a volume of the store of it"
            )))
        }
    }
}

impl Daemon {
    /// The file of a volume that is one.
    pub(crate) fn file_of(record: &VolumeRecord) -> Result<&ImageFile> {
        record.backend.file().ok_or_else(|| {
            let message = format!(
                "'{}' is no plain file: its data are in the store",
                record.name
            );
            ApiError::new(ErrorCode::Refused, message)
        })
    }

    /// Makes a volume that is a file, or takes the file that is there.
    pub(crate) fn create_file_volume(
        &self,
        request: &CreateVolume,
        spec: &FileSpec,
    ) -> Result<VolumeRecord> {
        let refused = [
            (request.from.is_some(), "clones"),
            (request.dedup == Some(true), "deduplication"),
            (request.codec.is_some(), "codec"),
            (request.quota.is_some_and(|quota| quota != 0), "quota"),
            (request.snapshot_policy.chooses(), "scheduled snapshots"),
        ];
        if let Some((_, what)) = refused.iter().find(|(asked, _)| *asked) {
            let message = format!("a volume that is a plain file has no {what}");
            return Err(ApiError::new(ErrorCode::Refused, message));
        }
        let name = words::name(&request.name)?;
        let place = self.files.place_for(&name, spec.directory.as_deref())?;
        let (size, file) = if spec.reuse {
            self.taken(&place, spec, request.size)?
        } else {
            let needed = || ApiError::new(ErrorCode::Invalid, "a new volume needs a size");
            let size = request.size.ok_or_else(needed)?;
            let (format, driver) = (
                spec.format.unwrap_or_default(),
                spec.driver.unwrap_or_default(),
            );
            (size, self.files.image_file(&place, format, driver)?)
        };
        self.refuse_taken_name(&name)?;
        if !spec.reuse {
            self.make_file(&place, size, &file)?;
        }
        let read_only = request.read_only.unwrap_or(false);
        let made = self.store.create_file_volume(&name, size, read_only, file);
        made.map_err(|e| {
            if !spec.reuse {
                let _ = place.remove(&self.env);
            }
            words::api_error(e)
        })
    }

    fn make_file(&self, place: &Place, size: u64, file: &ImageFile) -> Result<()> {
        volume::check_size(size).map_err(words::api_error)?;
        let how = Open {
            format: file.format,
            driver: file.driver,
            read_only: false,
        };
        file_disk::create(&self.env, place, size, how).map_err(|e| {
            let error = api_error(e);
            match error.code {
                ErrorCode::Conflict => error.hint("add --reuse to take the file that is there"),
                _ => error,
            }
        })
    }

    fn refuse_taken_name(&self, name: &Name) -> Result<()> {
        match self.store.find(name) {
            Ok(_) => {
                let message = format!("the volume '{name}' exists already; choose another name");
                Err(ApiError::new(ErrorCode::Conflict, message))
            }
            Err(_) => Ok(()),
        }
    }

    /// Renames, resizes or makes read-only a volume that is a file.
    pub(crate) fn update_file_volume(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        request: &UpdateVolume,
    ) -> Result<VolumeRecord> {
        let refused = [
            (request.dedup == Some(true), "deduplication"),
            (request.codec.is_some(), "codec"),
            (request.quota.is_some_and(|quota| quota != 0), "quota"),
            (request.snapshot_policy.chooses(), "scheduled snapshots"),
        ];
        for (_, what) in refused.iter().filter(|(asked, _)| *asked) {
            refuse_for_file(record, what)?;
        }
        if request
            .read_only
            .is_some_and(|on| on != record.properties.read_only)
        {
            self.refuse_in_use(&record.name, "made read-only or writable")?;
        }
        if file.format == FileFormat::Qcow2 && request.size.is_some_and(|size| size < record.size) {
            let message = format!(
                "'{}' is a qcow2 image, which is not made smaller in place",
                record.name
            );
            return Err(ApiError::new(ErrorCode::Invalid, message)
                .hint("convert it to the store, resize it there, and convert it back"));
        }
        let mut name = record.name.clone();
        if let Some(new) = &request.name {
            name = words::name(new)?;
            self.rename_file_volume(record, file, &name)?;
        }
        let size = request.size.unwrap_or(record.size);
        if size < record.size && !request.allow_data_loss {
            let message = format!("shrinking '{name}' would cut data off");
            let error = ApiError::new(ErrorCode::Refused, message);
            return Err(error.hint("add --allow-data-loss if that is meant"));
        }
        volume::check_size(size).map_err(words::api_error)?;
        let update = Update {
            size: Some(size),
            allow_data_loss: request.allow_data_loss,
            read_only: request.read_only,
            limits: request.limits.changes(),
            independent: request.independent,
            ..Update::default()
        };
        // The file is never smaller than the catalog says.
        if size > record.size {
            self.resize_file(&name, size)?;
        }
        let updated = self
            .store
            .update_volume(&name, &update)
            .map_err(words::api_error)?;
        if size < record.size {
            self.resize_file(&name, size)?;
        }
        Ok(updated)
    }

    fn resize_file(&self, name: &Name, size: u64) -> Result<()> {
        let mut record = self.store.find(name).map_err(words::api_error)?;
        // Shrunk already in the catalog: as it is to be opened.
        record.size = record.size.min(size);
        let file = Self::file_of(&record)?.clone();
        record.properties.read_only = false;
        let disk = self.files.device(&record, &file).map_err(api_error)?;
        disk.resize(size).map_err(api_error)
    }
}
