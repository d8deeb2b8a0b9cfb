//! What can be read of a journal that recovery refuses.
//!
//! The log is followed around everything that is wrong with it: see [`around`](super::around). What is found is given to
//! the caller in order; whether anything is missing before a submit, its [`Replayed::before`] says, for each volume by
//! itself. A header that is lost is made again from the records behind it, and of two copies of a segment the one with
//! more records is taken, so neither of these loses anything.

use super::{
    BEHIND, Files, Headed, Replayed, Source,
    around::Holes,
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
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use types::{Epoch, Generation, JournalSeq, StoreId, VolumeId};

/// A damaged journal.
#[derive(Clone, Debug)]
pub struct Salvaged {
    /// The first thing that is wrong with it.
    pub damage: Error,
    /// The seq of the first record that is missing, and that of the first one after all that are missing.
    pub missing: Option<(JournalSeq, JournalSeq)>,
    /// What is missing was written under this epoch or a later one.
    pub since: Epoch,
    /// Volumes that something missing is said to be of, and its newest generation.
    pub torn: BTreeMap<VolumeId, Generation>,
    /// Bytes of all segments.
    pub bytes: u64,
}

/// Gives every complete submit of the journal in `dir` that can be read to `replay`, in order; `None` if nothing is wrong
/// with it. `reached` is as for [`Journal::open`](crate::Journal::open).
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
    reached: JournalSeq,
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
    let mut placed = make_headers(&mut files, len_max) && files.foreign.is_empty();
    let (mut needed, tail) = in_order(&mut files, len_max, &mut placed, &mut wrong)?;
    placed &= check(&mut needed, tail, &mut wrong)?;

    let mut refused = None;
    let mut passed_on = |replayed| replay(replayed).inspect_err(|e| refused = Some(e.clone()));
    let after_free = files.free.iter().map(|h| h.header.first_seq).max();
    let begin = needed.iter().map(|h| h.header.first_seq).min();
    let first = begin.or(after_free).unwrap_or(JournalSeq(1));
    let mut chain = Chain::new(first, len_max, &mut passed_on);
    let mut holes = Holes::default();
    if let Some(headed) = needed.first().filter(|h| h.header.number != tail) {
        let what = "recovery: a segment before this one is missing";
        let damage = Error::corrupt(what, &headed.file.path, 0);
        chain.hole(first, damage, &mut holes);
    }
    let read = chain.read_around(&needed, &mut holes);
    check_free(&files, &mut chain, &mut holes);
    if chain.end() < reached {
        let damage = Error::corrupt(BEHIND, dir, 0);
        chain.hole(reached, damage, &mut holes);
    }
    wrong.note(read)?;
    wrong.note(holes.damage.clone().map_or(Ok(()), Err))?;
    if let Some(damage) = wrong.0.clone().filter(|_| !placed) {
        // What cannot be placed may have been the newest segment.
        chain.hole(chain.next, damage, &mut holes);
    }
    let mut torn = chain.into_torn();
    if let Some(refused) = refused {
        return Err(refused);
    }
    // Of what generations they are, is not known.
    let claimed = holes.claimed.into_iter();
    torn.extend(claimed.map(|volume| (volume, Generation(u64::MAX))));
    Ok(wrong.0.map(|damage| Salvaged {
        damage,
        missing: holes.range,
        since: holes.since,
        torn,
        bytes: supply.bytes,
    }))
}

/// What was durable when a segment was freed was there.
fn check_free(files: &Files, chain: &mut Chain<'_>, holes: &mut Holes) {
    let newest = files.free.iter().max_by_key(|h| h.header.first_seq);
    if let Some(freed) = newest.filter(|h| h.header.first_seq > chain.end()) {
        let what = "recovery: records that were durable when this segment was freed are lost";
        let damage = Error::corrupt(what, &freed.file.path, 0);
        chain.hole(freed.header.first_seq, damage, holes);
    }
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
        active.chain(&self.unreadable).chain(&self.headless)
    }
}

/// Makes headers again from the records of segments that have lost theirs, unless a crash would leave them so: that
/// leaves no header that is wrong, and where there are zeroes nothing after the first commit. False if there is a segment
/// without a header for which none can be made.
fn make_headers(files: &mut Files, len_max: u64) -> bool {
    let mut all = true;
    let mut window = Window::new(len_max);
    let known: BTreeSet<u64> = files.active.iter().map(|h| h.header.number).collect();
    let unreadable = std::mem::take(&mut files.unreadable).into_iter();
    let headless = std::mem::take(&mut files.headless).into_iter();
    let lost = unreadable.map(|file| (file, false));
    for (file, zeroes) in lost.chain(headless.map(|file| (file, true))) {
        let Some((header, at, proven)) = header_of(&mut window, &file) else {
            all &= zeroes;
            continue;
        };
        if known.contains(&header.number) || (zeroes && !proven) {
            continue;
        }
        files.active.push(Headed {
            header,
            file,
            source: match at == PAGE as u64 {
                true => Source::FirstRecord,
                false => Source::LaterRecord,
            },
        });
    }
    all
}

/// A header from the records of the newest use of a file, where the first of them is, and whether a later one says that
/// it was durable.
fn header_of(window: &mut Window, file: &SegmentFile) -> Option<(SegmentHeader, u64, bool)> {
    let mut made: Option<(SegmentHeader, u64, bool)> = None;
    // An error ends the looking: the log is followed later, and meets it again.
    let _ = window.each_record(file, &mut |at, record| match &mut made {
        Some((header, _, proven)) if header.number == record.number => {
            *proven |= record.durable >= header.first_seq;
        }
        Some((header, ..)) if header.number > record.number => {}
        _ => {
            let header = SegmentHeader {
                store: StoreId([0; 16]),
                number: record.number,
                salt: record.salt,
                first_seq: record.seq,
                tail: 0,
                len: file.len / PAGE as u64 * PAGE as u64,
                state: SegmentState::Active,
            };
            made = Some((header, at, false));
        }
    });
    made
}

/// The segments that are needed, each once, and the number of the first. There being two of one number is not `placed`:
/// one of them took the place of another.
fn in_order(
    files: &mut Files,
    len_max: u64,
    placed: &mut bool,
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
                *placed = false;
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

/// Notes what is wrong with segments as such. Of one that is cut short, what is there counts; false if that is the last
/// one: what it had may have been more.
fn check(needed: &mut [Headed], tail: u64, wrong: &mut Wrong) -> Result<bool, Error> {
    wrong.note(check_numbers(needed, tail))?;
    let mut whole = true;
    for headed in needed {
        if headed.source != Source::Page {
            let what = "recovery: the header of a segment that is needed is damaged";
            wrong.note(Err(Error::corrupt(what, &headed.file.path, 0)))?;
        }
        let len = check_len(headed);
        whole = len.is_ok();
        wrong.note(len)?;
        let whole_pages = headed.file.len / PAGE as u64 * PAGE as u64;
        headed.header.len = headed.header.len.min(whole_pages);
    }
    Ok(whole)
}
