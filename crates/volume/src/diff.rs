//! What differs between two states, in time proportional to what does.
//!
//! Maps that come from each other share the nodes below which nothing changed, and those are not looked into. A block
//! counts as changed if its pointer did: one that was written again with what it held before is told apart only if
//! deduplication found that out. So what is told is never less than what differs, in whole blocks.

use crate::{
    below::Below,
    error::Error,
    nodes::Nodes,
    store::{PinnedRoot, Shared, Store, blocks},
};
use std::{ops::ControlFlow, sync::Arc};
use types::{BLOCK_SIZE, VolumeRef};

/// Two states that are to be compared; neither is collected before this is dropped.
pub struct Diff {
    shared: Arc<Shared>,
    from: PinnedRoot,
    to: PinnedRoot,
}

/// A run of bytes that differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiffExtent {
    /// Where it begins: a multiple of the block size.
    pub offset: u64,
    /// Bytes; whole blocks, but at the end of what has none.
    pub len: u64,
    /// Whether the later state has data there, or reads as zeroes.
    pub data: bool,
}

impl Store {
    /// Compares two states: of one volume, of a clone and what it comes from, or of any two. A volume without a
    /// snapshot is what it is now; what it holds in memory is destaged for the purpose.
    ///
    /// # Errors
    /// If there is none of such a name, or destaging fails; [`Refused`](crate::ErrorKind::Refused) if one of them is
    /// still being imported and the other is of another volume.
    pub fn diff(&self, from: &VolumeRef, to: &VolumeRef) -> Result<Diff, Error> {
        let who = "comparison of";
        let diff = Diff {
            shared: Arc::clone(&self.shared),
            from: self.pinned(from, who)?,
            to: self.pinned(to, who)?,
        };
        let (before, after) = (&diff.from.below, &diff.to.below);
        match before.as_ref().or(after.as_ref()) {
            // Holes of both are the same then.
            Some(below) if !Below::is_same(before, after) => Err(below.refuse(
                &from.volume,
                "it can be compared with other volumes when that is done",
            )),
            _ => Ok(diff),
        }
    }
}

impl Diff {
    /// Bytes of the earlier state.
    #[must_use]
    pub const fn from_size(&self) -> u64 {
        self.from.size
    }

    /// Bytes of the later state. What the earlier one has beyond is not compared: it is cut off.
    #[must_use]
    pub const fn to_size(&self) -> u64 {
        self.to.size
    }

    /// Hands what differs to `each`, in order, until it breaks. Runs that touch differ in kind.
    ///
    /// # Errors
    /// A node of a block map cannot be read: `each` has what comes before.
    pub fn for_each(
        &self,
        each: &mut dyn FnMut(DiffExtent) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, Error> {
        let (nodes, size) = (Nodes(&self.shared.packs), self.to.size);
        let (from, to, all) = (self.from.root, self.to.root, 0..blocks(size));
        let flow = blockmap::diff(&nodes, from, to, all, &mut |run| {
            let at = |block: u64| (block * BLOCK_SIZE as u64).min(size);
            let (mut start, len) = (run.blocks.start, run.blocks.end - run.blocks.start);
            let runs = vec![(len, run.data)];
            let runs = match &self.to.below {
                Some(below) => below.add_data(start, runs),
                None => runs,
            };
            runs.into_iter().try_for_each(|(len, data)| {
                let (offset, end) = (at(start), at(start + len));
                start += len;
                each(DiffExtent {
                    offset,
                    len: end - offset,
                    data,
                })
            })
        })?;
        Ok(flow)
    }
}
