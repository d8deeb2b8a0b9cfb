//! What can be kept of a journal that recovery refuses.
//!
//! The log is followed to the first thing that is wrong, and everything before that is kept: a prefix of its order, as
//! after a crash at that moment. What comes later may be readable, but it is not known what is missing before it,
//! so it is not kept; whose it is, is told. A header that is lost is made again from the first record behind it, and of
//! two copies of a segment the one with more records is taken, so neither of these loses anything.

use super::{
    Files, Headed, Replayed,
    chain::{Chain, Window},
    check_len, check_numbers, sort_out, tail_of,
};
use crate::{
    Error, ErrorKind,
    supply::{SegmentFile, Supply},
};
use env::Env;
use format::journal::{PAGE, SegmentHeader, SegmentState};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use types::{JournalSeq, StoreId, VolumeId};

/// A damaged journal.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// The first thing that is wrong with it.
    pub damage: Error,
    /// Submits that were kept.
    pub kept: u64,
    /// Volumes with later records that can be read, but not kept. There may have been others in what cannot be read.
    pub cut: BTreeSet<VolumeId>,
    /// Bytes of all segments.
    pub bytes: u64,
}

/// Gives every submit of the journal in `dir` that can be kept to `replay`, in order; `None` if nothing is wrong with it.
///
/// # Behavior
/// Nothing is written, removed or synced.
///
/// # Errors
/// `NewerFormat`, `Io` if the directory cannot be read, whatever `replay` answers. Damage is none, but told.
pub fn salvage(
    env: &Env,
    dir: &Path,
    store: StoreId,
    replay: &mut dyn FnMut(Replayed) -> Result<(), Error>,
) -> Result<Option<Salvaged>, Error> {
    let mut supply = Supply {
        env: env.clone(),
        dir: dir.to_owned(),
        store,
        len: 0,
        next_name: 1,
        files: 0,
        bytes: 0,
    };
    let mut wrong = Wrong(None);
    let mut files = sort_out(&mut supply, &mut |damage| wrong.note(Err(damage)))?;
    let len_max = files.all().map(|file| file.len).max().unwrap_or(0);
    let made_again = make_headers(&mut files, len_max);
    let (mut needed, tail) = in_order(&mut files, len_max, &mut wrong)?;
    for path in needed.iter().map(|headed| &headed.file.path) {
        if made_again.contains(path) {
            let what = "recovery: the header of a segment that is needed is damaged";
            wrong.note(Err(Error::corrupt(what, path, 0)))?;
        }
    }
    let sound = sound_prefix(&mut needed, tail, &mut wrong)?;

    let mut kept = 0;
    let mut refused = None;
    let mut counted = |replayed| {
        kept += 1;
        replay(replayed).inspect_err(|e| refused = Some(e.clone()))
    };
    let after_free = files.free.iter().map(|h| h.header.first_seq).max();
    let begin = needed.iter().map(|h| h.header.first_seq).min();
    let first = begin.or(after_free).unwrap_or(JournalSeq(1));
    let mut chain = Chain::new(first, len_max, &mut counted);
    let read = chain.read(&needed[..sound]);
    let end = chain.end();
    for (file, zeroes) in files.without_header() {
        wrong.note(chain.check_unreadable(file, zeroes))?;
    }
    let mut cut = BTreeSet::new();
    let rest = files.without_header().map(|(file, _)| file);
    for file in needed.iter().map(|headed| &headed.file).chain(rest) {
        // What cannot be read tells nothing more.
        let _ = chain.volumes_beyond(file, &mut cut);
    }
    drop(chain);
    if let Some(refused) = refused {
        return Err(refused);
    }
    wrong.note(read)?;
    if let Some(lost) = files.free.iter().find(|h| h.header.first_seq > end) {
        let what = "recovery: records that were durable when this segment was freed are lost";
        wrong.note(Err(Error::corrupt(what, &lost.file.path, 0)))?;
    }
    Ok(wrong.0.map(|damage| Salvaged {
        damage,
        kept,
        cut,
        bytes: supply.bytes,
    }))
}

/// The first thing found wrong.
struct Wrong(Option<Error>);

impl Wrong {
    /// Damage is noted; other errors are passed on.
    fn note(&mut self, found: Result<(), Error>) -> Result<(), Error> {
        match found {
            Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Io) => {
                self.0.get_or_insert(e);
                Ok(())
            }
            other => other,
        }
    }
}

impl Files {
    fn all(&self) -> impl Iterator<Item = &SegmentFile> {
        let active = self.active.iter().map(|headed| &headed.file);
        active.chain(self.without_header().map(|(file, _)| file))
    }

    /// And whether zeroes are in its place.
    fn without_header(&self) -> impl Iterator<Item = (&SegmentFile, bool)> {
        let unreadable = self.unreadable.iter().map(|file| (file, false));
        unreadable.chain(self.headless.iter().map(|file| (file, true)))
    }
}

/// Makes headers again from the first record of segments that have lost theirs. Answers which cannot have lost it in
/// a crash: their first commit was durable, or their header is there but wrong.
fn make_headers(files: &mut Files, len_max: u64) -> BTreeSet<PathBuf> {
    let mut window = Window::new(len_max);
    let mut damaged = BTreeSet::new();
    let unreadable = std::mem::take(&mut files.unreadable).into_iter();
    let headless = std::mem::take(&mut files.headless).into_iter();
    let lost = unreadable.map(|file| (file, false));
    for (file, zeroes) in lost.chain(headless.map(|file| (file, true))) {
        let first = window.any_record(&file, PAGE as u64).ok().flatten();
        let Some(first) = first.map(|record| record.header) else {
            let list = if zeroes {
                &mut files.headless
            } else {
                &mut files.unreadable
            };
            list.push(file);
            continue;
        };
        let mut durable = !zeroes;
        // An error ends the looking: the log is followed later, and meets it again.
        let _ = window.each_record(&file, &mut |header| {
            durable |= header.number == first.number && header.durable >= first.seq;
        });
        if durable {
            damaged.insert(file.path.clone());
        }
        let header = SegmentHeader {
            store: StoreId([0; 16]),
            number: first.number,
            salt: first.salt,
            first_seq: first.seq,
            tail: 0,
            len: file.len / PAGE as u64 * PAGE as u64,
            state: SegmentState::Active,
        };
        files.active.push(Headed { header, file });
    }
    damaged
}

/// The segments that are needed, each once, and the number of the first.
fn in_order(
    files: &mut Files,
    len_max: u64,
    wrong: &mut Wrong,
) -> Result<(Vec<Headed>, u64), Error> {
    files.active.sort_by_key(|headed| headed.header.number);
    let tail = tail_of(files);
    let first_needed = files.active.partition_point(|h| h.header.number < tail);
    let mut window = Window::new(len_max);
    let mut needed: Vec<Headed> = Vec::new();
    for headed in files.active.split_off(first_needed) {
        match needed.last_mut() {
            Some(last) if last.header.number == headed.header.number => {
                let what = "recovery: another segment has the same number";
                wrong.note(Err(Error::corrupt(what, &headed.file.path, 0)))?;
                if records(&mut window, &headed) > records(&mut window, last) {
                    *last = headed;
                }
            }
            _ => needed.push(headed),
        }
    }
    Ok((needed, tail))
}

/// Good records of a segment, from its first on, without a gap.
fn records(window: &mut Window, segment: &Headed) -> u64 {
    let (mut count, mut offset) = (0, PAGE as u64);
    while let Ok(Some(record)) = window.record(segment, offset) {
        count += 1;
        offset += (PAGE * (1 + record.blocks.len())) as u64;
    }
    count
}

/// How many segments from the tail on are there, one after the other. Of one that is cut short, what is there counts.
fn sound_prefix(needed: &mut [Headed], tail: u64, wrong: &mut Wrong) -> Result<usize, Error> {
    for (count, number) in (0..needed.len()).zip(tail..) {
        let there = check_numbers(&needed[count..=count], number);
        if there.is_err() {
            wrong.note(there)?;
            return Ok(count);
        }
        let segment = &mut needed[count];
        wrong.note(check_len(segment))?;
        let whole_pages = segment.file.len / PAGE as u64 * PAGE as u64;
        segment.header.len = segment.header.len.min(whole_pages);
    }
    Ok(needed.len())
}
