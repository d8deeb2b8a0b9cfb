//! redb's storage on [`env::File`].

use redb::StorageBackend;
use std::{
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// A file for redb.
///
/// Growing writes zeroes over the new part: a commit writes only where there is storage already, so
/// that a full file system shows itself in [`StorageBackend::set_len`], before anything of the
/// commit is written, and commits that need no more room succeed on a full one.
pub(crate) struct FileBackend {
    file: Arc<dyn env::File>,
    full: Arc<AtomicBool>,
}

impl FileBackend {
    /// `full` is set when the file could not grow for want of space.
    pub(crate) fn new(file: Arc<dyn env::File>, full: Arc<AtomicBool>) -> Self {
        FileBackend { file, full }
    }

    fn fill(&self, from: u64, to: u64) -> io::Result<()> {
        const ZEROES: &[u8] = &[0; 64 << 10];
        let mut at = from;
        while at < to {
            let step = (to - at).min(ZEROES.len() as u64);
            self.file.write_at(at, &ZEROES[..step as usize])?;
            at += step;
        }
        Ok(())
    }
}

impl fmt::Debug for FileBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FileBackend")
    }
}

impl StorageBackend for FileBackend {
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let old = self.file.len()?;
        // The length first and at once: redb refuses a file whose length is none of its own, as
        // one that a crash left half filled would be.
        let grown = self.file.set_len(len).and_then(|()| {
            if len > old {
                self.fill(old, len)
            } else {
                Ok(())
            }
        });
        if let Err(error) = &grown
            && is_full(error)
            && self.file.set_len(old).is_ok()
        {
            self.full.store(true, Ordering::Release);
        }
        grown
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, data)
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
