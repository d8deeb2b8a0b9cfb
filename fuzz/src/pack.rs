//! A pack's header and everything that it leads to: live map, hashes, frames, nodes.
//!
//! A fuzzer does not find checksums. So the bytes are *sealed* first, if the input says so: identity
//! and checksums are put where the format has them, and only what they cover is hostile.

use crate::{alloc::bounded, input::Input};
use format::{
    Node, frame,
    live::{LiveBits, SLOT_LEN, SLOT_OFFSETS},
    note::RootNote,
    pack::{FrameKind, NewFrame, NewPack, PACK_BLOCKS, PackHeader},
};
use types::{
    BLOCK_SIZE, BlockHash, Codec, Epoch, Generation, PackId, Pointer, Root, StoreId, VolumeId,
};

const PACK: PackId = PackId(0x1234);
const STORE: StoreId = StoreId([7; 16]);
const TABLES_AT: usize = 1536;
const ENTRY_LEN: usize = 24;
const HASH_LEN: usize = 16;
/// Header, hashes, and one frame of 16 blocks at a time.
const MEMORY_MAX: usize = 1 << 20;

/// A byte of flags (1: seal the header, 2: seal the live map, 4: seal the frames), then the object.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let flags = input.u8();
    let mut object = input.rest().to_vec();
    if flags & 4 != 0 {
        seal_frames(&mut object);
    }
    if flags & 2 != 0 {
        for at in SLOT_OFFSETS {
            seal_slot(&mut object, at as usize);
        }
    }
    if flags & 1 != 0 {
        seal_header(&mut object);
    }
    bounded(MEMORY_MAX, || read(&object));
}

fn read(object: &[u8]) {
    let needed = PackHeader::needed(object, PACK, STORE);
    let Ok(header) = PackHeader::decode(object, PACK, STORE) else {
        return;
    };
    assert!(needed.expect("it decoded") <= object.len());
    if let Ok(Some(note)) = RootNote::decode(object, PACK, STORE) {
        assert_eq!(header.noted, Some(note.volume));
        let again = NewPack {
            pack: PACK,
            store: STORE,
            revision: 0,
            hashes: &[],
            live: None,
            note: &note.encode(),
        }
        .assemble(&[]);
        assert_eq!(RootNote::decode(&again, PACK, STORE), Ok(Some(note)));
    }
    assert!(usize::from(header.blocks) <= PACK_BLOCKS && header.frames.len() <= PACK_BLOCKS);
    assert!(
        header
            .live
            .bits
            .iter()
            .all(|ordinal| ordinal < header.blocks)
    );
    if let Some(range) = &header.hashes
        && let Some(table) = object.get(range.start as usize..range.end as usize)
    {
        let hashes = header.decode_hashes(table);
        assert!(
            hashes.is_ok_and(|hashes| hashes.len() == usize::from(header.blocks))
                || object.len() >= range.end as usize
        );
    }
    for ordinal in 0..header.blocks {
        let (number, frame) = header.frame_of(ordinal).expect("a frame for each block");
        assert!(frame.ordinals().contains(&ordinal) && header.frames[number as usize] == *frame);
    }
    assert!(header.frame_of(header.blocks).is_none());
    let mut end = header.payload.start;
    for (number, frame) in (0..).zip(header.frames.iter()) {
        assert_eq!(frame.range().start, end, "frames without gaps");
        end = frame.range().end;
        let range = frame.range().start as usize..end as usize;
        let Some(stored) = object.get(range).filter(|stored| !stored.is_empty()) else {
            continue;
        };
        if frame::checksum(PACK, number, stored) == frame.crc {
            contents(frame.kind, frame.codec, frame.plain_len(), stored);
        }
    }
    assert_eq!(end, header.payload.end);
}

fn contents(kind: FrameKind, codec: Codec, len: usize, stored: &[u8]) {
    match kind {
        FrameKind::Data => drop(frame::decompress(codec, stored, &mut vec![0; len])),
        FrameKind::Node => drop(Node::decode(codec, stored)),
    }
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    bytes
        .get(at..at + 4)
        .map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) as usize)
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn put_crc(bytes: &mut [u8], at: usize, covered: std::ops::Range<usize>) {
    if let Some(covered) = bytes.get(covered) {
        let crc = crc32c::crc32c(covered);
        put(bytes, at, &crc.to_le_bytes());
    }
}

/// Identity and the three checksums of the header.
fn seal_header(object: &mut [u8]) {
    let frames = u32_at(object, 40).min(PACK_BLOCKS);
    let blocks = u32_at(object, 44).min(PACK_BLOCKS);
    let hashes_at = TABLES_AT + frames * ENTRY_LEN;
    put(object, 0, b"HFpack\r\n\x01\0");
    put(object, 16, &PACK.0.to_le_bytes());
    put(object, 24, &STORE.0);
    put_crc(object, 60, TABLES_AT..hashes_at);
    put_crc(object, 64, hashes_at..hashes_at + blocks * HASH_LEN);
    put_crc(object, 508, 0..508);
}

fn seal_slot(object: &mut [u8], at: usize) {
    put(object, at, b"HFlv");
    put(object, at + 8, &PACK.0.to_le_bytes());
    put_crc(object, at + SLOT_LEN - 4, at..at + SLOT_LEN - 4);
}

/// The checksum of each frame that lies in the object.
fn seal_frames(object: &mut [u8]) {
    let frames = u32_at(object, 40).min(PACK_BLOCKS);
    for number in 0..frames {
        let entry = TABLES_AT + number * ENTRY_LEN;
        let (at, len) = (u32_at(object, entry), u32_at(object, entry + 4));
        if let Some(stored) = object.get(at..at.saturating_add(len)) {
            let crc = frame::checksum(PACK, number as u32, stored);
            put(object, entry + 8, &crc.to_le_bytes());
        }
    }
}

/// Packs with and without hashes, nodes, blocks given up.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let data = |blocks: u8, codec| {
        let plain = vec![blocks; usize::from(blocks) * BLOCK_SIZE];
        let (codec, stored) = frame::compress(codec, &plain);
        NewFrame {
            kind: FrameKind::Data,
            blocks,
            codec,
            stored,
        }
    };
    let mut node = Node::new();
    node.set(3, Pointer::new(PACK, 0));
    let (codec, stored) = node.encode();
    let node = NewFrame {
        kind: FrameKind::Node,
        blocks: 1,
        codec,
        stored,
    };
    let given_up = NewFrame {
        kind: FrameKind::Data,
        blocks: 2,
        codec: Codec::None,
        stored: Vec::new(),
    };
    let note = RootNote {
        volume: VolumeId(7),
        name: "vm-1".parse().expect("a name"),
        epoch: Epoch(3),
        generation: Generation(4),
        root: Root {
            pointer: Pointer::new(PACK, 2),
            height: 1,
        },
        size: 1 << 30,
        mapped_blocks: 9,
        dedup: true,
        codec: Codec::Lz4,
        read_only: false,
        partial: false,
    }
    .encode();
    let new = |revision, hashes: &[BlockHash], live, frames: &[NewFrame]| {
        NewPack {
            pack: PACK,
            store: STORE,
            revision,
            hashes,
            live,
            note: &note,
        }
        .assemble(frames)
    };
    let hashes = [BlockHash([1; 16]); 5];
    let objects = [
        new(0, &[], None, &[]),
        new(
            0,
            &hashes,
            None,
            &[data(4, Codec::Lz4), data(1, Codec::Zstd)],
        ),
        new(0, &[], None, &[data(2, Codec::Lz4), node.clone(), node]),
        new(
            3,
            &hashes[..4],
            Some([0, 1].into_iter().collect::<LiveBits>()),
            &[data(2, Codec::Lz4), given_up],
        ),
    ];
    let mut seeds = Vec::new();
    for mut object in objects {
        // Zeroes at the end say nothing.
        let end = object
            .iter()
            .rposition(|&byte| byte != 0)
            .map_or(0, |at| at + 1);
        object.truncate(end);
        seeds.push([vec![0], object.clone()].concat());
        seeds.push([vec![7], object].concat());
    }
    seeds
}
