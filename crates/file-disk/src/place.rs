//! Where image files may be, and what they are called.

use crate::error::{Error, ErrorKind};
use env::Env;
use std::{
    fmt,
    path::{Component, Path, PathBuf},
};
use types::Name;

/// Where a file is: below a directory that is trusted, at a path that has no symbolic links.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory; absolute.
    pub root: PathBuf,
    /// The path below it.
    pub path: PathBuf,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.full().display().fmt(f)
    }
}

/// The path of a volume's file below its directory: `INSTANCE/DISK`.
///
/// A name that ends with `.diskN` is a disk of the instance that comes before it; any other is the instance itself, and its `disk0`.
#[must_use]
pub fn disk_path(name: &Name) -> PathBuf {
    let name = name.as_str();
    let numbered = |disk: &str| {
        let number = disk.strip_prefix("disk");
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    match name.rsplit_once('.').filter(|(_, disk)| numbered(disk)) {
        Some((instance, disk)) => Path::new(instance).join(disk),
        None => Path::new(name).join("disk0"),
    }
}

/// The directories in which image files may be.
#[derive(Clone, Debug)]
pub struct Roots {
    own: PathBuf,
    allowed: Vec<PathBuf>,
}

impl Roots {
    /// The store's own, and those that the configuration allows; absolute.
    #[must_use]
    pub fn new(own: PathBuf, allowed: Vec<PathBuf>) -> Self {
        Roots { own, allowed }
    }

    /// All of them, the store's own first.
    pub fn all(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.own)
            .chain(&self.allowed)
            .map(PathBuf::as_path)
    }

    /// Where `path` is: relative to the store's own directory, or absolute and below one that is allowed.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if it is below none, [`ErrorKind::Invalid`] if it has `..` in it.
    pub fn place(&self, path: &Path) -> Result<Place, Error> {
        if path.components().any(|part| part == Component::ParentDir) {
            let why = format!("'{}' has '..' in it: give the path without", path.display());
            return Err(Error::new(ErrorKind::Invalid, why));
        }
        if path.is_relative() {
            return Ok(Place {
                root: self.own.clone(),
                path: path
                    .components()
                    .filter(|part| *part != Component::CurDir)
                    .collect(),
            });
        }
        let below = |root: &Path| {
            let path = path.strip_prefix(root).ok()?.to_owned();
            let root = root.to_owned();
            Some(Place { root, path })
        };
        let refused = || {
            let why = format!(
                "{} is in no directory that is allowed for image files: add its directory to [files] allowed in the configuration",
                path.display()
            );
            Error::new(ErrorKind::Refused, why)
        };
        self.all().find_map(below).ok_or_else(refused)
    }

    /// The place that a record names.
    #[must_use]
    pub fn recorded(&self, root: Option<&str>, path: &str) -> Place {
        Place {
            root: root.map_or_else(|| self.own.clone(), PathBuf::from),
            path: PathBuf::from(path),
        }
    }

    /// Whether this is the store's own directory.
    #[must_use]
    pub fn is_own(&self, root: &Path) -> bool {
        root == self.own
    }

    /// Whether files may be there, as the configuration is now.
    #[must_use]
    pub fn allows(&self, root: &Path) -> bool {
        self.all().any(|allowed| allowed == root)
    }
}

impl Place {
    /// The absolute path.
    #[must_use]
    pub fn full(&self) -> PathBuf {
        self.root.join(&self.path)
    }

    /// A file in the directory that this names.
    #[must_use]
    pub fn join(mut self, path: &Path) -> Place {
        self.path.push(path);
        self
    }

    /// Another file in the same directory.
    #[must_use]
    pub fn beside(&self, name: &str) -> Place {
        Place {
            root: self.root.clone(),
            path: self.path.with_file_name(name),
        }
    }

    fn dir(&self) -> &Path {
        self.path.parent().unwrap_or(Path::new(""))
    }

    /// Makes the directories that are missing below the root.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if one is a symbolic link.
    pub fn make_dirs(&self, env: &Env) -> Result<(), Error> {
        let mut made = PathBuf::new();
        for part in self.dir().components() {
            made.push(part);
            let make = env.files.make_dir_below(&self.root, &made);
            make.map_err(|e| Error::io(self, "cannot have its directory", e))?;
        }
        Ok(())
    }

    /// Makes the file's name durable, with the directories on the way.
    ///
    /// # Errors
    /// If the sync fails.
    pub fn sync(&self, env: &Env) -> Result<(), Error> {
        for dir in self.dir().ancestors() {
            let synced = env.files.sync_dir_below(&self.root, dir);
            synced.map_err(|e| Error::io(self, "cannot be made durable", e))?;
        }
        Ok(())
    }

    /// Removes the file, and its directory if nothing is left in it.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn remove(&self, env: &Env) -> Result<(), Error> {
        let removed = env.files.remove_below(&self.root, &self.path);
        removed.map_err(|e| Error::io(self, "cannot be removed", e))?;
        let root = Path::new("");
        let synced = env.files.sync_dir_below(&self.root, root);
        synced.map_err(|e| Error::io(self, "cannot be removed durably", e))
    }

    /// Gives the file a second name, which is durable when this returns. So a file moves in two steps, and is there after each.
    ///
    /// # Errors
    /// [`ErrorKind::Exists`]; [`ErrorKind::Invalid`] if `to` is on another file system.
    pub fn link(&self, env: &Env, to: &Place) -> Result<(), Error> {
        to.make_dirs(env)?;
        env.files
            .link_below((&self.root, &self.path), (&to.root, &to.path))
            .map_err(|e| match e.kind() {
                std::io::ErrorKind::AlreadyExists => Error::io(to, "cannot be the new name", e),
                std::io::ErrorKind::CrossesDevices => {
                    let why = format!("{self} cannot move to {to}: that is another file system; copy it there first");
                    Error::new(ErrorKind::Invalid, why)
                }
                _ => Error::io(self, "cannot move", e),
            })?;
        to.sync(env)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: &str) -> String {
        disk_path(&name.parse().unwrap()).display().to_string()
    }

    #[test]
    fn names_are_instances_and_disks() {
        assert_eq!(path("web"), "web/disk0");
        assert_eq!(path("web.disk1"), "web/disk1");
        assert_eq!(path("web.example.com"), "web.example.com/disk0");
        assert_eq!(path("web.example.com.disk12"), "web.example.com/disk12");
        assert_eq!(path("web.disk"), "web.disk/disk0");
        assert_eq!(path("web.diskette"), "web.diskette/disk0");
    }

    #[test]
    fn only_what_is_allowed_is_a_place() {
        let roots = Roots::new("/store/file-storage".into(), vec!["/srv/images".into()]);
        let place = |path: &str| roots.place(Path::new(path));
        assert_eq!(
            place("fast").unwrap().full(),
            Path::new("/store/file-storage/fast")
        );
        assert_eq!(
            place("./").unwrap().full(),
            Path::new("/store/file-storage/")
        );
        assert_eq!(
            place("/srv/images/a").unwrap().root,
            Path::new("/srv/images")
        );
        for refused in ["/etc", "/srv", "/srv/images-of-others", "/"] {
            assert_eq!(
                place(refused).unwrap_err().kind(),
                ErrorKind::Refused,
                "{refused}"
            );
        }
        for invalid in ["..", "/srv/images/../x", "a/../../b"] {
            assert_eq!(
                place(invalid).unwrap_err().kind(),
                ErrorKind::Invalid,
                "{invalid}"
            );
        }
    }
}
