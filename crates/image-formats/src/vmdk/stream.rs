//! A stream-optimized extent, read from its beginning to its end.
//!
//! ```text
//!  header ─ descriptor ─ (marker · compressed grain)… ─ tables, each with a marker ─ footer ─ end-of-stream marker
//! ```
//!
//! The grains have their places on the disk in front of them, so the tables are not needed. QEMU has them in front of the
//! grains, and ends without a marker: how many grains the tables have tells then whether the stream was cut.

use super::{
    check_alone,
    header::{HEADER_LEN, Header},
    sparse::{MARKER_LEN, grain, stored_max},
};
use crate::{error::Error, stream::read_exactly};
use std::io::{self, Read};
use types::{BLOCK_SIZE, SECTOR_SIZE};

const SECTOR: usize = SECTOR_SIZE as usize;
/// Descriptors in a file are small; what lies in front of the grains is not kept.
const DESCRIPTOR_MAX: u64 = 1 << 20;
const OVERHEAD_MAX: u64 = 64 << 20;
const DIRECTORY_MAX: u64 = 1 << 20;
/// Of what follows the end so much is looked at at once.
const REST_AT_ONCE: usize = 64 << 10;
/// The types of markers without a grain.
const END_OF_STREAM: u32 = 0;
const FOOTER: u32 = 3;

/// Reads one.
pub struct StreamOptimized<R> {
    reader: R,
    /// What it is called in errors.
    shown: String,
    header: Header,
    /// Bytes of the stream that were read.
    position: u64,
    /// Where on the disk the next grain may be.
    next: u64,
    /// A marker, and the compressed grain behind it.
    stored: Vec<u8>,
    /// The place of a grain that was read but not yet asked for.
    ahead: Option<u64>,
    /// Grains that were read; and those of the tables in front, if they are there.
    grains: u64,
    expected: Option<u64>,
    ended: bool,
}

impl<R: Read> StreamOptimized<R> {
    /// Reads what is in front of the grains.
    ///
    /// # Errors
    /// If it is not such an extent, or is only a difference to another disk.
    pub fn open(reader: R, shown: &str) -> Result<Self, Error> {
        let mut first = [0; HEADER_LEN];
        let mut reader = reader;
        read_exactly(&mut reader, &mut first, shown, 0)?;
        let bad = |what: String| Error::invalid(format!("{shown}: {what}"));
        let header = Header::decode(&first).map_err(bad)?;
        if !(header.compressed && header.markers) {
            return Err(bad(
                "only stream-optimized VMDK can be read from a stream; import it from a file"
                    .into(),
            ));
        }
        if !header.grain.is_multiple_of(BLOCK_SIZE as u64) || header.overhead > OVERHEAD_MAX {
            return Err(bad("the header makes no sense".into()));
        }
        let mut stream = StreamOptimized {
            reader,
            shown: shown.to_owned(),
            header,
            position: HEADER_LEN as u64,
            next: 0,
            stored: Vec::new(),
            ahead: None,
            grains: 0,
            expected: None,
            ended: false,
        };
        stream.read_overhead()?;
        Ok(stream)
    }

    /// Bytes of the disk.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.header.capacity
    }

    /// Fills the beginning of `buffer`, which holds at least [`GRAIN_MAX`](super::GRAIN_MAX) bytes, with grains that follow each other on the disk. Answers
    /// where they are and how many bytes; none at the end. What is between them is zeroes.
    ///
    /// # Errors
    /// If the stream is damaged, ends too early, or its grains are in no order.
    pub fn next(&mut self, buffer: &mut [u8]) -> Result<Option<(u64, usize)>, Error> {
        let grain_len = self.header.grain as usize;
        let mut found: Option<(u64, usize)> = None;
        while let Some(at) = self
            .ahead
            .take()
            .map_or_else(|| self.advance(), |at| Ok(Some(at)))?
        {
            let filled = found.map_or(0, |(_, len)| len);
            let follows = found.is_none_or(|(start, len)| start + len as u64 == at);
            let Some(room) = buffer
                .get_mut(filled..filled + grain_len)
                .filter(|_| follows)
            else {
                self.ahead = Some(at);
                break;
            };
            grain(&self.stored, at, self.header.capacity, room)
                .map_err(|e| self.damaged(&format!("a grain: {e}")))?;
            // The last one may be cut by the end of the disk.
            let len = self.header.grain.min(self.size() - at) as usize;
            found = Some((found.map_or(at, |(start, _)| start), filled + len));
        }
        Ok(found)
    }

    fn damaged(&self, what: &str) -> Error {
        let (shown, position) = (&self.shown, self.position);
        Error::invalid(format!("{shown}, before byte {position}: {what}"))
    }

    fn read(&mut self, len: usize) -> Result<(), Error> {
        let from = self.stored.len();
        self.stored.resize(from + len, 0);
        let bytes = self.stored.get_mut(from..).unwrap_or_default();
        read_exactly(&mut self.reader, bytes, &self.shown, self.position)?;
        self.position += len as u64;
        Ok(())
    }

    fn skip(&mut self, len: u64) -> Result<(), Error> {
        let skipped = io::copy(&mut (&mut self.reader).take(len), &mut io::sink());
        let skipped =
            skipped.map_err(|e| Error::io(format_args!("{} cannot be read", self.shown), e))?;
        self.position += skipped;
        if skipped < len {
            return Err(self.damaged("it ends here: it was cut"));
        }
        Ok(())
    }

    fn read_overhead(&mut self) -> Result<(), Error> {
        let Header {
            descriptor,
            descriptor_len,
            overhead,
            ..
        } = self.header;
        let end = overhead.max(HEADER_LEN as u64);
        let fits = descriptor >= HEADER_LEN as u64 && descriptor_len <= DESCRIPTOR_MAX;
        if descriptor_len > 0 && fits && descriptor.saturating_add(descriptor_len) <= end {
            self.skip(descriptor - self.position)?;
            self.stored.clear();
            self.read(descriptor_len as usize)?;
            check_alone(&self.stored).map_err(|what| self.damaged(&what))?;
        }
        self.expected = self.count_grains(end)?;
        self.skip(end - self.position)
    }

    /// The grains of the tables that lie before `end`: none is known if they are not there, or in no order.
    fn count_grains(&mut self, end: u64) -> Result<Option<u64>, Error> {
        let (directory, table_len) = (self.header.directory, self.header.entries_per_table * 4);
        let covered = self.header.grain * self.header.entries_per_table;
        let len = self.header.capacity.div_ceil(covered) * 4;
        let fits = |at: u64, len: u64| at.checked_add(len).is_some_and(|behind| behind <= end);
        if directory < self.position || !fits(directory, len) || len > DIRECTORY_MAX {
            return Ok(None);
        }
        self.skip(directory - self.position)?;
        self.stored.clear();
        self.read(len as usize)?;
        let tables = numbers(&self.stored).map(|sector| u64::from(sector) * SECTOR_SIZE);
        let mut tables: Vec<u64> = tables.filter(|at| *at != 0).collect();
        tables.sort_unstable();
        let mut grains = 0;
        for table in tables {
            if table < self.position || !fits(table, table_len) {
                return Ok(None);
            }
            self.skip(table - self.position)?;
            self.stored.clear();
            self.read(table_len as usize)?;
            // 0: nothing, 1: zeroes.
            grains += numbers(&self.stored).filter(|entry| *entry > 1).count() as u64;
        }
        Ok(Some(grains))
    }

    /// Reads the next grain, as it is stored, and answers where it is on the disk; none at the end of the stream.
    fn advance(&mut self) -> Result<Option<u64>, Error> {
        while !self.ended {
            if !self.read_marker()? {
                break;
            }
            let (value, len, kind) = marker(&self.stored);
            if len > 0 {
                return self.read_grain(value, len as usize).map(Some);
            }
            match kind {
                END_OF_STREAM => self.end()?,
                1..=FOOTER => {
                    let len = value
                        .checked_mul(SECTOR_SIZE)
                        .filter(|len| *len <= OVERHEAD_MAX);
                    let len = len.ok_or_else(|| self.damaged("a marker makes no sense"))?;
                    self.skip(len)?;
                }
                other => return Err(self.damaged(&format!("a marker of type {other}"))),
            }
        }
        Ok(None)
    }

    /// Whether there is one: without, the stream ends here, as it may if all grains were there.
    fn read_marker(&mut self) -> Result<bool, Error> {
        self.stored.clear();
        self.stored.resize(SECTOR, 0);
        let first = loop {
            match self.reader.read(&mut self.stored) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        let cannot = |e| Error::io(format_args!("{} cannot be read", self.shown), e);
        let first = first.map_err(cannot)?;
        if first == 0 {
            self.ended = true;
            if self.expected == Some(self.grains) {
                return Ok(false);
            }
            return Err(self.damaged("it ends here: it was cut"));
        }
        self.stored.truncate(first);
        self.position += first as u64;
        self.read(SECTOR - first)?;
        Ok(true)
    }

    fn read_grain(&mut self, sector: u64, len: usize) -> Result<u64, Error> {
        let all = MARKER_LEN.saturating_add(len);
        if all > stored_max(self.header.grain) {
            return Err(self.damaged("a grain has a length that cannot be"));
        }
        self.read(all.next_multiple_of(SECTOR).saturating_sub(SECTOR))?;
        let at = sector.checked_mul(SECTOR_SIZE);
        let at = at.filter(|at| at.is_multiple_of(self.header.grain) && *at < self.size());
        let at = at.ok_or_else(|| self.damaged("a grain lies beyond the disk"))?;
        if at < self.next {
            return Err(self.damaged("the grains are in no order; import it from a file"));
        }
        self.next = at + self.header.grain;
        self.grains += 1;
        Ok(at)
    }

    /// Nothing but zeroes may follow, and not much.
    fn end(&mut self) -> Result<(), Error> {
        self.ended = true;
        if let Some(expected) = self.expected.filter(|expected| *expected > self.grains) {
            let what = format!("it ends after {} of {expected} grains", self.grains);
            return Err(self.damaged(&what));
        }
        let from = self.position;
        while self.position - from < OVERHEAD_MAX {
            self.stored.resize(REST_AT_ONCE, 0);
            let read = match self.reader.read(&mut self.stored) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    return Err(Error::io(format_args!("{} cannot be read", self.shown), e));
                }
            };
            self.position += read as u64;
            if !types::is_zero(self.stored.get(..read).unwrap_or_default()) {
                break;
            }
        }
        Err(self.damaged("something follows the end of the stream"))
    }
}

/// The little-endian numbers of a table.
fn numbers(table: &[u8]) -> impl Iterator<Item = u32> + '_ {
    let bytes = table.chunks_exact(4).filter_map(<[u8]>::first_chunk);
    bytes.map(|bytes| u32::from_le_bytes(*bytes))
}

/// The number, the length and the type of a marker, which fills a sector.
fn marker(sector: &[u8]) -> (u64, u32, u32) {
    let number = |at: usize| {
        let bytes = sector.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u32::from_le_bytes(*bytes))
    };
    let value = u64::from(number(4)) << 32 | u64::from(number(0));
    (value, number(8), number(12))
}
