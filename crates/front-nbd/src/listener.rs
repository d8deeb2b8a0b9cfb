//! Sockets that clients connect to.

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    fs::Mode,
    io::Errno,
    net::{SocketFlags, accept_with},
};
use std::{
    ffi::OsString,
    io,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::{FileTypeExt, MetadataExt},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

/// A socket file that is removed with this, unless somebody put another in its place.
pub(crate) struct SocketFile {
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
pub(crate) fn bind_unix(path: &Path, mode: u32) -> io::Result<(OwnedFd, SocketFile)> {
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

/// Listens at `address`, with the port that it got.
///
/// # Errors
/// The address is not of this host's loopback: there is no encryption.
pub(crate) fn bind_tcp(address: SocketAddr) -> io::Result<(OwnedFd, SocketAddr)> {
    if !address.ip().is_loopback() {
        let text = format!("{address}: NBD without TLS is served on loopback addresses only");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    Ok((listener.into(), address))
}

/// Tells every acceptor to stop.
pub(crate) struct Stop(OwnedFd);

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Stop(eventfd(0, EventfdFlags::CLOEXEC)?))
    }

    pub(crate) fn raise(&self) -> io::Result<()> {
        // Nobody reads it: it stays raised.
        rustix::io::write(&self.0, &1u64.to_ne_bytes())?;
        Ok(())
    }
}

/// Accepts connections until `stop` is raised.
pub(crate) fn accept_until(stop: &Stop, listener: &OwnedFd, mut take: impl FnMut(OwnedFd)) {
    // Between `poll` and `accept` a client may have given up.
    if let Err(error) = rustix::io::ioctl_fionbio(listener, true) {
        tracing::warn!(%error, "an NBD listener does not work");
        return;
    }
    loop {
        let mut fds = [
            PollFd::new(&stop.0, PollFlags::IN),
            PollFd::new(listener, PollFlags::IN),
        ];
        match poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => {
                tracing::warn!(%error, "an NBD listener does not work");
                return;
            }
        }
        if !fds[0].revents().is_empty() {
            return;
        }
        if fds[1].revents().is_empty() {
            continue;
        }
        match accept_with(listener.as_fd(), SocketFlags::CLOEXEC) {
            Ok(stream) => take(stream),
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
            Err(error) => {
                tracing::warn!(%error, "an NBD connection cannot be accepted");
                rest(stop);
            }
        }
    }
}

/// Too many files are open, most likely: trying again at once would only burn time.
fn rest(stop: &Stop) {
    let mut fds = [PollFd::new(&stop.0, PollFlags::IN)];
    let timeout = Timespec::try_from(Duration::from_millis(100)).ok();
    // Whatever woke us, the caller looks again.
    let _ = poll(&mut fds, timeout.as_ref());
}
