//! Sockets that clients connect to.

use rustix::{
    event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll},
    io::Errno,
    net::{SocketFlags, accept_with},
};
use std::{
    io,
    net::{SocketAddr, TcpListener},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

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

/// Tells threads that wait for something to stop.
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

impl AsFd for Stop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
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
