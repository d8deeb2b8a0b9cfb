//! Ids, units and names that every crate shares. Pure: no I/O, no runtime.

mod data;
mod file;
mod ids;
mod image_format;
mod image_shape;
pub mod limits;
mod mode;
mod name;
mod progress;
pub mod size;

pub use data::{BlockData, SharedBlock};
pub use file::{FileDriver, FileFormat};
pub use ids::{
    BlockHash, BlockIndex, Epoch, Generation, JournalSeq, ORDINALS_PER_PACK, PackId, Pointer, Root,
    SnapshotId, StoreId, VolumeId, is_zero, is_zero_block,
};
pub use image_format::ImageFormat;
pub use image_shape::{Compression, ImageShape, Subformat};
pub use limits::{Limit, LimitKind, Limits};
pub use mode::DiskMode;
pub use name::{Name, NameError, VolumeRef};
pub use progress::{Cancel, Cancelled, NoProgress, Progress};

use serde::{Deserialize, Serialize};

/// Bytes in a block: the unit of mapping and of deduplication.
pub const BLOCK_SIZE: usize = 4096;

/// Bytes in a sector, the smallest unit a guest can address.
pub const SECTOR_SIZE: u64 = 512;

/// The contents of one block.
pub type Block = [u8; BLOCK_SIZE];

/// The smallest and the largest volume, in bytes: 1 MiB and 64 TiB.
pub const VOLUME_SIZE_MIN: u64 = 1 << 20;
/// See [`VOLUME_SIZE_MIN`].
pub const VOLUME_SIZE_MAX: u64 = 64 << 40;

/// How the blocks of a frame are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Stored as they are.
    None,
    /// LZ4 block format: fast both ways.
    #[default]
    Lz4,
    /// Zstandard, level 3: smaller, slower to write.
    Zstd,
}

impl std::fmt::Display for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zstd => "zstd",
        })
    }
}

impl std::str::FromStr for Codec {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "none" => Ok(Codec::None),
            "lz4" => Ok(Codec::Lz4),
            "zstd" => Ok(Codec::Zstd),
            _ => Err(format!(
                "unknown codec '{}': use none, lz4 or zstd",
                shorten(s)
            )),
        }
    }
}

/// Hostile texts are quoted short and without control characters.
fn shorten(s: &str) -> String {
    s.chars()
        .take(40)
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors are one line for people; what they quote once was not.
    #[test]
    fn errors_quote_hostile_texts_in_one_short_line() {
        let hostile = format!("a\n\u{1b}[2J{}", "x".repeat(10_000));
        let errors = [
            hostile.parse::<Codec>().unwrap_err(),
            hostile.parse::<Name>().unwrap_err().to_string(),
            size::parse_size(&hostile).unwrap_err(),
            size::parse_size(&format!("{}P", "9".repeat(10_000))).unwrap_err(),
        ];
        for error in errors {
            assert!(
                error.len() < 200 && !error.contains(char::is_control),
                "{error:?}"
            );
        }
    }
}
