//! What goes wrong in a block map.

use types::{BlockIndex, Pointer, Root};

/// An error of a block map; `E` is that of the store of nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error<E> {
    /// The root can be none: it was damaged, or is of a later format.
    #[error("block map root {0:?} has an impossible height")]
    Height(Root),
    /// A block lies beyond what any map reaches.
    #[error("block {0} is beyond the end of every block map")]
    TooFar(BlockIndex),
    /// A node could not be read.
    #[error("block map node {pointer:?} cannot be read")]
    Read {
        /// Which.
        pointer: Pointer,
        /// Why.
        source: E,
    },
    /// A node could not be written.
    #[error("block map node cannot be written")]
    Write(#[source] E),
    /// The map has not the one shape that its contents should have.
    #[error("block map node {pointer:?} of level {level}: {what}")]
    Shape {
        /// The node.
        pointer: Pointer,
        /// Its level; leaves are 1.
        level: u8,
        /// What is wrong with it.
        what: &'static str,
    },
}
