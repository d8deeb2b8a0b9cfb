//! Follows a log around what is damaged in it.
//!
//! The log is what [`Chain::read`] would find if nothing were damaged: records that are known to have been durable and
//! are bad or missing leave a *hole* in it. Known is: all in a segment before the seq that the next one begins with,
//! and what a later record of the same segment says. A bad record that nothing is known of ends the segment, as a crash
//! does: what lies behind it was never part of the log, or is not known to have been.

use super::{Headed, Source, chain::Chain};
use crate::{error::Error, state::Pins};
use format::journal::PAGE;
use std::collections::BTreeSet;
use types::{Epoch, JournalSeq, VolumeId};

/// Where records are missing.
#[derive(Clone, Debug, Default)]
pub(super) struct Holes {
    /// The first thing that is wrong.
    pub(super) damage: Option<Error>,
    /// The newest epoch before the first hole.
    pub(super) since: Epoch,
    /// The seq of the first record that is missing, and that of the first after all of them that is not.
    pub(super) range: Option<(JournalSeq, JournalSeq)>,
    /// Volumes of records that are bad, as far as these say so themselves.
    pub(super) claimed: BTreeSet<VolumeId>,
}

impl Chain<'_> {
    /// Follows the records through `segments`, of ascending numbers.
    pub(super) fn read_around(
        &mut self,
        segments: &[Headed],
        holes: &mut Holes,
    ) -> Result<(), Error> {
        for (n, segment) in segments.iter().enumerate() {
            self.submits.pins.push(Pins::new());
            let limit = limit_of(segment, segments.get(n + 1..).unwrap_or_default());
            let first = segment.header.first_seq;
            if limit.is_some_and(|limit| limit <= first) {
                continue;
            }
            if first > self.next {
                let what = "recovery: records before this segment are missing";
                let damage = Error::corrupt(what, &segment.file.path, 0);
                self.hole(first, damage, holes);
            } else if first < self.next {
                // The recovery before it dropped what was begun.
                self.submits.tear();
                self.next = first;
            }
            self.read_segment_around(segment, limit, holes)?;
        }
        Ok(())
    }

    /// Everything up to `end` is missing.
    pub(super) fn hole(&mut self, end: JournalSeq, damage: Error, holes: &mut Holes) {
        if holes.range.is_none() {
            holes.since = self.submits.newest_epoch();
        }
        holes.damage.get_or_insert(damage);
        let begin = holes.range.map_or(self.next, |(begin, _)| begin);
        holes.range = Some((begin, end));
        self.submits.tear();
        self.submits.end = end;
        self.next = end;
    }

    fn read_segment_around(
        &mut self,
        segment: &Headed,
        limit: Option<JournalSeq>,
        holes: &mut Holes,
    ) -> Result<(), Error> {
        let mut offset = PAGE as u64;
        if segment.source == Source::LaterRecord
            && let Some((at, _)) = self.next_good(segment, offset, self.next, &mut |_| ())?
        {
            offset = at;
        }
        // The seq after the last that is known to have been durable; looked for when it is needed.
        let mut known = limit;
        while limit != Some(self.next) {
            let record = self.window.record(segment, offset)?;
            if let Some(record) = record.filter(|record| record.header.seq == self.next) {
                let len = PAGE * (1 + record.blocks.len());
                self.submits
                    .take(&record)
                    .map_err(|what| Error::corrupt(what, &segment.file.path, offset))??;
                self.next = self.next.next();
                offset += len as u64;
                continue;
            }
            let end = match known {
                Some(end) => end,
                None => self.durable_end(segment)?,
            };
            known = Some(end);
            if self.next >= end {
                break;
            }
            let what = "recovery: a record that was durable is damaged";
            let damage = Error::corrupt(what, &segment.file.path, offset);
            let claimed = &mut |volume| {
                holes.claimed.insert(volume);
            };
            let good = self.next_good(segment, offset, self.next, claimed)?;
            // Of the last commit nothing is taken but what follows on what was durable.
            match good.filter(|(_, seq)| *seq <= end && limit != Some(*seq)) {
                Some((at, seq)) => {
                    self.hole(seq, damage, holes);
                    offset = at;
                }
                None => {
                    self.hole(end, damage, holes);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The first good record from `offset` on that is `next` or later: where it is, and its seq. `claimed` hears whose
    /// the bad ones before it are.
    fn next_good(
        &mut self,
        segment: &Headed,
        offset: u64,
        next: JournalSeq,
        claimed: &mut dyn FnMut(VolumeId),
    ) -> Result<Option<(u64, JournalSeq)>, Error> {
        let mut at = offset;
        while at < segment.header.len {
            let claim = self.window.claim(segment, at)?;
            if let Some(claim) = claim.filter(|claim| claim.seq >= next) {
                if self.window.record(segment, at)?.is_some() {
                    return Ok(Some((at, claim.seq)));
                }
                claimed(claim.volume);
            }
            at += PAGE as u64;
        }
        Ok(None)
    }

    /// The seq after all that the records of a segment say was durable.
    fn durable_end(&mut self, segment: &Headed) -> Result<JournalSeq, Error> {
        let mut end = JournalSeq(0);
        let mut at = PAGE as u64;
        while at < segment.header.len {
            if let Some(record) = self.window.record(segment, at)? {
                end = record.header.durable.next().max(end);
            }
            at += PAGE as u64;
        }
        Ok(end)
    }
}

/// The seq before which all of `segment` was durable, if the one after it says so.
fn limit_of(segment: &Headed, later: &[Headed]) -> Option<JournalSeq> {
    let next = later.first()?;
    if next.source == Source::LaterRecord || next.header.number != segment.header.number + 1 {
        return None;
    }
    let exact = later
        .iter()
        .filter(|headed| headed.source != Source::LaterRecord);
    exact.map(|headed| headed.header.first_seq).min()
}
