//! From block index to pointer.

use crate::{Error, FANOUT, Node, NodeSource, checked, fetch, slot_of, span};
use std::sync::Arc;
use types::{BlockIndex, Pointer, Root};

/// The pointer of one block; a hole if it is not mapped, or lies beyond what the map reaches.
///
/// # Errors
/// If the root cannot be one, or a node on the way (at most four) cannot be read.
pub fn lookup<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
    index: BlockIndex,
) -> Result<Pointer, Error<S::Error>> {
    let leaf = leaf(source, root, index)?;
    Ok(leaf.map_or(Pointer::HOLE, |leaf| leaf.get(slot_of(1, index.0))))
}

/// The leaf that covers `index`: the pointers of the 512 blocks from `index` rounded down to a
/// multiple of 512. `None` if all of those are holes.
///
/// # Errors
/// As [`lookup`].
pub fn leaf<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
    index: BlockIndex,
) -> Result<Option<Arc<Node>>, Error<S::Error>> {
    let root = checked(root)?;
    if index.0 >= span(root.height) || root.is_empty() {
        return Ok(None);
    }
    let mut node = fetch(source, root.pointer)?;
    for level in (2..=root.height).rev() {
        let below = node.get(slot_of(level, index.0));
        if below.is_hole() {
            return Ok(None);
        }
        node = fetch(source, below)?;
    }
    Ok(Some(node))
}

/// Fills `out` with the pointers of the blocks from `start`. Every leaf is looked for once.
///
/// # Errors
/// As [`lookup`]; `out` is in any state then.
pub fn lookup_run<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
    start: BlockIndex,
    out: &mut [Pointer],
) -> Result<(), Error<S::Error>> {
    let mut index = start;
    let mut rest = out;
    while !rest.is_empty() {
        let first = slot_of(1, index.0);
        let (now, later) = rest.split_at_mut(rest.len().min(FANOUT - first));
        match leaf(source, root, index)? {
            Some(leaf) => {
                for (slot, out) in (first..).zip(now.iter_mut()) {
                    *out = leaf.get(slot);
                }
            }
            None => now.fill(Pointer::HOLE),
        }
        index = BlockIndex(index.0.saturating_add(now.len() as u64));
        rest = later;
    }
    Ok(())
}
