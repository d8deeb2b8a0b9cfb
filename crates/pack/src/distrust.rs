//! Blocks that are known to be damaged, so that nothing new refers to them.
//!
//! Whoever finds damage (reads, checks, scrubs) says so here, and deduplication asks. So the same contents written
//! again are stored again: that heals a volume. It is advice as the index is: it is not kept over a restart,
//! and what nobody has read is not in it.

use crate::LiveBits;
use format::pack::PACK_BLOCKS;
use rustc_hash::FxHashMap;
use sync::Mutex;
use types::PackId;

/// So many packs are remembered: 160 bytes each. A store with more of them finds no duplicates any more.
const PACKS_MAX: usize = 1 << 14;

#[derive(Default)]
pub(crate) struct Distrust(Mutex<State>);

#[derive(Default)]
struct State {
    packs: FxHashMap<PackId, LiveBits>,
    too_many: bool,
}

impl Distrust {
    /// These blocks of a pack cannot be read. Answers whether that is news.
    pub(crate) fn add(&self, pack: PackId, blocks: &LiveBits) -> bool {
        let mut state = self.0.lock();
        if state.packs.len() >= PACKS_MAX && !state.packs.contains_key(&pack) {
            return !std::mem::replace(&mut state.too_many, true);
        }
        let known = state.packs.entry(pack).or_insert(LiveBits::NONE);
        let all = known.union(blocks);
        let news = all != *known;
        *known = all;
        news
    }

    /// All of a pack was read, and only these blocks cannot be.
    pub(crate) fn set(&self, pack: PackId, blocks: &LiveBits) {
        if !blocks.is_empty() {
            self.add(pack, blocks);
        }
        if let Some(known) = self.0.lock().packs.get_mut(&pack) {
            *known = *blocks;
        }
        if blocks.is_empty() {
            self.forget(pack);
        }
    }

    /// The pack is gone, or another object has its name.
    pub(crate) fn forget(&self, pack: PackId) {
        self.0.lock().packs.remove(&pack);
    }

    /// The blocks of a pack that nothing new may refer to.
    pub(crate) fn of(&self, pack: PackId) -> LiveBits {
        let state = self.0.lock();
        match state.packs.get(&pack) {
            _ if state.too_many => LiveBits::first(PACK_BLOCKS),
            Some(blocks) => *blocks,
            None => LiveBits::NONE,
        }
    }

    /// Packs with such blocks.
    pub(crate) fn packs(&self) -> u64 {
        self.0.lock().packs.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_bounded_and_then_trusts_nobody() {
        let distrust = Distrust::default();
        let block = LiveBits::first(1);
        for pack in 1..=PACKS_MAX as u64 {
            assert!(distrust.add(PackId(pack), &block));
            assert!(!distrust.add(PackId(pack), &block));
        }
        assert_eq!(distrust.of(PackId(1)), block);
        assert_eq!(distrust.of(PackId(1 << 30)), LiveBits::NONE);
        distrust.add(PackId(1 << 30), &block);
        assert_eq!(distrust.packs(), PACKS_MAX as u64);
        assert_eq!(distrust.of(PackId(1 << 31)), LiveBits::first(PACK_BLOCKS));
    }

    #[test]
    fn what_is_read_again_is_trusted_again() {
        let distrust = Distrust::default();
        distrust.add(PackId(1), &LiveBits::first(9));
        distrust.set(PackId(1), &LiveBits::first(2));
        assert_eq!(distrust.of(PackId(1)), LiveBits::first(2));
        distrust.set(PackId(1), &LiveBits::NONE);
        assert_eq!(distrust.packs(), 0);
    }
}
