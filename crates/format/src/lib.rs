//! Every on-disk byte: encoders and decoders, no I/O.
//!
//! Little-endian throughout. Every decoder treats its bytes as hostile: it answers [`Malformed`],
//! and never panics, loops or allocates by what the bytes say alone.

mod bytes;
pub mod frame;
mod hash;
pub mod journal;
pub mod live;
pub mod node;
pub mod note;
pub mod pack;

pub use hash::{block_hash, block_hashes};
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
