//! Whether what the journal has of a volume is all there: each submit says which one of its volume it comes after.
//!
//! So damage to the journal costs flushes of those volumes alone of which something is missing, and each of them keeps
//! all of its own submits before that.

use catalog::VolumeRecord;
use journal::{Before, Replayed};
use std::collections::BTreeMap;
use types::{Generation, JournalSeq, VolumeId};

/// Submits in their order, as far as each follows on the ones before it.
pub(crate) struct Followed {
    destaged: BTreeMap<VolumeId, Generation>,
    /// The last submit of each that was taken, and the newest generation up to it.
    last: BTreeMap<VolumeId, (JournalSeq, Generation)>,
    /// From this seq on records are missing, so that one that does not say what it comes after is not taken.
    missing_from: Option<JournalSeq>,
    left_out: BTreeMap<VolumeId, Generation>,
}

impl Followed {
    pub(crate) fn new(records: &[VolumeRecord], missing_from: Option<JournalSeq>) -> Self {
        Followed {
            destaged: records.iter().map(|r| (r.id, r.destaged)).collect(),
            last: BTreeMap::new(),
            missing_from,
            left_out: BTreeMap::new(),
        }
    }

    /// Whether all that comes before this submit was taken, or is in packs. If not, nothing later of the volume is
    /// taken either.
    pub(crate) fn takes(&mut self, submit: &Replayed) -> bool {
        let volume = submit.volume;
        let takes = match submit.before {
            Before::Packs => true,
            Before::Submit(seq, newest) => {
                self.last(volume) == Some(seq) || self.in_packs(volume, newest)
            }
            Before::Unknown => self.missing_from.is_none_or(|from| submit.seq < from),
        };
        let newest = submit.batches.iter().map(|batch| batch.generation).max();
        let newest = newest.unwrap_or_default();
        if takes && !self.left_out.contains_key(&volume) {
            let (last, generation) = self.last.entry(volume).or_default();
            (*last, *generation) = (submit.seq, newest.max(*generation));
            return true;
        }
        let left_out = self.left_out.entry(volume).or_default();
        *left_out = newest.max(*left_out);
        false
    }

    /// Whether a generation of a volume is, or nobody needs it.
    pub(crate) fn in_packs(&self, volume: VolumeId, generation: Generation) -> bool {
        let destaged = self.destaged.get(&volume);
        destaged.is_none_or(|destaged| generation <= *destaged)
    }

    /// The last submit of a volume that was taken.
    pub(crate) fn last(&self, volume: VolumeId) -> Option<JournalSeq> {
        self.last.get(&volume).map(|(seq, _)| *seq)
    }

    /// The newest generation of those submits of a volume that were taken, if packs do not have it.
    pub(crate) fn newest(&self, volume: VolumeId) -> Option<Generation> {
        let newest = self.last.get(&volume).map(|(_, generation)| *generation);
        newest.filter(|newest| !self.in_packs(volume, *newest))
    }

    /// The newest generation of those submits of a volume that were not taken.
    pub(crate) fn left_out(&self, volume: VolumeId) -> Option<Generation> {
        self.left_out.get(&volume).copied()
    }
}
