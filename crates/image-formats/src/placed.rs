//! Disks that are cut into clusters, each in some place of a file.

use crate::{
    disk::{Disk, Run, Runs},
    error::Error,
    source::Source,
};
use std::{collections::VecDeque, ops::Range, sync::Arc};

/// Runs that are answered at once, and bytes that they are looked for in.
const RUNS_MAX: usize = 1024;
const WINDOW: u64 = 4 << 30;
/// A cluster with 32 subclusters has 16 bytes of tables; all others have more for each place.
const PLACES_PER_TABLE_BYTE: u64 = 2;
/// What zstd makes of a byte at most: its blocks of 128 KiB have four bytes at least. Deflate makes a thousand.
const EXPANSION_MAX: u64 = 32 << 10;

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
    /// Bytes of the file that the tables are in.
    fn tables_len(&self) -> u64;
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
    /// Looks at all tables: clusters that overlap would make much of a small file, and tables that do would never end.
    ///
    /// # Errors
    /// If more data is referred to than the file has, or more tables, or a table is damaged.
    pub(crate) fn check_overlaps(&self) -> Result<(), Error> {
        let places_max = self.map.tables_len().saturating_mul(PLACES_PER_TABLE_BYTE);
        let (mut stored, mut places) = (0u64, 0u64);
        let mut at = 0;
        while at < self.size {
            let (place, len) = self.map.find(at)?;
            places += 1;
            if places > places_max {
                let what = "more tables are referred to than the file has: tables overlap";
                return Err(self.data.damaged(at, what));
            }
            at += len.min(self.size - at);
            stored += match place {
                Place::Raw(_) => len,
                Place::Compressed { .. } => self.map.cluster() / EXPANSION_MAX,
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
        let mut ahead = self.backing.as_deref().map(Ahead::new);
        let mut at = offset;
        let end = self.size.min(offset.saturating_add(WINDOW));
        while at < end && runs.len() < RUNS_MAX {
            let (place, len) = self.map.find(at)?;
            let len = len.min(self.size - at);
            if let (Place::Nothing, Some(backing)) = (place, &mut ahead) {
                at = backing.add(at..at + len, &mut runs)?;
                continue;
            }
            runs.push(
                len,
                matches!(place, Place::Raw(_) | Place::Compressed { .. }),
            );
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

/// The runs of a backing disk, each asked for once while offsets grow.
struct Ahead<'a> {
    disk: &'a dyn Disk,
    /// Runs that are known, and where the first one begins.
    runs: VecDeque<Run>,
    at: u64,
}

impl<'a> Ahead<'a> {
    const fn new(disk: &'a dyn Disk) -> Self {
        Ahead {
            disk,
            runs: VecDeque::new(),
            at: 0,
        }
    }

    /// What there is at `at`, which lies in the disk.
    fn run(&mut self, at: u64) -> Result<Run, Error> {
        while let Some(run) = self.runs.front().filter(|run| self.at + run.len <= at) {
            self.at += run.len;
            self.runs.pop_front();
        }
        if self.runs.is_empty() {
            self.at = at;
            self.runs = self.disk.runs(at)?.into();
        }
        // A disk answers at least one.
        let rest = Run {
            len: self.disk.size() - at,
            data: true,
        };
        Ok(self.runs.front().map_or(rest, |run| Run {
            len: self.at + run.len - at,
            ..*run
        }))
    }

    /// Adds what is in a range; nothing is behind the disk's end. Answers where it stopped: at the end, or when it was enough.
    fn add(&mut self, range: Range<u64>, runs: &mut Runs) -> Result<u64, Error> {
        let mut at = range.start;
        let there = range.end.min(self.disk.size());
        while at < there && runs.len() < RUNS_MAX {
            let run = self.run(at)?;
            let len = run.len.min(there - at);
            runs.push(len, run.data);
            at += len;
        }
        if at >= there {
            runs.push(range.end - at, false);
            at = range.end;
        }
        Ok(at)
    }
}
