//! Segment headers and records of the journal. Sealed if the input says so, see [`crate::pack`].

use crate::{alloc::bounded, input::Input};
use format::journal::{
    After, Before, Extent, PAGE, RecordHeader, SegmentHeader, SegmentState, Unverified, seal,
};
use types::{BlockIndex, Epoch, Generation, JournalSeq, StoreId, VolumeId};

const SALT: u64 = 5;
const NUMBER: u64 = 3;

/// A byte of flags (1: seal the header, 2: seal the record), then one page that is looked at as both,
/// and more blocks.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let bytes = input.rest();
    let mut page = bytes.to_vec();
    page.resize(bytes.len().max(PAGE), 0);
    if flags & 1 != 0 {
        page[..8].copy_from_slice(b"HFJSEGMT");
        let crc = crc_without_field(&page[..512]);
        page[8..12].copy_from_slice(&crc.to_le_bytes());
    }
    bounded(64 << 10, || header(&page));
    if flags & 2 != 0 {
        page[..8].copy_from_slice(b"HFJRECRD");
        page[16..24].copy_from_slice(&SALT.to_le_bytes());
        page[24..32].copy_from_slice(&NUMBER.to_le_bytes());
    }
    record(&page, flags & 2 != 0);
}

fn crc_without_field(bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&bytes[..8]), &[0; 4]);
    crc32c::crc32c_append(crc, &bytes[12..])
}

fn header(page: &[u8]) {
    if let Ok(header) = SegmentHeader::decode(page) {
        let mut again = vec![0xee; PAGE];
        header.encode(&mut again);
        assert_eq!(SegmentHeader::decode(&again), Ok(header));
    }
}

fn record(page: &[u8], sealed: bool) {
    let look = Unverified::look(page, SALT, NUMBER);
    assert!(look.is_none() || look == Unverified::look_for_any(page));
    let Some(found) = look.or_else(|| Unverified::look_for_any(page)) else {
        return;
    };
    assert!(found.byte_len().is_multiple_of(PAGE) && found.byte_len() <= 1 << 20);
    let mut whole = page.to_vec();
    whole.resize(found.byte_len(), 0x77);
    if sealed {
        seal(&mut whole);
    }
    bounded(64 << 10, || {
        let Ok(record) = found.verify(&whole) else {
            return;
        };
        let carried: u64 = record.extents.iter().map(Extent::payload).sum();
        assert_eq!(carried, record.blocks.len() as u64);
    });
    if let Ok(record) = found.verify(&whole) {
        let mut again = whole.clone();
        record.header.encode(&record.extents, &mut again);
        seal(&mut again);
        assert_eq!(found.verify(&again), Ok(record));
    }
}

/// Headers of both states, and records of several kinds.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    let mut add = |bytes: &[u8]| {
        seeds.push([&[0], bytes].concat());
        seeds.push([&[3], bytes].concat());
    };
    for state in [SegmentState::Active, SegmentState::Free] {
        let header = SegmentHeader {
            store: StoreId([7; 16]),
            number: NUMBER,
            salt: SALT,
            first_seq: JournalSeq(99),
            tail: 2,
            len: 64 << 10,
            state,
        };
        let mut page = vec![0; PAGE];
        header.encode(&mut page);
        add(&page[..80]);
    }
    let extent = |generation, first, blocks, zeroed| Extent {
        generation: Generation(generation),
        first: BlockIndex(first),
        blocks,
        zeroed,
        after: [After::Same, After::Packs, After::Journal][generation as usize % 3],
    };
    let lists = [
        vec![],
        vec![extent(1, 0, 0, true)],
        vec![extent(1, 5, 1 << 40, true), extent(2, 77, 2, false)],
        (0..166).map(|n| extent(3, n * 2, 1, true)).collect(),
    ];
    for extents in lists {
        let header = RecordHeader {
            salt: SALT,
            number: NUMBER,
            seq: JournalSeq(100),
            durable: JournalSeq(98),
            volume: VolumeId(1),
            epoch: Epoch(2),
            before: Before::Submit(JournalSeq(97), Generation(1)),
            first: true,
            last: extents.len() < 2,
        };
        let blocks: u64 = extents.iter().map(Extent::payload).sum();
        let mut record = vec![0; PAGE * (1 + blocks as usize)];
        header.encode(&extents, &mut record);
        seal(&mut record);
        let used = record
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1);
        add(&record[..used]);
    }
    seeds
}
