//! Scrubbing: looking at one pack after the other, while everything goes on, collections too.
//!
//! A scrub holds nothing while it reads. So a pack may be rewritten, punched or removed under it, and what looks
//! like damage counts only if it is still there at a second look, with the header of then. Whose it is, is
//! found for many packs at once: that walks the block maps, and keeps collections out meanwhile.

use crate::{
    Afflicted, Error, Roots,
    check::{Bad, owners, with_causes},
};
use pack::{ErrorKind, LiveBits, PackStore};
use std::sync::Arc;
use types::{PackId, Progress};

/// What a look at a pack found.
#[derive(Clone, Debug, Default)]
pub struct Scrubbed {
    /// Bytes that were read.
    pub bytes: u64,
    /// Blocks that cannot be read, whether anybody needs them or not, and why.
    pub damaged: Option<(LiveBits, String)>,
}

/// Verifies a pack, its blocks' hashes too. One that is gone is nothing.
///
/// # Errors
/// Those of the brick.
pub fn scrub(store: &PackStore, pack: PackId) -> Result<Scrubbed, Error> {
    let first = look(store, pack)?;
    if first.damaged.is_none() {
        return Ok(first);
    }
    let second = look(store, pack)?;
    Ok(Scrubbed {
        bytes: first.bytes + second.bytes,
        ..second
    })
}

fn look(store: &PackStore, pack: PackId) -> Result<Scrubbed, Error> {
    let report = match store.verify(pack, true) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Scrubbed::default()),
        // A sector that the disk cannot read is damage.
        Err(e) if e.kind() == ErrorKind::Io => {
            let all = LiveBits::first(format::pack::PACK_BLOCKS);
            store.distrust(pack, &all);
            return Ok(Scrubbed {
                bytes: 0,
                damaged: Some((all, with_causes(&e))),
            });
        }
        other => other.map_err(|e| Error::pack("scrubbing", e))?,
    };
    let first = report.damaged.first();
    let why = first.map(|damage| &damage.error).or(report.hashes.as_ref());
    let blocks = report
        .damaged
        .iter()
        .flat_map(|damage| damage.ordinals.clone());
    Ok(Scrubbed {
        bytes: report.bytes,
        damaged: why.map(|why| (blocks.collect(), with_causes(why))),
    })
}

/// Whose the damaged blocks of packs are: those that nobody needs are nobody's.
///
/// # Errors
/// [`ErrorKind::Busy`](crate::ErrorKind::Busy) while a collection or a check runs,
/// [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled).
pub fn owners_of(
    store: &Arc<PackStore>,
    roots: &dyn Roots,
    damaged: &[(PackId, LiveBits)],
    progress: &dyn Progress,
) -> Result<Vec<Afflicted>, Error> {
    let collection = store.begin_collection();
    let _nothing_is_given_up = collection.map_err(|e| Error::pack("scrubbing", e))?;
    let bad: Bad = damaged
        .iter()
        .map(|(pack, blocks)| (*pack, (*blocks, String::new())))
        .collect();
    owners::afflicted(store, &roots.roots()?, true, &bad, progress)
}
