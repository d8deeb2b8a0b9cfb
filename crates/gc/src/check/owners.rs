//! Which volumes and snapshots, and which parts of them, are hit by damage.

use super::{
    Bad,
    report::{Afflicted, Extent},
};
use crate::{Error, OwnedRoot, mark::height};
use blockmap::span;
use format::pack::PACK_BLOCKS;
use pack::{LiveBits, PackStore};
use rustc_hash::FxHashMap;
use types::{BLOCK_SIZE, PackId, Pointer, Progress};

/// So many extents are listed of one volume; the bytes of all are counted.
const EXTENTS_MAX: usize = 10_000;

/// Nodes that are read between two reports.
const REPORT_NODES: u64 = 256;

/// Finds those who are hit, if anything is wrong. Subtrees without damage are looked at once, whoever shares them.
pub(crate) fn afflicted(
    store: &PackStore,
    roots: &[OwnedRoot],
    any_wrong: bool,
    bad: &Bad,
    progress: &dyn Progress,
) -> Result<Vec<Afflicted>, Error> {
    if !any_wrong {
        return Ok(Vec::new());
    }
    let mut finder = Finder {
        store,
        bad,
        progress,
        sound: FxHashMap::default(),
        nodes: 0,
        found: Afflicted::default(),
        size: 0,
    };
    let mut all = Vec::new();
    for owned in roots {
        finder.found = Afflicted {
            owner: owned.owner.clone(),
            ..Afflicted::default()
        };
        finder.size = owned.size_blocks;
        match height(owned.root) {
            Some(height) => drop(finder.subtree(owned.root.pointer, height, 0)?),
            None => finder.hit(0, owned.size_blocks),
        }
        if finder.found.bytes > 0 {
            all.push(std::mem::take(&mut finder.found));
        }
    }
    Ok(all)
}

struct Finder<'a> {
    store: &'a PackStore,
    bad: &'a Bad,
    progress: &'a dyn Progress,
    /// Nodes below which nothing is wrong.
    sound: FxHashMap<PackId, LiveBits>,
    nodes: u64,
    found: Afflicted,
    /// Of the volume, in blocks.
    size: u64,
}

impl Finder<'_> {
    /// Answers whether nothing is wrong below.
    fn subtree(&mut self, pointer: Pointer, level: u8, base: u64) -> Result<bool, Error> {
        if pointer.is_hole() {
            return Ok(true);
        }
        if self.is_bad(pointer) {
            self.hit(base, span(level));
            return Ok(false);
        }
        let (pack, ordinal) = (pointer.pack(), pointer.ordinal());
        if level == 0 || self.sound.get(&pack).is_some_and(|bits| bits.get(ordinal)) {
            return Ok(true);
        }
        self.nodes += 1;
        if self.nodes.is_multiple_of(REPORT_NODES) {
            self.progress.report(self.nodes, 0)?;
        }
        let Ok(node) = self.store.node_uncached(pointer) else {
            self.hit(base, span(level));
            return Ok(false);
        };
        let mut sound = true;
        for (slot, below) in (0..).zip(node.iter()) {
            sound &= self.subtree(below, level - 1, base + slot * span(level - 1))?;
        }
        if sound {
            self.sound.entry(pack).or_default().insert(ordinal);
        }
        Ok(sound)
    }

    fn is_bad(&self, pointer: Pointer) -> bool {
        let bad = self.bad.get(&pointer.pack());
        usize::from(pointer.ordinal()) >= PACK_BLOCKS
            || bad.is_some_and(|(bits, _)| bits.get(pointer.ordinal()))
    }

    /// Blocks that cannot be read, in order; those beyond the end of the volume do not matter.
    fn hit(&mut self, base: u64, blocks: u64) {
        let blocks = (base + blocks).min(self.size).saturating_sub(base);
        let block = BLOCK_SIZE as u64;
        let (offset, len) = (base * block, blocks * block);
        let found = &mut self.found;
        found.bytes += len;
        let full = found.extents.len() == EXTENTS_MAX;
        match found.extents.last_mut() {
            _ if len == 0 => {}
            Some(last) if last.offset + last.len == offset => last.len += len,
            _ if full => found.more = true,
            _ => found.extents.push(Extent { offset, len }),
        }
    }
}
