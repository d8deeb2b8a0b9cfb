//! A new map from an old one and what changed.

use crate::{
    BLOCKS_MAX, Error, FANOUT, Node, NodeSink, NodeSource, checked, child_range, fetch, height_for,
    overlap, scan::Counted, slot_of, span,
};
use std::{ops::Range, sync::Arc};
use types::{BlockIndex, Pointer, Root};

/// What an [`update`] made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Updated {
    /// The new map.
    pub root: Root,
    /// Blocks that were holes and are mapped now.
    pub mapped: u64,
    /// Blocks that were mapped and are holes now.
    pub unmapped: u64,
    /// Where the blocks of `writes` were before, as far as they were mapped and have moved; in no order.
    pub replaced: Vec<Pointer>,
}

/// Makes the map that `root` becomes when the blocks of `zeroes` become holes and then `writes` set
/// their blocks' pointers (a hole clears).
///
/// # Behavior
/// Each node that changes is written exactly once, children before parents; all others are shared
/// with the old map, which stays as it is. If nothing changes, nothing is written and the root is the same.
/// Nodes that become empty vanish; the height grows as needed, and shrinks while only the first child
/// is left. Time is in proportion to the changes and the height; what vanishes as a whole is read
/// once, for it is counted.
///
/// A node on the way that is damaged or missing ([`NodeSource::is_lost`]) is replaced by one whose pointers are all
/// [`Pointer::LOST`]: what changes can be written, and what else was below it goes on to be an error, never zeroes.
/// How much that was is not known; all of it counts as mapped.
///
/// # Errors
/// [`Error::TooFar`] if a pointer would be set beyond every map, before anything is written; otherwise if the
/// root cannot be one, or a node cannot be read or written. What was written until then is garbage.
///
/// # Panics
/// If `zeroes` are not sorted and disjoint, or `writes` not sorted and unique: a broken invariant of the
/// caller.
pub fn update<S, W>(
    source: &S,
    sink: &mut W,
    root: Root,
    zeroes: &[Range<u64>],
    writes: &[(BlockIndex, Pointer)],
) -> Result<Updated, Error<S::Error>>
where
    S: NodeSource + ?Sized,
    W: NodeSink<Error = S::Error> + ?Sized,
{
    let changes = Changes { zeroes, writes };
    assert!(changes.is_sorted(), "changes of a block map in order");
    let root = checked(root)?;
    let needed = match changes.last_set() {
        None => 0,
        Some(last) => height_for(last).ok_or(Error::TooFar(last))?,
    };
    let mut updater = Updater {
        source,
        sink,
        mapped: 0,
        unmapped: 0,
        replaced: Vec::new(),
        counted: Counted::default(),
    };
    let root = if root.is_empty() {
        let height = needed.max(1);
        let changes = changes.within(&(0..span(height)));
        let pointer = updater.subtree(Pointer::HOLE, height, 0, changes)?;
        canonical(pointer, height)
    } else if needed > root.height {
        updater.grow(root, needed, changes)?
    } else {
        updater.within(root, changes)?
    };
    let Updater {
        mapped,
        unmapped,
        replaced,
        ..
    } = updater;
    Ok(Updated {
        root,
        mapped,
        unmapped,
        replaced,
    })
}

fn canonical(pointer: Pointer, height: u8) -> Root {
    if pointer.is_hole() {
        Root::EMPTY
    } else {
        Root { pointer, height }
    }
}

/// What changes in some part of the map: `zeroes` may reach over its ends, `writes` do not.
#[derive(Clone, Copy)]
struct Changes<'a> {
    zeroes: &'a [Range<u64>],
    writes: &'a [(BlockIndex, Pointer)],
}

impl<'a> Changes<'a> {
    fn is_sorted(&self) -> bool {
        let apart = |pair: &[Range<u64>]| matches!(pair, [a, b] if a.end <= b.start);
        let ordered = |pair: &[(BlockIndex, Pointer)]| matches!(pair, [a, b] if a.0 < b.0);
        self.zeroes.iter().all(|zeroes| zeroes.start < zeroes.end)
            && self.zeroes.windows(2).all(apart)
            && self.writes.windows(2).all(ordered)
    }

    /// The last block that gets a pointer.
    fn last_set(&self) -> Option<BlockIndex> {
        let mut set = self.writes.iter().rev().filter(|(_, p)| !p.is_hole());
        set.next().map(|&(block, _)| block)
    }

    fn sets_any(&self) -> bool {
        self.writes.iter().any(|(_, pointer)| !pointer.is_hole())
    }

    fn is_empty(&self) -> bool {
        self.zeroes.is_empty() && self.writes.is_empty()
    }

    /// Those that touch `part`.
    fn within(self, part: &Range<u64>) -> Changes<'a> {
        let zeroes = self.zeroes;
        let zeroes = &zeroes[zeroes.partition_point(|zeroes| zeroes.end <= part.start)..];
        let zeroes = &zeroes[..zeroes.partition_point(|zeroes| zeroes.start < part.end)];
        let writes = self.writes;
        let writes = &writes[writes.partition_point(|(block, _)| block.0 < part.start)..];
        let writes = &writes[..writes.partition_point(|(block, _)| block.0 < part.end)];
        Changes { zeroes, writes }
    }

    /// The first block at or after `from` that is touched.
    fn next_touched(&self, from: u64) -> Option<u64> {
        let rest = self.within(&(from..BLOCKS_MAX));
        let zero = rest.zeroes.first().map(|zeroes| zeroes.start.max(from));
        let write = rest.writes.first().map(|(block, _)| block.0);
        zero.into_iter().chain(write).min()
    }

    /// Whether nothing but a hole is left of `part`.
    fn clears(&self, part: &Range<u64>) -> bool {
        let covers = |zeroes: &Range<u64>| zeroes.start <= part.start && part.end <= zeroes.end;
        self.writes.is_empty() && self.zeroes.first().is_some_and(covers)
    }
}

struct Updater<'a, S: ?Sized, W: ?Sized> {
    source: &'a S,
    sink: &'a mut W,
    mapped: u64,
    unmapped: u64,
    replaced: Vec<Pointer>,
    counted: Counted,
}

impl<S, W> Updater<'_, S, W>
where
    S: NodeSource + ?Sized,
    W: NodeSink<Error = S::Error> + ?Sized,
{
    /// The map becomes higher: the old top goes below new ones, as their first child.
    fn grow(
        &mut self,
        root: Root,
        height: u8,
        changes: Changes<'_>,
    ) -> Result<Root, Error<S::Error>> {
        let old = changes.within(&(0..span(root.height)));
        let mut pointer = self.subtree(root.pointer, root.height, 0, old)?;
        for level in root.height + 1..=height {
            let mut node = Arc::new(Node::new());
            Arc::make_mut(&mut node).set(0, pointer);
            self.children(&mut node, level, 0, 1, changes)?;
            pointer = self.write(&node)?;
        }
        Ok(canonical(pointer, height))
    }

    /// The map stays as high as it is or becomes lower: from the top, a node that would have its first
    /// child only is left out, before it is written.
    fn within(&mut self, root: Root, changes: Changes<'_>) -> Result<Root, Error<S::Error>> {
        let changes = changes.within(&(0..span(root.height)));
        let mut pointer = root.pointer;
        for level in (2..=root.height).rev() {
            if changes.is_empty() {
                return Ok(root);
            }
            let old = self.read(pointer, level)?;
            let mut node = Arc::clone(&old);
            self.children(&mut node, level, 0, 1, changes)?;
            if (1..FANOUT).any(|slot| !node.get(slot).is_hole()) {
                let first = changes.within(&(0..span(level - 1)));
                self.child(&mut node, 0, level, 0, first)?;
                let changed = !Arc::ptr_eq(&old, &node);
                let pointer = if changed { self.write(&node)? } else { pointer };
                return Ok(canonical(pointer, level));
            }
            pointer = node.get(0);
        }
        let first = changes.within(&(0..span(1)));
        let pointer = self.subtree(pointer, 1, 0, first)?;
        Ok(canonical(pointer, 1))
    }

    /// What the subtree at `pointer`, of `level` and from block `base` on, becomes.
    fn subtree(
        &mut self,
        pointer: Pointer,
        level: u8,
        base: u64,
        changes: Changes<'_>,
    ) -> Result<Pointer, Error<S::Error>> {
        if changes.is_empty() || (pointer.is_hole() && !changes.sets_any()) {
            return Ok(pointer);
        }
        if changes.clears(&(base..base + span(level))) {
            self.unmapped += self.counted.below(self.source, pointer, level)?;
            return Ok(Pointer::HOLE);
        }
        let old = self.read(pointer, level)?;
        let mut node = Arc::clone(&old);
        if level == 1 {
            self.leaf(&mut node, base, changes);
        } else {
            self.children(&mut node, level, base, 0, changes)?;
        }
        if Arc::ptr_eq(&old, &node) {
            return Ok(pointer);
        }
        self.write(&node)
    }

    /// Brings the children of a node, from `first` on, up to date.
    fn children(
        &mut self,
        node: &mut Arc<Node>,
        level: u8,
        base: u64,
        first: usize,
        changes: Changes<'_>,
    ) -> Result<(), Error<S::Error>> {
        let end = base + span(level);
        let mut next = child_range(level, base, first).start;
        while let Some(block) = changes.next_touched(next).filter(|&block| block < end) {
            let slot = slot_of(level, block);
            let child = child_range(level, base, slot);
            self.child(node, slot, level, base, changes.within(&child))?;
            next = child.end;
        }
        Ok(())
    }

    fn child(
        &mut self,
        node: &mut Arc<Node>,
        slot: usize,
        level: u8,
        base: u64,
        changes: Changes<'_>,
    ) -> Result<(), Error<S::Error>> {
        let old = node.get(slot);
        let start = child_range(level, base, slot).start;
        let new = self.subtree(old, level - 1, start, changes)?;
        if new != old {
            Arc::make_mut(node).set(slot, new);
        }
        Ok(())
    }

    fn leaf(&mut self, node: &mut Arc<Node>, base: u64, changes: Changes<'_>) {
        let old = Arc::clone(node);
        let mut set = |slot: usize, pointer| {
            if node.get(slot) != pointer {
                Arc::make_mut(node).set(slot, pointer);
            }
        };
        for zeroes in changes.zeroes {
            let part = overlap(zeroes, &(base..base + span(1)));
            part.for_each(|block| set(slot_of(1, block), Pointer::HOLE));
        }
        for &(block, pointer) in changes.writes {
            let slot = slot_of(1, block.0);
            set(slot, pointer);
            let was = old.get(slot);
            if was != pointer && !was.is_hole() && !was.is_lost() {
                self.replaced.push(was);
            }
        }
        for slot in 0..FANOUT {
            match (old.get(slot).is_hole(), node.get(slot).is_hole()) {
                (true, false) => self.mapped += 1,
                (false, true) => self.unmapped += 1,
                _ => {}
            }
        }
    }

    fn read(&mut self, pointer: Pointer, level: u8) -> Result<Arc<Node>, Error<S::Error>> {
        if pointer.is_hole() {
            return Ok(Arc::new(Node::new()));
        }
        match fetch(self.source, pointer) {
            Err(Error::Read { source, .. }) if self.source.is_lost(&source) => {
                // Below one that was lost before, everything is counted already.
                self.mapped += if pointer.is_lost() { 0 } else { span(level) };
                let mut node = Node::new();
                (0..FANOUT).for_each(|slot| node.set(slot, Pointer::LOST));
                Ok(Arc::new(node))
            }
            other => other,
        }
    }

    /// A node that is empty vanishes.
    fn write(&mut self, node: &Node) -> Result<Pointer, Error<S::Error>> {
        if node.is_empty() {
            return Ok(Pointer::HOLE);
        }
        self.sink.write_node(node).map_err(Error::Write)
    }
}
