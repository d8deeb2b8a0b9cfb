//! Identifiers: small integers with a type of their own.

use crate::Block;
use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

    };
}

macro_rules! decimal {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}

decimal!(BlockIndex VolumeId SnapshotId Generation Epoch JournalSeq);

/// As in the names of files.
impl fmt::Display for PackId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

id!(
    /// A block's place in a volume: byte offset / [`BLOCK_SIZE`](crate::BLOCK_SIZE).
    BlockIndex
);
id!(
    /// A volume, for ever: never used again after removal.
    VolumeId
);
id!(
    /// A snapshot, for ever.
    SnapshotId
);
id!(
    /// The writes of a volume between two freezes; grows by one with each freeze.
    Generation
);
id!(
    /// The right to write, as a number that only grows.
    Epoch
);
id!(
    /// A record's place in the journal; grows by one with each record.
    JournalSeq
);
id!(
    /// A pack. Never zero, below 2^52, never used twice.
    PackId
);

impl PackId {
    /// Ids are below this.
    pub const LIMIT: u64 = 1 << 52;
}

/// Ordinals of a [`Pointer`] are below this: 12 bits.
pub const ORDINALS_PER_PACK: u16 = 1 << 12;

/// Where a block lies: 52 bits of pack id, 12 bits of its ordinal in the pack. Zero is a hole.
/// A pointer never changes meaning.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Pointer(u64);

impl Pointer {
    /// Nothing is stored: the block reads as zeroes.
    pub const HOLE: Pointer = Pointer(0);

    /// What was stored is lost: it was below a node of the block map that was damaged when something beside it
    /// was written. Reads fail. No pack has this id and this ordinal.
    pub const LOST: Pointer = Pointer::new(PackId(PackId::LIMIT - 1), ORDINALS_PER_PACK - 1);

    /// The block `ordinal` of `pack`.
    ///
    /// # Panics
    /// If `pack` is zero or not below [`PackId::LIMIT`], or `ordinal` not below
    /// [`ORDINALS_PER_PACK`]: a broken invariant, since ids are handed out by the catalog.
    #[must_use]
    pub const fn new(pack: PackId, ordinal: u16) -> Self {
        assert!(pack.0 != 0 && pack.0 < PackId::LIMIT && ordinal < ORDINALS_PER_PACK);
        Pointer(pack.0 << 12 | ordinal as u64)
    }

    /// From 64 bits read from storage. `None` if they can be no pointer (a pack id of zero with
    /// an ordinal).
    #[must_use]
    pub const fn from_raw(raw: u64) -> Option<Self> {
        if raw != 0 && raw >> 12 == 0 {
            None
        } else {
            Some(Pointer(raw))
        }
    }

    /// The 64 bits that are stored.
    #[must_use]
    pub const fn to_raw(self) -> u64 {
        self.0
    }

    /// Whether nothing is stored.
    #[must_use]
    pub const fn is_hole(self) -> bool {
        self.0 == 0
    }

    /// Whether this is [`LOST`](Self::LOST).
    #[must_use]
    pub const fn is_lost(self) -> bool {
        self.0 == Pointer::LOST.0
    }

    /// The pack; meaningless for a hole.
    #[must_use]
    pub const fn pack(self) -> PackId {
        PackId(self.0 >> 12)
    }

    /// The ordinal in the pack.
    #[must_use]
    pub const fn ordinal(self) -> u16 {
        (self.0 & 0xfff) as u16
    }
}

impl fmt::Debug for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_hole() {
            f.write_str("hole")
        } else {
            write!(f, "{}:{}", self.pack(), self.ordinal())
        }
    }
}

/// The top of a block map: the node it begins at and how many levels there are.
/// Height 0 is an empty map; height h covers 512^h blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Root {
    /// The top node; a hole if the map is empty.
    pub pointer: Pointer,
    /// Levels of nodes, the leaf included; 0 to 4.
    pub height: u8,
}

impl Root {
    /// Every block is a hole.
    pub const EMPTY: Root = Root {
        pointer: Pointer::HOLE,
        height: 0,
    };

    /// Whether every block is a hole.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.pointer.is_hole()
    }
}

/// A store's identity: 128 random bits, printed as hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreId({self})")
    }
}

/// A block's keyed BLAKE3, its first 128 bits. With n blocks in a store two different ones meet
/// with a probability of about n²/2^129; nobody without the store's key can search for such a pair.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockHash(pub [u8; 16]);

impl BlockHash {
    /// The first 64 bits, uniformly distributed: for tables and for sampling.
    #[must_use]
    pub fn prefix(&self) -> u64 {
        let [a, b, c, d, e, f, g, h, ..] = self.0;
        u64::from_le_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Debug for BlockHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}…", self.prefix())
    }
}

/// Whether a block holds nothing but zero bytes.
#[must_use]
pub fn is_zero_block(block: &Block) -> bool {
    is_zero(block)
}

/// Whether there are only zero bytes in `bytes`.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let mut chunks = bytes.chunks_exact(64);
    chunks.all(|chunk| chunk.iter().fold(0, |acc, byte| acc | byte) == 0)
        && bytes[bytes.len() & !63..].iter().all(|&byte| byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_keep_their_parts() {
        let pointer = Pointer::new(PackId(PackId::LIMIT - 1), 4095);
        assert_eq!(pointer.pack(), PackId(PackId::LIMIT - 1));
        assert_eq!(pointer.ordinal(), 4095);
        assert_eq!(Pointer::from_raw(pointer.to_raw()), Some(pointer));
        assert_eq!(Pointer::from_raw(0), Some(Pointer::HOLE));
        assert_eq!(Pointer::from_raw(7), None);
    }

    #[test]
    fn zero_detection_sees_every_byte() {
        for len in [0, 1, 63, 64, 65, 4096] {
            let mut bytes = vec![0; len];
            assert!(is_zero(&bytes));
            for at in [0, len / 2, len.saturating_sub(1)]
                .into_iter()
                .filter(|&at| at < len)
            {
                bytes[at] = 1;
                assert!(!is_zero(&bytes), "byte {at} of {len}");
                bytes[at] = 0;
            }
        }
    }
}
