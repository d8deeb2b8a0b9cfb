//! What differs between two maps.

use crate::{
    Error, FANOUT, NodeSource, checked, child_range,
    extents::{Counting, Runs},
    fetch, overlap,
    scan::Flow,
    span,
};
use format::Node;
use std::{
    ops::{ControlFlow, Range},
    sync::Arc,
};
use types::{Pointer, Root};

/// A run of blocks whose pointers differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which blocks.
    pub blocks: Range<u64>,
    /// Whether the second map has data there, or holes.
    pub data: bool,
}

/// Hands the runs of blocks of `range` whose pointers in `b` are others than in `a` to `f`, in
/// order, until it breaks. Subtrees that both share are skipped, whatever their size.
///
/// # Behavior
/// Runs that touch differ in kind. A block that was written again counts as changed even if it
/// holds the same bytes, unless deduplication found that out.
///
/// # Errors
/// If a root cannot be one or a node cannot be read.
pub fn diff<S: NodeSource + ?Sized>(
    source: &S,
    a: Root,
    b: Root,
    range: Range<u64>,
    f: &mut dyn FnMut(Changed) -> ControlFlow<()>,
) -> Result<ControlFlow<()>, Error<S::Error>> {
    let mut run: Option<Changed> = None;
    let flow = compare(source, a, b, range, &mut |piece| match piece {
        Piece::Same(_) => Flow::Continue(()),
        Piece::Changed(block, data) => match &mut run {
            Some(run) if run.blocks.end == block && run.data == data => {
                run.blocks.end += 1;
                Flow::Continue(())
            }
            _ => {
                let blocks = block..block + 1;
                run.replace(Changed { blocks, data })
                    .map_or(Flow::Continue(()), &mut *f)
            }
        },
    })?;
    if flow.is_break() {
        return Ok(flow);
    }
    Ok(run.map_or(Flow::Continue(()), f))
}

/// Runs of blocks whose pointers differ (`true`) and of others, their lengths in blocks, from exactly `range.start`,
/// neighbours of different kinds, at most `max` of them.
///
/// # Behavior
/// Together they end before the range does only if `max` is reached or
/// [`EXTENT_NODES_MAX`](crate::EXTENT_NODES_MAX) nodes were read; they hold at least one block unless the range is
/// empty or `max` is 0.
///
/// # Errors
/// As [`diff`].
pub fn changes<S: NodeSource + ?Sized>(
    source: &S,
    a: Root,
    b: Root,
    range: Range<u64>,
    max: usize,
) -> Result<Vec<(u64, bool)>, Error<S::Error>> {
    let mut runs = Runs::new(max);
    if max > 0 {
        let source = Counting::new(source);
        let _ = compare(&source, a, b, range, &mut |piece| {
            match piece {
                Piece::Same(blocks) => runs.push(blocks.end - blocks.start, false),
                Piece::Changed(..) => runs.push(1, true),
            }?;
            source.enough()
        })?;
    }
    Ok(runs.into_inner())
}

/// What a comparison comes across, in order.
enum Piece {
    /// Blocks whose pointers are the same.
    Same(Range<u64>),
    /// A block that differs, and whether the second map has data there.
    Changed(u64, bool),
}

/// Hands pieces that make up `range` to `f` until it breaks.
fn compare<S: NodeSource + ?Sized>(
    source: &S,
    a: Root,
    b: Root,
    range: Range<u64>,
    f: &mut dyn FnMut(Piece) -> Flow,
) -> Result<Flow, Error<S::Error>> {
    let (a, b) = (checked(a)?, checked(b)?);
    let level = a.height.max(b.height);
    let beyond = range.start.max(span(level))..range.end;
    let mut comparison = Comparison { source, range, f };
    let flow = match level {
        0 => Flow::Continue(()),
        _ => comparison.subtrees(a, b, level, 0)?,
    };
    // Maps of no height reach nothing.
    let beyond = if level == 0 { comparison.range } else { beyond };
    if flow.is_break() || beyond.is_empty() {
        return Ok(flow);
    }
    Ok((comparison.f)(Piece::Same(beyond)))
}

struct Comparison<'a, S: ?Sized> {
    source: &'a S,
    range: Range<u64>,
    f: &'a mut dyn FnMut(Piece) -> Flow,
}

impl<S: NodeSource + ?Sized> Comparison<'_, S> {
    /// Two subtrees at the same place, of at most `level`, which is not 0; lower ones stand at their first block.
    fn subtrees(
        &mut self,
        a: Root,
        b: Root,
        level: u8,
        base: u64,
    ) -> Result<Flow, Error<S::Error>> {
        let here = overlap(&self.range, &(base..base + span(level)));
        if here.is_empty() {
            return Ok(Flow::Continue(()));
        }
        if a == b {
            return Ok((self.f)(Piece::Same(here)));
        }
        let (a, b) = (self.children(a, level)?, self.children(b, level)?);
        if level == 1 {
            return Ok(self.leaves(&a, &b, here));
        }
        for slot in 0..FANOUT {
            let child = child_range(level, base, slot).start;
            let (a, b) = (a.get(slot), b.get(slot));
            if self.subtrees(a, b, level - 1, child)?.is_break() {
                return Ok(Flow::Break(()));
            }
        }
        Ok(Flow::Continue(()))
    }

    fn leaves(&mut self, a: &Children, b: &Children, here: Range<u64>) -> Flow {
        for block in here {
            let slot = crate::slot_of(1, block);
            let (a, b) = (a.get(slot).pointer, b.get(slot).pointer);
            let piece = match a == b {
                true => Piece::Same(block..block + 1),
                false => Piece::Changed(block, !b.is_hole()),
            };
            (self.f)(piece)?;
        }
        Flow::Continue(())
    }

    /// The children of a subtree, as if it were as high as `level`.
    fn children(&self, tree: Root, level: u8) -> Result<Children, Error<S::Error>> {
        Ok(if tree.is_empty() {
            Children::None
        } else if tree.height < level {
            Children::First(tree)
        } else {
            Children::Of(fetch(self.source, tree.pointer)?, level - 1)
        })
    }
}

enum Children {
    None,
    /// A lower tree at the first place.
    First(Root),
    /// Those of a node, of this level.
    Of(Arc<Node>, u8),
}

impl Children {
    fn get(&self, slot: usize) -> Root {
        match self {
            Children::First(tree) if slot == 0 => *tree,
            Children::None | Children::First(_) => Root::EMPTY,
            Children::Of(node, height) => match node.get(slot) {
                Pointer::HOLE => Root::EMPTY,
                pointer => Root {
                    pointer,
                    height: *height,
                },
            },
        }
    }
}
