//! The header of a sparse extent (VMware's "Virtual Disk Format 5.0", "Hosted Sparse Extents").

use crate::{error::Error, source::Source};
use types::{SECTOR_SIZE, VOLUME_SIZE_MAX};

pub(super) const HEADER_LEN: usize = 512;
pub(super) const MAGIC: &[u8] = b"KDMV";
/// Instead of the place of the directory: a copy of the header at the end of the file has it.
const AT_END: u64 = u64::MAX;
/// That copy is so far from the end.
const FOOTER_FROM_END: u64 = 1024;
/// VMware's grains have 64 KiB.
pub(super) const GRAIN_MAX: u64 = 1 << 20;
const ENTRIES_MAX: u32 = 512;

const ZEROED_GRAINS: u32 = 1 << 2;
const COMPRESSED: u32 = 1 << 16;
const MARKERS: u32 = 1 << 17;
const DEFLATE: u16 = 1;

/// What it says, as far as reading needs it. Bytes, not sectors.
#[derive(Clone, Debug)]
pub(super) struct Header {
    pub(super) capacity: u64,
    pub(super) grain: u64,
    pub(super) entries_per_table: u64,
    pub(super) directory: u64,
    pub(super) overhead: u64,
    pub(super) descriptor: u64,
    pub(super) descriptor_len: u64,
    pub(super) zeroed_grains: bool,
    pub(super) compressed: bool,
    pub(super) markers: bool,
}

fn number<const N: usize>(bytes: &[u8; HEADER_LEN], at: usize) -> [u8; N] {
    let field = bytes.get(at..).and_then(<[u8]>::first_chunk);
    field.copied().unwrap_or([0; N])
}

impl Header {
    /// The header of a file, or its copy at the end where that is the better one.
    pub(super) fn read(source: &Source) -> Result<Self, Error> {
        let header = Self::read_at(source, 0)?;
        if header.directory != AT_END {
            return Ok(header);
        }
        let at = source.len().saturating_sub(FOOTER_FROM_END);
        let footer = Self::read_at(source, at)?;
        if footer.directory == AT_END {
            return Err(source.damaged(at, "the grain directory is nowhere"));
        }
        Ok(footer)
    }

    fn read_at(source: &Source, at: u64) -> Result<Self, Error> {
        let mut bytes = [0; HEADER_LEN];
        source.read_at(at, &mut bytes)?;
        Self::decode(&bytes).map_err(|what| source.damaged(at, what))
    }

    pub(super) fn decode(bytes: &[u8; HEADER_LEN]) -> Result<Self, String> {
        let u64_at = |at| u64::from_le_bytes(number(bytes, at));
        let u32_at = |at| u32::from_le_bytes(number(bytes, at));
        if !bytes.starts_with(MAGIC) {
            return Err("no header of a sparse extent".into());
        }
        let version = u32_at(4);
        if !(1..=3).contains(&version) {
            return Err(format!("version {version} is not known"));
        }
        // A transfer as text changes these.
        if bytes.get(73..77) != Some(b"\n \r\n") {
            return Err("the file was changed by a transfer as text".into());
        }
        let flags = u32_at(8);
        let compression = u16::from_le_bytes(number(bytes, 77));
        let compressed = flags & COMPRESSED != 0;
        if compressed && compression != DEFLATE {
            return Err(format!("compression {compression} is not known"));
        }
        let sectors = |at| match u64_at(at).checked_mul(SECTOR_SIZE) {
            Some(bytes) => Ok(bytes),
            None => Err(format!("{} sectors are too many", u64_at(at))),
        };
        let header = Header {
            capacity: sectors(12)?,
            grain: sectors(20)?,
            entries_per_table: u64::from(u32_at(44)),
            directory: if u64_at(56) == AT_END {
                AT_END
            } else {
                sectors(56)?
            },
            overhead: sectors(64)?,
            descriptor: sectors(28)?,
            descriptor_len: sectors(36)?,
            zeroed_grains: flags & ZEROED_GRAINS != 0,
            compressed,
            markers: flags & MARKERS != 0,
        };
        if header.capacity > VOLUME_SIZE_MAX {
            return Err(format!("a disk of {} bytes is too large", header.capacity));
        }
        if !header.grain.is_power_of_two() || header.grain > GRAIN_MAX {
            return Err(format!("grains of {} bytes", header.grain));
        }
        if header.entries_per_table == 0 || header.entries_per_table > u64::from(ENTRIES_MAX) {
            return Err(format!("tables of {} entries", header.entries_per_table));
        }
        Ok(header)
    }
}
