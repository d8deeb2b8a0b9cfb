//! Segments' files: made, freed, and kept ready for the writer.
//!
//! A file is zeroed in full before its first use, so that later syncs have no metadata to commit. One that
//! was used is marked free before it is used again: what is in it must not be taken for records that are
//! needed while its new header is on its way. Both happen outside the commit if [`prepare`] is called in time.
//!
//! [`prepare`]: crate::Journal::prepare

use crate::error::Error;
use env::{AlignedBuf, Env, File, OpenOptions};
use format::journal::{PAGE, SegmentHeader, SegmentState};
use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};
use types::{JournalSeq, StoreId};

/// Zeroes are written in pieces of this.
const ZEROES_LEN: usize = 1 << 20;

/// A segment's file.
#[derive(Clone)]
pub(crate) struct SegmentFile {
    pub(crate) path: PathBuf,
    pub(crate) file: Arc<dyn File>,
    pub(crate) len: u64,
    /// Of the use before this one, which its header still says; 0 if there was none.
    pub(crate) number: u64,
}

/// Makes and marks files, in one directory.
pub(crate) struct Supply {
    pub(crate) env: Env,
    pub(crate) dir: PathBuf,
    pub(crate) store: StoreId,
    /// Bytes of a segment.
    pub(crate) len: u64,
    /// Names are numbers; this one and those after it are not taken.
    pub(crate) next_name: u64,
    /// Files that there are.
    pub(crate) files: u64,
    /// Their lengths.
    pub(crate) bytes: u64,
}

impl Supply {
    /// Says durably that `file`'s use is over, and gives it the length that segments have now. It is never
    /// removed: the mark says which segments are not missed.
    pub(crate) fn recycle(
        &mut self,
        file: &SegmentFile,
        next: JournalSeq,
        tail: u64,
    ) -> Result<SegmentFile, Error> {
        let mut page = AlignedBuf::zeroed(PAGE);
        SegmentHeader {
            store: self.store,
            number: file.number,
            salt: 0,
            first_seq: next,
            tail,
            len: self.len,
            state: SegmentState::Free,
        }
        .encode(&mut page);
        let marked = || {
            file.file.write_at(0, &page)?;
            file.file.sync_data()?;
            self.resize(file)
        };
        marked().map_err(|e| Error::io("mark a segment free", &file.path, e))?;
        self.bytes = self.bytes - file.len + self.len;
        Ok(SegmentFile {
            len: self.len,
            ..file.clone()
        })
    }

    fn resize(&self, file: &SegmentFile) -> io::Result<()> {
        if file.len == self.len {
            return Ok(());
        }
        if file.len > self.len {
            file.file.set_len(self.len)?;
        } else {
            let end = file.len / PAGE as u64 * PAGE as u64;
            zero(&*file.file, end, self.len)?;
        }
        file.file.sync_data()
    }

    /// A new file, full of zeroes.
    pub(crate) fn make(&mut self) -> Result<SegmentFile, Error> {
        let path = self.dir.join(format!("{:08}.seg", self.next_name));
        self.next_name += 1;
        match self.make_zeroed(&path) {
            Ok(file) => {
                self.files += 1;
                self.bytes += self.len;
                Ok(SegmentFile {
                    path,
                    file,
                    len: self.len,
                    number: 0,
                })
            }
            Err(e) => {
                // A file half made is in nobody's way but for its space; opening removes it otherwise.
                let _ = self.env.files.remove(&path);
                Err(Error::io("make a segment", &path, e))
            }
        }
    }

    fn make_zeroed(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        let options = OpenOptions {
            write: true,
            create_new: true,
            direct: true,
        };
        let file = self.env.files.open(path, options)?;
        zero(&*file, 0, self.len)?;
        file.sync_data()?;
        self.env.files.sync_dir(&self.dir)?;
        Ok(file)
    }

    pub(crate) fn remove(&mut self, file: &SegmentFile) -> Result<(), Error> {
        self.env
            .files
            .remove(&file.path)
            .map_err(|e| Error::io("remove a segment", &file.path, e))?;
        self.files -= 1;
        self.bytes -= file.len;
        Ok(())
    }
}

/// Writes zeroes, so that the bytes are allocated.
fn zero(file: &dyn File, mut offset: u64, end: u64) -> io::Result<()> {
    let zeroes = AlignedBuf::zeroed(ZEROES_LEN.min((end - offset) as usize));
    while offset < end {
        let count = (end - offset).min(zeroes.len() as u64);
        file.write_at(offset, &zeroes[..count as usize])?;
        offset += count;
    }
    Ok(())
}
