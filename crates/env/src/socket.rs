//! Unix sockets that clients connect to, and their files.

use rustix::fs::Mode;
use std::{
    ffi::OsString,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// A socket file that is removed with this, unless somebody put another in its place.
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.inode) {
            // A file left behind is replaced by the next server.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Listens at `path`, which replaces a socket that nobody listens at.
///
/// # Errors
/// `AddrInUse` if somebody does, or it is no socket.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<(OwnedFd, SocketFile)> {
    refuse_if_in_use(path)?;
    // The permissions are right before anybody can connect.
    let mut new = OsString::from(path);
    new.push("~");
    let new = PathBuf::from(new);
    if let Err(error) = std::fs::remove_file(&new)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let listener = UnixListener::bind(&new)?;
    rustix::fs::chmod(&new, Mode::from_raw_mode(mode))?;
    std::fs::rename(&new, path)?;
    let inode = std::fs::symlink_metadata(path)?.ino();
    let path = path.to_owned();
    Ok((listener.into(), SocketFile { path, inode }))
}

fn refuse_if_in_use(path: &Path) -> io::Result<()> {
    let in_use = |why: &str| {
        let text = format!("{}: {why}", path.display());
        Err(io::Error::new(io::ErrorKind::AddrInUse, text))
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            return in_use("exists and is not a socket; remove it or choose another path");
        }
        Ok(_) => {}
    }
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => in_use("another server listens there; stop it or choose another path"),
    }
}
