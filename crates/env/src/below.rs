//! Files below a directory that is trusted, named by paths that are not.
//!
//! The directory itself may be reached over symbolic links; below it none is followed, and nothing leads out of it: the
//! kernel refuses (`openat2` with `RESOLVE_BENEATH` and `RESOLVE_NO_SYMLINKS`, Linux 5.6).

use crate::OpenOptions;
use rustix::{
    fd::OwnedFd,
    fs::{
        AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, fstat, linkat, mkdirat, openat2,
        unlinkat,
    },
    io::Errno,
};
use std::{ffi::OsStr, fs, io, path::Path};

fn directory(root: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(root, flags, Mode::empty())?)
}

fn beneath(root: &OwnedFd, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve).map_err(|e| match e {
        Errno::LOOP | Errno::XDEV => {
            let why = format!(
                "{} is a symbolic link or leads out of its directory",
                path.display()
            );
            io::Error::new(io::ErrorKind::PermissionDenied, why)
        }
        e => e.into(),
    })
}

/// The directory of what is to be named, and its name there.
fn parent<'a>(root: &Path, path: &'a Path) -> io::Result<(OwnedFd, &'a OsStr)> {
    let nameless = || io::Error::new(io::ErrorKind::InvalidInput, "a file has a name");
    let name = path.file_name().ok_or_else(nameless)?;
    let root = directory(root)?;
    let dir = match path.parent().filter(|dir| !dir.as_os_str().is_empty()) {
        Some(dir) => beneath(&root, dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?,
        None => root,
    };
    Ok((dir, name))
}

/// Opens a regular file.
pub(crate) fn open(root: &Path, path: &Path, options: OpenOptions) -> io::Result<fs::File> {
    let mut flags = if options.write {
        OFlags::RDWR
    } else {
        OFlags::RDONLY
    };
    let mut mode = Mode::empty();
    if options.create_new {
        flags |= OFlags::CREATE | OFlags::EXCL;
        mode = Mode::RUSR | Mode::WUSR;
    }
    // Opening a pipe that nobody writes would wait.
    let fd = beneath(&directory(root)?, path, flags | OFlags::NONBLOCK, mode)?;
    if FileType::from_raw_mode(fstat(&fd)?.st_mode) != FileType::RegularFile {
        let why = format!("{} is not a regular file", path.display());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(fd.into())
}

/// Makes one directory directly below, if it is not there.
pub(crate) fn make_dir(root: &Path, name: &Path) -> io::Result<()> {
    let (dir, name) = parent(root, name)?;
    match mkdirat(dir, name, Mode::RWXU) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

/// Gives a file a second name.
pub(crate) fn link(from: (&Path, &Path), to: (&Path, &Path)) -> io::Result<()> {
    let (from_dir, from_name) = parent(from.0, from.1)?;
    let (to_dir, to_name) = parent(to.0, to.1)?;
    Ok(linkat(
        from_dir,
        from_name,
        to_dir,
        to_name,
        AtFlags::empty(),
    )?)
}

/// Removes a file, or an empty directory.
pub(crate) fn remove(root: &Path, path: &Path, dir: bool) -> io::Result<()> {
    let (parent, name) = parent(root, path)?;
    let flags = if dir {
        AtFlags::REMOVEDIR
    } else {
        AtFlags::empty()
    };
    Ok(unlinkat(parent, name, flags)?)
}

/// Makes names in a directory below durable.
pub(crate) fn sync_dir(root: &Path, path: &Path) -> io::Result<()> {
    let dir = if path.as_os_str().is_empty() {
        rustix::fs::openat(
            CWD,
            root,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?
    } else {
        beneath(
            &directory(root)?,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY,
            Mode::empty(),
        )?
    };
    Ok(rustix::fs::fsync(dir)?)
}
