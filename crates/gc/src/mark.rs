//! Marking: what every root reaches, each node looked at once.

use crate::{Error, OwnedRoot};
use blockmap::{HEIGHT_MAX, Node};
use format::pack::PACK_BLOCKS;
use pack::{LiveBits, PackStore};
use rustc_hash::FxHashMap;
use std::sync::Arc;
use sync::thread::make_way;
use types::{PackId, Pointer, Progress, Root};

/// Progress is reported each so many nodes: what they map is some gibibytes, they themselves a mebibyte.
const REPORT_NODES: u64 = 256;

/// What roots reach.
#[derive(Debug, Default)]
pub struct Marks {
    packs: FxHashMap<PackId, PackMarks>,
    nodes: u64,
    lost: u64,
}

#[derive(Debug, Default)]
struct PackMarks {
    live: LiveBits,
    /// The level of each node, as three planes of bits; level 0 is none.
    levels: Option<Box<[LiveBits; 3]>>,
}

impl PackMarks {
    fn level(&self, ordinal: u16) -> u8 {
        let plane = |bit: usize, planes: &[LiveBits; 3]| {
            u8::from(planes.get(bit).is_some_and(|plane| plane.get(ordinal))) << bit
        };
        let levels = self.levels.as_ref();
        levels.map_or(0, |planes| (0..3).map(|bit| plane(bit, planes)).sum())
    }

    fn set_level(&mut self, ordinal: u16, level: u8) {
        let planes = self.levels.get_or_insert_default();
        for (bit, plane) in planes.iter_mut().enumerate() {
            if level >> bit & 1 == 1 {
                plane.insert(ordinal);
            }
        }
    }
}

impl Marks {
    /// What is reached of a pack.
    #[must_use]
    pub fn live(&self, pack: PackId) -> LiveBits {
        self.packs
            .get(&pack)
            .map_or(LiveBits::NONE, |marks| marks.live)
    }

    /// The packs of which something is reached, in order.
    #[must_use]
    pub fn packs(&self) -> Vec<PackId> {
        let mut packs: Vec<_> = self.packs.keys().copied().collect();
        packs.sort_unstable();
        packs
    }

    /// Nodes that were looked at.
    #[must_use]
    pub fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Pointers to what was lost before.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }

    /// Whether a block that is reached is a node.
    pub(crate) fn is_node(&self, pointer: Pointer) -> bool {
        let marks = self.packs.get(&pointer.pack());
        marks.is_some_and(|marks| marks.level(pointer.ordinal()) > 0)
    }

    /// Marks a pointer of `level`, 0 for data. Answers whether that is new.
    fn add(&mut self, pointer: Pointer, level: u8) -> Result<bool, Trouble> {
        if usize::from(pointer.ordinal()) >= PACK_BLOCKS {
            return Err(Trouble::Ordinal);
        }
        let marks = self.packs.entry(pointer.pack()).or_default();
        if marks.live.get(pointer.ordinal()) {
            let same = marks.level(pointer.ordinal()) == level;
            return if same { Ok(false) } else { Err(Trouble::Level) };
        }
        marks.live.insert(pointer.ordinal());
        if level > 0 {
            marks.set_level(pointer.ordinal(), level);
        }
        Ok(true)
    }
}

/// What can be wrong with a map.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// The root can be none.
    #[error("the root has an impossible height")]
    Height,
    /// No pack has such a block.
    #[error("a pointer to a block that no pack has")]
    Ordinal,
    /// It is met at two levels, so at least one is wrong.
    #[error("a block is at two levels of block maps")]
    Level,
    /// A node.
    #[error("a node of the block map cannot be read")]
    Node(#[from] pack::Error),
}

/// What to do about a pointer that something is wrong with: an error ends the marking.
pub(crate) type OnTrouble<'a> =
    &'a mut dyn FnMut(&OwnedRoot, Pointer, Trouble) -> Result<(), Error>;

/// Marks what all `roots` reach.
///
/// # Errors
/// [`ErrorKind::Damaged`](crate::ErrorKind::Damaged) with the owner of the root if a node cannot be read or a
/// map makes no sense; [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
pub fn mark(
    store: &PackStore,
    roots: &[OwnedRoot],
    progress: &dyn Progress,
) -> Result<Marks, Error> {
    mark_with(store, roots, progress, &mut |root, _, trouble| {
        Err(match trouble {
            Trouble::Node(error) => Error::pack("marking what is needed by", error),
            other => {
                let damaged = Error::new(crate::ErrorKind::Damaged, "marking what is needed by");
                damaged.with_source(other)
            }
        }
        .of(&root.owner))
    })
}

/// As [`mark`], asking `trouble` what to do about damage.
pub(crate) fn mark_with(
    store: &PackStore,
    roots: &[OwnedRoot],
    progress: &dyn Progress,
    trouble: OnTrouble<'_>,
) -> Result<Marks, Error> {
    let mut marker = Marker {
        store,
        progress,
        trouble,
        marks: Marks::default(),
    };
    for owned in roots {
        if let Some(height) = height(owned.root) {
            marker.visit(owned, owned.root.pointer, height)?;
        } else {
            (marker.trouble)(owned, owned.root.pointer, Trouble::Height)?;
        }
    }
    Ok(marker.marks)
}

/// The height of a root, if it can be one. Empty maps have 0.
pub(crate) fn height(root: Root) -> Option<u8> {
    match root.height {
        _ if root.is_empty() => Some(0),
        1..=HEIGHT_MAX => Some(root.height),
        _ => None,
    }
}

struct Marker<'a> {
    store: &'a PackStore,
    progress: &'a dyn Progress,
    trouble: OnTrouble<'a>,
    marks: Marks,
}

impl Marker<'_> {
    fn visit(&mut self, owned: &OwnedRoot, pointer: Pointer, level: u8) -> Result<(), Error> {
        if pointer.is_hole() {
            return Ok(());
        }
        if pointer.is_lost() {
            self.marks.lost += 1;
            return Ok(());
        }
        match self.enter(pointer, level) {
            Err(trouble) => (self.trouble)(owned, pointer, trouble),
            Ok(None) => Ok(()),
            Ok(Some(node)) => {
                self.marks.nodes += 1;
                if self.marks.nodes.is_multiple_of(REPORT_NODES) {
                    self.progress.report(self.marks.nodes, 0)?;
                }
                node.iter()
                    .try_for_each(|below| self.visit(owned, below, level - 1))
            }
        }
    }

    /// The node, if it is one and new.
    fn enter(&mut self, pointer: Pointer, level: u8) -> Result<Option<Arc<Node>>, Trouble> {
        if !self.marks.add(pointer, level)? || level == 0 {
            return Ok(None);
        }
        make_way();
        Ok(Some(self.store.node_uncached(pointer)?))
    }
}
