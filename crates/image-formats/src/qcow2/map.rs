//! From an offset on the disk to a place in the file, through two levels of tables.

use super::header::{Compression, Header, L1};
use crate::{
    error::Error,
    inflate::{inflate, unzstd},
    placed::{Map, Place},
    source::Source,
    tables::{PART_BYTES_MAX, Tables},
};

/// QEMU's limit: 4 Mi entries.
const L1_BYTES_MAX: usize = 32 << 20;

const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
const COMPRESSED: u64 = 1 << 62;
const COPIED: u64 = 1 << 63;
const ZERO: u64 = 1;
const SUBCLUSTERS: u64 = 32;

pub(super) struct ClusterMap {
    tables: Tables,
    compression: Compression,
    cluster_bits: u32,
    extended: bool,
    /// Version 2 knows no zero clusters.
    zero_flag: bool,
    /// Clusters are in this file, not in a data file.
    own_data: bool,
    l1: Vec<u8>,
    l1_offset: u64,
}

impl ClusterMap {
    pub(super) fn read(
        source: &Source,
        header: &Header,
        l1: L1,
        own_data: bool,
    ) -> Result<Self, Error> {
        let map = ClusterMap {
            tables: Tables::new(source.clone()),
            compression: header.compression,
            cluster_bits: header.cluster_bits,
            extended: header.extended_l2,
            zero_flag: header.version >= 3,
            own_data,
            l1: Vec::new(),
            l1_offset: l1.offset,
        };
        let needed = l1.disk_size.div_ceil(map.covered());
        if u64::from(l1.entries) < needed {
            let what = format_args!(
                "{} L1 entries, a disk of {} bytes needs {needed}",
                l1.entries, l1.disk_size
            );
            return Err(source.damaged(36, what));
        }
        if needed > 0 && !map.is_cluster(l1.offset) {
            return Err(source.damaged(40, format_args!("the L1 table cannot be at {}", l1.offset)));
        }
        let l1 = source.bytes(l1.offset, needed * 8, L1_BYTES_MAX)?;
        Ok(ClusterMap { l1, ..map })
    }

    const fn cluster_len(&self) -> u64 {
        1 << self.cluster_bits
    }

    const fn entry_len(&self) -> u64 {
        if self.extended { 16 } else { 8 }
    }

    /// Bytes of the disk that one L2 table covers.
    const fn covered(&self) -> u64 {
        (self.cluster_len() / self.entry_len()) << self.cluster_bits
    }

    /// The header's cluster is nobody's.
    const fn is_cluster(&self, offset: u64) -> bool {
        offset != 0 && offset.is_multiple_of(self.cluster_len())
    }

    /// The same in an L2 table. Clusters that follow each other in the file as on the disk are one run.
    fn find_in(&self, table: u64, at: u64) -> Result<(Place, u64), Error> {
        let index = (at % self.covered()) >> self.cluster_bits;
        let offset = table + index * self.entry_len();
        let part_len = PART_BYTES_MAX.min(self.cluster_len());
        let part_start = offset - offset % part_len;
        let part = self.tables.part(part_start, part_len)?;
        let mut entries = part[(offset - part_start) as usize..]
            .chunks_exact(self.entry_len() as usize)
            .zip((offset..).step_by(self.entry_len() as usize));
        let within = at % self.cluster_len();
        let (entry, entry_offset) = entries.next().ok_or_else(|| {
            self.tables
                .source()
                .damaged(offset, "the L2 table is too short")
        })?;
        let (place, mut len) = self.decode(entry, entry_offset, within)?;
        if matches!(place, Place::Compressed { .. }) || len < self.cluster_len() - within {
            return Ok((place, len));
        }
        for (entry, entry_offset) in entries {
            // What is wrong with it is told to who asks for it.
            let Ok((next, more)) = self.decode(entry, entry_offset, 0) else {
                break;
            };
            if next != place.after(len) {
                break;
            }
            len += more;
            if more < self.cluster_len() {
                break;
            }
        }
        Ok((place, len))
    }

    /// One entry of an L2 table: the place of what is `within` so many bytes of its cluster, and how far that goes.
    fn decode(&self, entry: &[u8], entry_offset: u64, within: u64) -> Result<(Place, u64), Error> {
        let word = |at: usize| entry.get(at..).and_then(<[u8]>::first_chunk).copied();
        let descriptor = word(0).map_or(0, u64::from_be_bytes);
        let rest = self.cluster_len() - within;
        if descriptor & COMPRESSED != 0 {
            return Ok((self.compressed(descriptor, entry_offset)?, rest));
        }
        let offset = descriptor & OFFSET;
        // In a data file offset 0 is one, and what is there is known by the flag.
        let allocated = offset != 0 || !self.own_data && descriptor & COPIED != 0;
        if allocated && !self.is_cluster(offset) && (self.own_data || offset != 0) {
            let what = format_args!("a cluster cannot be at {offset}");
            return Err(self.tables.source().damaged(entry_offset, what));
        }
        let raw = |allocated| {
            if allocated {
                Place::Raw(offset + within)
            } else {
                Place::Nothing
            }
        };
        if let Some(bitmap) = word(8).filter(|_| self.extended) {
            return Ok(self.subclusters(u64::from_be_bytes(bitmap), within, raw(allocated)));
        }
        if self.zero_flag && descriptor & ZERO != 0 {
            return Ok((Place::Zeroes, rest));
        }
        Ok((raw(allocated), rest))
    }

    /// Of a cluster in 32 parts, each with a bit for data and one for zeroes.
    fn subclusters(&self, bitmap: u64, within: u64, raw: Place) -> (Place, u64) {
        let part = self.cluster_len() / SUBCLUSTERS;
        let first = within / part;
        let kind = |i: u64| (bitmap >> i & 1 != 0, bitmap >> (i + SUBCLUSTERS) & 1 != 0);
        let same = (first..SUBCLUSTERS).take_while(|&i| kind(i) == kind(first));
        let len = same.count() as u64 * part - within % part;
        match kind(first) {
            (_, true) => (Place::Zeroes, len),
            (true, false) => (raw, len),
            (false, false) => (Place::Nothing, len),
        }
    }

    fn compressed(&self, descriptor: u64, entry_offset: u64) -> Result<Place, Error> {
        if !self.own_data {
            let what = "compressed data in an image that has a data file";
            return Err(self.tables.source().damaged(entry_offset, what));
        }
        let offset_bits = 62 - (self.cluster_bits - 8);
        let offset = descriptor & ((1 << offset_bits) - 1);
        let sectors = (descriptor & (COMPRESSED - 1)) >> offset_bits;
        let len = (sectors + 1) * 512 - offset % 512;
        let len = len as usize;
        Ok(Place::Compressed { offset, len })
    }
}

impl Map for ClusterMap {
    fn cluster(&self) -> u64 {
        self.cluster_len()
    }

    fn tables_len(&self) -> u64 {
        self.tables.source().len()
    }

    fn find(&self, at: u64) -> Result<(Place, u64), Error> {
        let covered = self.covered();
        let first = (at / covered) as usize * 8;
        let entry = self.l1.get(first..).and_then(<[u8]>::first_chunk);
        let entry = u64::from_be_bytes(*entry.ok_or_else(|| {
            self.tables
                .source()
                .damaged(self.l1_offset, "the L1 table is too short")
        })?);
        let table = entry & OFFSET;
        if table == 0 {
            return Ok((Place::Nothing, covered - at % covered));
        }
        if !self.is_cluster(table) {
            let at = self.l1_offset + first as u64;
            return Err(self
                .tables
                .source()
                .damaged(at, format_args!("an L2 table cannot be at {table}")));
        }
        self.find_in(table, at)
    }

    fn decompress(&self, stored: &[u8], _: u64, out: &mut [u8]) -> std::io::Result<()> {
        match self.compression {
            Compression::Zlib => inflate(false, stored, out),
            Compression::Zstd => unzstd(stored, out),
        }
    }
}
