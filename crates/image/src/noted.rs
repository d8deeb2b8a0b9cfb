//! Files that an image is read from: nothing is written to them, and they must not change meanwhile.
//!
//! Each file that is opened is noted. Its length and the time of its last change say whether it is what it was: an image
//! that is changed while it is read is an error, not a mixture.

use crate::error::Error;
use env::{Env, File, FileKind, Files, Lock, LockError, OpenOptions, Space};
use parking_lot::Mutex;
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use volume::SourceFile;

/// The file system, to read; which files were opened is noted.
pub(crate) struct Noted {
    files: Arc<dyn Files>,
    opened: Mutex<Vec<Opened>>,
}

struct Opened {
    path: PathBuf,
    file: Arc<dyn File>,
    /// What it was when it was opened.
    was: SourceFile,
}

impl Noted {
    /// An environment that notes the files that are opened through it, and the notes.
    pub(crate) fn over(env: &Env) -> (Env, Arc<Self>) {
        let noted = Arc::new(Noted {
            files: Arc::clone(&env.files),
            opened: Mutex::default(),
        });
        let env = Env {
            files: Arc::clone(&noted) as _,
            ..env.clone()
        };
        (env, noted)
    }

    /// What the files were when they were opened, in that order.
    pub(crate) fn were(&self) -> Vec<SourceFile> {
        let opened = self.opened.lock();
        opened.iter().map(|opened| opened.was.clone()).collect()
    }

    /// Refuses files that are not what they were when they were opened.
    pub(crate) fn check(&self) -> Result<(), Error> {
        self.check_against(&self.were())
    }

    /// Refuses files that are not what they `were`.
    pub(crate) fn check_against(&self, were: &[SourceFile]) -> Result<(), Error> {
        for (at, opened) in self.opened.lock().iter().enumerate() {
            let shown = opened.path.display();
            let now = stamp(&opened.path, &*opened.file);
            let now = now.map_err(|e| Error::io(format_args!("cannot look at {shown}"), e))?;
            match were.get(at) {
                Some(was) if *was == now => {}
                Some(was) if was.path == now.path => {
                    let message = format!("{shown} was changed after the import began");
                    return Err(Error::invalid(message));
                }
                _ => {
                    let message = format!("{shown} was not a part of the image");
                    return Err(Error::invalid(message));
                }
            }
        }
        Ok(())
    }
}

fn stamp(path: &Path, file: &dyn File) -> io::Result<SourceFile> {
    Ok(SourceFile {
        path: path.display().to_string(),
        len: file.len()?,
        modified_ns: u64::try_from(file.modified()?.as_nanos()).unwrap_or(u64::MAX),
    })
}

fn only_read() -> io::Error {
    io::ErrorKind::ReadOnlyFilesystem.into()
}

impl Files for Noted {
    fn open_max(&self) -> usize {
        self.files.open_max()
    }

    fn open(&self, path: &Path, options: OpenOptions) -> io::Result<Arc<dyn File>> {
        if options.write || options.create_new {
            return Err(only_read());
        }
        let file = self.files.open(path, options)?;
        self.opened.lock().push(Opened {
            path: path.to_owned(),
            was: stamp(path, &*file)?,
            file: Arc::clone(&file),
        });
        Ok(file)
    }

    fn rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(only_read())
    }

    fn remove(&self, _: &Path) -> io::Result<()> {
        Err(only_read())
    }

    fn create_dir_all(&self, _: &Path) -> io::Result<()> {
        Err(only_read())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        self.files.list(path)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.files.exists(path)
    }

    fn kind(&self, path: &Path) -> io::Result<FileKind> {
        self.files.kind(path)
    }

    fn is_link(&self, path: &Path) -> io::Result<bool> {
        self.files.is_link(path)
    }

    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Err(only_read())
    }

    fn space(&self, path: &Path) -> io::Result<Space> {
        self.files.space(path)
    }

    fn lock(&self, _: &Path) -> Result<Box<dyn Lock>, LockError> {
        Err(LockError::Io(only_read()))
    }
}
