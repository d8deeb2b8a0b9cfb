//! The quota of a volume: how much it may map.
//!
//! What counts is what the live volume maps, shared or not, and what is in memory and is not mapped yet. Which of the
//! latter is new is told only by the map. So far from the quota every block in memory counts as new, and nobody looks;
//! near it the writer looks, and in the end has what is in memory destaged: then it is known. A write to what is
//! mapped is never refused. Writers at the same time do not see each other: they may overshoot by what is under way.

use crate::{
    error::{Error, ErrorKind},
    layer::{Found, Layer},
    nodes::Nodes,
    read::Piece,
    volume::Volume,
};
use std::sync::Arc;
use sync::atomic::Ordering::Relaxed;
use types::{BLOCK_SIZE, BlockIndex, size::format_size};

/// The quota of a volume that has none.
pub(crate) const UNLIMITED: u64 = u64::MAX;

impl Volume {
    /// Whether these blocks may be written; and how many of them are new, if somebody had to look.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] if the quota is used up.
    pub(crate) fn admit_to_quota(self: &Arc<Self>, pieces: &[Piece]) -> Result<Option<u64>, Error> {
        let bytes = self.quota.load(Relaxed);
        if bytes == UNLIMITED {
            return Ok(None);
        }
        let quota = bytes / BLOCK_SIZE as u64;
        if self.claimed() + pieces.len() as u64 <= quota {
            return Ok(None);
        }
        let fits = |fresh: u64| fresh == 0 || self.claimed() + fresh <= quota;
        let fresh = self.count_fresh(pieces)?;
        if fits(fresh) {
            return Ok(Some(fresh));
        }
        self.settle_now()?;
        let fresh = self.count_fresh(pieces)?;
        if fits(fresh) {
            return Ok(Some(fresh));
        }
        let message = format!(
            "the quota of {} is used up; discard, remove files, or raise it",
            format_size(bytes)
        );
        Err(Error::new(ErrorKind::NoSpace, message))
    }

    /// Blocks that count, at most.
    fn claimed(&self) -> u64 {
        let state = self.state.read();
        self.mapped.load(Relaxed) + state.layers().map(Layer::fresh).sum::<u64>()
    }

    /// How many of these blocks hold nothing yet.
    fn count_fresh(&self, pieces: &[Piece]) -> Result<u64, Error> {
        let _pass = self.shared.gate.enter();
        let mut fresh = 0;
        let mut unknown = Vec::new();
        let root = {
            let state = self.state.read();
            for piece in pieces {
                let mut found = state.layers().map(|layer| layer.find(piece.index));
                match found.find(|found| !matches!(found, Found::Absent)) {
                    Some(Found::Zero) => fresh += 1,
                    Some(_) => {}
                    None => unknown.push(BlockIndex(piece.index)),
                }
            }
            state.base.root
        };
        for index in unknown {
            let pointer = blockmap::lookup(&Nodes(&self.shared.packs), root, index)?;
            fresh += u64::from(pointer.is_hole());
        }
        Ok(fresh)
    }
}
