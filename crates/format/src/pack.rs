//! Packs: immutable objects of up to [`PACK_BLOCKS`] blocks in frames, and a header that says what is in them.
//!
//! ```text
//!      0  fixed header, one sector        what the tables are, their checksums, perhaps a root note
//!    512  live map, slot A and slot B     see the module `live`
//!   1536  frame table, 24 bytes a frame
//!         hash table, 16 bytes a block    absent if no block has a hash; zero for nodes
//!         frames, back to back
//!         zeroes up to a multiple of 4096: the first page can always be read whole
//! ```

use crate::{Malformed, bytes, frame, live::LiveBits, live::LiveMap, live::SLOT_OFFSETS, note};
use types::{BLOCK_SIZE, BlockHash, Codec, PackId, StoreId, VolumeId};

/// Blocks (and nodes) in a full pack.
pub const PACK_BLOCKS: usize = 1024;

/// Bytes that are enough for any pack in the making: all blocks in frames of their own that do not compress, and room
/// to find that out.
pub const OBJECT_ROOM: usize =
    TABLES_AT + PACK_BLOCKS * (ENTRY_LEN + HASH_LEN + BLOCK_SIZE) + frame::room(frame::FRAME_SIZE);

/// An object's length is a multiple of this, and not zero: so much can be read before anything is known.
pub const PAGE: usize = 4096;

/// The version this code writes.
pub const VERSION: u16 = 1;

const MAGIC: [u8; 8] = *b"HFpack\r\n";
const FIXED_LEN: usize = 512;
const TABLES_AT: usize = 1536;
const ENTRY_LEN: usize = 24;
const HASH_LEN: usize = 16;
pub(crate) const CRC_AT: usize = FIXED_LEN - 4;
/// More blocks in a frame than we write: [`frame::FRAME_BLOCKS`] may grow.
const FRAME_BLOCKS_LIMIT: u8 = 16;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// Blocks.
    Data,
    /// One node of a block map, see [`Node`](crate::Node).
    Node,
}

/// A frame, as the table has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameEntry {
    /// Where it begins in the object.
    pub offset: u32,
    /// Its length as stored. Zero: given up, and rewritten without it.
    pub stored_len: u32,
    /// [`frame::checksum`].
    pub crc: u32,
    /// Its first block.
    pub first: u16,
    /// How many blocks it has.
    pub blocks: u8,
    /// How they are compressed.
    pub codec: Codec,
    /// What they are.
    pub kind: FrameKind,
}

impl FrameEntry {
    /// Where it lies in the object.
    #[must_use]
    pub fn range(&self) -> std::ops::Range<u64> {
        u64::from(self.offset)..u64::from(self.offset) + u64::from(self.stored_len)
    }

    /// Its ordinals.
    #[must_use]
    pub fn ordinals(&self) -> std::ops::Range<u16> {
        self.first..self.first + u16::from(self.blocks)
    }

    /// Bytes of its blocks.
    #[must_use]
    pub fn plain_len(&self) -> usize {
        usize::from(self.blocks) * BLOCK_SIZE
    }

    fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut entry = [0; ENTRY_LEN];
        bytes::put(&mut entry, 0, &self.offset.to_le_bytes());
        bytes::put(&mut entry, 4, &self.stored_len.to_le_bytes());
        bytes::put(&mut entry, 8, &self.crc.to_le_bytes());
        bytes::put(&mut entry, 12, &self.first.to_le_bytes());
        let codec = match self.codec {
            Codec::None => 0,
            Codec::Lz4 => 1,
            Codec::Zstd => 2,
        };
        // 16..18: key id, 0 is "not encrypted"; the rest is reserved.
        let kind = match self.kind {
            FrameKind::Data => 0,
            FrameKind::Node => 1,
        };
        bytes::put(&mut entry, 14, &[self.blocks, codec]);
        bytes::put(&mut entry, 18, &[kind]);
        entry
    }

    fn decode(entry: &[u8; ENTRY_LEN]) -> Result<Self, Malformed> {
        let codec = match entry[15] {
            0 => Codec::None,
            1 => Codec::Lz4,
            2 => Codec::Zstd,
            _ => return Err(malformed("a codec that we do not know")),
        };
        let kind = match entry[18] {
            0 => FrameKind::Data,
            1 => FrameKind::Node,
            _ => return Err(malformed("a kind of frame that we do not know")),
        };
        if entry[16..18] != [0, 0] {
            return Err(malformed("encrypted, which we cannot read yet"));
        }
        let u32_at = |at| bytes::u32_at(entry, at).unwrap_or_default();
        Ok(FrameEntry {
            offset: u32_at(0),
            stored_len: u32_at(4),
            crc: u32_at(8),
            first: bytes::u16_at(entry, 12).unwrap_or_default(),
            blocks: entry[14],
            codec,
            kind,
        })
    }
}

/// A pack's header without its hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackHeader {
    /// Which pack it is.
    pub pack: PackId,
    /// In which store.
    pub store: StoreId,
    /// Blocks and nodes.
    pub blocks: u16,
    /// In order of their ordinals, without gaps.
    pub frames: Box<[FrameEntry]>,
    /// What was not given up.
    pub live: LiveMap,
    /// Where the hash table is; `None` if no block has a hash.
    pub hashes: Option<std::ops::Range<u64>>,
    /// Where the frames are.
    pub payload: std::ops::Range<u64>,
    /// Whose root it has a [note] of.
    pub noted: Option<VolumeId>,
    hashes_crc: u32,
}

/// What the fixed header says.
struct Fixed {
    frames: usize,
    blocks: u16,
    header_len: u32,
    payload_len: u32,
    revision: u32,
    frames_crc: u32,
    hashes_crc: u32,
    hashed: bool,
}

impl PackHeader {
    /// How many bytes from the beginning of the object [`decode`](Self::decode) needs, from the first [`PAGE`].
    ///
    /// # Errors
    /// It is not the header of `pack` of `store`.
    pub fn needed(page: &[u8], pack: PackId, store: StoreId) -> Result<usize, Malformed> {
        let fixed = decode_fixed(page, pack, store)?;
        Ok(TABLES_AT + fixed.frames * ENTRY_LEN)
    }

    /// Which pack an object says that it is: what [`decode`](Self::decode) may find sound, whatever its name.
    #[must_use]
    pub fn claimed(page: &[u8]) -> Option<PackId> {
        let id = bytes::u64_at(page, 16)?;
        (1..PackId::LIMIT).contains(&id).then_some(PackId(id))
    }

    /// From the beginning of the object.
    ///
    /// # Errors
    /// It is not the sound header of `pack` of `store`.
    pub fn decode(bytes: &[u8], pack: PackId, store: StoreId) -> Result<Self, Malformed> {
        let fixed = decode_fixed(bytes, pack, store)?;
        let tables_end = TABLES_AT + fixed.frames * ENTRY_LEN;
        let table = bytes
            .get(TABLES_AT..tables_end)
            .ok_or(malformed("cut short"))?;
        if crc32c::crc32c(table) != fixed.frames_crc {
            return Err(malformed("wrong checksum of the frame table"));
        }
        let hashes_end = tables_end + usize::from(fixed.blocks) * HASH_LEN;
        let header_end = if fixed.hashed { hashes_end } else { tables_end };
        if header_end as u64 != u64::from(fixed.header_len) {
            return Err(malformed("wrong length of the header"));
        }
        let start = u64::from(fixed.header_len);
        Ok(PackHeader {
            pack,
            store,
            blocks: fixed.blocks,
            frames: decode_frames(table, &fixed)?,
            live: LiveMap::decode(bytes, pack, usize::from(fixed.blocks), fixed.revision),
            hashes: fixed.hashed.then_some(tables_end as u64..start),
            payload: start..start + u64::from(fixed.payload_len),
            noted: note::volume(bytes),
            hashes_crc: fixed.hashes_crc,
        })
    }

    /// The frame of a block, with its number.
    #[must_use]
    pub fn frame_of(&self, ordinal: u16) -> Option<(u32, &FrameEntry)> {
        let number = self
            .frames
            .partition_point(|frame| frame.ordinals().end <= ordinal);
        Some((u32::try_from(number).ok()?, self.frames.get(number)?))
    }

    /// The hashes, from the bytes of [`hashes`](Self::hashes). A zero hash is none.
    ///
    /// # Errors
    /// They are not the bytes that were written there.
    pub fn decode_hashes(&self, table: &[u8]) -> Result<Box<[BlockHash]>, Malformed> {
        if table.len() != usize::from(self.blocks) * HASH_LEN {
            return Err(malformed("wrong length of the hash table"));
        }
        if crc32c::crc32c(table) != self.hashes_crc {
            return Err(malformed("wrong checksum of the hash table"));
        }
        let hashes = table.as_chunks::<HASH_LEN>().0;
        Ok(hashes.iter().copied().map(BlockHash).collect())
    }
}

/// Whether bytes begin with the sound fixed header of a pack.
pub(crate) fn check_fixed(page: &[u8], pack: PackId, store: StoreId) -> Result<(), Malformed> {
    decode_fixed(page, pack, store).map(|_| ())
}

fn decode_fixed(page: &[u8], pack: PackId, store: StoreId) -> Result<Fixed, Malformed> {
    let short = malformed("cut short");
    let fixed = page.get(..FIXED_LEN).ok_or(short)?;
    let u32_at = |at| bytes::u32_at(fixed, at).ok_or(short);
    if bytes::array(fixed, 0) != Some(MAGIC) {
        return Err(malformed("it does not begin like a pack"));
    }
    if bytes::u16_at(fixed, 8) != Some(VERSION) {
        return Err(malformed("a format version that we do not know"));
    }
    if u32_at(CRC_AT)? != crc32c::crc32c(&fixed[..CRC_AT]) {
        return Err(malformed("wrong checksum of the header"));
    }
    if bytes::u64_at(fixed, 16) != Some(pack.0) {
        return Err(malformed("it is another pack"));
    }
    if bytes::array(fixed, 24) != Some(store.0) {
        return Err(malformed("it is of another store"));
    }
    let (frames, blocks) = (u32_at(40)? as usize, u32_at(44)?);
    if blocks as usize > PACK_BLOCKS || frames > blocks as usize {
        return Err(malformed("too many blocks"));
    }
    Ok(Fixed {
        frames,
        blocks: blocks as u16,
        header_len: u32_at(48)?,
        payload_len: u32_at(52)?,
        revision: u32_at(56)?,
        frames_crc: u32_at(60)?,
        hashes_crc: u32_at(64)?,
        hashed: u32_at(68)? != 0,
    })
}

fn decode_frames(table: &[u8], fixed: &Fixed) -> Result<Box<[FrameEntry]>, Malformed> {
    let mut frames = Vec::with_capacity(fixed.frames);
    let (mut ordinal, mut offset) = (0_u16, u64::from(fixed.header_len));
    for entry in table.as_chunks::<ENTRY_LEN>().0 {
        let frame = FrameEntry::decode(entry)?;
        let most = if frame.kind == FrameKind::Node {
            1
        } else {
            FRAME_BLOCKS_LIMIT
        };
        if frame.blocks == 0 || frame.blocks > most || frame.first != ordinal {
            return Err(malformed("a frame of a wrong number of blocks"));
        }
        if u64::from(frame.offset) != offset || frame.stored_len as usize > frame.plain_len() {
            return Err(malformed("a frame in the wrong place"));
        }
        ordinal += u16::from(frame.blocks);
        offset = frame.range().end;
        if ordinal > fixed.blocks {
            return Err(malformed("more blocks than it says"));
        }
        frames.push(frame);
    }
    let end = u64::from(fixed.header_len) + u64::from(fixed.payload_len);
    if ordinal != fixed.blocks || offset != end {
        return Err(malformed("fewer blocks than it says"));
    }
    Ok(frames.into())
}

const fn malformed(why: &'static str) -> Malformed {
    Malformed::new("pack", why)
}

/// A frame to put into a pack.
#[derive(Clone, Debug)]
pub struct NewFrame {
    /// What it holds.
    pub kind: FrameKind,
    /// How many blocks.
    pub blocks: u8,
    /// How `stored` is compressed.
    pub codec: Codec,
    /// Its bytes; none if all its blocks were given up.
    pub stored: Vec<u8>,
}

impl NewFrame {
    /// Copies its bytes to the beginning of `place`.
    ///
    /// # Panics
    /// If they do not fit.
    #[must_use]
    pub fn copy_to(&self, place: &mut [u8]) -> PlacedFrame {
        let stored_len = self.stored.len();
        place[..stored_len].copy_from_slice(&self.stored);
        PlacedFrame {
            kind: self.kind,
            blocks: self.blocks,
            codec: self.codec,
            stored_len,
        }
    }
}

/// A frame whose bytes are in their place.
#[derive(Clone, Copy, Debug)]
pub struct PlacedFrame {
    /// What it holds.
    pub kind: FrameKind,
    /// How many blocks.
    pub blocks: u8,
    /// How it is compressed.
    pub codec: Codec,
    /// Bytes that it has.
    pub stored_len: usize,
}

/// What goes into a pack besides its frames.
#[derive(Clone, Copy, Debug)]
pub struct NewPack<'a> {
    /// Its id.
    pub pack: PackId,
    /// Its store.
    pub store: StoreId,
    /// 0 for a new pack; more than that of the live map of what it replaces.
    pub revision: u32,
    /// One for each block, zero for none; or empty.
    pub hashes: &'a [BlockHash],
    /// If not all.
    pub live: Option<LiveBits>,
    /// The bytes of a [root note](crate::note); or empty.
    pub note: &'a [u8],
}

impl NewPack<'_> {
    /// The whole object.
    ///
    /// # Panics
    /// As [`assemble_into`](Self::assemble_into).
    #[must_use]
    pub fn assemble(&self, frames: &[NewFrame]) -> Vec<u8> {
        let payload: usize = frames.iter().map(|frame| frame.stored.len()).sum();
        let len = self.header_len(frames.len()) + payload;
        let mut object = vec![0; len.next_multiple_of(PAGE)];
        self.assemble_into(&mut object, frames.len(), |number, place| {
            frames[number].copy_to(place)
        });
        object
    }

    /// The whole object, to the beginning of `object`; answers its length. Each of so many frames is brought to the
    /// beginning of the place that `place` is given.
    ///
    /// # Panics
    /// If `object` is too short, there are more than [`PACK_BLOCKS`] blocks, hashes are there but not one for each,
    /// or the note is too long.
    pub fn assemble_into(
        &self,
        object: &mut [u8],
        frames: usize,
        mut place: impl FnMut(usize, &mut [u8]) -> PlacedFrame,
    ) -> usize {
        let hashes_at = TABLES_AT + frames * ENTRY_LEN;
        let header_len = self.header_len(frames);
        object[..header_len].fill(0);
        if let Some(live) = &self.live {
            let slot = crate::live::encode_slot(self.pack, self.revision, live);
            bytes::put(object, SLOT_OFFSETS[0] as usize, &slot);
        }
        let (mut blocks, mut end) = (0, header_len);
        for number in 0..frames {
            let placed = place(number, &mut object[end..]);
            let stored = &object[end..end + placed.stored_len];
            let entry = self.entry(number, &placed, blocks, end, stored);
            bytes::put(object, TABLES_AT + number * ENTRY_LEN, &entry.encode());
            blocks += u16::from(placed.blocks);
            end += placed.stored_len;
        }
        let blocks = usize::from(blocks);
        assert!(blocks <= PACK_BLOCKS, "a pack of {blocks} blocks");
        assert!(self.hashes.is_empty() || self.hashes.len() == blocks);
        for (i, hash) in self.hashes.iter().enumerate() {
            bytes::put(object, hashes_at + i * HASH_LEN, &hash.0);
        }
        let counts = [frames, blocks, header_len, end - header_len].map(|n| n as u32);
        self.encode_fixed(object, counts, hashes_at);
        let len = end.next_multiple_of(PAGE);
        object[end..len].fill(0);
        len
    }

    const fn header_len(&self, frames: usize) -> usize {
        TABLES_AT + frames * ENTRY_LEN + self.hashes.len() * HASH_LEN
    }

    fn entry(
        &self,
        number: usize,
        placed: &PlacedFrame,
        first: u16,
        offset: usize,
        stored: &[u8],
    ) -> FrameEntry {
        FrameEntry {
            offset: offset as u32,
            stored_len: placed.stored_len as u32,
            crc: frame::checksum(self.pack, number as u32, stored),
            first,
            blocks: placed.blocks,
            codec: placed.codec,
            kind: placed.kind,
        }
    }

    fn encode_fixed(&self, object: &mut [u8], counts: [u32; 4], hashes_at: usize) {
        let frames_crc = crc32c::crc32c(&object[TABLES_AT..hashes_at]);
        let hashes_crc = crc32c::crc32c(&object[hashes_at..counts[2] as usize]);
        bytes::put(object, 0, &MAGIC);
        bytes::put(object, 8, &VERSION.to_le_bytes());
        bytes::put(object, 16, &self.pack.0.to_le_bytes());
        bytes::put(object, 24, &self.store.0);
        for (i, count) in counts.into_iter().enumerate() {
            bytes::put(object, 40 + i * 4, &count.to_le_bytes());
        }
        bytes::put(object, 56, &self.revision.to_le_bytes());
        bytes::put(object, 60, &frames_crc.to_le_bytes());
        bytes::put(object, 64, &hashes_crc.to_le_bytes());
        let hashed = u32::from(!self.hashes.is_empty());
        bytes::put(object, 68, &hashed.to_le_bytes());
        assert!(self.note.len() <= note::LEN_MAX, "a note that fits");
        bytes::put(object, note::AT, self.note);
        let crc = crc32c::crc32c(&object[..CRC_AT]);
        bytes::put(object, CRC_AT, &crc.to_le_bytes());
    }
}

#[cfg(test)]
mod tests;
