//! Frames and nodes: what decompresses is what was compressed, and costs no more than it says.

use crate::{alloc::bounded, input::Input};
use format::{Node, frame};
use types::{BLOCK_SIZE, Codec, PackId, Pointer};

const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];
/// Scratch space of a frame of 16 blocks, and what the thread keeps from frame to frame.
const MEMORY_MAX: usize = 1 << 20;

/// A codec, a number of blocks, and what is stored; then the same bytes as a plain frame.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let codec = CODECS[input.below(3)];
    let blocks = 1 + input.below(16);
    let stored = input.rest();
    bounded(MEMORY_MAX, || {
        hostile(codec, blocks, stored);
        node(codec, stored);
    });
    let mut plain = vec![0; blocks * BLOCK_SIZE];
    let len = stored.len().min(plain.len());
    plain[..len].copy_from_slice(&stored[..len]);
    round_trip(codec, &plain);
}

fn hostile(codec: Codec, blocks: usize, stored: &[u8]) {
    let mut plain = vec![0; blocks * BLOCK_SIZE];
    if frame::decompress(codec, stored, &mut plain).is_ok() {
        round_trip(codec, &plain);
        assert!(frame::decompress(codec, stored, &mut vec![0; plain.len() + 1]).is_err());
    }
    let sum = frame::checksum(PackId(1), 2, stored);
    assert_ne!(sum, frame::checksum(PackId(1), 3, stored));
}

fn round_trip(codec: Codec, plain: &[u8]) {
    let (used, stored) = frame::compress(codec, plain);
    assert!(stored.len() <= plain.len());
    let mut back = vec![1; plain.len()];
    frame::decompress(used, &stored, &mut back).expect("what was compressed");
    assert_eq!(back, plain);
}

fn node(codec: Codec, stored: &[u8]) {
    let Ok(node) = Node::decode(codec, stored) else {
        return;
    };
    let (codec, again) = node.encode();
    assert!(Node::decode(codec, &again).is_ok_and(|back| back == node));
    assert_eq!(node.is_empty(), node.iter().all(Pointer::is_hole));
}

/// Frames of each codec, and nodes of each shape.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (number, codec) in (0u8..).zip(CODECS) {
        for blocks in [1u8, 4] {
            let text = b"holdfast keeps the disks of virtual machines. ";
            let plain: Vec<u8> = text
                .iter()
                .copied()
                .cycle()
                .take(usize::from(blocks) * BLOCK_SIZE)
                .collect();
            let stored = frame::compress(codec, &plain).1;
            seeds.push([vec![number, blocks - 1], stored].concat());
        }
    }
    let mut node = Node::new();
    seeds.push([vec![1, 0], node.encode().1].concat());
    for slot in 0..512 {
        node.set(slot, Pointer::new(PackId(9), slot as u16));
    }
    seeds.push([vec![1, 0], node.encode().1].concat());
    for slot in (0..512).step_by(3) {
        node.set(slot, Pointer::new(PackId(1 + slot as u64 * 77), 5));
    }
    seeds.push([vec![1, 0], node.encode().1].concat());
    seeds.push(vec![0, 0, 1, 2, 3]);
    seeds
}
