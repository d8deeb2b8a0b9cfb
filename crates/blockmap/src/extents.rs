//! What is mapped, as runs.

use crate::{
    Error, Node, NodeSource,
    scan::{Flow, Piece, scan},
    slot_of,
};
use std::{cell::Cell, ops::Range, sync::Arc};
use types::{Pointer, Root};

/// After so many nodes a call of [`extents`](crate::extents()) or [`changes`](crate::changes) stops at the next
/// block that it knows: leaves of 2 GiB of mapped blocks.
pub const EXTENT_NODES_MAX: usize = 1024;

/// Runs of data (`true`) and holes, their lengths in blocks, from exactly `range.start`, neighbours of
/// different kinds, at most `max` of them. Subtrees that are empty cost nothing; what is below a lost node is data.
///
/// # Behavior
/// Together they end before the range does only if `max` is reached or [`EXTENT_NODES_MAX`] nodes were
/// read; they hold at least one block unless the range is empty or `max` is 0. The last run may go on behind
/// its end in the second case only.
///
/// # Errors
/// If the root cannot be one or a node cannot be read.
pub fn extents<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
    range: Range<u64>,
    max: usize,
) -> Result<Vec<(u64, bool)>, Error<S::Error>> {
    let mut runs = Runs::new(max);
    if max == 0 || range.is_empty() {
        return Ok(runs.into_inner());
    }
    let source = Counting::new(source);
    let _ = scan(&source, root, range, true, &mut |piece| {
        match piece {
            // To be read, and then found to be an error.
            Piece::Lost(range) => runs.push(range.end - range.start, true),
            Piece::Hole(range) => runs.push(range.end - range.start, false),
            Piece::Leaf(mut range, leaf) => {
                range.try_for_each(|block| runs.push(1, !leaf.get(slot_of(1, block)).is_hole()))
            }
        }?;
        source.enough()
    })?;
    Ok(runs.into_inner())
}

/// A source whose reads are counted. In a hostile map nodes without leaves stand for each other, too: to count
/// leaves would not do.
pub(crate) struct Counting<'a, S: ?Sized> {
    source: &'a S,
    reads: Cell<usize>,
}

impl<'a, S: ?Sized> Counting<'a, S> {
    pub(crate) const fn new(source: &'a S) -> Self {
        Counting {
            source,
            reads: Cell::new(0),
        }
    }

    /// Breaks if as much was read as may be. Who asks at every piece goes on for a few nodes at most: below each
    /// node there is one.
    pub(crate) fn enough(&self) -> Flow {
        match self.reads.get() < EXTENT_NODES_MAX {
            true => Flow::Continue(()),
            false => Flow::Break(()),
        }
    }
}

impl<S: NodeSource + ?Sized> NodeSource for Counting<'_, S> {
    type Error = S::Error;
    fn node(&self, pointer: Pointer) -> Result<Arc<Node>, S::Error> {
        self.reads.set(self.reads.get() + 1);
        self.source.node(pointer)
    }
    fn is_lost(&self, error: &S::Error) -> bool {
        self.source.is_lost(error)
    }
}

/// Runs of two kinds as they are gathered, at most so many.
pub(crate) struct Runs {
    runs: Vec<(u64, bool)>,
    max: usize,
}

impl Runs {
    pub(crate) const fn new(max: usize) -> Self {
        Runs {
            runs: Vec::new(),
            max,
        }
    }

    pub(crate) fn into_inner(self) -> Vec<(u64, bool)> {
        self.runs
    }

    /// Adds blocks; breaks if they would need a run too many.
    pub(crate) fn push(&mut self, blocks: u64, data: bool) -> Flow {
        let full = self.runs.len() == self.max;
        match self.runs.last_mut() {
            Some((len, kind)) if *kind == data => *len += blocks,
            _ if full => return Flow::Break(()),
            _ => self.runs.push((blocks, data)),
        }
        Flow::Continue(())
    }
}
