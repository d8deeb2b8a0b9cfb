//! Going through a range in order, empty subtrees in one step.

use crate::{Error, Node, NodeSource, checked, child_range, fetch, overlap, slot_of, span};
use std::{
    collections::HashMap,
    ops::{ControlFlow, Range},
    sync::Arc,
};
use types::{BlockIndex, Pointer, Root};

/// What a scan comes across; the ranges follow each other without gaps.
pub(crate) enum Piece {
    /// Nothing is mapped here.
    Hole(Range<u64>),
    /// What is mapped here cannot be known: a node above it is lost.
    Lost(Range<u64>),
    /// Blocks of one leaf.
    Leaf(Range<u64>, Arc<Node>),
}

impl Piece {
    /// Its mapped blocks in order.
    fn mapped(&self) -> impl Iterator<Item = (BlockIndex, Pointer)> + '_ {
        let (range, leaf) = match self {
            Piece::Hole(_) | Piece::Lost(_) => (0..0, None),
            Piece::Leaf(range, leaf) => (range.clone(), Some(leaf)),
        };
        let pointer = move |block| leaf.map_or(Pointer::HOLE, |leaf| leaf.get(slot_of(1, block)));
        range
            .map(move |block| (BlockIndex(block), pointer(block)))
            .filter(|(_, pointer)| !pointer.is_hole())
    }
}

pub(crate) type Flow = ControlFlow<()>;

/// Hands the pieces of `range` to `f`, in order, until it breaks. A lost node is an error, or a piece if `go_on`.
pub(crate) fn scan<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
    range: Range<u64>,
    go_on: bool,
    f: &mut dyn FnMut(Piece) -> Flow,
) -> Result<Flow, Error<S::Error>> {
    let root = checked(root)?;
    let reach = if root.is_empty() {
        0
    } else {
        span(root.height)
    };
    let inside = overlap(&range, &(0..reach));
    let top = (root.pointer, root.height, 0);
    if !inside.is_empty() && scan_node(source, top, &inside, go_on, f)?.is_break() {
        return Ok(Flow::Break(()));
    }
    let beyond = range.start.max(reach)..range.end;
    if beyond.is_empty() {
        Ok(Flow::Continue(()))
    } else {
        Ok(f(Piece::Hole(beyond)))
    }
}

/// The part of `range`, not empty, below a node: its pointer, its level, and the block that it begins at.
fn scan_node<S: NodeSource + ?Sized>(
    source: &S,
    (pointer, level, base): (Pointer, u8, u64),
    range: &Range<u64>,
    go_on: bool,
    f: &mut dyn FnMut(Piece) -> Flow,
) -> Result<Flow, Error<S::Error>> {
    if pointer.is_hole() {
        return Ok(f(Piece::Hole(range.clone())));
    }
    let node = match fetch(source, pointer) {
        Err(Error::Read { source: why, .. }) if go_on && source.is_lost(&why) => {
            return Ok(f(Piece::Lost(range.clone())));
        }
        other => other?,
    };
    if level == 1 {
        return Ok(f(Piece::Leaf(range.clone(), node)));
    }
    for slot in slot_of(level, range.start)..=slot_of(level, range.end - 1) {
        let child = child_range(level, base, slot);
        let part = overlap(range, &child);
        let child = (node.get(slot), level - 1, child.start);
        if scan_node(source, child, &part, go_on, f)?.is_break() {
            return Ok(Flow::Break(()));
        }
    }
    Ok(Flow::Continue(()))
}

/// Hands every mapped block of `range` to `f`, in order, until it breaks: for exports.
///
/// # Errors
/// If the root cannot be one or a node cannot be read.
pub fn for_each_mapped<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
    range: Range<u64>,
    f: &mut dyn FnMut(BlockIndex, Pointer) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error<S::Error>> {
    scan(source, root, range, false, &mut |piece| {
        let mut mapped = piece.mapped();
        mapped.try_for_each(|(block, pointer)| f(block, pointer))
    })
}

/// Counts what is mapped, and remembers it of every node above the leaves: in a hostile map few nodes stand
/// for each other many times over. In a sound one that is 24 bytes for each GiB mapped, about.
#[derive(Default)]
pub(crate) struct Counted(HashMap<(Pointer, u8), u64>);

impl Counted {
    /// How many blocks are mapped below a node of `level`, or a hole; below a node that is damaged, none that is
    /// known.
    pub(crate) fn below<S: NodeSource + ?Sized>(
        &mut self,
        source: &S,
        pointer: Pointer,
        level: u8,
    ) -> Result<u64, Error<S::Error>> {
        if pointer.is_hole() {
            return Ok(0);
        }
        if level == 0 || pointer.is_lost() {
            return Ok(span(level));
        }
        if let Some(&count) = self.0.get(&(pointer, level)) {
            return Ok(count);
        }
        let node = match fetch(source, pointer) {
            Ok(node) => node,
            Err(Error::Read { source: why, .. }) if source.is_lost(&why) => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut count = 0;
        for below in node.iter() {
            count += self.below(source, below, level - 1)?;
        }
        if level > 1 {
            self.0.insert((pointer, level), count);
        }
        Ok(count)
    }
}
