//! A socket on which nobody waits for ever.

use crate::uri::Address;
use env::Clock;
use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    sync::Arc,
    time::Duration,
};

/// A byte stream with a time limit.
pub(crate) struct Socket {
    stream: Box<dyn Stream>,
    clock: Arc<dyn Clock>,
    /// What is read or written must be so before then.
    deadline: Duration,
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
    ) -> io::Result<Self> {
        let stream: Box<dyn Stream> = match address {
            Address::Unix(path) => Box::new(UnixStream::connect(path)?),
            Address::Tcp(host, port) => Box::new(tcp(host, *port, patience)?),
        };
        let deadline = clock.monotonic() + patience;
        Ok(Socket {
            stream,
            clock,
            deadline,
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
        let left = self.deadline.saturating_sub(self.clock.monotonic());
        if left.is_zero() {
            let why = "the server does not answer in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, why));
        }
        self.stream.limit(Some(left), Some(left))
    }
}

/// The call ended without anything done; the time may be over.
fn is_early(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
    )
}

fn tcp(host: &str, port: u16, patience: Duration) -> io::Result<TcpStream> {
    let none = || io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    let mut last = none();
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}
