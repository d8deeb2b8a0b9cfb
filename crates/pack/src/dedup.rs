//! Finding blocks that are already stored.
//!
//! Blocks written together come back together (sparse indexing, FAST '09). A segment of the blocks to be
//! written is looked up in the index, which may know only some of their hashes; the packs that it names, the
//! champions, are loaded, and all blocks of the segment are compared with all of the champions' hashes.

use crate::{Error, ErrorKind, LiveBits, PackStore};
use format::pack::PackHeader;
use rustc_hash::{FxHashMap, FxHashSet};
use std::{cmp::Reverse, sync::Arc};
use types::{BlockHash, PackId, Pointer};

/// The hashes of a pack by ordinal; zero for none.
pub(crate) type Hashes = Arc<[BlockHash]>;

/// Champions of a segment whose hashes are read from the brick; those in the cache are not counted.
const LOADS_MAX: usize = 8;

/// Hits in runs shorter than this are not worth taking. 1 takes them all, until measured otherwise.
pub const MIN_RUN: usize = 1;

/// Whether each hit is worth taking. `hits` are those of blocks that follow each other in a volume.
///
/// A block that is stored already saves space, but lies elsewhere: reading on from its neighbours takes one
/// more frame, and one more seek. So a run of hits, in one pack and ascending, is taken only if it has at least
/// `min_run` blocks, or if nothing beside it is stored anew: then there is no run to be scattered.
#[must_use]
pub fn worth_taking(hits: &[Option<Pointer>], min_run: usize) -> Vec<bool> {
    let mut taken = vec![false; hits.len()];
    let mut begin = 0;
    for run in hits.chunk_by(continues) {
        let end = begin + run.len();
        let is_new = |i: usize| hits.get(i).is_some_and(Option::is_none);
        let alone = !is_new(end) && (begin == 0 || !is_new(begin - 1));
        if run[0].is_some() && (run.len() >= min_run || alone) {
            taken[begin..end].fill(true);
        }
        begin = end;
    }
    taken
}

fn continues(a: &Option<Pointer>, b: &Option<Pointer>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => a.pack() == b.pack() && a.ordinal() < b.ordinal(),
        (None, None) => true,
        _ => false,
    }
}

impl PackStore {
    /// Looks for the blocks of a segment; what is found is not pinned yet.
    pub(crate) fn find_duplicates(
        &self,
        hashes: &[BlockHash],
    ) -> Result<Vec<Option<Pointer>>, Error> {
        let advice: Vec<Option<Pointer>> = hashes
            .iter()
            .map(|hash| self.index.get(hash.prefix()))
            .collect();
        let mut votes: FxHashMap<PackId, usize> = FxHashMap::default();
        for pointer in advice.iter().flatten() {
            *votes.entry(pointer.pack()).or_default() += 1;
        }
        if votes.is_empty() {
            return Ok(vec![None; hashes.len()]);
        }
        let mut champions: Vec<(PackId, usize)> = votes.into_iter().collect();
        champions.sort_unstable_by_key(|&(pack, votes)| (Reverse(votes), pack));
        let mut found: FxHashMap<BlockHash, Option<Pointer>> =
            hashes.iter().map(|&hash| (hash, None)).collect();
        let mut loads = 0;
        let mut asked = FxHashSet::default();
        for (pack, _) in champions {
            if !self.hashes.contains_key(&pack) {
                loads += 1;
                if loads > LOADS_MAX {
                    continue;
                }
            }
            asked.insert(pack);
            if let Some((header, hashes)) = self.champion(pack)? {
                let shunned = self.distrust.of(pack);
                match_champion(&header, &hashes, &shunned, &mut found);
            }
        }
        for (hash, pointer) in hashes.iter().zip(&advice) {
            let wrong = pointer.filter(|p| asked.contains(&p.pack()) && found[hash].is_none());
            if let Some(pointer) = wrong {
                self.index.forget(hash.prefix(), pointer);
            }
        }
        Ok(hashes.iter().map(|hash| found[hash]).collect())
    }

    /// A pack's header and hashes; `None` if they cannot or should not be had.
    fn champion(&self, pack: PackId) -> Result<Option<(Arc<PackHeader>, Hashes)>, Error> {
        let loaded = self.header(pack, true).and_then(|header| {
            let Some(header) = header else {
                return Ok(None);
            };
            let hashes = match self.hashes.get(&pack) {
                Some(hashes) => hashes,
                None => self.load_hashes(&header)?,
            };
            Ok(Some((header, hashes)))
        });
        match loaded {
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Damaged) => {
                tracing::debug!(%error, "no deduplication against this pack");
                Ok(None)
            }
            // What a doubtful live map says to be live may be gone.
            Ok(Some((header, _))) if header.live.doubtful => Ok(None),
            other => other,
        }
    }

    pub(crate) fn load_hashes(&self, header: &PackHeader) -> Result<Hashes, Error> {
        let loading = self.pins.lookup();
        let hashes = self.read_hashes(header)?;
        loading.publish(header.pack, || {
            self.hashes.insert(header.pack, Arc::clone(&hashes))
        });
        Ok(hashes)
    }

    pub(crate) fn read_hashes(&self, header: &PackHeader) -> Result<Hashes, Error> {
        let Some(range) = header.hashes.clone() else {
            return Ok(Arc::new([]));
        };
        let mut table = vec![0; (range.end - range.start) as usize];
        self.fetch(header.pack, range.start, &mut table, true)
            .map_err(Error::missing_is_damage)?;
        let hashes = header.decode_hashes(&table).map_err(|why| {
            Error::damaged("reading hashes", "not a sound table")
                .with_source(why)
                .of_pack(header.pack)
        })?;
        Ok(hashes.into())
    }
}

fn match_champion(
    header: &PackHeader,
    hashes: &[BlockHash],
    shunned: &LiveBits,
    found: &mut FxHashMap<BlockHash, Option<Pointer>>,
) {
    for (ordinal, hash) in (0..header.blocks).zip(hashes) {
        if let Some(place @ None) = found.get_mut(hash)
            && header.live.bits.get(ordinal)
            && !shunned.get(ordinal)
        {
            *place = Some(Pointer::new(header.pack, ordinal));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hits(text: &str) -> Vec<Option<Pointer>> {
        let hit = |(i, c): (usize, char)| {
            c.to_digit(10)
                .map(|pack| Pointer::new(PackId(u64::from(pack)), i as u16))
        };
        text.chars().enumerate().map(hit).collect()
    }

    #[test]
    fn short_runs_between_new_blocks_are_not_worth_taking() {
        for (text, min_run, expected) in [
            ("..1..", 1, "  x  "),
            ("..1..", 2, "     "),
            ("..11..", 2, "  xx  "),
            ("..12..", 2, "      "),
            ("1122", 9, "xxxx"),
            (".1222", 2, "  xxx"),
            ("1", 9, "x"),
            ("", 1, ""),
        ] {
            let taken = worth_taking(&hits(text), min_run);
            let taken: String = taken.iter().map(|&t| if t { 'x' } else { ' ' }).collect();
            assert_eq!(taken, expected, "{text} {min_run}");
        }
    }
}
