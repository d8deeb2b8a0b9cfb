//! A node of the block map: 512 pointers, and how they are stored.
//!
//! Pointers of a volume that was written in order follow each other. Each is stored as its distance
//! from the one expected (the last pointer that is no hole, plus one), zigzag, plus one; a hole is
//! zero. The eight bytes of all distances are laid out as eight planes of 512 bytes, and LZ4 does the
//! rest: a node of one sequential run takes some forty bytes, an arbitrary one its 4 KiB.

use crate::{Malformed, bytes, frame};
use types::{BLOCK_SIZE, Codec, Pointer};

/// Pointers in a node.
pub const NODE_LEN: usize = 512;

/// 512 pointers to blocks, or to nodes of the level below.
#[derive(Clone, PartialEq, Eq)]
pub struct Node(Box<[Pointer; NODE_LEN]>);

impl Node {
    /// All holes.
    #[must_use]
    pub fn new() -> Self {
        Node(Box::new([Pointer::HOLE; NODE_LEN]))
    }

    /// The pointer at `index`.
    ///
    /// # Panics
    /// If `index` is not below [`NODE_LEN`]; so does [`set`](Self::set).
    #[must_use]
    pub fn get(&self, index: usize) -> Pointer {
        self.0[index]
    }

    /// Replaces the pointer at `index`.
    pub fn set(&mut self, index: usize, pointer: Pointer) {
        self.0[index] = pointer;
    }

    /// All pointers, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Pointer> + DoubleEndedIterator + '_ {
        self.0.iter().copied()
    }

    /// All pointers, in order.
    #[must_use]
    pub fn as_slice(&self) -> &[Pointer] {
        self.0.as_slice()
    }

    /// Whether all are holes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|pointer| pointer.is_hole())
    }

    /// The bytes to store, and the codec to name with them: [`Codec::Lz4`], or [`Codec::None`] for
    /// plain little-endian pointers.
    #[must_use]
    pub fn encode(&self) -> (Codec, Vec<u8>) {
        if let Some(planes) = self.planes()
            && let (Codec::Lz4, stored) = frame::compress(Codec::Lz4, &planes)
        {
            return (Codec::Lz4, stored);
        }
        let raw = self.0.iter().flat_map(|p| p.to_raw().to_le_bytes());
        (Codec::None, raw.collect())
    }

    /// What [`encode`](Self::encode) made.
    ///
    /// # Errors
    /// The bytes are not what a node encodes to.
    pub fn decode(codec: Codec, stored: &[u8]) -> Result<Self, Malformed> {
        let mut raw = [0; BLOCK_SIZE];
        match codec {
            Codec::None => frame::decompress(Codec::None, stored, &mut raw)?,
            Codec::Lz4 => {
                frame::decompress(Codec::Lz4, stored, &mut raw)?;
                return Self::from_planes(&raw);
            }
            Codec::Zstd => return Err(Malformed::new("node", "its codec is not one of nodes")),
        }
        let mut node = Node::new();
        for (i, slot) in node.0.iter_mut().enumerate() {
            let raw = bytes::u64_at(&raw, i * 8).unwrap_or_default();
            *slot = pointer(raw)?;
        }
        Ok(node)
    }

    /// Distances as byte planes. `None` if one of them cannot be told from a hole.
    fn planes(&self) -> Option<[u8; BLOCK_SIZE]> {
        let mut planes = [0; BLOCK_SIZE];
        let mut expected = 0_u64;
        for (i, pointer) in self.0.iter().enumerate() {
            if pointer.is_hole() {
                continue;
            }
            let distance = pointer.to_raw().wrapping_sub(expected).cast_signed();
            let zigzag = ((distance << 1) ^ (distance >> 63)).cast_unsigned();
            let coded = zigzag.checked_add(1)?;
            for (plane, byte) in coded.to_le_bytes().into_iter().enumerate() {
                planes[plane * NODE_LEN + i] = byte;
            }
            expected = pointer.to_raw().wrapping_add(1);
        }
        Some(planes)
    }

    fn from_planes(planes: &[u8; BLOCK_SIZE]) -> Result<Self, Malformed> {
        let mut node = Node::new();
        let mut expected = 0_u64;
        for (i, slot) in node.0.iter_mut().enumerate() {
            let coded =
                u64::from_le_bytes(std::array::from_fn(|plane| planes[plane * NODE_LEN + i]));
            let Some(zigzag) = coded.checked_sub(1) else {
                continue;
            };
            let distance = (zigzag >> 1) ^ (zigzag & 1).wrapping_neg();
            let raw = expected.wrapping_add(distance);
            *slot = pointer(raw)?;
            if raw == 0 {
                return Err(Malformed::new("node", "a hole is coded as a pointer"));
            }
            expected = raw.wrapping_add(1);
        }
        Ok(node)
    }
}

fn pointer(raw: u64) -> Result<Pointer, Malformed> {
    Pointer::from_raw(raw).ok_or(Malformed::new("node", "a pointer without a pack"))
}

impl Default for Node {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let used = self.0.iter().enumerate().filter(|(_, p)| !p.is_hole());
        f.debug_map().entries(used).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use types::PackId;

    fn roundtrip(node: &Node) -> usize {
        let (codec, stored) = node.encode();
        assert_eq!(&Node::decode(codec, &stored).unwrap(), node);
        stored.len()
    }

    #[test]
    fn sequential_runs_shrink_to_almost_nothing() {
        let mut node = Node::new();
        for i in 0..NODE_LEN {
            node.set(i, Pointer::new(PackId(77_123), i as u16));
        }
        assert!(roundtrip(&node) < 64, "{}", roundtrip(&node));
        for i in (0..NODE_LEN).step_by(3) {
            node.set(i, Pointer::HOLE);
        }
        assert!(roundtrip(&node) < 160, "{}", roundtrip(&node));
    }

    #[test]
    fn a_random_node_takes_a_block() {
        let mut node = Node::new();
        let mut x = 1_u64;
        for i in 0..NODE_LEN {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99);
            node.set(i, Pointer::from_raw(x | 1 << 13).unwrap());
        }
        assert_eq!(roundtrip(&node), BLOCK_SIZE);
        assert!(roundtrip(&Node::new()) < 64);
    }

    fn pointers() -> impl Strategy<Value = Vec<u64>> {
        let near = (1_u64..4, 0_u64..4096).prop_map(|(pack, ordinal)| pack << 12 | ordinal);
        let any = any::<u64>().prop_filter("a pointer", |raw| raw >> 12 != 0);
        let edge = prop_oneof![Just(u64::MAX), Just(1 << 63), Just((1 << 63) + 1)];
        prop::collection::vec(
            prop_oneof![4 => near, 1 => any, 1 => edge, 2 => Just(0)],
            NODE_LEN,
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_node_comes_back(raw in pointers()) {
            let mut node = Node::new();
            for (i, raw) in raw.into_iter().enumerate() {
                node.set(i, Pointer::from_raw(raw).unwrap());
            }
            roundtrip(&node);
        }

        #[test]
        fn hostile_bytes_are_an_error_or_a_node(
            codec in prop_oneof![Just(Codec::None), Just(Codec::Lz4), Just(Codec::Zstd)],
            stored in prop::collection::vec(any::<u8>(), 0..5000),
        ) {
            let _ = Node::decode(codec, &stored);
        }
    }
}
