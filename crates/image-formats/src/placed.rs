//! Disks that are cut into clusters, each in some place of a file.

use crate::{
    disk::{Disk, Run, Runs},
    error::Error,
    source::Source,
};
use std::sync::Arc;
use types::SECTOR_SIZE;

/// Runs that are answered at once, and bytes that they are looked for in.
const RUNS_MAX: usize = 1024;
const WINDOW: u64 = 4 << 30;

/// Where some of a disk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Nowhere: the backing disk shows.
    Nothing,
    Zeroes,
    /// At that offset of the data file.
    Raw(u64),
    /// The whole cluster is compressed there, in at most so many bytes.
    Compressed {
        offset: u64,
        len: usize,
    },
}

impl Place {
    /// What must be `len` bytes behind this to be one with it.
    pub(crate) const fn after(self, len: u64) -> Place {
        match self {
            Place::Raw(offset) => Place::Raw(offset + len),
            other => other,
        }
    }
}

/// The tables of a format.
pub(crate) trait Map: Send + Sync {
    /// Bytes of a cluster.
    fn cluster(&self) -> u64;
    /// What is at `at`, which lies in the disk, and for how many bytes at least; of a compressed cluster to its end.
    fn find(&self, at: u64) -> Result<(Place, u64), Error>;
    /// Fills `out`, a whole cluster that begins at `at`, from what is stored: the bytes of the place, or less if the file ends.
    fn decompress(&self, stored: &[u8], at: u64, out: &mut [u8]) -> std::io::Result<()>;
}

/// A disk with the tables of a format.
pub(crate) struct Placed<M> {
    pub(crate) map: M,
    /// The file that the places are in.
    pub(crate) data: Source,
    pub(crate) size: u64,
    pub(crate) backing: Option<Arc<dyn Disk>>,
}

impl<M: Map> Placed<M> {
    /// Looks at all tables: clusters that overlap would make much of a small file.
    ///
    /// # Errors
    /// If more data is referred to than the file has, or a table is damaged.
    pub(crate) fn check_overlaps(&self) -> Result<(), Error> {
        let mut stored = 0u64;
        let mut at = 0;
        while at < self.size {
            let (place, len) = self.map.find(at)?;
            at += len.min(self.size - at);
            stored += match place {
                Place::Raw(_) => len,
                // At least a sector, which neighbours may have in common.
                Place::Compressed { .. } => SECTOR_SIZE / 2,
                Place::Nothing | Place::Zeroes => 0,
            };
            if stored > self.data.len() + self.map.cluster() {
                let what = "more data is referred to than the file has: clusters overlap";
                return Err(self.data.damaged(at, what));
            }
        }
        Ok(())
    }

    fn read_place(&self, place: Place, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        match place {
            Place::Zeroes => buf.fill(0),
            Place::Nothing => return self.read_backing(at, buf),
            Place::Raw(offset) => return self.data.read_at(offset, buf),
            Place::Compressed { offset, len } => {
                return self.read_compressed(offset, len, at, buf);
            }
        }
        Ok(())
    }

    fn read_backing(&self, at: u64, buf: &mut [u8]) -> Result<(), Error> {
        let Some(backing) = &self.backing else {
            buf.fill(0);
            return Ok(());
        };
        let there = backing.size().saturating_sub(at).min(buf.len() as u64);
        let (there, beyond) = buf.split_at_mut(there as usize);
        beyond.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        backing.read(at, there)
    }

    fn read_compressed(
        &self,
        offset: u64,
        len: usize,
        at: u64,
        buf: &mut [u8],
    ) -> Result<(), Error> {
        // The last of a file need not fill its sector.
        let there = self.data.len().saturating_sub(offset).min(len as u64);
        let stored = self.data.bytes(offset, there, len)?;
        let cluster = self.map.cluster();
        let within = (at % cluster) as usize;
        let decompress = |out: &mut [u8]| {
            let result = self.map.decompress(&stored, at - within as u64, out);
            let what = |e| format!("a compressed cluster: {e}");
            result.map_err(|e| self.data.damaged(offset, what(e)))
        };
        if buf.len() as u64 == cluster {
            return decompress(buf);
        }
        let mut whole = vec![0; cluster as usize];
        decompress(&mut whole)?;
        buf.copy_from_slice(&whole[within..within + buf.len()]);
        Ok(())
    }
}

impl<M: Map> Disk for Placed<M> {
    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self, offset: u64) -> Result<Vec<Run>, Error> {
        let mut runs = Runs::default();
        let mut at = offset;
        let end = self.size.min(offset.saturating_add(WINDOW));
        while at < end && runs.len() < RUNS_MAX {
            let (place, len) = self.map.find(at)?;
            let len = len.min(self.size - at);
            match (place, &self.backing) {
                (Place::Nothing, Some(backing)) => behind(&**backing, at, len, &mut runs)?,
                (Place::Nothing | Place::Zeroes, _) => runs.push(len, false),
                (Place::Raw(_) | Place::Compressed { .. }, _) => runs.push(len, true),
            }
            at += len;
        }
        Ok(runs.into_vec())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let (place, len) = self.map.find(at)?;
            let rest = &mut buf[done..];
            let len = len.min(rest.len() as u64) as usize;
            self.read_place(place, at, &mut rest[..len])?;
            done += len;
        }
        Ok(())
    }
}

/// What a backing disk has in a range; nothing behind its end.
fn behind(backing: &dyn Disk, at: u64, len: u64, runs: &mut Runs) -> Result<(), Error> {
    let (mut at, end) = (at, at + len);
    let there = end.min(backing.size());
    while at < there {
        for run in backing.runs(at)? {
            let len = run.len.min(there.saturating_sub(at));
            runs.push(len, run.data);
            at += len;
        }
    }
    runs.push(end.saturating_sub(at), false);
    Ok(())
}
