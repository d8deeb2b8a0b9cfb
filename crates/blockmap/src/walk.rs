//! Going through the nodes of a map.

use crate::{Error, FANOUT, NodeSource, checked, fetch};
use types::{Pointer, Root};

/// Shows every pointer of a map to `visit`, parents first: the nodes' with their level (the root's
/// is its height, a leaf's 1) and the data blocks' with level 0.
///
/// # Behavior
/// Where `visit` answers `false` nothing below is looked at: it has seen that node before. A visitor
/// that says so for each node of a level that it knows bounds the walk by the nodes that there are, whatever
/// they hold. The answer for a data block does not matter. A node is shown before it is read.
///
/// # Errors
/// If the root cannot be one or a node cannot be read; the walk ends there.
pub fn walk<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
    visit: &mut dyn FnMut(Pointer, u8) -> bool,
) -> Result<(), Error<S::Error>> {
    let root = checked(root)?;
    if root.is_empty() {
        return Ok(());
    }
    walk_node(source, root.pointer, root.height, visit)
}

fn walk_node<S: NodeSource + ?Sized>(
    source: &S,
    pointer: Pointer,
    level: u8,
    visit: &mut dyn FnMut(Pointer, u8) -> bool,
) -> Result<(), Error<S::Error>> {
    if !visit(pointer, level) || level == 0 {
        return Ok(());
    }
    let node = fetch(source, pointer)?;
    for below in (0..FANOUT).map(|slot| node.get(slot)) {
        if !below.is_hole() {
            walk_node(source, below, level - 1, visit)?;
        }
    }
    Ok(())
}

/// What [`self_check`] counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shape {
    /// Nodes.
    pub nodes: u64,
    /// Mapped blocks.
    pub mapped: u64,
}

/// Reads the whole map and checks the invariant of its shape: no node is empty, and the height is
/// the smallest that reaches the last mapped block.
///
/// # Errors
/// [`Error::Shape`] if it has another; otherwise as [`walk`].
pub fn self_check<S: NodeSource + ?Sized>(
    source: &S,
    root: Root,
) -> Result<Shape, Error<S::Error>> {
    let mut shape = Shape::default();
    if checked(root)?.is_empty() {
        return Ok(shape);
    }
    let top = fetch(source, root.pointer)?;
    if root.height > 1 && (1..FANOUT).all(|slot| top.get(slot).is_hole()) {
        return Err(Error::Shape {
            pointer: root.pointer,
            level: root.height,
            what: "the top has its first child only",
        });
    }
    check_node(source, root.pointer, root.height, &mut shape)?;
    Ok(shape)
}

fn check_node<S: NodeSource + ?Sized>(
    source: &S,
    pointer: Pointer,
    level: u8,
    shape: &mut Shape,
) -> Result<(), Error<S::Error>> {
    if level == 0 {
        shape.mapped += 1;
        return Ok(());
    }
    shape.nodes += 1;
    let node = fetch(source, pointer)?;
    if node.is_empty() {
        let what = "empty";
        return Err(Error::Shape {
            pointer,
            level,
            what,
        });
    }
    (0..FANOUT)
        .map(|slot| node.get(slot))
        .filter(|below| !below.is_hole())
        .try_for_each(|below| check_node(source, below, level - 1, shape))
}
