//! What a file is, without changing it.

use crate::{
    error::{Error, ErrorKind},
    place::Place,
    qcow2::Meta,
};
use env::{Env, File, OpenOptions};
use std::io;
use types::{FileFormat, SECTOR_SIZE, VOLUME_SIZE_MAX, VOLUME_SIZE_MIN, size::format_size};

const QCOW2: &[u8] = b"QFI\xfb";

/// What a file was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its format, as far as the first bytes tell: what is of no known format is raw.
    pub format: FileFormat,
    /// Bytes of the disk.
    pub size: u64,
    /// Bytes of the file.
    pub len: u64,
    /// Bytes of storage that the file takes.
    pub allocated: u64,
    /// Why it cannot be used in place, if it cannot.
    pub trouble: Option<String>,
}

/// Looks at a file that nobody may be using.
///
/// # Errors
/// As [`open`](crate::open).
pub fn look(env: &Env, place: &Place) -> Result<Found, Error> {
    let file = env
        .files
        .open_below(
            &place.root,
            &place.path,
            OpenOptions::default(),
            env::Driver::Threads,
        )
        .map_err(|e| Error::io(place, "cannot be opened", e))?;
    of_file(&*file).map_err(|e| Error::io(place, "cannot be read", e))
}

/// What an open file is.
pub(crate) fn of_file(file: &dyn File) -> io::Result<Found> {
    let (len, allocated) = (file.len()?, file.allocated()?);
    let mut head = [0; 32];
    let known = (head.len() as u64).min(len) as usize;
    file.read_at(0, &mut head[..known])?;
    let qcow2 = head.starts_with(QCOW2);
    let mut size = [0; 8];
    size.copy_from_slice(&head[24..]);
    Ok(Found {
        format: if qcow2 {
            FileFormat::Qcow2
        } else {
            FileFormat::Raw
        },
        size: if qcow2 { u64::from_be_bytes(size) } else { len },
        len,
        allocated,
        trouble: match qcow2 {
            true => Meta::read(file).err().map(|e| e.to_string()),
            false => None,
        },
    })
}

impl Found {
    /// Refuses a file of another format than it is said to be.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn check_format(&self, place: &Place, format: FileFormat) -> Result<(), Error> {
        if self.format == format {
            return Ok(());
        }
        let why = format!("{place} is {}, not {format}", self.format);
        Err(Error::new(ErrorKind::Invalid, why))
    }

    /// Refuses a disk that cannot be a volume.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn check_size(&self, place: &Place) -> Result<(), Error> {
        let sizes = VOLUME_SIZE_MIN..=VOLUME_SIZE_MAX;
        if sizes.contains(&self.size) && self.size.is_multiple_of(SECTOR_SIZE) {
            return Ok(());
        }
        let why = format!(
            "{place} is a disk of {} bytes: a volume has {} to {}, a multiple of {SECTOR_SIZE} bytes",
            self.size,
            format_size(VOLUME_SIZE_MIN),
            format_size(VOLUME_SIZE_MAX)
        );
        Err(Error::new(ErrorKind::Invalid, why))
    }
}
