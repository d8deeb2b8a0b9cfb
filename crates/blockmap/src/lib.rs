//! A volume's block map: a radix tree from block index to pointer.
//!
//! ```text
//!   Root { pointer, height: 3 }
//!        │
//!        ▼           512 pointers a node
//!   ┌─────────┐ level 3: each child covers 512² blocks
//!   └─┬─────┬─┘
//!     ▼     ▼
//!   ┌───┐ ┌───┐ level 2
//!   └─┬─┘ └───┘
//!     ▼
//!   ┌───┐       level 1, a leaf: each pointer is a data block (level 0)
//!   └───┘
//! ```
//!
//! Nodes never change: an [`update`] writes those on the way to what changed and shares all others
//! with the maps before it, so that a snapshot is nothing but a root that is kept. This crate does
//! no I/O: nodes come from a [`NodeSource`] and go to a [`NodeSink`], behind which the pack store lies.
//!
//! **Invariant:** a map has one shape for its contents: no node is empty, and its height is the
//! smallest that reaches the last mapped block ([`self_check`]).
//!
//! # Hostile nodes
//! A node that points to itself or to an ancestor cannot lead astray: every descent ends after
//! [`HEIGHT_MAX`] levels, and greater heights are refused. A map can still *claim* to map every
//! block that its height covers through few nodes. What [`lookup`] and [`update`] read is bounded by
//! the changes, [`extents`](crate::extents()) and [`changes`] by [`EXTENT_NODES_MAX`], the others by the blocks of
//! the range that they are given; [`walk`] is bounded if its visitor remembers what it has seen, as marking does.

mod diff;
mod error;
mod extents;
mod lookup;
mod scan;
mod update;
mod walk;

pub use diff::{Changed, changes, diff};
pub use error::Error;
pub use extents::{EXTENT_NODES_MAX, extents};
pub use format::Node;
pub use lookup::{leaf, lookup, lookup_run};
pub use scan::for_each_mapped;
pub use update::{Updated, update};
pub use walk::{Shape, self_check, walk};

use std::{ops::Range, sync::Arc};
use types::{BlockIndex, Pointer, Root};

/// Pointers in a node, as a power of two.
pub const FANOUT_BITS: u32 = 9;

/// Pointers in a node.
pub const FANOUT: usize = 1 << FANOUT_BITS;

/// The greatest height of a map: 512^4 blocks are 256 TiB.
pub const HEIGHT_MAX: u8 = 4;

/// Blocks have an index below this.
pub const BLOCKS_MAX: u64 = span(HEIGHT_MAX);

/// Where nodes are read.
pub trait NodeSource {
    /// What goes wrong there.
    type Error;
    /// The node that `pointer` refers to; it is never a hole.
    ///
    /// # Errors
    /// If there is none, it cannot be read, or it is damaged. The error is passed on as
    /// [`Error::Read`].
    fn node(&self, pointer: Pointer) -> Result<Arc<Node>, Self::Error>;
    /// Whether an error of [`node`](Self::node) says that the node is damaged or missing, so that asking again would
    /// not help. An [`update`] goes on without such a node: see there.
    fn is_lost(&self, error: &Self::Error) -> bool;
}

/// Where nodes are written.
pub trait NodeSink {
    /// What goes wrong there.
    type Error;
    /// Keeps a node. It must be readable only when the update is over.
    ///
    /// # Errors
    /// Passed on as [`Error::Write`].
    fn write_node(&mut self, node: &Node) -> Result<Pointer, Self::Error>;
}

impl<S: NodeSource + ?Sized> NodeSource for &S {
    type Error = S::Error;
    fn node(&self, pointer: Pointer) -> Result<Arc<Node>, S::Error> {
        (**self).node(pointer)
    }
    fn is_lost(&self, error: &S::Error) -> bool {
        (**self).is_lost(error)
    }
}

impl<S: NodeSource + ?Sized> NodeSource for Arc<S> {
    type Error = S::Error;
    fn node(&self, pointer: Pointer) -> Result<Arc<Node>, S::Error> {
        (**self).node(pointer)
    }
    fn is_lost(&self, error: &S::Error) -> bool {
        (**self).is_lost(error)
    }
}

/// Blocks below one pointer at `level`: 512^level.
#[must_use]
pub const fn span(level: u8) -> u64 {
    1 << (FANOUT_BITS * level as u32)
}

/// The smallest height whose maps reach `block`; `None` if none does.
#[must_use]
pub fn height_for(block: BlockIndex) -> Option<u8> {
    (1..=HEIGHT_MAX).find(|&height| block.0 < span(height))
}

/// The blocks below child `slot` of the node of `level` that begins at block `base`.
fn child_range(level: u8, base: u64, slot: usize) -> Range<u64> {
    let start = base + slot as u64 * span(level - 1);
    start..start + span(level - 1)
}

/// The child of a node of `level` under which `block` lies.
fn slot_of(level: u8, block: u64) -> usize {
    ((block >> (FANOUT_BITS * u32::from(level - 1))) as usize) & (FANOUT - 1)
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    a.start.max(b.start)..a.end.min(b.end)
}

/// A root whose height can be believed; empty maps become [`Root::EMPTY`].
fn checked<E>(root: Root) -> Result<Root, Error<E>> {
    if root.height > HEIGHT_MAX || (root.height == 0 && !root.is_empty()) {
        return Err(Error::Height(root));
    }
    Ok(if root.is_empty() { Root::EMPTY } else { root })
}

/// Reads a node and says which one it was if that fails.
fn fetch<S: NodeSource + ?Sized>(
    source: &S,
    pointer: Pointer,
) -> Result<Arc<Node>, Error<S::Error>> {
    let read = |source| Error::Read { pointer, source };
    source.node(pointer).map_err(read)
}
