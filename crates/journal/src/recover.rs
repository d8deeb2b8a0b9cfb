//! Reads a journal after whatever ended the last run.
//!
//! # What a crash can leave
//! | crash while | what is found | what is done |
//! | --- | --- | --- |
//! | a file is made | no name, a short file, or one not allocated; its header is zeroes | removed |
//! | a file is marked free | the old header with all its records, or the mark | either is right: it was free |
//! | a segment is begun | the mark or zeroes; or the header with any part of the first commit | in the first case not part of the log |
//! | records are written | any subset of the sectors of the last commit | the log ends before the first bad record |
//! | a submit of several records is written | some of its first records | the submit is dropped; the next segment says so, its first seq being that of the submit |
//!
//! # What is damage
//! - A segment between the tail and the newest is missing: headers name the tail, and marks say what is free.
//! - The log breaks off in a segment before the seq that a later segment begins with: see rule 1 of `writer`.
//! - In the newest segment a bad record is followed by a good one that says that the bad one was durable.
//! - A header is unreadable and its segment holds records at or after the end of the log. (A disk writes 512 bytes
//!   whole or not at all, so that a crash leaves no such header.)
//!
//! - The log ends before a place that the caller knows it to have reached.
//!
//! Else damage to the very last commit looks like a crash during it, and is taken for one.

mod around;
mod chain;
mod salvage;

pub use salvage::{Salvaged, salvage};

use crate::{
    Replayed,
    error::{Error, ErrorKind},
    state::{Latest, Segment},
    supply::{SegmentFile, Supply},
};
use chain::Chain;
use env::OpenOptions;
use format::journal::{NoHeader, PAGE, SegmentHeader, SegmentState, Unverified};
use std::{
    collections::{BTreeMap, VecDeque},
    path::{Path, PathBuf},
};
use types::{Epoch, JournalSeq, VolumeId};

/// Numbers that are counted up one by one stay below this.
const NUMBER_LIMIT: u64 = 1 << 62;

const BEHIND: &str =
    "recovery: the last records that were there when the store was opened are lost";

/// What was found.
pub(crate) struct Found {
    pub(crate) log: Log,
    /// Of all segments there ever were.
    pub(crate) last_number: u64,
    /// Files that can be used as they are.
    pub(crate) ready: VecDeque<SegmentFile>,
}

/// What is still needed, and who needs it.
pub(crate) struct Log {
    pub(crate) segments: VecDeque<Segment>,
    pub(crate) freed: Vec<SegmentFile>,
    pub(crate) next_seq: JournalSeq,
    pub(crate) epochs: BTreeMap<VolumeId, Epoch>,
    pub(crate) latest: Latest,
}

/// A segment that has a header.
struct Headed {
    header: SegmentHeader,
    file: SegmentFile,
    source: Source,
}

/// Where a header is from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Page,
    /// It was lost, and made again from the first record.
    FirstRecord,
    /// From a later one: where the segment begins is not known.
    LaterRecord,
}

/// The files of the directory by what their headers say.
#[derive(Default)]
struct Files {
    active: Vec<Headed>,
    free: Vec<Headed>,
    unused: Vec<SegmentFile>,
    unreadable: Vec<SegmentFile>,
    /// Without a header, but with a record.
    headless: Vec<SegmentFile>,
    /// With sound headers that are not to be believed: there are none unless the caller copes with damage.
    foreign: Vec<SegmentFile>,
}

/// Reads the journal in `supply`'s directory, and tells `supply` what files there are.
pub(crate) fn recover(
    supply: &mut Supply,
    reached: JournalSeq,
    replay: &mut dyn FnMut(Replayed) -> Result<(), Error>,
) -> Result<Found, Error> {
    let mut files = sort_out(supply, &mut Err)?;
    files.active.sort_by_key(|headed| headed.header.number);
    let tail = tail_of(&files);
    let first_needed = files.active.partition_point(|h| h.header.number < tail);
    let needed = files.active.split_off(first_needed);
    check_numbers(&needed, tail)?;
    needed.iter().try_for_each(check_len)?;

    let after_free = files.free.iter().map(|h| h.header.first_seq).max();
    let begin = needed.iter().map(|h| h.header.first_seq).min();
    let first = begin.or(after_free).unwrap_or(JournalSeq(1));
    let headed = needed.iter().map(|headed| &headed.file);
    let lost = files.unreadable.iter().chain(&files.headless);
    let len_max = headed.chain(lost).map(|file| file.len).max();
    let mut chain = Chain::new(first, len_max.unwrap_or(0), replay);
    chain.read(&needed)?;
    let next_seq = chain.end();
    if let Some(lost) = files.free.iter().find(|h| h.header.first_seq > next_seq) {
        let what = "recovery: records that were durable when this segment was freed are lost";
        return Err(Error::corrupt(what, &lost.file.path, 0));
    }
    if next_seq < reached {
        return Err(Error::corrupt(BEHIND, &supply.dir, 0));
    }
    for file in &files.unreadable {
        chain.check_unreadable(file, false)?;
    }
    for file in &files.headless {
        chain.check_unreadable(file, true)?;
    }
    files.unused.append(&mut files.headless);
    let (pins, epochs, latest) = chain.into_parts();
    settle(supply, &mut files, &needed)?;

    let newest = files
        .free
        .iter()
        .chain(&needed)
        .map(|h| h.header.number)
        .max();
    let segments = needed.into_iter().zip(pins).map(|(headed, pins)| Segment {
        number: headed.header.number,
        file: Some(headed.file),
        pins,
    });
    let segments = segments.collect();
    let file_of = |headed: Headed| headed.file;
    let (marked, odd): (Vec<_>, Vec<_>) = files
        .free
        .into_iter()
        .map(file_of)
        .partition(|file| file.len == supply.len);
    Ok(Found {
        log: Log {
            segments,
            freed: files.active.into_iter().map(file_of).chain(odd).collect(),
            next_seq,
            epochs,
            latest,
        },
        last_number: newest.unwrap_or(0).max(tail - 1),
        ready: marked.into_iter().chain(files.unused).collect(),
    })
}

/// Opens every segment and looks at its header. One whose header is not to be believed counts as unreadable, if
/// `damaged` does not make an error of it.
fn sort_out(
    supply: &mut Supply,
    damaged: &mut dyn FnMut(Error) -> Result<(), Error>,
) -> Result<Files, Error> {
    let mut files = Files::default();
    for (path, name) in segment_paths(supply)? {
        supply.next_name = supply.next_name.max(name.saturating_add(1));
        supply.files += 1;
        let options = OpenOptions {
            write: true,
            create_new: false,
            direct: true,
        };
        let io = |e| Error::io("recovery: open a segment", &path, e);
        let file = supply.env.files.open(&path, options).map_err(io)?;
        let len = file.len().map_err(io)?;
        supply.bytes += len;
        let mut file = SegmentFile {
            path: path.clone(),
            file,
            len,
            number: 0,
        };
        let mut page = env::AlignedBuf::zeroed(PAGE);
        if len >= PAGE as u64 {
            file.file.read_at(0, &mut page).map_err(io)?;
        }
        match SegmentHeader::decode(&page) {
            Ok(header) => {
                if let Err(e) = check_header(supply, &header, &file) {
                    damaged(e)?;
                    files.foreign.push(file);
                    continue;
                }
                file.number = header.number;
                let headed = Headed {
                    header,
                    file,
                    source: Source::Page,
                };
                match header.state {
                    SegmentState::Active => files.active.push(headed),
                    SegmentState::Free => files.free.push(headed),
                }
            }
            Err(NoHeader::Unused) if begins_with_record(&file) => files.headless.push(file),
            Err(NoHeader::Unused) => files.unused.push(file),
            Err(NoHeader::Newer(_)) => {
                let e = Error::new(ErrorKind::NewerFormat, "recovery: read a segment");
                return Err(e.at(&path, Some(0)));
            }
            Err(NoHeader::Malformed(why)) => {
                tracing::warn!(segment = %path.display(), %why, "journal segment without a header");
                files.unreadable.push(file);
            }
        }
    }
    Ok(files)
}

/// `NNNNNNNN.seg`, in order of number. Everything else in the directory is left alone.
fn segment_paths(supply: &Supply) -> Result<Vec<(PathBuf, u64)>, Error> {
    let names = supply.env.files.list(&supply.dir);
    let names = names.map_err(|e| Error::io("recovery: list segments", &supply.dir, e))?;
    let number = |name: &Path| -> Option<u64> {
        let digits = name.to_str()?.strip_suffix(".seg")?;
        let good = digits.len() >= 8 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse().ok().filter(|_| good)
    };
    let mut paths: Vec<_> = names
        .iter()
        .filter_map(|name| Some((supply.dir.join(name), number(name)?)))
        .collect();
    paths.sort_by_key(|&(_, number)| number);
    Ok(paths)
}

/// What its checksum cannot know.
fn check_header(supply: &Supply, header: &SegmentHeader, file: &SegmentFile) -> Result<(), Error> {
    let corrupt = |what| Err(Error::corrupt(what, &file.path, 0));
    if header.store != supply.store {
        return corrupt("recovery: the segment belongs to another store");
    }
    let active = header.state == SegmentState::Active;
    let numbers = 1..NUMBER_LIMIT;
    let sane = numbers.contains(&header.number)
        && numbers.contains(&header.first_seq.0)
        && (header.tail <= header.number || !active)
        && header.len.is_multiple_of(PAGE as u64);
    if !sane {
        return corrupt("recovery: the segment's header makes no sense");
    }
    Ok(())
}

/// One that nobody needs may be as short as it likes.
fn check_len(headed: &Headed) -> Result<(), Error> {
    if headed.header.len > headed.file.len {
        let what = "recovery: the segment is cut short";
        return Err(Error::corrupt(what, &headed.file.path, 0));
    }
    Ok(())
}

/// Whether a file without a header has a record where the first one would be. A crash leaves that too.
fn begins_with_record(file: &SegmentFile) -> bool {
    let mut page = env::AlignedBuf::zeroed(PAGE);
    let read = file.len >= 2 * PAGE as u64 && file.file.read_at(PAGE as u64, &mut page).is_ok();
    read && Unverified::look_for_any(&page).is_some()
}

/// The oldest segment that is needed.
fn tail_of(files: &Files) -> u64 {
    let said = files.active.iter().map(|headed| headed.header.tail);
    let freed = files.free.iter().map(|headed| headed.header.number + 1);
    said.chain(freed).max().unwrap_or(1).max(1)
}

/// The needed segments are there, each once.
fn check_numbers(needed: &[Headed], tail: u64) -> Result<(), Error> {
    for (expected, headed) in (tail..).zip(needed) {
        let what = match headed.header.number {
            number if number == expected => continue,
            number if number > expected => "recovery: a segment before this one is missing",
            _ => "recovery: another segment has the same number",
        };
        return Err(Error::corrupt(what, &headed.file.path, 0));
    }
    Ok(())
}

/// Makes what was read durable, so that no later crash takes back what was replayed, and
/// removes files that are of no use.
fn settle(supply: &mut Supply, files: &mut Files, needed: &[Headed]) -> Result<(), Error> {
    let headed = files.active.iter().chain(&files.free).chain(needed);
    for file in headed.map(|headed| &headed.file).chain(&files.unused) {
        let synced = file.file.sync_data();
        synced.map_err(|e| Error::io("recovery: sync a segment", &file.path, e))?;
    }
    let mut useless = std::mem::take(&mut files.unreadable);
    for file in std::mem::take(&mut files.unused) {
        let allocated = file.file.allocated();
        let allocated = allocated.map_err(|e| Error::io("recovery: stat", &file.path, e))?;
        if file.len == supply.len && allocated >= file.len {
            files.unused.push(file);
        } else {
            useless.push(file);
        }
    }
    for file in useless {
        supply.remove(&file)?;
    }
    let synced = supply.env.files.sync_dir(&supply.dir);
    synced.map_err(|e| Error::io("recovery: sync the directory", &supply.dir, e))
}
