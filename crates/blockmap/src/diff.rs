//! What differs between two maps.

use crate::{Error, FANOUT, NodeSource, checked, child_range, fetch, overlap, span};
use std::ops::{ControlFlow, Range};
use types::Root;

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
    let (a, b) = (checked(a)?, checked(b)?);
    let level = a.height.max(b.height);
    let mut differ = Differ {
        source,
        range,
        run: None,
        f,
    };
    if differ.subtrees(a, b, level, 0)?.is_break() {
        return Ok(ControlFlow::Break(()));
    }
    Ok(differ.finish())
}

struct Differ<'a, S: ?Sized> {
    source: &'a S,
    range: Range<u64>,
    /// The run that may go on.
    run: Option<Changed>,
    f: &'a mut dyn FnMut(Changed) -> ControlFlow<()>,
}

impl<S: NodeSource + ?Sized> Differ<'_, S> {
    /// Two subtrees at the same place, of at most `level`; lower ones stand at their first block.
    fn subtrees(
        &mut self,
        a: Root,
        b: Root,
        level: u8,
        base: u64,
    ) -> Result<ControlFlow<()>, Error<S::Error>> {
        let here = overlap(&self.range, &(base..base + span(level)));
        if a == b || (a.is_empty() && b.is_empty()) || here.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if level == 0 {
            return Ok(self.changed(base, !b.is_empty()));
        }
        let (a, b) = (self.children(a, level)?, self.children(b, level)?);
        for (slot, (a, b)) in a.into_iter().zip(b).enumerate() {
            let child = child_range(level, base, slot).start;
            if self.subtrees(a, b, level - 1, child)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// The children of a subtree, as if it were as high as `level`.
    fn children(&self, tree: Root, level: u8) -> Result<Vec<Root>, Error<S::Error>> {
        let mut children = vec![Root::EMPTY; FANOUT];
        if tree.is_empty() {
            return Ok(children);
        }
        if tree.height < level {
            if let Some(first) = children.first_mut() {
                *first = tree;
            }
            return Ok(children);
        }
        let node = fetch(self.source, tree.pointer)?;
        for (slot, child) in children.iter_mut().enumerate() {
            *child = Root {
                pointer: node.get(slot),
                height: level - 1,
            };
        }
        Ok(children)
    }

    fn changed(&mut self, block: u64, data: bool) -> ControlFlow<()> {
        match &mut self.run {
            Some(run) if run.blocks.end == block && run.data == data => {
                run.blocks.end += 1;
                ControlFlow::Continue(())
            }
            _ => {
                let next = Changed {
                    blocks: block..block + 1,
                    data,
                };
                self.run
                    .replace(next)
                    .map_or(ControlFlow::Continue(()), &mut *self.f)
            }
        }
    }

    fn finish(self) -> ControlFlow<()> {
        self.run.map_or(ControlFlow::Continue(()), self.f)
    }
}
