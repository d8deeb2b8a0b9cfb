//! Ids of volumes and snapshots.

use crate::error::Error;
use catalog::{Catalog, IdKind};
use std::ops::Range;
use sync::Mutex;

/// Ids are reserved in batches of this: a reservation is a commit of its own, as long as that of the record.
/// What is left of a batch is lost with the process; there are 2⁶⁴.
const BATCH: u64 = 64;

/// Reserved and not given out yet.
#[derive(Default)]
pub(crate) struct Ids {
    volumes: Mutex<Range<u64>>,
    snapshots: Mutex<Range<u64>>,
}

impl Ids {
    /// One that was never given to anybody, nor will be.
    pub(crate) fn volume(&self, catalog: &dyn Catalog) -> Result<u64, Error> {
        take(&self.volumes, catalog, IdKind::Volume, 1)
    }

    /// The first of `count` in a row, as [`volume`](Self::volume).
    pub(crate) fn snapshots(&self, catalog: &dyn Catalog, count: u64) -> Result<u64, Error> {
        take(&self.snapshots, catalog, IdKind::Snapshot, count)
    }
}

fn take(
    left: &Mutex<Range<u64>>,
    catalog: &dyn Catalog,
    kind: IdKind,
    count: u64,
) -> Result<u64, Error> {
    let mut left = left.lock();
    if left.end - left.start < count {
        *left = catalog.reserve(kind, BATCH.max(count))?;
    }
    let first = left.start;
    left.start += count;
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::{BATCH, Ids};
    use catalog::MemoryCatalog;

    #[test]
    fn every_id_is_new_also_to_who_comes_next() {
        let catalog = MemoryCatalog::default();
        let (ids, next) = (Ids::default(), Ids::default());
        let mut all: Vec<u64> = (0..BATCH + 3)
            .map(|_| ids.volume(&catalog).unwrap())
            .collect();
        all.push(next.volume(&catalog).unwrap());
        assert!(all.is_sorted_by(|a, b| a < b), "{all:?}");
        assert_eq!(ids.snapshots(&catalog, BATCH - 1).unwrap(), 1);
        assert_eq!(ids.snapshots(&catalog, 2).unwrap(), BATCH + 1);
        assert_eq!(ids.snapshots(&catalog, 2).unwrap(), BATCH + 3);
    }
}
