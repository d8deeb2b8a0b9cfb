//! A connected stream socket.

use env::Clock;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown, sockopt},
};
use std::{
    io::{self, IoSlice},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    time::Duration,
};

/// A stream to a client.
pub(crate) struct Socket {
    fd: OwnedFd,
}

impl Socket {
    /// Sets what sockets of TCP need; `fd` blocks.
    pub(crate) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, false)?;
        if sockopt::socket_domain(&fd)? != rustix::net::AddressFamily::UNIX {
            sockopt::set_tcp_nodelay(&fd, true)?;
            sockopt::set_socket_keepalive(&fd, true)?;
        }
        Ok(Socket { fd })
    }

    /// Waits for bytes and takes some; 0 is the end.
    pub(crate) fn recv(&self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(n) = self.recv_soon(buf)? {
                return Ok(n);
            }
        }
    }

    /// As [`recv`](Self::recv), but `None` if nothing came for as long as [`set_idle`](Self::set_idle) says.
    pub(crate) fn recv_soon(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.recv_with(buf, RecvFlags::empty())
    }

    /// Who waits with [`recv_soon`](Self::recv_soon) does so for so long.
    pub(crate) fn set_idle(&self, after: Duration) -> io::Result<()> {
        Ok(sockopt::set_socket_timeout(
            &self.fd,
            sockopt::Timeout::Recv,
            Some(after),
        )?)
    }

    /// Takes some bytes if any are there; 0 is the end.
    pub(crate) fn try_recv(&self, buf: &mut [u8]) -> io::Result<Option<usize>> {
        self.recv_with(buf, RecvFlags::DONTWAIT)
    }

    /// Waits until `buf` is full; less is the end.
    pub(crate) fn recv_all(&self, buf: &mut [u8]) -> io::Result<usize> {
        let mut got = 0;
        while got < buf.len() {
            match self.recv_with(&mut buf[got..], RecvFlags::WAITALL)? {
                Some(0) => break,
                n => got += n.unwrap_or(0),
            }
        }
        Ok(got)
    }

    fn recv_with(&self, buf: &mut [u8], flags: RecvFlags) -> io::Result<Option<usize>> {
        loop {
            match recv(&self.fd, &mut *buf, flags) {
                Ok((n, _)) => return Ok(Some(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends some of `parts` without waiting; `None` if that cannot be done now.
    pub(crate) fn try_send(&self, parts: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let mut none = SendAncillaryBuffer::default();
        loop {
            match sendmsg(&self.fd, parts, &mut none, flags) {
                Ok(n) => return Ok(Some(n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(None),
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// `TimedOut` if nothing at all could be sent for as long as `patience`.
    pub(crate) fn send_all(&self, mut bytes: &[u8], patience: Duration) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_send(&[IoSlice::new(bytes)])? {
                Some(n) => bytes = &bytes[n..],
                None => self.wait(PollFlags::OUT, patience)?,
            }
        }
        Ok(())
    }

    /// Waits until something can be sent.
    pub(crate) fn wait_writable(&self, patience: Duration) -> io::Result<()> {
        self.wait(PollFlags::OUT, patience)
    }

    /// Fills `buf` before the clock says `deadline`.
    ///
    /// # Errors
    /// `TimedOut`, or `UnexpectedEof`.
    pub(crate) fn recv_until(
        &self,
        buf: &mut [u8],
        clock: &dyn Clock,
        deadline: Duration,
    ) -> io::Result<()> {
        let mut got = 0;
        while got < buf.len() {
            self.wait(PollFlags::IN, deadline.saturating_sub(clock.monotonic()))?;
            match self.recv(&mut buf[got..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => got += n,
            }
        }
        Ok(())
    }

    fn wait(&self, what: PollFlags, patience: Duration) -> io::Result<()> {
        let mut timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        if sync::IS_MODEL {
            timeout = Timespec::default();
        }
        loop {
            let mut fds = [PollFd::new(&self.fd, what)];
            match poll(&mut fds, Some(&timeout)) {
                // The other end is a thread of the model's, and patience has no end there.
                Ok(0) if sync::IS_MODEL => sync::thread::yield_now(),
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// No more requests are taken: a waiting `recv` ends.
    pub(crate) fn stop_receiving(&self) {
        // It fails if the peer is gone, and then there is nothing to stop.
        let _ = shutdown(&self.fd, Shutdown::Read);
    }

    /// Cuts the connection.
    pub(crate) fn cut(&self) {
        // As above.
        let _ = shutdown(&self.fd, Shutdown::Both);
    }

    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Who is at the other end, for people.
    pub(crate) fn peer(&self) -> String {
        if let Ok(Some(address)) = rustix::net::getpeername(&self.fd)
            && let Ok(address) = std::net::SocketAddr::try_from(address)
        {
            return address.to_string();
        }
        match sockopt::socket_peercred(self.fd.as_fd()) {
            Ok(c) => format!("process {}, user {}", c.pid, c.uid.as_raw()),
            Err(_) => "unknown".to_owned(),
        }
    }
}
