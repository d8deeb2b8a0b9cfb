//! Raw images, where a disk is wanted: behind another image.

use crate::{
    disk::{Disk, Run, Runs},
    error::Error,
    source::Source,
};

/// The bytes of a file as a disk.
pub struct RawDisk(Source);

impl RawDisk {
    /// All of `source`.
    #[must_use]
    pub const fn new(source: Source) -> Self {
        RawDisk(source)
    }
}

impl Disk for RawDisk {
    fn size(&self) -> u64 {
        self.0.len()
    }

    fn runs(&self, offset: u64) -> Result<Vec<Run>, Error> {
        let data = self.0.next_data(offset)?;
        let mut runs = Runs::default();
        let data = data.unwrap_or(self.size()..self.size());
        runs.push(data.start - offset, false);
        runs.push(data.end - data.start, true);
        Ok(runs.into_vec())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        self.0.read_at(offset, buf)
    }
}
