//! A new volume from data that is all there: straight into packs, around head and journal.

use crate::{
    create::check_size,
    destage::note_of,
    error::Error,
    nodes::{Nodes, Sink},
    store::Store,
    volume::Rooted,
};
use catalog::{Change, Properties, SnapshotRecord, VolumeRecord};
use pack::{PackWriter, Written};
use std::sync::Arc;
use types::{
    Block, BlockIndex, Codec, Name, Pointer, Progress, SharedBlock, SnapshotId, is_zero_block,
};

/// Blocks after which the map is brought up to date: 1 GiB, 4 MiB of memory.
const BLOCKS_PER_UPDATE: usize = 1 << 18;

/// A volume that is being filled. Nothing of it is seen before [`finish`](Self::finish); dropped,
/// it leaves garbage for the next collection.
pub struct Ingest<'a> {
    store: &'a Store,
    name: Name,
    properties: Properties,
    writer: PackWriter,
    /// Protect what was written until a root refers to it.
    written: Vec<Written>,
    writes: Vec<(BlockIndex, Pointer)>,
    rooted: Rooted,
    snapshots: Vec<Taken>,
}

/// A snapshot that the volume will have.
struct Taken {
    name: Name,
    size: u64,
    created_ms: u64,
    rooted: Rooted,
}

impl Store {
    /// Begins to fill a new volume.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) if the name is taken.
    pub fn ingest(
        &self,
        name: &Name,
        dedup: Option<bool>,
        codec: Option<Codec>,
    ) -> Result<Ingest<'_>, Error> {
        self.check_free(name)?;
        let defaults = self.shared.catalog.settings()?.defaults;
        let properties = Properties {
            dedup: dedup.unwrap_or(defaults.dedup),
            codec: codec.unwrap_or(defaults.codec),
            read_only: false,
        };
        self.ingest_as(name, properties)
    }

    /// Begins to fill a volume of these properties; whether its name is free shows at the end.
    pub(crate) fn ingest_as(
        &self,
        name: &Name,
        properties: Properties,
    ) -> Result<Ingest<'_>, Error> {
        Ok(Ingest {
            store: self,
            name: name.clone(),
            properties,
            writer: self.shared.packs.writer(properties.codec, properties.dedup),
            written: Vec::new(),
            writes: Vec::new(),
            rooted: Rooted::EMPTY,
            snapshots: Vec::new(),
        })
    }
}

impl Ingest<'_> {
    /// Adds blocks, in ascending order of index over all calls; zero blocks become holes. Many at a time are
    /// hashed and compressed on all cores.
    ///
    /// # Errors
    /// [`NoSpace`](crate::ErrorKind::NoSpace), or if writing fails.
    pub fn write(&mut self, blocks: &[(BlockIndex, Arc<Block>)]) -> Result<(), Error> {
        let stored = || blocks.iter().filter(|(_, block)| !is_zero_block(block));
        let contents: Vec<SharedBlock> =
            stored().map(|(_, block)| Arc::clone(block) as _).collect();
        let budget = &self.store.shared.budget;
        budget.check_space(budget.dirty() + (contents.len() * types::BLOCK_SIZE) as u64)?;
        let pointers = self.writer.write_blocks(&contents)?;
        self.writes
            .extend(stored().map(|&(index, _)| index).zip(pointers));
        if self.writes.len() >= BLOCKS_PER_UPDATE {
            self.update()?;
            self.next_writer()
        } else {
            Ok(())
        }
    }

    fn update(&mut self) -> Result<(), Error> {
        let writes = std::mem::take(&mut self.writes);
        let nodes = Nodes(&self.store.shared.packs);
        let mut sink = Sink(&mut self.writer);
        let updated = blockmap::update(&nodes, &mut sink, self.rooted.root, &[], &writes)?;
        self.rooted.root = updated.root;
        self.rooted.mapped_blocks += updated.mapped - updated.unmapped;
        Ok(())
    }

    /// Makes what was written so far durable.
    fn next_writer(&mut self) -> Result<(), Error> {
        let shared = &self.store.shared;
        let fresh = shared
            .packs
            .writer(self.properties.codec, self.properties.dedup);
        self.written
            .push(std::mem::replace(&mut self.writer, fresh).finish()?);
        shared.update_space();
        Ok(())
    }

    /// Bytes that were stored so far: neither zeroes, nor what the store had already, nor what compression took off; but
    /// what does not fill a pack yet is not compressed.
    #[must_use]
    pub fn stored(&self) -> u64 {
        let before = self
            .written
            .iter()
            .map(|written| written.stats.bytes_stored);
        before.sum::<u64>() + self.writer.stored()
    }

    /// Whether blocks are looked for that the store has already.
    #[must_use]
    pub const fn dedup(&self) -> bool {
        self.properties.dedup
    }

    /// What was written becomes a snapshot of so many bytes, taken at `created_ms`. What is written from now on is another
    /// state, all of it, from the first block on: of what it has in common with others deduplication finds.
    ///
    /// # Errors
    /// [`Invalid`](crate::ErrorKind::Invalid) for an impossible size, or if writing fails.
    pub fn snapshot(&mut self, name: Name, size: u64, created_ms: u64) -> Result<(), Error> {
        check_size(size)?;
        self.update()?;
        self.next_writer()?;
        let rooted = std::mem::replace(&mut self.rooted, Rooted::EMPTY);
        self.snapshots.push(Taken {
            name,
            size,
            created_ms,
            rooted,
        });
        Ok(())
    }

    /// The volume is there with its snapshots, durable, with so many bytes. `progress` learns what was stored in all.
    ///
    /// # Errors
    /// As [`Store::create_volume`].
    pub fn finish(self, size: u64, progress: &dyn Progress) -> Result<VolumeRecord, Error> {
        Ok(Self::finish_all(vec![(self, size)], progress)?.remove(0))
    }

    /// Volumes of one store, each with so many bytes: all of them are there, or none. There is at least one.
    /// `progress` learns what was stored in all.
    ///
    /// # Errors
    /// As [`Store::create_volume`].
    pub fn finish_all(
        mut ingests: Vec<(Self, u64)>,
        progress: &dyn Progress,
    ) -> Result<Vec<VolumeRecord>, Error> {
        let (mut records, mut snapshots) = (Vec::new(), Vec::new());
        for (ingest, size) in &mut ingests {
            let record = ingest.complete(*size, None)?;
            snapshots.extend(ingest.snapshot_records(&record)?);
            records.push(record);
        }
        let Some((first, _)) = ingests.first() else {
            return Ok(records);
        };
        progress.stored(ingests.iter().map(|(ingest, _)| ingest.stored()).sum());
        let _roots = first.store.shared.roots.read();
        let inserted = first.store.insert_all(records, snapshots);
        drop(ingests);
        inserted
    }

    fn snapshot_records(&mut self, volume: &VolumeRecord) -> Result<Vec<SnapshotRecord>, Error> {
        let taken = std::mem::take(&mut self.snapshots);
        let shared = &self.store.shared;
        let first = shared.ids.snapshots(&*shared.catalog, taken.len() as u64)?;
        let records = taken.into_iter().zip(first..);
        let records = records.map(|(taken, id)| SnapshotRecord {
            id: SnapshotId(id),
            version: 0,
            volume: volume.id,
            name: taken.name,
            size: taken.size,
            generation: volume.destaged,
            root: Some(taken.rooted.root),
            mapped_blocks: taken.rooted.mapped_blocks,
            created_ms: taken.created_ms,
            vhost_queues: 0,
            group: None,
            scheduled: false,
            submits: 0,
        });
        Ok(records.collect())
    }

    /// As [`finish`](Self::finish), in the place of `old`, which is forgotten in the same commit.
    ///
    /// # Errors
    /// [`Conflict`](crate::ErrorKind::Conflict) if `old` was changed meanwhile.
    pub fn finish_in_place_of(mut self, old: &VolumeRecord) -> Result<VolumeRecord, Error> {
        let record = self.complete(old.size, old.origin.clone())?;
        let record = VolumeRecord {
            created_ms: old.created_ms,
            independent: old.independent,
            ..record
        };
        let shared = &self.store.shared;
        let _roots = shared.roots.read();
        let (id, version) = (old.id, old.version);
        let changes = [
            Change::RemoveVolume { id, version },
            Change::PutVolume(record.clone()),
        ];
        shared.catalog.commit(&changes)?;
        shared.volumes.lock().remove(&old.id);
        drop(self.written);
        Ok(VolumeRecord {
            version: 1,
            ..record
        })
    }

    /// Makes all of it durable; answers the record that it will have.
    fn complete(&mut self, size: u64, origin: Option<String>) -> Result<VolumeRecord, Error> {
        self.update()?;
        let (name, properties) = (self.name.clone(), self.properties);
        let record = self
            .store
            .new_record(name, size, properties, self.rooted.clone(), origin)?;
        self.writer.note(&note_of(&record));
        self.next_writer()?;
        Ok(record)
    }
}
