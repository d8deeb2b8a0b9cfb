//! A new volume from an image.

use crate::{
    error::{Error, ErrorKind},
    noted::Noted,
    open::{Opened, open, open_nbd},
    ova::{self, Asked},
    pieces::{Piece, in_order},
    progress::PartOf,
    scan::{Chunk, blocks_of, scan},
    snapshots::{self, Planned},
    source::{Input, SourceReader, StreamInput, fill},
};
use env::Env;
use image_formats::{Detected, Disk, Files, HEAD_LEN, Qcow2, StreamOptimized, by_head};
use nbd_client::Uri;
use std::{
    io::{self, Read},
    path::PathBuf,
    sync::mpsc,
};
use types::{
    Cancel, Cancelled, Codec, ImageFormat, Name, Progress, SECTOR_SIZE, VOLUME_SIZE_MAX,
    VOLUME_SIZE_MIN, size::format_size,
};
use volume::{Ingest, Store, VolumeRecord};

/// Chunks that wait between the thread that reads and the one that stores.
const CHUNKS_AHEAD: usize = 1;
/// What a stream is called.
const STREAM: &str = "the stream";

/// A volume to be, and what it is made from.
pub struct Import<'a> {
    /// The volume's name; it must not exist.
    pub name: Name,
    /// The image.
    pub source: Source<'a>,
    /// Virtual size in bytes, a multiple of 512; the image's, if none.
    pub size: Option<u64>,
    /// Default: the store's.
    pub dedup: Option<bool>,
    /// Default: the store's.
    pub codec: Option<Codec>,
    /// What the image is; found out from its content, if none.
    pub format: Option<ImageFormat>,
    /// Other files that the image may be read with.
    pub files: OtherFiles,
    /// Whether the snapshots that a qcow2 image has in it become snapshots of the volume.
    pub snapshots: bool,
    /// Of an OVA only this disk, counted from 1.
    pub disk: Option<usize>,
}

impl<'a> Import<'a> {
    /// With the store's defaults, of what the image shows by itself.
    #[must_use]
    pub fn new(name: Name, source: Source<'a>) -> Self {
        Import {
            name,
            source,
            size: None,
            dedup: None,
            codec: None,
            format: None,
            files: OtherFiles::default(),
            snapshots: false,
            disk: None,
        }
    }
}

/// What an import made.
#[derive(Debug)]
pub struct Imported {
    /// The volume, or the one of the first disk.
    pub volume: VolumeRecord,
    /// Those of the other disks of an OVA.
    pub others: Vec<VolumeRecord>,
    /// What whoever asked should know: a sentence each.
    pub notes: Vec<String>,
}

/// Files that an image refers to. What it calls them is not believed: they are these or none.
#[derive(Clone, Debug, Default)]
pub struct OtherFiles {
    /// Absolute paths of the images behind it, each the one behind the one before.
    pub backing: Vec<PathBuf>,
    /// Absolute path of the file that its data is in.
    pub data: Option<PathBuf>,
}

/// Where an image comes from.
pub enum Source<'a> {
    /// A file or a block device: an absolute path. Holes are not read.
    Path(PathBuf),
    /// The bytes of an export of an NBD server. Holes are not read.
    Nbd(Uri),
    /// A stream, read to its end.
    Reader(&'a mut (dyn Read + Send)),
}

/// Makes a volume from an image; from an OVA one for each disk, called `NAME-1` and so on if there are several.
///
/// # Behavior
/// The volume is there, durable, when this returns, and not before. An image that is smaller than the volume, or ends within a
/// sector, is followed by zeroes. Snapshots are imported oldest first, each as what differs. Progress is in bytes of the disk
/// looked at; the total of a stream is 0, not known. The reader is read on a thread of its own, and an import that is cancelled
/// returns after the `read` under way; servers and programs that do not answer are not waited for then.
///
/// # Errors
/// [`ErrorKind::Exists`] if the name is taken; [`ErrorKind::NotFound`] if the image is not there;
/// [`ErrorKind::Invalid`] if the image is damaged, of no known format, empty, larger than `size` or 64 TiB, refers to a file
/// that is not given, or is changed while it is read; [`ErrorKind::NoSpace`] if the store is full; [`ErrorKind::Cancelled`]. Nothing is left then but
/// garbage for the next collection.
pub fn import(
    store: &Store,
    env: &Env,
    request: Import<'_>,
    progress: &dyn Progress,
) -> Result<Imported, Error> {
    let cancel = progress.cancellation();
    let imported = run(store, env, request, progress, &cancel);
    // Whatever an import that was broken off says about why.
    imported.map_err(|e| match cancel.is_set() {
        true => Cancelled.into(),
        false => e,
    })
}

fn run(
    store: &Store,
    env: &Env,
    request: Import<'_>,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Imported, Error> {
    let size = request.size;
    size.map_or(Ok(()), check_size)?;
    let mut notes = Vec::new();
    let mut ingest = store.ingest(&request.name, request.dedup, request.codec)?;
    let (env, noted) = &Noted::over(env);
    let asked = Asked {
        name: &request.name,
        size,
        dedup: request.dedup,
        codec: request.codec,
        disk: request.disk,
        noted,
    };
    let one_disk = || match request.disk {
        None => Ok(()),
        Some(_) => Err(Error::invalid(
            "only an OVA has several disks: leave out --disk",
        )),
    };
    let len = match request.source {
        Source::Path(path) => match open(env, &path, request.format, &request.files, cancel)? {
            Opened::Ova(source) => {
                let shown = source.shown().to_owned();
                let reader = SourceReader::new(source);
                return ova::import(store, asked, reader, &shown, progress);
            }
            Opened::Raw(mut input) => {
                one_disk()?;
                volume_size(input.len(), size)?;
                let total = input.len();
                pump(&mut input, &mut ingest, total, progress)?
            }
            Opened::Qcow2(image, files) => {
                one_disk()?;
                let disk = image.disk(&files)?;
                volume_size(disk.size(), size)?;
                if request.snapshots {
                    import_all(&image, &files, &*disk, &mut ingest, progress)?
                } else {
                    notes.extend(snapshots::left_out(&image));
                    pump_disk(&*disk, &mut ingest, progress)?
                }
            }
            Opened::Disk(disk) => {
                one_disk()?;
                volume_size(disk.size(), size)?;
                pump_disk(&*disk, &mut ingest, progress)?
            }
        },
        Source::Nbd(uri) => {
            one_disk()?;
            let disk = open_nbd(env, &uri, request.format, &request.files, cancel)?;
            volume_size(disk.size(), size)?;
            pump_disk(&disk, &mut ingest, progress)?
        }
        Source::Reader(reader) => {
            let (head, format) = peek(reader, STREAM, request.format)?;
            let mut stream = head.chain(reader);
            if format == ImageFormat::Ova {
                return ova::import(store, asked, stream, STREAM, progress);
            }
            one_disk()?;
            let len_max = size.unwrap_or(VOLUME_SIZE_MAX);
            import_stream(&mut stream, STREAM, format, len_max, &mut ingest, progress)?
        }
    };
    noted.check()?;
    let size = volume_size(len, size)?;
    let volume = ingest.finish(size, progress)?;
    tracing::info!(volume = %volume.name, bytes = len, size, "imported");
    Ok(Imported {
        volume,
        others: Vec::new(),
        notes,
    })
}

/// An image's snapshots, then the disk as it is now; answers its length in bytes.
fn import_all(
    image: &Qcow2,
    files: &Files,
    now: &dyn Disk,
    ingest: &mut Ingest<'_>,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let planned = snapshots::planned(image)?;
    if !planned.is_empty() && !ingest.dedup() {
        return Err(Error::invalid(
            "snapshots are stored as what differs, which deduplication finds; import them with --dedup",
        ));
    }
    let sizes = planned.iter().map(|snapshot| snapshot.size);
    let mut part = PartOf {
        all: progress,
        before: 0,
        total: sizes.fold(now.size(), u64::saturating_add),
        // The volume counts all of them together.
        stored_before: 0,
    };
    for Planned {
        index,
        name,
        size,
        created_ms,
    } in planned
    {
        let of_it = |e: Error| Error::new(e.kind(), format!("the snapshot '{name}': {e}"));
        let size = volume_size(size, None).map_err(of_it)?;
        let disk = image.snapshot_disk(index, files)?;
        pump_disk(&*disk, ingest, &part)?;
        part.before += disk.size();
        ingest.snapshot(name, size, created_ms)?;
    }
    pump_disk(now, ingest, &part)
}

/// The first bytes of a stream, and what it is by them.
pub(crate) fn peek(
    reader: &mut dyn Read,
    shown: &str,
    format: Option<ImageFormat>,
) -> Result<(io::Cursor<Vec<u8>>, ImageFormat), Error> {
    let mut head = vec![0; HEAD_LEN];
    let cannot = |e| Error::io(format_args!("reading {shown} failed"), e);
    let len = fill(reader, &mut head).map_err(cannot)?;
    head.truncate(len);
    let format = match (format, by_head(&head)) {
        (Some(format), _) | (None, Detected::Format(format)) => format,
        (None, Detected::Foreign(foreign)) => return Err(foreign.refuse(None).into()),
    };
    Ok((io::Cursor::new(head), format))
}

/// From the beginning of a stream that is called `shown`; answers the disk's length in bytes.
pub(crate) fn import_stream(
    stream: &mut (dyn Read + Send),
    shown: &str,
    format: ImageFormat,
    len_max: u64,
    ingest: &mut Ingest<'_>,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    match format {
        ImageFormat::Raw => {
            let mut input = StreamInput::new(stream, len_max);
            pump(&mut input, ingest, 0, progress)
        }
        ImageFormat::Vmdk => {
            let mut input = StreamOptimized::open(stream, shown)?;
            check_len(input.size(), len_max)?;
            let total = input.size();
            pump(&mut input, ingest, total, progress)
        }
        other => Err(Error::invalid(format!(
            "a {other} image cannot be read from a stream; import it from a file"
        ))),
    }
}

pub(crate) fn check_size(size: u64) -> Result<(), Error> {
    let fits = (VOLUME_SIZE_MIN..=VOLUME_SIZE_MAX).contains(&size);
    if fits && size.is_multiple_of(SECTOR_SIZE) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "a volume has {} to {}, in multiples of {SECTOR_SIZE} bytes; not {size} bytes",
        format_size(VOLUME_SIZE_MIN),
        format_size(VOLUME_SIZE_MAX),
    )))
}

/// The size of a volume that is made from an image of `len` bytes.
pub(crate) fn volume_size(len: u64, asked: Option<u64>) -> Result<u64, Error> {
    if len == 0 {
        return Err(Error::invalid(
            "the image is empty; to make an empty volume, create one with a size",
        ));
    }
    check_len(len, asked.unwrap_or(VOLUME_SIZE_MAX))?;
    let needed = len.next_multiple_of(SECTOR_SIZE).max(VOLUME_SIZE_MIN);
    Ok(asked.unwrap_or(needed))
}

/// A disk of `len` bytes must not have more than `len_max`.
fn check_len(len: u64, len_max: u64) -> Result<(), Error> {
    if len <= len_max {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "the image has {} ({len} bytes), more than the {} ({len_max} bytes) of the volume",
        format_size(len),
        format_size(len_max)
    )))
}

/// Reads `input` on one thread and stores it on this one; answers the image's length in bytes.
fn pump(
    input: &mut dyn Input,
    ingest: &mut Ingest<'_>,
    total: u64,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    progress.report(0, total)?;
    let (chunks, filled) = mpsc::sync_channel::<Chunk>(CHUNKS_AHEAD);
    env::scope(|scope| {
        let reader = scope
            .spawn("image-read", move || scan(input, &chunks))
            .map_err(|e| Error::io("cannot start a thread", e))?;
        let stored = filled.iter().try_for_each(|chunk| {
            ingest.write(&chunk.blocks)?;
            progress.stored(ingest.stored());
            Ok::<(), Error>(progress.report(chunk.scanned, total)?)
        });
        // The reader ends when it finds nobody there.
        drop(filled);
        let read = reader
            .join()
            .map_err(|_| Error::new(ErrorKind::Io, "reading the image panicked"))?;
        stored.and(read)
    })
}

/// Reads a disk on threads and stores it on this one; answers its length in bytes.
fn pump_disk(
    disk: &dyn Disk,
    ingest: &mut Ingest<'_>,
    progress: &dyn Progress,
) -> Result<u64, Error> {
    let size = disk.size();
    progress.report(0, size)?;
    in_order(disk, |piece| {
        let done = match piece {
            Piece::Hole(range) => range.end,
            Piece::Data {
                start, mut bytes, ..
            } => {
                let end = start + bytes.len() as u64;
                ingest.write(&blocks_of(start, &mut bytes))?;
                end
            }
        };
        progress.stored(ingest.stored());
        Ok(progress.report(done, size)?)
    })?;
    Ok(size)
}
