//! Files that come into Holdfast's care, move with their volume's name, and go.
//!
//! A file moves in three steps, each durable: it gets its new name, the catalog says so, it loses its old name. Whenever
//! the daemon dies it is where the catalog says; a name too many is what `verify` finds.

use super::{Result, api_error};
use crate::daemon::{control::Daemon, convert as words};
use api_types::{Adopt, ApiError, ErrorCode, FileSpec, Release, Released};
use catalog::{ImageFile, VolumeRecord};
use file_disk::{Found, Open, Place};
use std::path::Path;
use types::{FileFormat, Name};

impl Daemon {
    /// Looks at a file that is to become a volume, which is not changed by it.
    pub(in crate::daemon) fn taken(
        &self,
        place: &Place,
        spec: &FileSpec,
        size: Option<u64>,
    ) -> Result<(u64, ImageFile)> {
        let found = file_disk::look(&self.env, place).map_err(|e| match e.kind() {
            file_disk::ErrorKind::NotFound => self.missing(place),
            _ => api_error(e),
        })?;
        self.check_found(place, &found, spec.format)?;
        if let Some(size) = size.filter(|&size| size != found.size) {
            let message = format!("{place} is a disk of {} bytes, not {size}", found.size);
            return Err(ApiError::new(ErrorCode::Invalid, message).hint("leave the size out"));
        }
        let driver = spec.driver.unwrap_or_default();
        let file = self.files.image_file(place, found.format, driver)?;
        self.refuse_other_owner(&file)?;
        let how = Open {
            format: found.format,
            driver,
            read_only: true,
        };
        // Opened and closed, without a change: nobody writes it.
        file_disk::open(&self.env, place, how, found.size).map_err(api_error)?;
        Ok((found.size, file))
    }

    fn check_found(&self, place: &Place, found: &Found, format: Option<FileFormat>) -> Result<()> {
        if let Some(format) = format {
            found.check_format(place, format).map_err(api_error)?;
        }
        if let Some(trouble) = &found.trouble {
            let message = format!("{place} cannot be used in place: {trouble}");
            return Err(ApiError::new(ErrorCode::Invalid, message)
                .hint("'holdfast volume import' copies it into the store"));
        }
        found.check_size(place).map_err(api_error)
    }

    /// Says what is there in place of a file that is not.
    fn missing(&self, place: &Place) -> ApiError {
        let full = place.full();
        let (dir, name) = (full.parent().unwrap_or(Path::new("/")), full.file_name());
        let name = name.unwrap_or_default().to_string_lossy().into_owned();
        let mut others: Vec<String> = self
            .env
            .files
            .list(dir)
            .unwrap_or_default()
            .iter()
            .map(|other| other.display().to_string())
            .collect();
        others.sort();
        others.truncate(5);
        let message = format!("there is no file '{name}' in {}", dir.display());
        match others.is_empty() {
            true => ApiError::new(
                ErrorCode::NotFound,
                format!("{message}: nothing is there to be taken"),
            ),
            false => {
                let message = format!("{message}, which has: {}", others.join(", "));
                ApiError::new(ErrorCode::NotFound, message)
                    .hint(format!("a file that is to be taken is named '{name}'"))
            }
        }
    }

    fn refuse_other_owner(&self, file: &ImageFile) -> Result<()> {
        let place = self.files.place(file);
        let records = self.records()?;
        let owner = records.iter().find(|record| {
            let theirs = record.backend.file();
            theirs.is_some_and(|theirs| self.files.place(theirs) == place)
        });
        match owner {
            Some(owner) => {
                let message = format!("{place} is the volume '{}' already", owner.name);
                Err(ApiError::new(ErrorCode::Conflict, message))
            }
            None => Ok(()),
        }
    }

    fn link(&self, from: &Place, to: &Place) -> Result<()> {
        from.link(&self.env, to).map_err(api_error)
    }

    fn unlink(&self, place: &Place) {
        if let Err(e) = place.remove(&self.env) {
            tracing::warn!(file = %place, error = %e, "a name that is not needed any more stays");
        }
    }

    pub(in crate::daemon) fn rename_file_volume(
        &self,
        record: &VolumeRecord,
        file: &ImageFile,
        name: &Name,
    ) -> Result<()> {
        self.refuse_taken_name(name)?;
        let from = self.files.place(file);
        let path = file_disk::disk_path(name);
        let old_path = file_disk::disk_path(&record.name);
        let mut to = from.clone();
        // What comes before INSTANCE/DISK stays.
        to.path = match from.path.ends_with(&old_path) {
            true => from
                .path
                .ancestors()
                .nth(2)
                .unwrap_or(Path::new(""))
                .join(&path),
            false => path,
        };
        self.link(&from, &to)?;
        let file = self.files.image_file(&to, file.format, file.driver)?;
        let update = volume::Update {
            name: Some(name.clone()),
            ..Default::default()
        };
        let renamed = self
            .store
            .update_volume(&record.name, &update)
            .and_then(|_| self.store.set_file(name, file));
        renamed.map_err(|e| {
            self.unlink(&to);
            words::api_error(e)
        })?;
        self.unlink(&from);
        Ok(())
    }

    pub(in crate::daemon) fn adopt(&self, request: &Adopt) -> Result<VolumeRecord> {
        let name = words::name(&request.name)?;
        self.refuse_taken_name(&name)?;
        let from = self
            .files
            .roots
            .place(Path::new(&request.path))
            .map_err(api_error)?;
        let spec = FileSpec {
            format: request.format,
            driver: request.driver,
            ..FileSpec::default()
        };
        let (size, found) = self.taken(&from, &spec, None)?;
        let to = self.files.place_for(&name, request.directory.as_deref())?;
        let file = self.files.image_file(&to, found.format, found.driver)?;
        let moves = from != to;
        if moves {
            self.link(&from, &to)?;
        }
        let made = self.store.create_file_volume(&name, size, false, file);
        let made = made.map_err(|e| {
            if moves {
                self.unlink(&to);
            }
            words::api_error(e)
        })?;
        if moves {
            self.unlink(&from);
        }
        Ok(made)
    }

    pub(in crate::daemon) fn release(&self, name: &str, request: &Release) -> Result<Released> {
        let record = self
            .store
            .find(&words::name(name)?)
            .map_err(words::api_error)?;
        let file = Self::file_of(&record)?;
        let from = self.files.place(file);
        self.refuse_in_use(&record.name, "released")?;
        let to = match &request.path {
            Some(path) => self.files.roots.place(Path::new(path)).map_err(api_error)?,
            // Beside the directories of instances.
            None => Place {
                root: from.root.clone(),
                path: format!("{}.{}", record.name, file.format).into(),
            },
        };
        self.link(&from, &to)?;
        if let Err(e) = self.store.forget_file_volume(&record.name) {
            self.unlink(&to);
            return Err(words::api_error(e));
        }
        self.unlink(&from);
        Ok(Released {
            name: record.name.to_string(),
            path: to.to_string(),
        })
    }
}
