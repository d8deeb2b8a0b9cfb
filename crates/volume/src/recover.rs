//! What a crash left: in the journal, and, if the machine lives, in the write buffer.

use crate::{
    error::Error,
    layer::Layer,
    store::Shared,
    volume::{Volume, Wanted},
};
use catalog::{Change, VolumeRecord};
use journal::Replayed;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};
use types::{Epoch, Generation, VolumeId};
use write_buffer::{Survivor, What, WriteBuffer};

/// Generations that were flushed but not destaged, as they are read from the journal.
pub(crate) struct Recovered {
    volumes: BTreeMap<VolumeId, (VolumeRecord, BTreeMap<Generation, Layer>)>,
    stale: Vec<(VolumeId, Generation)>,
    survived: BTreeSet<Epoch>,
}

impl Recovered {
    pub(crate) fn new(records: Vec<VolumeRecord>) -> Self {
        let volumes = records
            .into_iter()
            .map(|r| (r.id, (r, BTreeMap::new())))
            .collect();
        Recovered {
            volumes,
            stale: Vec::new(),
            survived: BTreeSet::new(),
        }
    }

    /// One submit: what is in packs already, or belongs to no volume any more, is left out.
    pub(crate) fn replay(&mut self, replayed: Replayed) {
        let Some((record, layers)) = self.volumes.get_mut(&replayed.volume) else {
            self.stale.push((replayed.volume, Generation(u64::MAX)));
            return;
        };
        for batch in replayed.batches {
            if batch.generation <= record.destaged {
                continue;
            }
            let layer = layers
                .entry(batch.generation)
                .or_insert_with(|| Layer::new(batch.generation));
            layer.replay(
                batch
                    .zeroes
                    .into_iter()
                    .map(|(start, count)| start.0..start.0 + count),
                batch
                    .blocks
                    .into_iter()
                    .map(|(index, block)| (index.0, block)),
            );
        }
    }

    /// What a process that died had written, in the order in which it did. The journal's records of a generation are
    /// part of that. The journal is told again: what it has is not known block by block.
    pub(crate) fn overlay(&mut self, buffer: &WriteBuffer, survivors: Vec<Survivor>) {
        for survivor in survivors {
            let Some((record, layers)) = self.volumes.get_mut(&survivor.volume) else {
                continue;
            };
            let number = survivor.generation;
            if number <= record.destaged || !buffer.knows(record.epoch) {
                continue;
            }
            self.survived.insert(record.epoch);
            let layer = layers.entry(number).or_insert_with(|| Layer::new(number));
            match survivor.what {
                What::Wrote(index, block) => layer.insert(index.0, block),
                What::Zeroed(range, page) => layer.zero_again(range, &page),
            }
        }
    }

    /// Under which epochs what the write buffer had was written.
    pub(crate) fn survived(&self) -> impl Iterator<Item = Epoch> + '_ {
        self.survived.iter().copied()
    }

    /// Brings volumes with such generations into use, and tells the journal what it need not keep.
    pub(crate) fn finish(self, shared: &Arc<Shared>) -> Result<(), Error> {
        for (volume, generation) in self.stale {
            shared.journal.destaged(volume, generation);
        }
        for (id, (record, layers)) in self.volumes {
            shared.journal.destaged(id, record.destaged);
            let layers: Vec<Layer> = layers.into_values().filter(|l| !l.is_empty()).collect();
            let waiting = shared
                .catalog
                .snapshots(id)?
                .into_iter()
                .filter(|s| s.root.is_none());
            let waiting: Vec<_> = waiting.collect();
            if layers.is_empty() && waiting.is_empty() {
                continue;
            }
            tracing::info!(volume = %record.name, generations = layers.len(), "recovered what was not in packs");
            let volume = shared.adopt(record, layers)?;
            for snapshot in waiting {
                volume.expect_snapshot(snapshot)?;
            }
            shared.volumes.lock().insert(id, volume);
        }
        Ok(())
    }
}

impl Volume {
    /// A snapshot of the catalog that waits for its root: the layers that it needs will give it one.
    fn expect_snapshot(&self, mut snapshot: catalog::SnapshotRecord) -> Result<(), Error> {
        let mut committed = self.record.lock();
        let needs = |number: Generation| number <= snapshot.generation;
        if self
            .state
            .read()
            .frozen
            .front()
            .is_some_and(|f| needs(f.layer.number))
        {
            let wanted = committed.wanted.entry(snapshot.generation).or_default();
            wanted.push(Wanted::Snapshot(snapshot));
            return Ok(());
        }
        snapshot.root = Some(committed.record.root);
        snapshot.mapped_blocks = committed.record.mapped_blocks;
        self.shared
            .catalog
            .commit(&[Change::PutSnapshot(snapshot)])?;
        Ok(())
    }
}
