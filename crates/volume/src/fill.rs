//! How a volume that is imported while it is used gets what it does not have yet.
//!
//! ```text
//!  image ─ read, hash, compress ─▶ packs ─▶ the volume's root and its snapshots', where they have holes ─▶ one commit
//!          (no locks)                       (manage, destage, record)
//! ```
//! What is filled lies below everything that was written: in the roots, under the layers, and only where there is a hole. So it
//! is never in the way of a write, whenever that was; the journal, generations and dirty data know nothing of it. A crash
//! leaves garbage, and the place in the image that the last commit noted.

use crate::{
    below::{Below, WINDOW},
    destage::note_of,
    error::{Error, ErrorKind},
    nodes::Nodes,
    store::Store,
    volume::{Base, Volume},
};
use blockmap::Updated;
use catalog::{Change, ImageSource, SnapshotRecord, VolumeRecord};
use pack::{PackWriter, Written};
use std::{collections::BTreeMap, ops::Range, sync::Arc};
use types::{
    BLOCK_SIZE, Block, BlockIndex, Name, Pointer, Progress, Root, SharedBlock, VolumeId,
    is_zero_block,
};

const BLOCK: u64 = BLOCK_SIZE as u64;
/// Blocks that are read and written together: 4 MiB.
const PIECE: u64 = 1024;

/// How far an import is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filled {
    /// Bytes of the image's disk that the store has, or need not have.
    pub done: u64,
    /// Bytes of the image's disk.
    pub total: u64,
}

impl Filled {
    /// Whether the image is not needed any more.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.done == self.total
    }
}

/// A part of an image that is in packs and that no root refers to yet.
struct Part {
    below: Below,
    writes: Vec<(BlockIndex, Pointer)>,
    /// The byte up to which it goes.
    end: u64,
    /// Protects the packs until then.
    written: Written,
}

/// Roots of before and of after, with how many blocks more those map.
type Patched = BTreeMap<(Pointer, u8), (Root, u64)>;

impl Store {
    /// Brings the next part of the image that a volume is imported from into the store: so much of what is not zero, bytes, and
    /// what is zero before and between. Nothing that is written meanwhile is lost, and all snapshots are filled along. Progress is in
    /// bytes of the image's disk.
    ///
    /// # Errors
    /// Those of the image, [`NoSpace`](crate::ErrorKind::NoSpace), [`Cancelled`](crate::ErrorKind::Cancelled), also if it is
    /// [paused](Self::pause_import): the volume goes on being read from the image.
    pub fn fill(&self, id: VolumeId, bytes: u64, progress: &dyn Progress) -> Result<Filled, Error> {
        let volume = self.shared.volume(id)?;
        let below = {
            let committed = volume.record.lock();
            refuse_paused(&committed.record)?;
            committed.below.clone()
        };
        let Some(below) = below else {
            return Ok(Filled { done: 0, total: 0 });
        };
        let part = volume.copy_part(below, (bytes / BLOCK).max(1), progress)?;
        let filled = Filled {
            done: part.end,
            total: part.below.size(),
        };
        volume.commit_part(&part)?;
        self.shared.update_space();
        if filled.is_finished() {
            tracing::info!(volume = %*volume.name.lock(), bytes = filled.total, "imported");
        }
        Ok(filled)
    }

    /// Has the import of a volume that is used meanwhile wait, or go on: nothing comes into the store while it is paused, over
    /// restarts too. What is under way and not in the store when this returns is done again later.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if it is not being imported.
    pub fn pause_import(&self, name: &Name, paused: bool) -> Result<VolumeRecord, Error> {
        let volume = self.shared.volume(self.shared.find(name)?.id)?;
        let _managing = volume.manage.lock();
        volume.state.read().check_open()?;
        let mut committed = volume.record.lock();
        let mut record = committed.record.clone();
        let Some(source) = &mut record.source else {
            let message = format!("'{name}' is not being imported: all of it is in the store");
            return Err(Error::new(ErrorKind::Refused, message));
        };
        if source.paused != paused {
            source.paused = paused;
            volume.commit_record(&mut committed, record)?;
        }
        Ok(committed.record.clone())
    }
}

fn refuse_paused(record: &VolumeRecord) -> Result<(), Error> {
    match &record.source {
        Some(source) if source.paused => {
            let message = format!("the import of '{}' is paused", record.name);
            Err(Error::new(ErrorKind::Cancelled, message))
        }
        _ => Ok(()),
    }
}

impl Volume {
    /// Writes the next data, at least so many blocks if there are, into packs.
    fn copy_part(&self, below: Below, most: u64, progress: &dyn Progress) -> Result<Part, Error> {
        let properties = self.record.lock().record.properties;
        let mut writer = self.shared.packs.writer(properties.codec, properties.dedup);
        let mut writes = Vec::new();
        let end = below.size().div_ceil(BLOCK);
        let mut at = below.filled() / BLOCK;
        while at < end && (writes.len() as u64) < most {
            let window = at..end.min(at + WINDOW);
            at = window.end;
            for piece in below.data(window)?.into_iter().flat_map(pieces) {
                if writes.len() as u64 >= most {
                    at = piece.start;
                    break;
                }
                self.copy_piece(&below, piece.clone(), &mut writer, &mut writes)?;
                progress.report((piece.end * BLOCK).min(below.size()), below.size())?;
            }
            progress.report((at * BLOCK).min(below.size()), below.size())?;
        }
        Ok(Part {
            end: (at * BLOCK).min(below.size()),
            below,
            writes,
            written: writer.finish()?,
        })
    }

    fn copy_piece(
        &self,
        below: &Below,
        piece: Range<u64>,
        writer: &mut PackWriter,
        writes: &mut Vec<(BlockIndex, Pointer)>,
    ) -> Result<(), Error> {
        self.shared.check_hurry()?;
        let mut bytes = vec![0; (piece.end - piece.start) as usize * BLOCK_SIZE];
        below.read_at(piece.start * BLOCK, &mut bytes)?;
        let (blocks, _) = bytes.as_chunks::<BLOCK_SIZE>();
        let stored = || {
            let all = piece.clone().zip(blocks);
            all.filter(|(_, block): &(u64, &Block)| !is_zero_block(block))
        };
        let contents: Vec<SharedBlock> = stored().map(|(_, b)| Arc::new(*b) as _).collect();
        let budget = &self.shared.budget;
        budget.check_space(budget.dirty() + (contents.len() * BLOCK_SIZE) as u64)?;
        let pointers = writer.write_blocks(&contents)?;
        let indexes = stored().map(|(index, _)| BlockIndex(index));
        writes.extend(indexes.zip(pointers));
        Ok(())
    }

    /// Makes a part that of the volume and of all its snapshots. Nobody takes one meanwhile, and no root moves.
    fn commit_part(&self, part: &Part) -> Result<(), Error> {
        let _managing = self.manage.lock();
        let _destaging = self.destage.lock();
        self.state.read().check_open()?;
        let mut record = self.record.lock().record.clone();
        refuse_paused(&record)?;
        let mut snapshots = self.shared.catalog.snapshots(self.id)?;
        // The others get theirs from the volume's, later.
        snapshots.retain(|snapshot| snapshot.root.is_some());
        let below = part
            .below
            .filled_to(part.end, part.written.stats.bytes_stored);
        record.source = below.as_ref().map(Below::record);
        let written = self.patch_roots(&part.writes, &mut record, &mut snapshots)?;
        let mut committed = self.record.lock();
        let mut changes = vec![Change::PutVolume(record.clone())];
        changes.extend(snapshots.into_iter().map(Change::PutSnapshot));
        self.shared.catalog.commit(&changes)?;
        let base = Base {
            root: record.root,
            below: below.clone(),
        };
        self.set_record(&mut committed, record);
        committed.below = below;
        let mut state = self.state.write();
        state.base = base;
        state.version += 1;
        drop(state);
        drop(committed);
        drop(written);
        Ok(())
    }

    /// Gives new roots to what has holes there; they are durable then.
    fn patch_roots(
        &self,
        writes: &[(BlockIndex, Pointer)],
        record: &mut VolumeRecord,
        snapshots: &mut [SnapshotRecord],
    ) -> Result<Written, Error> {
        let properties = record.properties;
        let mut writer = self.shared.packs.writer(properties.codec, properties.dedup);
        let mut patched = Patched::new();
        let mut patch = |root: &mut Root, mapped_blocks: &mut u64| {
            let (new, more) = self.patch(&mut writer, &mut patched, *root, writes)?;
            *root = new;
            *mapped_blocks += more;
            Ok::<_, Error>(())
        };
        patch(&mut record.root, &mut record.mapped_blocks)?;
        for snapshot in snapshots {
            if let Some(root) = &mut snapshot.root {
                patch(root, &mut snapshot.mapped_blocks)?;
            }
        }
        writer.note(&note_of(record));
        Ok(writer.finish()?)
    }

    fn patch(
        &self,
        writer: &mut PackWriter,
        patched: &mut Patched,
        root: Root,
        writes: &[(BlockIndex, Pointer)],
    ) -> Result<(Root, u64), Error> {
        let key = (root.pointer, root.height);
        if let Some(&known) = patched.get(&key) {
            return Ok(known);
        }
        let mut sum = Updated {
            root,
            mapped: 0,
            unmapped: 0,
            replaced: Vec::new(),
        };
        self.add_writes(writer, &mut sum, &self.holes(root, writes)?)?;
        let new = (sum.root, sum.mapped);
        patched.insert(key, new);
        Ok(new)
    }

    /// Those of the writes where a root has holes.
    fn holes(
        &self,
        root: Root,
        writes: &[(BlockIndex, Pointer)],
    ) -> Result<Vec<(BlockIndex, Pointer)>, Error> {
        let nodes = Nodes(&self.shared.packs);
        let mut holes = Vec::new();
        for run in writes.chunk_by(|a, b| a.0.0 + 1 == b.0.0) {
            let mut there = vec![Pointer::HOLE; run.len()];
            blockmap::lookup_run(&nodes, root, run[0].0, &mut there)?;
            let missing = run.iter().zip(there).filter(|(_, there)| there.is_hole());
            holes.extend(missing.map(|(write, _)| *write));
        }
        Ok(holes)
    }
}

fn pieces(data: Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let end = data.end;
    data.step_by(PIECE as usize)
        .map(move |start| start..end.min(start + PIECE))
}

impl Store {
    /// What a volume has before anything of its image is in the store.
    pub(crate) fn rooted_in(
        &self,
        image: &ImageSource,
        size: u64,
    ) -> Result<crate::volume::Rooted, Error> {
        if image.size > size {
            let message = format!("the image has {} bytes, more than {size}", image.size);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        Ok(crate::volume::Rooted {
            below: Some(Below::new(image.clone(), self.shared.config.images.clone())),
            ..crate::volume::Rooted::EMPTY
        })
    }
}
