//! A connection: a handshake, then one request at a time.

use crate::{
    handshake::{Agreed, negotiate},
    reply,
    socket::Socket,
    uri::Uri,
};
use env::Clock;
use image_formats::Run;
use nbd_proto::request::{Command, CommandFlags, Request};
use std::{fmt, io, sync::Arc, time::Duration};
use types::Cancel;

/// Connecting and shaking hands take no longer than this.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Nor does a request.
const REQUEST: Duration = Duration::from_secs(60);
/// Bytes of which block status is asked for at once: 32 bits are what there is for them.
const STATUS_MAX: u64 = 2 << 30;

/// Why something failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server says no; the connection is as good as before.
    Server(String),
    /// The connection cannot be used any more.
    Broken(io::Error),
}

impl Failure {
    pub(crate) fn server(why: &str) -> Self {
        Failure::Server(why.to_owned())
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::Broken(e)
    }
}

impl From<nbd_proto::Error> for Failure {
    fn from(e: nbd_proto::Error) -> Self {
        let why = format!("the server does not keep to the protocol ({e})");
        Failure::Broken(io::Error::new(io::ErrorKind::InvalidData, why))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Server(why) => f.write_str(why),
            Failure::Broken(e) => e.fmt(f),
        }
    }
}

pub(crate) struct Connection {
    socket: Socket,
    pub(crate) agreed: Agreed,
    cookie: u64,
    /// Why it is not used any more.
    broken: Option<String>,
}

impl Connection {
    pub(crate) fn open(uri: &Uri, clock: Arc<dyn Clock>, cancel: &Cancel) -> Result<Self, Failure> {
        let mut socket = Socket::connect(&uri.address, clock, HANDSHAKE, cancel)?;
        let agreed = negotiate(&mut socket, &uri.export)?;
        Ok(Connection {
            socket,
            agreed,
            cookie: 0,
            broken: None,
        })
    }

    pub(crate) const fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    /// Fills `buf` from `offset`, both aligned as the server wants it; no longer than it wants it.
    pub(crate) fn read(&mut self, offset: u64, buf: &mut [u8]) -> Result<(), Failure> {
        let structured = self.agreed.structured;
        self.request(
            Command::Read,
            offset,
            buf.len() as u64,
            |socket, cookie| match structured {
                true => reply::read_chunks(socket, cookie, offset, buf),
                false => reply::read_simple(socket, cookie, buf),
            },
        )
    }

    /// What is from `offset` on, up to `len` bytes or less.
    pub(crate) fn status(&mut self, offset: u64, len: u64) -> Result<Vec<Run>, Failure> {
        let Some(context) = self.agreed.context else {
            return Ok(vec![Run { len, data: true }]);
        };
        let len = len.min(STATUS_MAX);
        self.request(Command::BlockStatus, offset, len, |socket, cookie| {
            reply::read_extents(socket, cookie, context, len)
        })
    }

    fn request<T>(
        &mut self,
        command: Command,
        offset: u64,
        length: u64,
        answer: impl FnOnce(&mut Socket, u64) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        if let Some(why) = &self.broken {
            return Err(Failure::Broken(io::Error::other(why.clone())));
        }
        self.cookie += 1;
        let request = Request {
            flags: CommandFlags(0),
            command: command as u16,
            cookie: self.cookie,
            offset,
            length,
        };
        let mut bytes = Vec::new();
        request.put_compact(&mut bytes)?;
        self.socket.set_limit(REQUEST);
        let sent = self.socket.write(&bytes).map_err(Failure::from);
        let answered = sent.and_then(|()| answer(&mut self.socket, self.cookie));
        if let Err(Failure::Broken(e)) = &answered {
            self.broken = Some(e.to_string());
        }
        answered
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.broken.is_some() {
            return;
        }
        let request = Request {
            flags: CommandFlags(0),
            command: Command::Disconnect as u16,
            cookie: 0,
            offset: 0,
            length: 0,
        };
        let mut bytes = Vec::new();
        self.socket.set_limit(Duration::from_secs(1));
        if request.put_compact(&mut bytes).is_ok() {
            // Who is gone need not be told.
            let _ = self.socket.write(&bytes);
        }
    }
}
