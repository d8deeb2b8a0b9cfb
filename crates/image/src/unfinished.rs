//! Files that are seen when they are complete: until then they are in a directory beside.

use crate::{
    error::{Error, ErrorKind},
    target::{cannot, exists},
};
use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// A directory beside an image to be, with the files that it has so far. Dropped, it is removed.
pub(crate) struct Unfinished {
    directory: PathBuf,
    path: PathBuf,
    name: OsString,
}

impl Unfinished {
    pub(crate) fn create(path: &Path) -> Result<Self, Error> {
        let shown = path.display();
        let name = path.file_name();
        let name = name
            .ok_or_else(|| Error::invalid(format!("{shown} names no file")))?
            .to_owned();
        let mut directory = path.to_owned().into_os_string();
        directory.push(".partial");
        let directory = PathBuf::from(directory);
        DirBuilder::new().mode(0o700).create(&directory).map_err(|e| {
            if e.kind() != io::ErrorKind::AlreadyExists {
                return cannot("create", &directory)(e);
            }
            let message = format!(
                "{0} exists: another export is writing it, or one was interrupted and it can be removed: rm -r {0}",
                directory.display()
            );
            Error::new(ErrorKind::Exists, message)
        })?;
        Ok(Unfinished {
            directory,
            path: path.to_owned(),
            name,
        })
    }

    /// Where the image is written.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Where something is put that it is made from: called as it is, with an ending behind, and without what would break the lines of a
    /// text that names it.
    pub(crate) fn beside(&self, ending: &str) -> PathBuf {
        let name = self.name.to_string_lossy().replace(char::is_control, "-");
        self.directory.join(name + ending)
    }

    /// Moves everything to its place, and makes that durable.
    pub(crate) fn publish(&self, overwrite: bool) -> Result<(), Error> {
        let mut beside = Vec::new();
        for entry in fs::read_dir(&self.directory).map_err(cannot("list", &self.directory))? {
            let entry = entry.map_err(cannot("list", &self.directory))?;
            let synced = File::open(entry.path()).and_then(|file| {
                file.set_permissions(Permissions::from_mode(0o600))?;
                file.sync_all()
            });
            synced.map_err(cannot("sync", &entry.path()))?;
            if entry.file_name() != self.name {
                beside.push(entry.file_name());
            }
        }
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let targets = beside.iter().map(|name| parent.join(name));
        if !overwrite {
            // It took a while: somebody may have put something there.
            for target in targets.chain([self.path.clone()]) {
                if fs::symlink_metadata(&target).is_ok() {
                    return Err(exists(&target));
                }
            }
        } else if !beside.is_empty() {
            // An old descriptor must not be found with new extents.
            match fs::remove_file(&self.path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(cannot("replace", &self.path)(e));
                }
                _ => {}
            }
        }
        beside.sort();
        for name in beside.iter().chain([&self.name]) {
            let target = parent.join(name);
            fs::rename(self.directory.join(name), &target).map_err(cannot("create", &target))?;
        }
        let synced = File::open(parent).and_then(|directory| directory.sync_all());
        synced.map_err(cannot("sync", parent))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            let path = self.directory.display();
            tracing::warn!(%path, %error, "cannot remove what is left of an export");
        }
    }
}
