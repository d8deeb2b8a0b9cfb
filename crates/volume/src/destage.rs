//! The way of a frozen generation into packs, and the move of the root.

use crate::{
    below::block_of_zeroes,
    error::{Error, ErrorKind},
    layer::Layer,
    nodes::{Nodes, Sink},
    store::Shared,
    volume::{Committed, Rooted, Volume, Wanted},
};
use catalog::{Change, VolumeRecord};
use format::RootNote;
use std::{ops::Range, sync::Arc};
use sync::{atomic::Ordering::Relaxed, thread::make_way};
use types::{BlockIndex, Generation, Pointer, SharedBlock, is_zero_block};

/// Longer runs do not go to the cache: who writes so much in order rarely reads it soon, and the memory that the cache
/// would grow by costs more than hashing does.
const HOT_RUN_MAX: usize = 32;

/// Blocks that are written before somebody looks whether it is still worth it; as many as full packs are put together.
const BLOCKS_AT_ONCE: usize = 16 << 10;

/// Blocks that are copied to the cache, or dropped from it, before others are let by.
const CACHED_AT_ONCE: usize = 64;

/// What a destage produced, before anybody was told.
struct Destaged {
    rooted: Rooted,
    /// What was just written here and there is hot: it goes to the cache.
    hot: Vec<(Pointer, SharedBlock)>,
    /// It takes the place of these, which only snapshots can still want.
    replaced: Vec<Pointer>,
    /// Protects the packs until the root refers to them.
    written: pack::Written,
}

impl Volume {
    /// Destages what is due: the oldest frozen generation, or the head if it is large or old or
    /// `force` says so. Answers whether there was anything.
    pub(crate) fn destage_due(self: &Arc<Self>, force: bool) -> Result<bool, Error> {
        let _destaging = self.destage.lock();
        {
            let mut state = self.state.write();
            if state.frozen.is_empty() {
                let age = state
                    .dirty_since
                    .map(|since| self.shared.env.clock.monotonic() - since);
                let old = age.is_some_and(|age| age >= self.shared.config.destage_after);
                if force || old || state.head.cost() >= self.shared.destage_threshold() {
                    state.freeze();
                }
            }
        }
        self.destage_oldest()
    }

    /// Returns when everything up to `generation` is in packs. The caller does the work unless
    /// somebody is at it.
    pub(crate) fn settle(self: &Arc<Self>, generation: Generation) -> Result<(), Error> {
        loop {
            let _destaging = self.destage.lock();
            let oldest = self
                .state
                .read()
                .frozen
                .front()
                .map(|frozen| frozen.layer.number);
            if oldest.is_none_or(|oldest| oldest > generation) {
                return Ok(());
            }
            self.destage_oldest()?;
        }
    }

    /// Under the `destage` lock: all that there is. It ends only if nobody writes meanwhile.
    pub(crate) fn destage_rest(self: &Arc<Self>) -> Result<(), Error> {
        self.state.write().freeze();
        while self.destage_oldest()? {}
        Ok(())
    }

    /// Under the `destage` lock. Answers whether there was a frozen generation.
    fn destage_oldest(self: &Arc<Self>) -> Result<bool, Error> {
        let Some(layer) = self
            .state
            .read()
            .frozen
            .front()
            .map(|f| Arc::clone(&f.layer))
        else {
            return Ok(false);
        };
        let began = self.shared.env.clock.monotonic();
        let destaged = self.write_layer(&layer)?;
        let cost = layer.cost();
        self.commit_layer(&layer, destaged)?;
        self.shared.journal.destaged(self.id, layer.number);
        self.shared.budget.release(&self.account, cost);
        self.shared
            .budget
            .drained(cost, self.shared.env.clock.monotonic() - began);
        self.shared.update_space();
        Ok(true)
    }

    /// Packs, then the changed nodes of the block map, then a sync of the brick.
    fn write_layer(&self, layer: &Layer) -> Result<Destaged, Error> {
        let (mut record, below) = {
            let committed = self.record.lock();
            (committed.record.clone(), committed.below.clone())
        };
        let properties = record.properties;
        let mut writer = self.shared.packs.writer(properties.codec, properties.dedup);
        let sorted = layer.sorted();
        let (zero, stored): (Vec<_>, Vec<_>) = sorted
            .into_iter()
            .partition(|(_, block)| is_zero_block(block));
        let (indexes, blocks): (Vec<u64>, Vec<SharedBlock>) = stored.into_iter().unzip();
        let mut pointers = Vec::with_capacity(blocks.len());
        let parts = indexes
            .chunks(BLOCKS_AT_ONCE)
            .zip(blocks.chunks(BLOCKS_AT_ONCE));
        for (indexes, blocks) in parts {
            self.shared.check_hurry()?;
            pointers.extend(writer.write_scattered(indexes, blocks)?);
        }
        let hidden = below.as_ref().map(|below| below.hidden(layer, &zero));
        let hidden = hidden.unwrap_or_default();
        // Before the nodes: so a small destage is one object.
        let zero_block = match hidden.is_empty() {
            true => None,
            false => Some(block_of_zeroes(&mut writer)?),
        };
        let mut writes: Vec<(BlockIndex, Pointer)> = indexes
            .iter()
            .zip(&pointers)
            .map(|(&index, &pointer)| (BlockIndex(index), pointer))
            .chain(
                zero.iter()
                    .map(|&(index, _)| (BlockIndex(index), Pointer::HOLE)),
            )
            .collect();
        writes.sort_unstable_by_key(|&(index, _)| index);
        let zeroes: Vec<Range<u64>> = layer.zeroes().iter().collect();
        let nodes = Nodes(&self.shared.packs);
        let mut updated = blockmap::update(
            &nodes,
            &mut Sink(&mut writer),
            record.root,
            &zeroes,
            &writes,
        )?;
        if let Some(zeroes) = zero_block {
            self.map_zeroes(&mut writer, &mut updated, &hidden, zeroes, &indexes)?;
        }
        (record.root, record.destaged) = (updated.root, layer.number);
        // What a damaged node mapped is not known, nor what of it is counted.
        let mapped_blocks = record.mapped_blocks + updated.mapped;
        record.mapped_blocks = mapped_blocks.saturating_sub(updated.unmapped);
        writer.note(&note_of(&record));
        self.shared.check_hurry()?;
        Ok(Destaged {
            rooted: Rooted {
                root: record.root,
                mapped_blocks: record.mapped_blocks,
                below,
            },
            hot: hot(&indexes, &pointers, blocks),
            replaced: updated.replaced,
            written: writer.finish()?,
        })
    }

    /// Moves the root in the catalog, and gives it to whoever wanted exactly this state; then here.
    fn commit_layer(&self, layer: &Arc<Layer>, destaged: Destaged) -> Result<(), Error> {
        for few in destaged.replaced.chunks(CACHED_AT_ONCE) {
            make_way();
            few.iter()
                .for_each(|p| self.shared.packs.supersede_block(*p));
        }
        for few in destaged.hot.chunks(CACHED_AT_ONCE) {
            make_way();
            for (pointer, block) in few {
                // A copy: where it is now others wait for the room.
                self.shared.packs.cache_block(*pointer, block.bytes());
            }
        }
        let mut committed = self.record.lock();
        let next = {
            let state = self.state.read();
            state
                .frozen
                .get(1)
                .map_or(state.head.number, |frozen| frozen.layer.number)
        };
        let Rooted {
            root,
            mapped_blocks,
            ..
        } = destaged.rooted;
        let mut record = committed.record.clone();
        (record.root, record.mapped_blocks, record.destaged) = (root, mapped_blocks, layer.number);
        let mut changes = vec![Change::PutVolume(record.clone())];
        changes.extend(snapshot_changes(&committed, next, &destaged.rooted));
        self.shared.catalog.commit(&changes)?;
        self.set_record(&mut committed, record);
        let later = committed.wanted.split_off(&next);
        for wanted in std::mem::replace(&mut committed.wanted, later)
            .into_values()
            .flatten()
        {
            if let Wanted::Root(cell) = wanted {
                // Only this place fills it, once.
                let _ = cell.set(destaged.rooted.clone());
            }
        }
        let old = {
            let mut state = self.state.write();
            state.base.root = root;
            state.version += 1;
            let old = state.frozen.pop_front();
            state.destaged_whole = old.as_ref().is_some_and(|frozen| frozen.log.is_empty());
            old
        };
        drop(committed);
        drop(destaged.written);
        // A large map is freed after the locks are.
        drop(old);
        Ok(())
    }
}

/// The blocks of short runs, with their pointers; `indexes` are in order.
fn hot(
    indexes: &[u64],
    pointers: &[Pointer],
    blocks: Vec<SharedBlock>,
) -> Vec<(Pointer, SharedBlock)> {
    let runs = indexes.chunk_by(|a, b| a + 1 == *b);
    let is_hot = runs.flat_map(|run| std::iter::repeat_n(run.len() <= HOT_RUN_MAX, run.len()));
    let all = pointers.iter().copied().zip(blocks);
    all.zip(is_hot)
        .filter_map(|(one, hot)| hot.then_some(one))
        .collect()
}

impl Shared {
    /// Destages end here when the background is to end: the journal is faster.
    pub(crate) fn check_hurry(&self) -> Result<(), Error> {
        if self.hurry.load(Relaxed) {
            return Err(Error::new(ErrorKind::Closed, "the store is closing"));
        }
        Ok(())
    }
}

/// What a pack says of a root, for the day on which the catalog is lost.
pub(crate) fn note_of(record: &VolumeRecord) -> RootNote {
    RootNote {
        volume: record.id,
        name: record.name.clone(),
        epoch: record.epoch,
        generation: record.destaged,
        root: record.root,
        size: record.size,
        mapped_blocks: record.mapped_blocks,
        dedup: record.properties.dedup,
        codec: record.properties.codec,
        read_only: record.properties.read_only,
        partial: record.source.is_some(),
    }
}

/// The snapshots that want the state below generation `next`, with their root.
fn snapshot_changes(
    committed: &Committed,
    next: Generation,
    rooted: &Rooted,
) -> impl Iterator<Item = Change> {
    committed
        .wanted
        .range(..next)
        .flat_map(|(_, wanted)| wanted)
        .filter_map(move |wanted| {
            let Wanted::Snapshot(snapshot) = wanted else {
                return None;
            };
            let mut snapshot = snapshot.clone();
            (snapshot.root, snapshot.mapped_blocks) = (Some(rooted.root), rooted.mapped_blocks);
            Some(Change::PutSnapshot(snapshot))
        })
}

#[cfg(test)]
mod tests {
    use super::{HOT_RUN_MAX, hot};
    use crate::{Config, testing};
    use block::Durability;
    use std::sync::Arc;
    use types::{BLOCK_SIZE, PackId, Pointer, SharedBlock};

    #[test]
    fn a_volume_takes_the_cache_of_its_blocks_and_not_of_their_versions() {
        const BLOCKS: u64 = 256;
        let config = Config {
            cache_bytes: 64 << 20,
            ..Config::small()
        };
        let (store, device, volume) = testing::volume(config);
        let mut cached = Vec::new();
        for version in 1..=40_u64 {
            for n in 0..BLOCKS {
                let mut data = [1; BLOCK_SIZE];
                data[..8].copy_from_slice(&(version << 32 | n).to_le_bytes());
                let offset = 2 * n * BLOCK_SIZE as u64;
                device.write(offset, &data, Durability::Volatile).unwrap();
            }
            while volume.destage_due(true).unwrap() {}
            cached.push(store.shared.packs.usage().block_bytes / BLOCK_SIZE as u64);
        }
        assert!(cached[0] >= BLOCKS, "{cached:?}");
        // A version falls into four or five of the cache's 64 shards, each of which keeps the room for it.
        assert!(cached[39] < 20 * BLOCKS, "{cached:?}");
    }

    #[test]
    fn long_runs_are_not_hot() {
        let long = 100..101 + HOT_RUN_MAX as u64;
        let indexes: Vec<u64> = [3, 7, 8].into_iter().chain(long).chain([900]).collect();
        let pointer = |n| Pointer::new(PackId(1), n as u16);
        let pointers: Vec<Pointer> = (0..indexes.len()).map(pointer).collect();
        let block: SharedBlock = Arc::new([0; BLOCK_SIZE]);
        let blocks = vec![block; indexes.len()];
        let hot: Vec<Pointer> = hot(&indexes, &pointers, blocks)
            .iter()
            .map(|one| one.0)
            .collect();
        assert_eq!(hot, [0, 1, 2, indexes.len() - 1].map(pointer));
    }
}
