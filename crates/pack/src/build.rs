//! Packs in the making.

use crate::object::Object;
use format::{
    Node, frame,
    frame::{FRAME_BLOCKS, FRAME_SIZE},
    pack::{FrameKind, NewFrame, NewPack, PACK_BLOCKS, PlacedFrame},
};
use std::sync::Arc;
use sync::thread::make_way;
use types::{BLOCK_SIZE, BlockHash, Codec, PackId, Pointer, SharedBlock, StoreId};

/// No hash.
pub(crate) const UNHASHED: BlockHash = BlockHash([0; 16]);

/// Frames that are compressed before others are let by.
const FRAMES_AT_ONCE: usize = 4;

/// A pack that blocks and nodes are still added to.
pub(crate) struct Open {
    pub(crate) pack: PackId,
    entries: Vec<Entry>,
    /// The bytes of a root note; or empty.
    pub(crate) note: Vec<u8>,
}

enum Entry {
    /// At this place of the volume.
    Block(u64, SharedBlock, BlockHash),
    Node(NewFrame),
}

/// A pack ready to be put.
pub(crate) struct Built {
    pub(crate) pack: PackId,
    pub(crate) object: Object,
    /// Of its blocks, in order; zero for none.
    pub(crate) hashes: Vec<BlockHash>,
}

impl Open {
    pub(crate) fn new(pack: PackId) -> Self {
        Open {
            pack,
            entries: Vec::new(),
            note: Vec::new(),
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.entries.len() >= PACK_BLOCKS
    }

    /// Bytes of what is in it, not compressed.
    pub(crate) fn bytes(&self) -> u64 {
        (self.entries.len() * BLOCK_SIZE) as u64
    }

    pub(crate) fn block(&mut self, index: u64, block: &SharedBlock, hash: BlockHash) -> Pointer {
        self.push(Entry::Block(index, Arc::clone(block), hash))
    }

    pub(crate) fn node(&mut self, node: &Node) -> Pointer {
        let (codec, stored) = node.encode();
        self.push(Entry::Node(NewFrame {
            kind: FrameKind::Node,
            blocks: 1,
            codec,
            stored,
        }))
    }

    fn push(&mut self, entry: Entry) -> Pointer {
        assert!(!self.is_full(), "a full pack takes no more");
        let pointer = Pointer::new(self.pack, self.entries.len() as u16);
        self.entries.push(entry);
        pointer
    }

    /// The pointers of its nodes.
    pub(crate) fn nodes(&self) -> impl Iterator<Item = Pointer> + '_ {
        let nodes = (0_u16..).zip(&self.entries);
        nodes
            .filter(|(_, entry)| matches!(entry, Entry::Node(_)))
            .map(|(ordinal, _)| Pointer::new(self.pack, ordinal))
    }

    /// Cuts into frames, and compresses them to their places in `object`.
    pub(crate) fn build(&self, store: StoreId, codec: Codec, mut object: Object) -> Built {
        let runs = self.runs();
        let hash_of = |entry: &Entry| match entry {
            Entry::Block(.., hash) => *hash,
            Entry::Node(_) => UNHASHED,
        };
        let hashes: Vec<BlockHash> = self.entries.iter().map(hash_of).collect();
        let hashed = hashes.iter().any(|hash| *hash != UNHASHED);
        let pack = NewPack {
            pack: self.pack,
            store,
            revision: 0,
            hashes: if hashed { &hashes } else { &[] },
            live: None,
            note: &self.note,
        };
        object.set(|room| {
            pack.assemble_into(room, runs.len(), |number, place| {
                if number.is_multiple_of(FRAMES_AT_ONCE) {
                    make_way();
                }
                compress(runs[number], codec, place)
            })
        });
        Built {
            pack: self.pack,
            object,
            hashes,
        }
    }

    /// Blocks of a frame each, which follow each other in the volume, or a single node.
    fn runs(&self) -> Vec<&[Entry]> {
        self.entries
            .chunk_by(
                |a, b| matches!((a, b), (Entry::Block(a, ..), Entry::Block(b, ..)) if a + 1 == *b),
            )
            .flat_map(|run| run.chunks(FRAME_BLOCKS))
            .collect()
    }
}

/// A frame, to the beginning of `place`.
fn compress(run: &[Entry], codec: Codec, place: &mut [u8]) -> PlacedFrame {
    if let [Entry::Node(frame)] = run {
        return frame.copy_to(place);
    }
    let mut plain = [0; FRAME_SIZE];
    for (entry, place) in run.iter().zip(plain.as_chunks_mut::<BLOCK_SIZE>().0) {
        if let Entry::Block(_, block, _) = entry {
            *place = *block.bytes();
        }
    }
    let plain = &plain[..run.len() * BLOCK_SIZE];
    let (codec, stored_len) = frame::compress_into(codec, plain, place);
    PlacedFrame {
        kind: FrameKind::Data,
        blocks: run.len() as u8,
        codec,
        stored_len,
    }
}

/// The blocks of a frame that is decompressed, those that are not in `live` zeroed.
pub(crate) fn without_dead(plain: &mut [u8], live: impl Fn(usize) -> bool) {
    for (i, block) in plain.as_chunks_mut::<BLOCK_SIZE>().0.iter_mut().enumerate() {
        if !live(i) {
            block.fill(0);
        }
    }
}
