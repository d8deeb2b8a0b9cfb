//! An export as a disk to read anywhere.

use crate::{
    connection::{Connection, Failure},
    uri::Uri,
};
use env::Clock;
use image_formats::{Disk, Error, ErrorKind, Run};
use nbd_proto::handshake::TransmissionFlags;
use parking_lot::Mutex;
use std::{io, sync::Arc};
use types::Cancel;

/// Bytes that are asked for at once: what readers of images ask for.
const READ_MAX: u32 = 4 << 20;

/// An export of a server. Two threads may read at once, if the server lets them.
pub struct NbdDisk {
    shown: Arc<str>,
    connections: Vec<Mutex<Connection>>,
    size: u64,
    align: u64,
    read_max: u64,
}

impl NbdDisk {
    /// Connects; `shown` is what errors call it. Once `cancel` is set, whoever waits for the server gets an error at once.
    ///
    /// # Errors
    /// There is no such server or export, or it is not to be had in time: 10 s.
    pub fn open(
        uri: &Uri,
        shown: &str,
        clock: &Arc<dyn Clock>,
        cancel: &Cancel,
    ) -> Result<Self, Error> {
        let open = || Connection::open(uri, Arc::clone(clock), cancel);
        let first = open().map_err(|e| opening(shown, e))?;
        let agreed = first.agreed;
        let mut connections = vec![Mutex::new(first)];
        if agreed.flags.contains(TransmissionFlags::CAN_MULTI_CONN)
            // One is enough.
            && let Ok(second) = open()
            && second.agreed.size == agreed.size
        {
            connections.push(Mutex::new(second));
        }
        let align = u64::from(agreed.align);
        Ok(NbdDisk {
            shown: shown.into(),
            connections,
            size: agreed.size,
            align,
            read_max: u64::from(agreed.read_max.min(READ_MAX)).max(align),
        })
    }

    /// Whether a connection was lost: then it stays so.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        let is_broken = |c: &Mutex<Connection>| c.lock().is_broken();
        self.connections.iter().any(is_broken)
    }

    fn with<T>(&self, f: impl FnOnce(&mut Connection) -> Result<T, Failure>) -> Result<T, Failure> {
        let free = self.connections.iter().find_map(|c| c.try_lock());
        let Some(mut connection) = free.or_else(|| self.connections.first().map(|c| c.lock()))
        else {
            return Err(Failure::server("no connection"));
        };
        f(&mut connection)
    }

    /// Fills `buf`, not longer than `read_max`, from an aligned `offset` to an aligned end or that of the disk.
    fn read_aligned(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let read = self.with(|connection| connection.read(offset, buf));
        read.map_err(|e| reading(&self.shown, offset, e))
    }

    /// The same where the ends are not aligned: what is around them is read with them.
    fn read_around(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let start = offset / self.align * self.align;
        let end = (offset + buf.len() as u64)
            .next_multiple_of(self.align)
            .min(self.size);
        if (start, end) == (offset, offset + buf.len() as u64) {
            return self.read_aligned(offset, buf);
        }
        let mut whole = vec![0; (end - start) as usize];
        self.read_aligned(start, &mut whole)?;
        let (_, from) = whole.split_at((offset - start) as usize);
        let (from, _) = from.split_at(buf.len());
        buf.copy_from_slice(from);
        Ok(())
    }
}

fn opening(shown: &str, e: Failure) -> Error {
    match e {
        Failure::Server(why) => Error::invalid(format!("{shown} cannot be opened: {why}")),
        Failure::Broken(e) => Error::io(format_args!("cannot connect to {shown}"), e),
    }
}

fn reading(shown: &str, offset: u64, e: Failure) -> Error {
    let e = match e {
        Failure::Server(why) => io::Error::other(why),
        // A server that goes does not make the image a wrong one.
        Failure::Broken(e) => io::Error::other(e),
    };
    let error = Error::io(format_args!("{shown} cannot be read at byte {offset}"), e);
    debug_assert_eq!(error.kind(), ErrorKind::Io);
    error
}

impl Disk for NbdDisk {
    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self, offset: u64) -> Result<Vec<Run>, Error> {
        let start = offset / self.align * self.align;
        let runs = self.with(|connection| connection.status(start, self.size - start));
        let runs = runs.map_err(|e| reading(&self.shown, offset, e))?;
        let mut skip = offset - start;
        let mut kept = Vec::with_capacity(runs.len());
        for Run { len, data } in runs {
            let skipped = skip.min(len);
            skip -= skipped;
            if len > skipped {
                let len = len - skipped;
                kept.push(Run { len, data });
            }
        }
        if kept.is_empty() {
            // The server says nothing of what is asked for; reading tells.
            let len = (self.size - offset).min(self.align);
            kept.push(Run { len, data: true });
        }
        Ok(kept)
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            // Up to where the next whole request may begin.
            let room = self.read_max - at % self.align;
            let len = (buf.len() - done).min(room as usize);
            let Some(part) = buf.get_mut(done..done + len) else {
                break;
            };
            self.read_around(at, part)?;
            done += len;
        }
        Ok(())
    }
}
