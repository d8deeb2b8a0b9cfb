//! What blocks hold: few different contents, told apart by a tag, so that duplicates are found.

use std::sync::LazyLock;
use types::BLOCK_SIZE;

/// Tags that there are; 0 is zeroes.
pub(crate) const TAGS: u64 = 40;

/// What each block of a volume holds.
pub(crate) type Contents = Vec<u32>;

static BLOCKS: LazyLock<Vec<[u8; BLOCK_SIZE]>> =
    LazyLock::new(|| (0..TAGS as u32).map(block_of).collect());

fn block_of(tag: u32) -> [u8; BLOCK_SIZE] {
    let mut block = [0; BLOCK_SIZE];
    if tag != 0 {
        // Half of it compresses.
        for (at, byte) in block[..BLOCK_SIZE / 2].iter_mut().enumerate() {
            *byte = (tag as usize * 31 + at * at) as u8;
        }
        block[..4].copy_from_slice(&tag.to_le_bytes());
    }
    block
}

/// Blocks of these tags, one behind the other.
pub(crate) fn bytes_of(tags: &[u32]) -> Vec<u8> {
    let blocks = tags.iter().map(|&tag| BLOCKS[tag as usize]);
    blocks.flatten().collect()
}

/// The tag of a block; none if it is none of ours, not in every byte.
pub(crate) fn tag_of(block: &[u8]) -> Option<u32> {
    let tag = u32::from_le_bytes(*block.first_chunk()?);
    (BLOCKS.get(tag as usize)? == block).then_some(tag)
}
