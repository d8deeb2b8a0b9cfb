//! What has changed since a snapshot, as block devices tell it: ranges are asked for one by one, of a state that does
//! not change or of one that does.

use crate::{
    below::Below,
    device::{clip, overlay},
    error::Error,
    nodes::Nodes,
    store::{PinnedRoot, Shared, Store, blocks},
    volume::Volume,
};
use block::{Bitmap, BlockDevice, Error as BlockError, Run, check_range};
use std::sync::Arc;
use types::{BLOCK_SIZE, VolumeRef};

impl Store {
    /// What has changed in a volume, or a snapshot, since another. Of a volume it is what has changed when it is asked
    /// for; what is in memory counts as changed whatever it holds. Removing `since` meanwhile changes nothing.
    ///
    /// # Errors
    /// If there is none of such a name, or what they hold cannot be destaged; [`Refused`](crate::ErrorKind::Refused) while the volume is
    /// imported.
    pub fn bitmap(&self, of: &VolumeRef, since: &VolumeRef) -> Result<Arc<dyn Bitmap>, Error> {
        let since_ref = since;
        let since = self.pinned(since_ref, "bitmap of")?;
        refuse_filling(since_ref, since.below.as_ref())?;
        if of.snapshot.is_none() {
            let volume = self.shared.by_name(&of.volume)?;
            refuse_filling(of, volume.state.read().base.below.as_ref())?;
            return Ok(Arc::new(OfVolume { volume, since }));
        }
        let pinned = self.pinned(of, "bitmap of")?;
        refuse_filling(of, pinned.below.as_ref())?;
        Ok(self.changes(Arc::new(pinned), since))
    }

    /// Opens a snapshot, or a volume as it is now, to read, together with what has changed in it since another. What is
    /// written later is in neither.
    ///
    /// # Errors
    /// As [`bitmap`](Self::bitmap).
    pub fn difference(&self, of: &VolumeRef, since: &VolumeRef) -> Result<Difference, Error> {
        let pinned_since = self.pinned(since, "bitmap of")?;
        refuse_filling(since, pinned_since.below.as_ref())?;
        let pinned = Arc::new(self.pinned(of, "reader of")?);
        refuse_filling(of, pinned.below.as_ref())?;
        Ok(Difference {
            device: self.reader(of, Arc::clone(&pinned))?,
            since_size: pinned_since.size,
            changed: self.changes(pinned, pinned_since),
        })
    }

    fn changes(&self, of: Arc<PinnedRoot>, since: PinnedRoot) -> Arc<dyn Bitmap> {
        let shared = Arc::clone(&self.shared);
        Arc::new(OfSnapshot { shared, of, since })
    }
}

/// A state that does not change, and how it differs from another.
pub struct Difference {
    /// All of it.
    pub device: Arc<dyn BlockDevice>,
    /// Where it differs.
    pub changed: Arc<dyn Bitmap>,
    /// Bytes of the other one. What this one has beyond has changed where it is not a hole.
    pub since_size: u64,
}

/// What is a hole now may not be one later, and still have the same contents: it is told when that is over.
fn refuse_filling(of: &VolumeRef, below: Option<&Below>) -> Result<(), Error> {
    match below {
        None => Ok(()),
        Some(below) => Err(below.refuse(&of.volume, "what has changed is told when that is done")),
    }
}

/// Of a volume as it is when asked.
struct OfVolume {
    volume: Arc<Volume>,
    since: PinnedRoot,
}

impl Bitmap for OfVolume {
    fn changed(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, BlockError> {
        check_range("bitmap", offset, len, self.volume.size())?;
        let changed = self.look(offset, len, max);
        changed.map_err(|e| failed(&self.volume.name.lock().to_string(), e))
    }
}

impl OfVolume {
    fn look(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, Error> {
        let shared = &self.volume.shared;
        let _pass = shared.gate.enter();
        let (first, end) = (offset / BLOCK_SIZE as u64, blocks(offset + len));
        let painted = self.volume.paint(first, end)?;
        let limit = if painted.kinds.is_empty() {
            max
        } else {
            usize::MAX
        };
        let (nodes, since) = (Nodes(&shared.packs), self.since.root);
        let mapped =
            blockmap::changes(&nodes, since, painted.base.root, first..painted.end, limit)?;
        let runs = overlay(mapped, &painted.kinds, |changed, kind| {
            changed || kind.is_some()
        });
        Ok(as_runs(&clip(runs, offset, len, max)))
    }
}

/// Of a snapshot.
struct OfSnapshot {
    shared: Arc<Shared>,
    of: Arc<PinnedRoot>,
    since: PinnedRoot,
}

impl Bitmap for OfSnapshot {
    fn changed(&self, offset: u64, len: u64, max: usize) -> Result<Vec<Run>, BlockError> {
        check_range("bitmap", offset, len, self.of.size)?;
        let range = offset / BLOCK_SIZE as u64..blocks(offset + len);
        let nodes = Nodes(&self.shared.packs);
        let runs = blockmap::changes(&nodes, self.since.root, self.of.root, range, max);
        let runs = runs.map_err(|e| failed("a snapshot", e.into()))?;
        Ok(as_runs(&clip(runs, offset, len, max)))
    }
}

fn as_runs(runs: &[(u64, bool)]) -> Vec<Run> {
    let run = |&(len, changed): &(u64, bool)| Run { len, changed };
    runs.iter().map(run).collect()
}

fn failed(of: &str, error: Error) -> BlockError {
    tracing::error!(volume = of, ?error, "what has changed cannot be told");
    error.into_block("bitmap")
}
