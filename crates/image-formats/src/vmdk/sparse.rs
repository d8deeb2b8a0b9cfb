//! A sparse extent, read anywhere: a directory of tables of grains.

use super::header::Header;
use crate::{
    disk::Disk,
    error::Error,
    inflate::inflate,
    placed::{Map, Place, Placed},
    source::Source,
    tables::Tables,
};
use std::{io, sync::Arc};
use types::SECTOR_SIZE;

const DIRECTORY_BYTES_MAX: usize = 32 << 20;
/// Where a table entry says so, the grain is zeroes.
const ZEROED: u64 = 1;
/// In front of a compressed grain: its sector on the disk, and how many bytes follow.
pub(super) const MARKER_LEN: usize = 12;

struct GrainMap {
    tables: Tables,
    header: Header,
    directory: Vec<u8>,
}

/// The disk of a sparse extent.
pub(super) fn open(source: &Source, header: Header) -> Result<Arc<dyn Disk>, Error> {
    let covered = header.grain * header.entries_per_table;
    let entries = header.capacity.div_ceil(covered);
    let size = header.capacity;
    let directory = source.bytes(header.directory, entries * 4, DIRECTORY_BYTES_MAX)?;
    let disk = Placed {
        map: GrainMap {
            tables: Tables::new(source.clone()),
            header,
            directory,
        },
        data: source.clone(),
        size,
        backing: None,
    };
    disk.check_overlaps()?;
    Ok(Arc::new(disk))
}

fn entry(table: &[u8], index: u64) -> Option<u64> {
    let at = usize::try_from(index).ok()?.checked_mul(4)?;
    let bytes = table.get(at..)?.first_chunk()?;
    Some(u64::from(u32::from_le_bytes(*bytes)))
}

impl GrainMap {
    fn place(&self, entry: u64) -> Place {
        match entry {
            0 => Place::Nothing,
            ZEROED if self.header.zeroed_grains => Place::Zeroes,
            sector if self.header.compressed => Place::Compressed {
                offset: sector * SECTOR_SIZE,
                len: stored_max(self.header.grain),
            },
            sector => Place::Raw(sector * SECTOR_SIZE),
        }
    }
}

/// Bytes that a compressed grain may have, marker included: what does not compress becomes a little longer.
pub(super) const fn stored_max(grain: u64) -> usize {
    (grain + grain / 8 + 1024) as usize
}

impl Map for GrainMap {
    fn cluster(&self) -> u64 {
        self.header.grain
    }

    fn tables_len(&self) -> u64 {
        self.tables.source().len()
    }

    fn find(&self, at: u64) -> Result<(Place, u64), Error> {
        let Header {
            grain,
            entries_per_table,
            ..
        } = self.header;
        let covered = grain * entries_per_table;
        let source = self.tables.source();
        let short = || source.damaged(self.header.directory, "the grain directory is too short");
        let table = entry(&self.directory, at / covered).ok_or_else(short)? * SECTOR_SIZE;
        if table == 0 {
            return Ok((Place::Nothing, covered - at % covered));
        }
        let part = self.tables.part(table, entries_per_table * 4)?;
        let index = at % covered / grain;
        let within = at % grain;
        let first = entry(&part, index).map(|first| self.place(first));
        let first = first.ok_or_else(|| source.damaged(table, "the grain table is too short"))?;
        let mut len = grain - within;
        if matches!(first, Place::Compressed { .. }) {
            return Ok((first, len));
        }
        let first = first.after(within);
        for next in index + 1..entries_per_table {
            let place = entry(&part, next).map(|next| self.place(next));
            if place != Some(first.after(len)) {
                break;
            }
            len += grain;
        }
        Ok((first, len))
    }

    fn decompress(&self, stored: &[u8], at: u64, out: &mut [u8]) -> io::Result<()> {
        grain(stored, at, self.header.capacity, out)
    }
}

/// Fills `out` from a marker and a compressed grain, which must be the one of byte `at` of a disk of `size` bytes. What lies
/// behind the disk's end need not be stored.
pub(super) fn grain(stored: &[u8], at: u64, size: u64, out: &mut [u8]) -> io::Result<()> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what);
    let (sector, rest) = stored.split_first_chunk().ok_or_else(|| bad("no marker"))?;
    let (len, rest) = rest.split_first_chunk().ok_or_else(|| bad("no marker"))?;
    if u64::from_le_bytes(*sector).checked_mul(SECTOR_SIZE) != Some(at) {
        return Err(bad("the marker is another grain's"));
    }
    let len = u32::from_le_bytes(*len) as usize;
    let bytes = rest
        .get(..len)
        .ok_or_else(|| bad("the marker has a length that cannot be"))?;
    let on_disk = size.saturating_sub(at).min(out.len() as u64);
    let (on_disk, behind) = out.split_at_mut(on_disk as usize);
    behind.fill(0);
    inflate(true, bytes, on_disk)
}
