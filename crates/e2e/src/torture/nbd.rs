//! A small NBD client: fixed newstyle, simple replies, requests by the batch. Written from the protocol's
//! text and on purpose not with the server's code: what both get wrong would show nowhere.

use anyhow::{Context, Result, ensure};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// Who waits longer for an answer has found a hang.
const LIMIT: Duration = Duration::from_secs(60);

const OPTION_MAGIC: &[u8; 8] = b"IHAVEOPT";
const GO: u32 = 7;
const ACKNOWLEDGED: u32 = 1;
const INFORMATION: u32 = 3;
const FUA: u16 = 1;

/// What is asked.
#[derive(Debug)]
pub enum Request {
    /// So many bytes from an offset.
    Read(u64, u32),
    /// Bytes to an offset; durable with the answer if so wished.
    Write(u64, Vec<u8>, bool),
    /// Zeroes to a range.
    Zero(u64, u32),
    /// Discards a range.
    Trim(u64, u32),
    /// What was answered becomes durable.
    Flush,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    /// Which of the batch it answers.
    pub index: usize,
    /// Zero, or the error's number.
    pub error: u32,
    /// What was read.
    pub data: Vec<u8>,
}

/// A connection to an export.
pub struct Client {
    stream: UnixStream,
    /// Bytes of the export.
    pub size: u64,
    cookie: u64,
    /// Index and bytes to come, by cookie.
    pending: HashMap<u64, (usize, u32)>,
}

impl Client {
    /// Opens `export`.
    ///
    /// # Errors
    /// There is no such export, or no server.
    pub fn connect(socket: &Path, export: &str) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("connecting")?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.set_write_timeout(Some(LIMIT))?;
        let mut client = Client {
            stream,
            size: 0,
            cookie: 0,
            pending: HashMap::new(),
        };
        client.negotiate(export).context("the handshake")?;
        Ok(client)
    }

    fn negotiate(&mut self, export: &str) -> Result<()> {
        let hello: [u8; 18] = self.take()?;
        ensure!(
            &hello[..8] == b"NBDMAGIC" && &hello[8..16] == OPTION_MAGIC,
            "no NBD server"
        );
        // Fixed newstyle, and no padding.
        let mut bytes = 3_u32.to_be_bytes().to_vec();
        bytes.extend(OPTION_MAGIC);
        bytes.extend(GO.to_be_bytes());
        bytes.extend((export.len() as u32 + 6).to_be_bytes());
        bytes.extend((export.len() as u32).to_be_bytes());
        bytes.extend(export.as_bytes());
        bytes.extend(0_u16.to_be_bytes());
        self.stream.write_all(&bytes)?;
        loop {
            let head: [u8; 20] = self.take()?;
            let kind = number(&head[12..16]);
            let mut data = vec![0; number(&head[16..20]) as usize];
            self.stream.read_exact(&mut data)?;
            match kind {
                // Information of kind 0: that of the export.
                INFORMATION if data.len() >= 12 && data[..2] == [0, 0] => {
                    self.size =
                        u64::from(number(&data[2..6])) << 32 | u64::from(number(&data[6..10]));
                }
                INFORMATION => {}
                ACKNOWLEDGED => return Ok(()),
                _ => {
                    let why = format!("'{export}': {}", String::from_utf8_lossy(&data));
                    return Err(io::Error::new(io::ErrorKind::ConnectionRefused, why).into());
                }
            }
        }
    }

    /// Sends `requests` at once.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send(&mut self, requests: &[Request]) -> Result<()> {
        let mut bytes = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let (flags, command, offset, length, payload) = match request {
                Request::Read(offset, length) => (0, 0, *offset, *length, &[][..]),
                Request::Write(offset, data, durable) => {
                    let flags = if *durable { FUA } else { 0 };
                    (flags, 1, *offset, data.len() as u32, &data[..])
                }
                Request::Flush => (0, 3, 0, 0, &[][..]),
                Request::Trim(offset, length) => (0, 4, *offset, *length, &[][..]),
                Request::Zero(offset, length) => (0, 6, *offset, *length, &[][..]),
            };
            self.cookie += 1;
            bytes.extend(0x2560_9513_u32.to_be_bytes());
            bytes.extend(flags.to_be_bytes());
            bytes.extend(u16::to_be_bytes(command));
            bytes.extend(self.cookie.to_be_bytes());
            bytes.extend(offset.to_be_bytes());
            bytes.extend(length.to_be_bytes());
            bytes.extend(payload);
            let answer_len = if command == 0 { length } else { 0 };
            self.pending.insert(self.cookie, (index, answer_len));
        }
        self.send_bytes(&bytes)
    }

    /// Sends bytes as they are, whatever they mean.
    ///
    /// # Errors
    /// The connection broke.
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context("sending")
    }

    /// The next answer, in whatever order they come.
    ///
    /// # Errors
    /// The connection broke.
    pub fn receive(&mut self) -> Result<Reply> {
        let head: [u8; 16] = self.take()?;
        ensure!(number(&head[..4]) == 0x6744_6698, "not a reply: {head:?}");
        let cookie = u64::from(number(&head[8..12])) << 32 | u64::from(number(&head[12..16]));
        let known = self.pending.remove(&cookie);
        let (index, length) = known.context("an answer to nothing that was asked")?;
        let error = number(&head[4..8]);
        let mut data = vec![0; if error == 0 { length as usize } else { 0 }];
        self.stream.read_exact(&mut data)?;
        Ok(Reply { index, error, data })
    }

    /// Asks one thing and insists on its success.
    ///
    /// # Errors
    /// An error was answered, or the connection broke.
    pub fn ask(&mut self, request: Request) -> Result<Vec<u8>> {
        self.send(std::slice::from_ref(&request))?;
        let reply = self.receive()?;
        ensure!(reply.error == 0, "error {} was answered", reply.error);
        Ok(reply.data)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).context("receiving")?;
        Ok(bytes)
    }
}

/// Four bytes as the number that they are.
fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}
