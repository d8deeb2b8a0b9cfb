//! Every on-disk byte: encoders and decoders, no I/O.
//!
//! Little-endian throughout. Every decoder treats its bytes as hostile: it answers [`Malformed`],
//! and never panics, loops or allocates by what the bytes say alone.

mod bytes;
pub mod frame;
pub mod journal;
pub mod live;
pub mod node;
pub mod note;
pub mod pack;

pub use node::Node;
pub use note::RootNote;

/// Bytes that are not what they should be. Whoever read them knows where they came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed {what}: {why}")]
pub struct Malformed {
    /// What was decoded.
    pub what: &'static str,
    /// The first thing found wrong.
    pub why: &'static str,
}

impl Malformed {
    /// What is wrong with what.
    #[must_use]
    pub const fn new(what: &'static str, why: &'static str) -> Self {
        Malformed { what, why }
    }
}

/// A block's hash under a store's key.
#[must_use]
pub fn block_hash(key: &[u8; 32], block: &types::Block) -> types::BlockHash {
    let hash = blake3::keyed_hash(key, block);
    let mut prefix = [0; 16];
    prefix.copy_from_slice(&hash.as_bytes()[..16]);
    types::BlockHash(prefix)
}
