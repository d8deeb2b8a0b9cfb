//! Hashes of blocks, several at a time.

use blake3::{
    IncrementCounter,
    platform::{Platform, words_from_le_bytes_32},
};
use types::{BLOCK_SIZE, Block, BlockHash};

/// As many blocks as the widest processor hashes side by side.
const LANES: usize = 16;

// What BLAKE3 ("BLAKE3: one function, fast everywhere", 2.1 to 2.5) makes a tree of, and the flags that tell its nodes.
const CHUNK_LEN: usize = 1024;
const VALUE_LEN: usize = 32;
const CHUNK_START: u8 = 1 << 0;
const CHUNK_END: u8 = 1 << 1;
const PARENT: u8 = 1 << 2;
const ROOT: u8 = 1 << 3;
const KEYED: u8 = 1 << 4;

const CHUNKS: usize = BLOCK_SIZE / CHUNK_LEN;
const _: () = assert!(CHUNKS == 4, "two parents and a root");

/// The chaining value of a node.
type Value = [u8; VALUE_LEN];

/// A block's hash under a store's key.
#[must_use]
pub fn block_hash(key: &[u8; 32], block: &Block) -> BlockHash {
    prefix(blake3::keyed_hash(key, block).as_bytes())
}

/// The hashes of several blocks, in order. It takes less than half of the time of one after the other.
///
/// The four chunks of a block fill a quarter of what a processor hashes at once. Here it hashes the same chunk of
/// sixteen blocks, and then the same parent.
#[must_use]
pub fn block_hashes(key: &[u8; 32], blocks: &[&Block]) -> Vec<BlockHash> {
    let trees = Trees {
        platform: Platform::detect(),
        key: words_from_le_bytes_32(key),
    };
    let mut hashes = Vec::with_capacity(blocks.len());
    for few in blocks.chunks(LANES) {
        if few.len() <= CHUNKS {
            hashes.extend(few.iter().map(|block| block_hash(key, block)));
        } else {
            hashes.extend(trees.roots(few)[..few.len()].iter().map(prefix));
        }
    }
    hashes
}

fn prefix(root: &Value) -> BlockHash {
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&root[..16]);
    BlockHash(prefix)
}

/// The trees of up to `LANES` blocks, a node of all of them at a time.
struct Trees {
    platform: Platform,
    key: [u32; 8],
}

impl Trees {
    fn roots(&self, blocks: &[&Block]) -> [Value; LANES] {
        let chunk = |n: usize| {
            let chunks = blocks.iter().map(|block| &block.as_chunks().0[n]);
            self.nodes::<CHUNK_LEN>(chunks, n as u64, KEYED, CHUNK_START, CHUNK_END)
        };
        let parent = |left: &[Value; LANES], right: &[Value; LANES], flags: u8| {
            let mut pairs = [[0; 2 * VALUE_LEN]; LANES];
            for ((pair, left), right) in pairs.iter_mut().zip(left).zip(right) {
                pair[..VALUE_LEN].copy_from_slice(left);
                pair[VALUE_LEN..].copy_from_slice(right);
            }
            self.nodes(
                pairs[..blocks.len()].iter(),
                0,
                KEYED | PARENT | flags,
                0,
                0,
            )
        };
        let left = parent(&chunk(0), &chunk(1), 0);
        let right = parent(&chunk(2), &chunk(3), 0);
        parent(&left, &right, ROOT)
    }

    /// The same node of each tree, of `N` bytes each.
    fn nodes<'a, const N: usize>(
        &self,
        inputs: impl Iterator<Item = &'a [u8; N]>,
        counter: u64,
        flags: u8,
        first: u8,
        last: u8,
    ) -> [Value; LANES] {
        let (mut all, mut len) = ([&[0; N]; LANES], 0);
        for (place, input) in all.iter_mut().zip(inputs) {
            *place = input;
            len += 1;
        }
        let mut values = [[0; VALUE_LEN]; LANES];
        self.platform.hash_many(
            &all[..len],
            &self.key,
            counter,
            IncrementCounter::No,
            flags,
            first,
            last,
            values.as_flattened_mut(),
        );
        values
    }
}

#[cfg(test)]
mod tests {
    use super::{LANES, block_hash, block_hashes};
    use proptest::prelude::*;
    use types::{BLOCK_SIZE, Block};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn together_as_alone(seed: u64, key: [u8; 32], count in 0..3 * LANES) {
            let blocks: Vec<Block> = (0..count as u64)
                .map(|n| {
                    let mut block = [0; BLOCK_SIZE];
                    blake3::Hasher::new()
                        .update(&(seed ^ n).to_le_bytes())
                        .finalize_xof()
                        .fill(&mut block);
                    block
                })
                .collect();
            let blocks: Vec<&Block> = blocks.iter().collect();
            let alone: Vec<_> = blocks.iter().map(|block| block_hash(&key, block)).collect();
            prop_assert_eq!(block_hashes(&key, &blocks), alone);
        }
    }
}
