//! Handing out pack ids.

use crate::Error;
use std::ops::Range;
use sync::Mutex;
use types::PackId;

/// Reserves so many ids, durably: never to be given to anybody again, all above those reserved before.
pub type ReserveIds = Box<dyn Fn(u64) -> Result<Range<u64>, Error> + Send + Sync>;

/// Ids are reserved in batches of this: a reservation is a commit of the catalog.
const BATCH: u64 = 4096;

pub(crate) struct Ids {
    reserve: ReserveIds,
    left: Mutex<Range<u64>>,
}

impl Ids {
    pub(crate) fn new(reserve: ReserveIds) -> Self {
        Ids {
            reserve,
            left: Mutex::new(0..0),
        }
    }

    /// The id that [`take`](Self::take) would answer now; later it answers a higher one.
    pub(crate) fn next(&self) -> Result<PackId, Error> {
        let mut left = self.left.lock();
        self.fill(&mut left)?;
        Ok(PackId(left.start))
    }

    pub(crate) fn take(&self) -> Result<PackId, Error> {
        let mut left = self.left.lock();
        self.fill(&mut left)?;
        let id = left.start;
        left.start += 1;
        Ok(PackId(id))
    }

    fn fill(&self, left: &mut Range<u64>) -> Result<(), Error> {
        if left.is_empty() {
            let fresh = (self.reserve)(BATCH)?;
            assert!(fresh.start >= left.end.max(1), "pack ids are used once");
            assert!(
                !fresh.is_empty() && fresh.end <= PackId::LIMIT,
                "pack ids are 52 bits"
            );
            *left = fresh;
        }
        Ok(())
    }
}
