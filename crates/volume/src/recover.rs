//! What a crash left: in the journal, and, if the machine lives, in the write buffer.

use crate::{
    error::Error,
    follow::Followed,
    layer::{Layer, Log},
    store::Shared,
    volume::{Volume, Wanted},
};
use catalog::{Catalog, Change, SnapshotRecord, VolumeRecord};
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
    followed: Followed,
    stale: Vec<(VolumeId, Generation)>,
    survived: BTreeSet<Epoch>,
}

impl Recovered {
    pub(crate) fn new(records: Vec<VolumeRecord>) -> Self {
        let followed = Followed::new(&records, None);
        let volumes = records
            .into_iter()
            .map(|r| (r.id, (r, BTreeMap::new())))
            .collect();
        Recovered {
            volumes,
            followed,
            stale: Vec::new(),
            survived: BTreeSet::new(),
        }
    }

    /// One submit: what is in packs already, or belongs to no volume any more, is left out; so is what follows on
    /// something that is missing.
    pub(crate) fn replay(&mut self, replayed: Replayed) {
        let Some((record, layers)) = self.volumes.get_mut(&replayed.volume) else {
            self.stale.push((replayed.volume, Generation(u64::MAX)));
            return;
        };
        if !self.followed.takes(&replayed) {
            return;
        }
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

    /// What was flushed and is not there any more, as far as that can be told: a submit says which one it follows; in a
    /// volume's history a generation follows the one that was destaged last, and each other, and a snapshot that has no
    /// root yet is of one of them, and says how many submits have something of it.
    pub(crate) fn gaps(&self, catalog: &dyn Catalog) -> Result<Vec<Gap>, Error> {
        let mut gaps = Vec::new();
        for (id, (record, layers)) in &self.volumes {
            let mut snapshots = catalog.snapshots(*id)?;
            snapshots.retain(|snapshot| snapshot.root.is_none());
            let in_order = last_in_order(record.destaged, layers);
            let short = snapshots.iter().filter(|snapshot| lacks(layers, snapshot));
            let short = short.map(|snapshot| snapshot.generation).min();
            let last = short.unwrap_or(in_order).min(in_order);
            let newest = layers.keys().next_back().copied();
            let out_of_order = newest.filter(|newest| *newest > last);
            let left_out = self.followed.left_out(*id);
            snapshots.retain(|snapshot| snapshot.generation > last || lacks(layers, snapshot));
            let gap = Gap {
                volume: *id,
                owner: owner_of(record),
                last,
                short: short == Some(last),
                found: out_of_order.max(left_out),
                snapshots,
            };
            if gap.found.is_some() || !gap.snapshots.is_empty() {
                gaps.push(gap);
            }
        }
        gaps.sort_by_key(|gap| gap.volume);
        Ok(gaps)
    }

    /// Leaves out what follows gaps. Snapshots that need it become snapshots of what came before: they are no longer of
    /// the instant of a group.
    pub(crate) fn forget_after(
        &mut self,
        gaps: &[Gap],
        catalog: &dyn Catalog,
    ) -> Result<(), Error> {
        let mut changes = Vec::new();
        for gap in gaps {
            let mut submits = 0;
            if let Some((_, layers)) = self.volumes.get_mut(&gap.volume) {
                layers.retain(|number, _| *number <= gap.last);
                let last = layers.get(&gap.last);
                submits = last.map_or(0, |layer| layer.log().submits_in_all());
            }
            changes.extend(gap.snapshots.iter().cloned().map(|snapshot| {
                Change::PutSnapshot(SnapshotRecord {
                    generation: gap.last,
                    submits,
                    group: None,
                    ..snapshot
                })
            }));
        }
        Ok(catalog.commit(&changes)?)
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

/// Flushes of a volume that are lost.
pub(crate) struct Gap {
    pub(crate) volume: VolumeId,
    pub(crate) owner: String,
    /// The last generation that is there with all before it.
    pub(crate) last: Generation,
    /// Of that one only the beginning is there.
    pub(crate) short: bool,
    /// The newest generation that is there, of what is left out.
    pub(crate) found: Option<Generation>,
    /// Those that need what is not there.
    pub(crate) snapshots: Vec<SnapshotRecord>,
}

impl Gap {
    /// What is known of the loss, in a sentence.
    pub(crate) fn what(&self) -> String {
        let of = if self.short {
            "a flush of"
        } else {
            "what was flushed after"
        };
        format!("{of} generation {} is lost", self.last)
    }
}

impl std::fmt::Display for Gap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "'{}': {}", self.owner, self.what())?;
        for snapshot in &self.snapshots {
            write!(f, ", and the snapshot '{}' needs it", snapshot.name)?;
        }
        Ok(())
    }
}

fn last_in_order(destaged: Generation, layers: &BTreeMap<Generation, Layer>) -> Generation {
    let mut last = destaged;
    for &number in layers.keys() {
        if number != last.next() {
            break;
        }
        last = number;
    }
    last
}

/// Whether submits that a snapshot needs are lost. All of a generation is written by one process: if anything of it is in
/// a write buffer, all of it is, and the journal is told again.
fn lacks(layers: &BTreeMap<Generation, Layer>, snapshot: &SnapshotRecord) -> bool {
    let log = layers.get(&snapshot.generation).map(Layer::log);
    log.is_some_and(|log| log.submits() < snapshot.submits && log.is_empty())
}

/// What a volume is called in reports.
pub(crate) fn owner_of(record: &VolumeRecord) -> String {
    match record.trashed {
        None => record.name.to_string(),
        Some(_) => format!("trash:{}", record.id),
    }
}

impl Volume {
    /// A snapshot of the catalog that waits for its root: the layers that it needs will give it one.
    fn expect_snapshot(&self, mut snapshot: SnapshotRecord) -> Result<(), Error> {
        let mut committed = self.record.lock();
        let (waits, submits) = {
            let state = self.state.read();
            let oldest = state.frozen.front().map(|frozen| frozen.layer.number);
            let log = state.log_of(snapshot.generation);
            let waits = oldest.is_some_and(|oldest| oldest <= snapshot.generation);
            (waits, log.map_or(0, Log::submits_in_all))
        };
        if waits {
            if submits < snapshot.submits {
                // The journal had lost some, and the write buffer had what they logged.
                snapshot.submits = submits;
                let change = Change::PutSnapshot(snapshot.clone());
                self.shared.catalog.commit(&[change])?;
                snapshot.version += 1;
            }
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
