//! A socket on which nobody waits for ever.

use crate::uri::Address;
use env::Clock;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{self, AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt},
};
use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::Path,
    sync::Arc,
    time::Duration,
};
use types::{Cancel, Cancelled};

/// Who waits looks so often whether it is still to wait.
const LOOK: Duration = Duration::from_millis(50);

/// A byte stream with a time limit.
pub(crate) struct Socket {
    stream: Box<dyn Stream>,
    clock: Arc<dyn Clock>,
    /// What is read or written must be so before then.
    deadline: Duration,
    cancel: Cancel,
}

trait Stream: Read + Write + Send {
    fn limit(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn limit(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(read)?;
        self.set_write_timeout(write)
    }
}

impl Stream for TcpStream {
    fn limit(&self, read: Option<Duration>, write: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(read)?;
        self.set_write_timeout(write)
    }
}

impl Socket {
    /// Connects within `patience`.
    pub(crate) fn connect(
        address: &Address,
        clock: Arc<dyn Clock>,
        patience: Duration,
        cancel: &Cancel,
    ) -> io::Result<Self> {
        let deadline = clock.monotonic() + patience;
        let left = || left(&*clock, deadline, cancel);
        let stream: Box<dyn Stream> = match address {
            Address::Unix(path) => Box::new(unix(path, left)?),
            Address::Tcp(host, port) => Box::new(tcp(host, *port, left)?),
        };
        Ok(Socket {
            stream,
            clock,
            deadline,
            cancel: cancel.clone(),
        })
    }

    /// All that follows has to be done within `patience`.
    pub(crate) fn set_limit(&mut self, patience: Duration) {
        self.deadline = self.clock.monotonic() + patience;
    }

    pub(crate) fn read(&mut self, mut buf: &mut [u8]) -> io::Result<()> {
        while !buf.is_empty() {
            self.arm()?;
            match self.stream.read(buf) {
                Ok(0) => {
                    let why = "the server hung up";
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, why));
                }
                Ok(len) => buf = buf.get_mut(len..).unwrap_or_default(),
                Err(e) if is_early(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    pub(crate) fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.read(&mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.arm()?;
            match self.stream.write(bytes) {
                Ok(len) => bytes = bytes.get(len..).unwrap_or_default(),
                Err(e) if is_early(&e) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// The next call returns in time.
    fn arm(&mut self) -> io::Result<()> {
        let left = left(&*self.clock, self.deadline, &self.cancel)?;
        self.stream.limit(Some(left), Some(left))
    }
}

/// How long to wait until it is looked again whether to wait on; an error if not.
fn left(clock: &dyn Clock, deadline: Duration, cancel: &Cancel) -> io::Result<Duration> {
    if cancel.is_set() {
        return Err(io::Error::other(Cancelled));
    }
    let left = deadline.saturating_sub(clock.monotonic());
    if left.is_zero() {
        let why = "the server does not answer in time";
        return Err(io::Error::new(io::ErrorKind::TimedOut, why));
    }
    Ok(left.min(LOOK))
}

/// The call ended without anything done; the time may be over.
fn is_early(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

/// A server that is stopped lets clients into its queue until that is full, and then has them wait.
fn unix(path: &Path, left: impl Fn() -> io::Result<Duration>) -> io::Result<UnixStream> {
    let address = SocketAddrUnix::new(path)?;
    loop {
        let patience = left()?;
        let socket = socket(AddressFamily::UNIX)?;
        match net::connect(&socket, &address) {
            Ok(()) => return finish(socket).map(UnixStream::from),
            Err(Errno::AGAIN) => std::thread::sleep(patience),
            Err(e) => return Err(e.into()),
        }
    }
}

fn tcp(host: &str, port: u16, left: impl Fn() -> io::Result<Duration>) -> io::Result<TcpStream> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let mut last = none();
    for address in (host, port).to_socket_addrs()? {
        match tcp_at(address, &left) {
            Ok(stream) => return Ok(stream),
            Err(e) => last = e,
        }
        // Without time there is none for the others either.
        left()?;
    }
    Err(last)
}

fn tcp_at(address: SocketAddr, left: impl Fn() -> io::Result<Duration>) -> io::Result<TcpStream> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = socket(family)?;
    match net::connect(&socket, &address) {
        Ok(()) => {}
        Err(Errno::INPROGRESS) => wait_connected(&socket, left)?,
        Err(e) => return Err(e.into()),
    }
    let stream = TcpStream::from(finish(socket)?);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Waits until the system says how the attempt to connect went.
fn wait_connected(socket: &OwnedFd, left: impl Fn() -> io::Result<Duration>) -> io::Result<()> {
    loop {
        let patience = Timespec::try_from(left()?).map_err(io::Error::other)?;
        let mut waiting = [PollFd::new(socket, PollFlags::OUT)];
        match poll(&mut waiting, Some(&patience)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(sockopt::socket_error(socket)??),
            Err(e) => return Err(e.into()),
        }
    }
}

/// One that nobody waits for.
fn socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(net::socket_with(family, SocketType::STREAM, flags, None)?)
}

/// One that is waited for, as long as its limits say.
fn finish(socket: OwnedFd) -> io::Result<OwnedFd> {
    rustix::io::ioctl_fionbio(&socket, false)?;
    Ok(socket)
}
