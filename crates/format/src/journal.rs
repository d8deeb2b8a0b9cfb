//! The bytes of journal segments: segment headers and records.
//!
//! A segment is a file of a fixed number of 4 KiB pages. Page 0 is its header, the rest are records one
//! after the other, each a page of what it says and then the blocks that it carries. All integers are
//! little-endian; what is not named is zero.
//!
//! # Segment header (page 0; only the first 512 bytes are used, so that a disk writes it whole or not at all)
//! ```text
//!   0  8  magic "HFJSEGMT"
//!   8  4  CRC-32C of bytes 0..512, this field taken as zero
//!  12  4  version, 1
//!  16 16  store id
//!  32  8  number: 1 for the first segment ever used, and one more with each use of any file
//!  40  8  salt: random, new with each use
//!  48  8  first seq: of the first record of an active segment; of a free one, the seq that the journal
//!         was to give next when it was freed (every record below it was durable)
//!  56  8  tail: the number of the oldest segment still needed when this was written
//!  64  8  length of the segment in bytes, the header included
//!  72  4  state: 1 active, 2 free (the segment of this number is not needed any more, and none before it)
//! ```
//! A page of zeroes is the header of a segment that was never used. The checksum is at its place in
//! every version, so that a newer one can be told from a damaged one.
//!
//! # Record (a multiple of 4 KiB)
//! ```text
//!   0  8  magic "HFJRECRD"
//!   8  4  CRC-32C of the whole record, blocks included, this field taken as zero
//!  12  4  flags: 1 first record of its submit, 2 last, 4 it says which submit it comes after
//!  16  8  salt of the segment
//!  24  8  number of the segment
//!  32  8  seq: one more than that of the record before
//!  40  8  durable seq: all records up to this one were durable when this one was written
//!  48  8  volume
//!  56  8  epoch
//!  64  4  extents, at most 166
//!  68  4  blocks that follow this page, at most 255
//!  72  8  if flag 4 is set: the last seq of the volume's submit before this one; zero if all of those were in packs
//!  80  8  the newest generation that was submitted of the volume up to that one
//!  88  8  zero
//!  96     extents, 24 bytes each:
//!            0  8  generation
//!            8  8  index of the first block
//!           16  8  blocks; bit 63 set: they are zeroed, and no data follows for them;
//!                  bits 62 and 61: what comes before the batch that the extent is of, see [`After`]
//! 4096     the blocks of the other extents, in the order of the extents
//! ```
//! An extent of no blocks that is zeroed says only that its generation was.

use crate::{
    Malformed,
    bytes::{array, put, u32_at, u64_at},
};
use types::{BLOCK_SIZE, BlockIndex, Epoch, Generation, JournalSeq, StoreId, VolumeId};

/// Records and segment headers begin at multiples of this.
pub const PAGE: usize = BLOCK_SIZE;
/// The version that is written, and the newest that is read.
pub const VERSION: u32 = 1;
/// Extents that a record can have.
pub const EXTENTS_MAX: usize = (PAGE - EXTENTS_AT) / EXTENT_LEN;
/// Blocks that a record can carry: with its first page it is 1 MiB.
pub const BLOCKS_MAX: usize = 255;

const SEGMENT_MAGIC: &[u8; 8] = b"HFJSEGMT";
const RECORD_MAGIC: &[u8; 8] = b"HFJRECRD";
const SEGMENT_HEADER_LEN: usize = 512;
const CRC_AT: usize = 8;
const EXTENTS_AT: usize = 96;
const EXTENT_LEN: usize = 24;
const FIRST: u32 = 1;
const LAST: u32 = 2;
const SAYS_BEFORE: u32 = 4;
const ZEROED: u64 = 1 << 63;
const AFTER_JOURNAL: u64 = 1 << 62;
const AFTER_PACKS: u64 = 1 << 61;
const BLOCKS: u64 = AFTER_PACKS - 1;

const _: () = assert!(EXTENTS_MAX == 166);

/// Whether a segment holds what may be needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentState {
    /// Records follow.
    Active,
    /// The segment of this number is needed no more, and neither is any before it.
    Free,
}

/// What page 0 of a segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The store that it belongs to.
    pub store: StoreId,
    /// Which use of a segment this is; grows by one with each.
    pub number: u64,
    /// Its records carry this.
    pub salt: u64,
    /// Of its first record; of a free one, what the journal was to give next.
    pub first_seq: JournalSeq,
    /// The oldest segment needed when this was written.
    pub tail: u64,
    /// Bytes in the segment.
    pub len: u64,
    /// Active or free.
    pub state: SegmentState,
}

/// Why page 0 of a segment says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoHeader {
    /// All zeroes: never used.
    Unused,
    /// Intact, and of a version that is not known here.
    Newer(u32),
    /// Neither.
    Malformed(Malformed),
}

impl SegmentHeader {
    /// Fills `page`, of [`PAGE`] bytes.
    pub fn encode(&self, page: &mut [u8]) {
        page.fill(0);
        put(page, 0, SEGMENT_MAGIC);
        put(page, 12, &VERSION.to_le_bytes());
        put(page, 16, &self.store.0);
        put(page, 32, &self.number.to_le_bytes());
        put(page, 40, &self.salt.to_le_bytes());
        put(page, 48, &self.first_seq.0.to_le_bytes());
        put(page, 56, &self.tail.to_le_bytes());
        put(page, 64, &self.len.to_le_bytes());
        let state: u32 = match self.state {
            SegmentState::Active => 1,
            SegmentState::Free => 2,
        };
        put(page, 72, &state.to_le_bytes());
        let crc = crc_without_field(&page[..SEGMENT_HEADER_LEN]);
        put(page, CRC_AT, &crc.to_le_bytes());
    }

    /// From page 0 of a segment.
    ///
    /// # Errors
    /// Why there is no header: see [`NoHeader`].
    pub fn decode(page: &[u8]) -> Result<Self, NoHeader> {
        let bad = |why| NoHeader::Malformed(Malformed::new("segment header", why));
        let short = || bad("cut short");
        let header = page.get(..SEGMENT_HEADER_LEN).ok_or_else(short)?;
        if types::is_zero(header) {
            return Err(NoHeader::Unused);
        }
        if !header.starts_with(SEGMENT_MAGIC) {
            return Err(bad("no magic"));
        }
        if u32_at(header, CRC_AT) != Some(crc_without_field(header)) {
            return Err(bad("checksum"));
        }
        match u32_at(header, 12).ok_or_else(short)? {
            VERSION => {}
            0 => return Err(bad("version")),
            newer => return Err(NoHeader::Newer(newer)),
        }
        Self::fields(header).ok_or_else(|| bad("state"))
    }

    fn fields(header: &[u8]) -> Option<Self> {
        Some(SegmentHeader {
            store: StoreId(array(header, 16)?),
            number: u64_at(header, 32)?,
            salt: u64_at(header, 40)?,
            first_seq: JournalSeq(u64_at(header, 48)?),
            tail: u64_at(header, 56)?,
            len: u64_at(header, 64)?,
            state: match u32_at(header, 72)? {
                1 => SegmentState::Active,
                2 => SegmentState::Free,
                _ => return None,
            },
        })
    }
}

/// What comes before a batch in the history of its volume. Who knows of an older root than the last one can tell
/// from it whether the journal leads on from there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum After {
    /// Earlier submits of the same generation.
    #[default]
    Same,
    /// The generation before. Some of it is in packs alone.
    Packs,
    /// The generation before. The journal has all of it.
    Journal,
}

/// Consecutive blocks of one generation, all with data or all zeroed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// The generation that they were written in.
    pub generation: Generation,
    /// The first one.
    pub first: BlockIndex,
    /// How many; below 2^61.
    pub blocks: u64,
    /// They are zeroed, and carry no data.
    pub zeroed: bool,
    /// What comes before the batch that it is of.
    pub after: After,
}

impl Extent {
    /// Blocks of data that the record carries for it.
    #[must_use]
    pub const fn payload(&self) -> u64 {
        if self.zeroed { 0 } else { self.blocks }
    }

    const fn blocks_field(&self) -> u64 {
        let after = match self.after {
            After::Same => 0,
            After::Packs => AFTER_PACKS,
            After::Journal => AFTER_JOURNAL,
        };
        self.blocks | after | if self.zeroed { ZEROED } else { 0 }
    }
}

/// Which submit of its volume one comes after. So it is known of each volume alone whether anything is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// It does not say: an older program wrote it.
    Unknown,
    /// None: all that was submitted before was in packs.
    Packs,
    /// The one whose last record this is, and the newest generation that was submitted up to then: where packs have
    /// that, it is not needed.
    Submit(JournalSeq, Generation),
}

/// What the first page of a record says, but for its extents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    /// Of the segment that it is in.
    pub salt: u64,
    /// Of the segment that it is in.
    pub number: u64,
    /// Its place in the journal.
    pub seq: JournalSeq,
    /// All up to this were durable when it was written.
    pub durable: JournalSeq,
    /// What it belongs to.
    pub volume: VolumeId,
    /// Of the writer.
    pub epoch: Epoch,
    /// What its submit comes after.
    pub before: Before,
    /// It begins a submit.
    pub first: bool,
    /// It ends a submit.
    pub last: bool,
}

impl RecordHeader {
    /// Fills `record`'s first page. The blocks may be put behind it before or after;
    /// [`seal`] comes last.
    ///
    /// # Panics
    /// If there are more than [`EXTENTS_MAX`] extents or [`BLOCKS_MAX`] blocks, or `record` is not of the
    /// length that they need: whoever cut the record was wrong.
    pub fn encode(&self, extents: &[Extent], record: &mut [u8]) {
        let blocks: u64 = extents.iter().map(Extent::payload).sum();
        assert!(extents.len() <= EXTENTS_MAX && blocks <= BLOCKS_MAX as u64);
        assert_eq!(record.len(), PAGE * (1 + blocks as usize));
        let page = &mut record[..PAGE];
        page[..EXTENTS_AT].fill(0);
        put(page, 0, RECORD_MAGIC);
        let flag = |set, flag| if set { flag } else { 0 };
        let (says, seq, generation) = match self.before {
            Before::Unknown => (false, 0, 0),
            Before::Packs => (true, 0, 0),
            Before::Submit(seq, generation) => (true, seq.0, generation.0),
        };
        let flags = flag(self.first, FIRST) | flag(self.last, LAST) | flag(says, SAYS_BEFORE);
        put(page, 12, &flags.to_le_bytes());
        put(page, 16, &self.salt.to_le_bytes());
        put(page, 24, &self.number.to_le_bytes());
        put(page, 32, &self.seq.0.to_le_bytes());
        put(page, 40, &self.durable.0.to_le_bytes());
        put(page, 48, &self.volume.0.to_le_bytes());
        put(page, 56, &self.epoch.0.to_le_bytes());
        put(page, 64, &(extents.len() as u32).to_le_bytes());
        put(page, 68, &(blocks as u32).to_le_bytes());
        put(page, 72, &seq.to_le_bytes());
        put(page, 80, &generation.to_le_bytes());
        let mut at = EXTENTS_AT;
        for extent in extents {
            put(page, at, &extent.generation.0.to_le_bytes());
            put(page, at + 8, &extent.first.0.to_le_bytes());
            put(page, at + 16, &extent.blocks_field().to_le_bytes());
            at += EXTENT_LEN;
        }
        page[at..].fill(0);
    }
}

/// Puts the checksum into a record that is otherwise complete.
pub fn seal(record: &mut [u8]) {
    let crc = crc_without_field(record);
    put(record, CRC_AT, &crc.to_le_bytes());
}

/// The first page of what may be a record: its salt and its number fit, nothing else is known to be true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverified {
    pages: usize,
    /// What it says of [`RecordHeader::seq`].
    pub seq: JournalSeq,
    /// Of [`RecordHeader::volume`].
    pub volume: VolumeId,
}

impl Unverified {
    /// Looks at the first page of what may be a record of the segment `number` with `salt`.
    #[must_use]
    pub fn look(page: &[u8], salt: u64, number: u64) -> Option<Self> {
        let fits = page.starts_with(RECORD_MAGIC)
            && u64_at(page, 16) == Some(salt)
            && u64_at(page, 24) == Some(number);
        Self::pages(page).filter(|_| fits)
    }

    /// As [`look`](Self::look), in a segment whose header is lost.
    #[must_use]
    pub fn look_for_any(page: &[u8]) -> Option<Self> {
        Self::pages(page).filter(|_| page.starts_with(RECORD_MAGIC))
    }

    fn pages(page: &[u8]) -> Option<Self> {
        let blocks = u32_at(page, 68)? as usize;
        let found = Unverified {
            pages: 1 + blocks,
            seq: JournalSeq(u64_at(page, 32)?),
            volume: VolumeId(u64_at(page, 48)?),
        };
        (blocks <= BLOCKS_MAX).then_some(found)
    }

    /// Bytes in the whole record, if it is one; at most 1 MiB.
    #[must_use]
    pub const fn byte_len(self) -> usize {
        self.pages * PAGE
    }

    /// Checks the whole of it; `record` has [`byte_len`](Self::byte_len) bytes.
    ///
    /// # Errors
    /// The checksum does not fit; or it does, and the contents make no sense.
    pub fn verify(self, record: &[u8]) -> Result<Record<'_>, Malformed> {
        let bad = |why| Malformed::new("journal record", why);
        if record.len() != self.byte_len()
            || u32_at(record, CRC_AT) != Some(crc_without_field(record))
        {
            return Err(bad("checksum"));
        }
        Record::fields(record).ok_or_else(|| bad("contents"))
    }
}

/// A record whose checksum was right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// What it says.
    pub header: RecordHeader,
    /// What it carries, in order.
    pub extents: Vec<Extent>,
    /// The blocks of the extents that are not zeroed, in order.
    pub blocks: &'a [[u8; BLOCK_SIZE]],
}

impl<'a> Record<'a> {
    fn fields(record: &'a [u8]) -> Option<Self> {
        let flags = u32_at(record, 12)?;
        let header = RecordHeader {
            salt: u64_at(record, 16)?,
            number: u64_at(record, 24)?,
            seq: JournalSeq(u64_at(record, 32)?),
            durable: JournalSeq(u64_at(record, 40)?),
            volume: VolumeId(u64_at(record, 48)?),
            epoch: Epoch(u64_at(record, 56)?),
            before: before(record, flags)?,
            first: flags & FIRST != 0,
            last: flags & LAST != 0,
        };
        let count = u32_at(record, 64)? as usize;
        let blocks = record.get(PAGE..)?.as_chunks().0;
        if count > EXTENTS_MAX || header.durable >= header.seq || header.seq.0 == u64::MAX {
            return None;
        }
        let extents: Vec<Extent> = (0..count)
            .map(|n| extent(record, EXTENTS_AT + n * EXTENT_LEN))
            .collect::<Option<_>>()?;
        let carried = extents
            .iter()
            .try_fold(0u64, |sum, extent| sum.checked_add(extent.payload()))?;
        (carried == blocks.len() as u64).then_some(Record {
            header,
            extents,
            blocks,
        })
    }
}

fn before(page: &[u8], flags: u32) -> Option<Before> {
    let (seq, generation) = (u64_at(page, 72)?, u64_at(page, 80)?);
    Some(match seq {
        _ if flags & SAYS_BEFORE == 0 => Before::Unknown,
        0 => Before::Packs,
        _ => Before::Submit(JournalSeq(seq), Generation(generation)),
    })
}

fn extent(page: &[u8], at: usize) -> Option<Extent> {
    let field = u64_at(page, at + 16)?;
    let extent = Extent {
        generation: Generation(u64_at(page, at)?),
        first: BlockIndex(u64_at(page, at + 8)?),
        blocks: field & BLOCKS,
        zeroed: field & ZEROED != 0,
        after: match field & (AFTER_JOURNAL | AFTER_PACKS) {
            0 => After::Same,
            AFTER_PACKS => After::Packs,
            AFTER_JOURNAL => After::Journal,
            _ => return None,
        },
    };
    extent.first.0.checked_add(extent.blocks)?;
    Some(extent)
}

/// CRC-32C of `bytes` with the field of the checksum taken as zero.
fn crc_without_field(bytes: &[u8]) -> u32 {
    let (before, rest) = bytes.split_at(CRC_AT.min(bytes.len()));
    let crc = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(crc, rest.get(4..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn segment() -> SegmentHeader {
        SegmentHeader {
            store: StoreId([7; 16]),
            number: 3,
            salt: 0x1234_5678_9abc_def0,
            first_seq: JournalSeq(99),
            tail: 2,
            len: 32 << 20,
            state: SegmentState::Active,
        }
    }

    fn header() -> RecordHeader {
        RecordHeader {
            salt: 5,
            number: 3,
            seq: JournalSeq(100),
            durable: JournalSeq(98),
            volume: VolumeId(1),
            epoch: Epoch(2),
            before: Before::Submit(JournalSeq(97), Generation(7)),
            first: true,
            last: false,
        }
    }

    /// Two extents and three blocks.
    fn record() -> (Vec<Extent>, Vec<u8>) {
        let extents = vec![
            Extent {
                generation: Generation(8),
                first: BlockIndex(0),
                blocks: 1 << 40,
                zeroed: true,
                after: After::Packs,
            },
            Extent {
                generation: Generation(9),
                first: BlockIndex(77),
                blocks: 3,
                zeroed: false,
                after: After::Journal,
            },
        ];
        let mut bytes = vec![0xee; 4 * PAGE];
        header().encode(&extents, &mut bytes);
        seal(&mut bytes);
        (extents, bytes)
    }

    #[test]
    fn the_bytes_of_a_segment_header_are_fixed() {
        let mut page = vec![1; PAGE];
        segment().encode(&mut page);
        assert_eq!(SegmentHeader::decode(&page), Ok(segment()));
        assert_eq!(&page[..8], b"HFJSEGMT");
        assert_eq!(page[8..16], [253, 113, 171, 96, 1, 0, 0, 0]);
        assert_eq!(page[40..48], segment().salt.to_le_bytes());
        assert!(types::is_zero(&page[76..]));
    }

    #[test]
    fn headers_unused_newer_and_damaged_are_told_apart() {
        let mut page = vec![0; PAGE];
        assert_eq!(SegmentHeader::decode(&page), Err(NoHeader::Unused));
        segment().encode(&mut page);
        for at in 0..SEGMENT_HEADER_LEN {
            page[at] ^= 4;
            let damaged = SegmentHeader::decode(&page);
            assert!(matches!(damaged, Err(NoHeader::Malformed(_))), "byte {at}");
            page[at] ^= 4;
        }
        page[12] = 2;
        let crc = crc_without_field(&page[..SEGMENT_HEADER_LEN]);
        put(&mut page, CRC_AT, &crc.to_le_bytes());
        assert_eq!(SegmentHeader::decode(&page), Err(NoHeader::Newer(2)));
    }

    #[test]
    fn records_come_back_whole_or_not_at_all() {
        let (extents, mut bytes) = record();
        let look = |bytes: &[u8]| Unverified::look(&bytes[..PAGE], 5, 3);
        let unverified = look(&bytes).unwrap();
        assert_eq!(unverified.byte_len(), bytes.len());
        let back = unverified.verify(&bytes).unwrap();
        assert_eq!((back.header, &back.extents), (header(), &extents));
        assert_eq!(back.blocks, [[0xee; PAGE]; 3]);
        assert_eq!(Unverified::look(&bytes, 6, 3), None, "another salt");
        assert_eq!(Unverified::look(&bytes, 5, 4), None, "another segment");
        for at in (0..bytes.len()).step_by(61) {
            bytes[at] ^= 0x10;
            let good = look(&bytes)
                .filter(|found| bytes.len() == found.byte_len() && found.verify(&bytes).is_ok());
            assert_eq!(good, None, "byte {at}");
            bytes[at] ^= 0x10;
        }
    }

    #[test]
    fn sealed_nonsense_is_refused() {
        let (_, bytes) = record();
        let overflows = [
            (64, u64::from(u32::MAX)),
            (EXTENTS_AT + 8, u64::MAX),
            (EXTENTS_AT + EXTENT_LEN + 16, 4),
            (EXTENTS_AT + 16, 3 << 61),
            (40, 100),
        ];
        for (at, value) in overflows {
            let mut bytes = bytes.clone();
            let width = if at == 64 { 4 } else { 8 };
            bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            seal(&mut bytes);
            let found = Unverified::look(&bytes, 5, 3).unwrap();
            assert_eq!(found.verify(&bytes).unwrap_err().why, "contents", "at {at}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..9000), magic: bool) {
            if magic && bytes.len() > 8 {
                bytes[..8].copy_from_slice(RECORD_MAGIC);
            }
            let _ = SegmentHeader::decode(&bytes);
            if let Some(found) = Unverified::look_for_any(&bytes) {
                let _ = found.verify(&bytes);
                let len = bytes.len().min(found.byte_len());
                if len > 12 {
                    seal(&mut bytes[..len]);
                }
                let _ = found.verify(&bytes[..len]);
            }
        }
    }
}
