//! qcow2: QEMU's format, read only.
//!
//! ```text
//!  header ─▶ L1 table ─▶ L2 tables ─▶ clusters: data, compressed, zeroes, or what the backing disk has
//!        └▶ internal snapshots, each with an L1 table of its own
//! ```
//!
//! Names in the header are never followed: a backing disk or a data file is what the caller gives.

mod header;
mod map;

use crate::{
    disk::Disk,
    error::{Error, shorten},
    placed::Placed,
    source::Source,
};
use header::{Header, L1};
use map::ClusterMap;
use std::sync::Arc;
use types::VOLUME_SIZE_MAX;

pub use header::InternalSnapshot;

/// An image whose header was read.
pub struct Qcow2 {
    source: Source,
    header: Header,
    snapshots: Vec<InternalSnapshot>,
}

/// What an image lacks, and the caller must have given.
#[derive(Clone, Default)]
pub struct Files {
    /// The disk that shows where the image has nothing.
    pub backing: Option<Arc<dyn Disk>>,
    /// The file that the clusters are in.
    pub data: Option<Source>,
}

impl Qcow2 {
    /// Reads the header.
    ///
    /// # Errors
    /// If it is damaged or has what cannot be read.
    pub fn open(source: Source) -> Result<Self, Error> {
        let header = Header::read(&source)?;
        let snapshots = header.snapshots(&source)?;
        Ok(Qcow2 {
            source,
            header,
            snapshots,
        })
    }

    /// Bytes of the disk as it is now.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.header.l1.disk_size
    }

    /// The name of the file behind it, as the image has it. Nobody has to believe it.
    #[must_use]
    pub fn backing_file(&self) -> Option<&str> {
        self.header.backing_file.as_deref()
    }

    /// The name of the file that its data is in, if that is not this one; maybe empty.
    #[must_use]
    pub fn data_file(&self) -> Option<&str> {
        self.header.data_file.as_deref()
    }

    /// The internal snapshots, in the order in which the image has them.
    #[must_use]
    pub fn snapshots(&self) -> &[InternalSnapshot] {
        &self.snapshots
    }

    /// The disk as it is now.
    ///
    /// # Errors
    /// If a file is missing that it cannot be read without, or its table of tables is damaged.
    pub fn disk(&self, files: &Files) -> Result<Arc<dyn Disk>, Error> {
        self.disk_of(self.header.l1, files)
    }

    /// The disk as it was at the snapshot of that index.
    ///
    /// # Errors
    /// As [`disk`](Self::disk), and if there is none.
    pub fn snapshot_disk(&self, index: usize, files: &Files) -> Result<Arc<dyn Disk>, Error> {
        let snapshot = self.snapshots.get(index);
        let snapshot = snapshot.ok_or_else(|| {
            Error::invalid(format!("{} has no such snapshot", self.source.shown()))
        })?;
        self.disk_of(snapshot.l1, files)
    }

    fn disk_of(&self, l1: L1, files: &Files) -> Result<Arc<dyn Disk>, Error> {
        let shown = self.source.shown();
        if let (Some(name), None) = (&self.header.backing_file, &files.backing) {
            return Err(Error::invalid(format!(
                "{shown} is only the difference to {}, which is not opened by itself; name it if you trust it",
                shorten(name)
            )));
        }
        if let (Some(name), None) = (&self.header.data_file, &files.data) {
            return Err(Error::invalid(format!(
                "{shown} has its data in {}, which is not opened by itself; name it if you trust it",
                shorten(name)
            )));
        }
        if l1.disk_size > VOLUME_SIZE_MAX {
            let what = format_args!("a disk of {} bytes is too large", l1.disk_size);
            return Err(self.source.damaged(24, what));
        }
        let own_data = files.data.is_none() || self.header.data_file.is_none();
        let disk = Placed {
            map: ClusterMap::read(&self.source, &self.header, l1, own_data)?,
            data: match &files.data {
                Some(data) if !own_data => data.clone(),
                _ => self.source.clone(),
            },
            size: l1.disk_size,
            backing: files.backing.clone(),
        };
        disk.check_overlaps()?;
        Ok(Arc::new(disk))
    }
}
