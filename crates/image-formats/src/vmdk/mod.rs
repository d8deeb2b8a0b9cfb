//! VMDK: VMware's format, read only.
//!
//! ```text
//!  descriptor (a text) ─┬▶ flat extents: the bytes of a file
//!                       ├▶ sparse extents: header ─▶ grain directory ─▶ grain tables ─▶ grains
//!                       └▶ zeroes
//!  a sparse extent with the descriptor in it: monolithicSparse; with compressed grains behind markers: streamOptimized
//! ```

mod descriptor;
mod header;
mod sparse;
mod stream;

use crate::{
    disk::{Disk, Run, Runs},
    error::Error,
    raw::RawDisk,
    source::Source,
};
use descriptor::{Descriptor, ExtentKind};
use header::{HEADER_LEN, Header, MAGIC};
use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};
use types::VOLUME_SIZE_MAX;

pub use stream::StreamOptimized;

/// Bytes that a grain has at most.
pub const GRAIN_MAX: usize = header::GRAIN_MAX as usize;

const DESCRIPTOR_MAX: usize = 4 << 20;

/// Opens the files that lie beside an image.
pub trait Beside {
    /// The file of that name, which has no directories in it.
    ///
    /// # Errors
    /// If there is none, or it leads elsewhere.
    fn open(&self, name: &str) -> Result<Source, Error>;
}

/// Opens the disk of a VMDK image: of a descriptor, or of a file that has everything in it.
///
/// # Errors
/// If it is damaged, refers to files that are not beside it, or is only a difference to another disk.
pub fn vmdk(source: &Source, beside: &dyn Beside) -> Result<Arc<dyn Disk>, Error> {
    let head = source.head(HEADER_LEN)?;
    if head.starts_with(MAGIC) {
        return sparse_file(source);
    }
    let text = source.bytes(0, source.len(), DESCRIPTOR_MAX)?;
    let damaged = |what: String| source.damaged(0, what);
    let descriptor = check_alone(&text).map_err(damaged)?;
    if descriptor.extents.is_empty() {
        return Err(source.damaged(0, "no extents: this is no VMDK descriptor"));
    }
    let mut parts = Vec::new();
    let mut opened = HashMap::new();
    let mut size = 0u64;
    for extent in descriptor.extents {
        let start = size;
        size = size.saturating_add(extent.len);
        if size > VOLUME_SIZE_MAX {
            return Err(source.damaged(0, "the extents are too large together"));
        }
        parts.push((start, part(beside, &mut opened, extent)?));
    }
    Ok(Arc::new(Parts { parts, size }))
}

fn sparse_file(source: &Source) -> Result<Arc<dyn Disk>, Error> {
    let header = Header::read(source)?;
    if header.descriptor_len > 0 {
        let text = source.bytes(header.descriptor, header.descriptor_len, DESCRIPTOR_MAX)?;
        check_alone(&text).map_err(|what| source.damaged(header.descriptor, what))?;
    }
    sparse::open(source, header)
}

/// Parses a descriptor and refuses one that is not all of a disk. Behind it there may be zeroes.
fn check_alone(text: &[u8]) -> Result<Descriptor, String> {
    let len = text.iter().position(|byte| *byte == 0);
    let text = text.get(..len.unwrap_or(text.len())).unwrap_or_default();
    let descriptor = Descriptor::parse(&String::from_utf8_lossy(text))?;
    if descriptor.has_parent {
        return Err(
            "it is only the difference to another disk; import that one, or consolidate them first"
                .into(),
        );
    }
    Ok(descriptor)
}

/// A part of a disk, as long as the descriptor says; none if it is zeroes. No byte of a file is in two of them: that would
/// make much of a small file.
fn part(
    beside: &dyn Beside,
    opened: &mut HashMap<String, (Source, u64)>,
    extent: descriptor::Extent,
) -> Result<Part, Error> {
    let len = extent.len;
    let (file, offset) = match extent.kind {
        ExtentKind::Zero => return Ok(Part { disk: None, len }),
        ExtentKind::Flat { file, offset } => (file, Some(offset)),
        ExtentKind::Sparse { file } => (file, None),
    };
    let (source, used) = match opened.entry(file) {
        Entry::Occupied(opened) => opened.into_mut(),
        Entry::Vacant(first) => {
            let source = beside.open(first.key())?;
            first.insert((source, 0))
        }
    };
    // Of a sparse extent all of it.
    *used = used.saturating_add(offset.map_or(source.len(), |_| len));
    let disk: Arc<dyn Disk> = if let Some(offset) = offset {
        let bytes = source.part(source.shown().to_owned(), offset, len)?;
        Arc::new(RawDisk::new(bytes))
    } else {
        sparse::open(source, Header::read(source)?)?
    };
    if *used > source.len() {
        return Err(source.damaged(0, "the descriptor has it in more extents than it can hold"));
    }
    if disk.size() < len {
        let what = format_args!("{} bytes, but {len} are wanted of it", disk.size());
        return Err(source.damaged(12, what));
    }
    let disk = Some(disk);
    Ok(Part { disk, len })
}

struct Part {
    disk: Option<Arc<dyn Disk>>,
    len: u64,
}

/// Parts that follow each other, with where they begin.
struct Parts {
    parts: Vec<(u64, Part)>,
    size: u64,
}

impl Parts {
    /// The part that `at`, which lies in the disk, is in.
    fn at(&self, at: u64) -> Option<(&Part, u64)> {
        let behind = self.parts.partition_point(|(start, _)| *start <= at);
        let mut before = self.parts.get(..behind)?.iter().rev();
        // A part may be empty.
        let (start, part) = before.find(|(start, part)| at - start < part.len)?;
        Some((part, at - start))
    }
}

impl Disk for Parts {
    fn size(&self) -> u64 {
        self.size
    }

    fn runs(&self, offset: u64) -> Result<Vec<Run>, Error> {
        let mut runs = Runs::default();
        if let Some((part, at)) = self.at(offset) {
            let rest = part.len - at;
            let Some(disk) = &part.disk else {
                runs.push(rest, false);
                return Ok(runs.into_vec());
            };
            let mut left = rest;
            for run in disk.runs(at)? {
                let len = run.len.min(left);
                runs.push(len, run.data);
                left -= len;
            }
        }
        Ok(runs.into_vec())
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        let mut done = 0;
        while let Some((part, at)) = self.at(offset + done as u64).filter(|_| done < buf.len()) {
            let rest = &mut buf[done..];
            let len = (part.len - at).min(rest.len() as u64) as usize;
            match &part.disk {
                Some(disk) => disk.read(at, &mut rest[..len])?,
                None => rest[..len].fill(0),
            }
            done += len;
        }
        Ok(())
    }
}
