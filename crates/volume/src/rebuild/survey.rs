//! What packs and journal know of volumes.

use crate::{
    config::Config, error::Error, manifest::Manifest, open::journal_config, store::blocks,
};
use brick_local::LocalBrick;
use env::Env;
use format::RootNote;
use gc::OwnedRoot;
use journal::After;
use pack::{LiveBits, PackStore, ReserveIds};
use std::{collections::BTreeMap, path::Path, sync::Arc};
use types::{
    BLOCK_SIZE, BlockIndex, Epoch, Generation, JournalSeq, NoProgress, PackId, Root, SharedBlock,
    VolumeId,
};

/// What is known besides the catalog and its copy.
#[derive(Default)]
pub(super) struct Known {
    /// Root notes of each volume, in the order in which they were written.
    pub(super) notes: BTreeMap<VolumeId, Vec<RootNote>>,
    /// The highest id of a pack.
    pub(super) last_pack: u64,
    /// The generations that the journal has something of.
    pub(super) journal: BTreeMap<VolumeId, BTreeMap<Generation, Logged>>,
    /// The highest epoch of a writer.
    pub(super) epoch: Epoch,
}

/// What the journal has of a generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Logged {
    /// What comes before; `Same` if the beginning is not there.
    pub(super) after: After,
    /// Where the last block ends that there is data for, in bytes.
    pub(super) end: u64,
}

/// Reads the header of every pack, and the journal.
pub(super) fn survey(
    env: &Env,
    dir: &Path,
    manifest: &Manifest,
    config: &Config,
) -> Result<(Known, Arc<PackStore>), Error> {
    let brick = Arc::new(LocalBrick::open(env.clone(), &dir.join("brick"))?);
    let nobody_writes: ReserveIds = Box::new(|_| {
        let what = "reserving pack ids while there is no catalog";
        Err(pack::Error::new(pack::ErrorKind::Io, what))
    });
    let cache = config.cache_bytes;
    let packs = pack::Config {
        block_cache_bytes: cache / 4,
        node_cache_bytes: cache / 4,
        header_cache_bytes: cache / 4,
        index_bytes: 0,
    };
    let (id, key) = (manifest.id, manifest.hash_key);
    let packs = PackStore::new(brick, id, key, Epoch(0), nobody_writes, packs);
    let mut known = Known::default();
    for stat in packs.list()? {
        known.note_pack(&packs, stat.pack)?;
    }
    known.read_journal(env, dir, manifest, config)?;
    Ok((known, packs))
}

/// What was not given up of packs that were looked at; none if a header cannot be read.
type Live = BTreeMap<PackId, Option<LiveBits>>;

/// What can be had of a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    /// Everything.
    Whole,
    /// The map, not all blocks.
    Map,
    /// Not the whole map.
    Parts,
}

/// Walks the map of a root, and looks whether what it refers to is there.
pub(super) fn reach(packs: &PackStore, seen: &mut Live, root: Root, size: u64) -> Reach {
    let owned = OwnedRoot {
        root,
        size_blocks: blocks(size),
        owner: String::new(),
    };
    let Ok(marks) = gc::mark(packs, &[owned], &NoProgress) else {
        return Reach::Parts;
    };
    let whole = marks.packs().into_iter().all(|pack| {
        let look = || packs.info(pack).ok().map(|info| info.live);
        let live = seen.entry(pack).or_insert_with(look);
        let needed = marks.live(pack);
        live.is_some_and(|live| needed.intersection(&live) == needed)
    });
    if whole { Reach::Whole } else { Reach::Map }
}

fn end_of((block, _): &(BlockIndex, SharedBlock)) -> u64 {
    block.0.saturating_add(1).saturating_mul(BLOCK_SIZE as u64)
}

impl Known {
    fn note_pack(&mut self, packs: &PackStore, pack: PackId) -> Result<(), Error> {
        self.last_pack = self.last_pack.max(pack.0);
        match packs.note(pack) {
            Ok(Some(note)) => {
                self.epoch = self.epoch.max(note.epoch);
                self.last_pack = self.last_pack.max(note.root.pointer.pack().0);
                self.notes.entry(note.volume).or_default().push(note);
            }
            Ok(None) => {}
            Err(e) if matches!(e.kind(), pack::ErrorKind::Io) => return Err(e.into()),
            Err(error) => tracing::warn!(%error, "a pack whose note, if it has one, is not known"),
        }
        Ok(())
    }

    fn read_journal(
        &mut self,
        env: &Env,
        dir: &Path,
        manifest: &Manifest,
        config: &Config,
    ) -> Result<(), Error> {
        let read = journal::Journal::open(
            env,
            &dir.join("journal"),
            manifest.id,
            journal_config(config),
            JournalSeq(0),
            &mut |replayed| {
                self.epoch = self.epoch.max(replayed.epoch);
                let generations = self.journal.entry(replayed.volume).or_default();
                for batch in &replayed.batches {
                    let new = Logged {
                        after: batch.after,
                        end: 0,
                    };
                    let logged = generations.entry(batch.generation).or_insert(new);
                    logged.end = batch.blocks.iter().map(end_of).fold(logged.end, u64::max);
                }
                Ok(())
            },
        );
        match read {
            Ok(_) => Ok(()),
            // It is refused when the store is opened, and then has a repair of its own.
            Err(e) if e.kind() == journal::ErrorKind::Corrupt => {
                tracing::warn!(error = %e, "the journal is damaged");
                Ok(())
            }
            Err(e) => Err(e.into()),
        }
    }
}
