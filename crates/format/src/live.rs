//! Which blocks of a pack are live, and the two slots in its header that say so.
//!
//! Collection gives blocks up by writing the slot that does not hold the newest map, syncing, and only
//! then punching holes. A slot torn by a crash leaves the older map, behind which nothing was punched yet.

use crate::{Malformed, bytes, pack::PACK_BLOCKS};
use types::PackId;

/// Bytes of a slot: one sector, which a disk writes whole or not at all.
pub const SLOT_LEN: usize = 512;

/// Where the slots lie in an object.
pub const SLOT_OFFSETS: [u64; 2] = [512, 1024];

const WORDS: usize = PACK_BLOCKS / 64;
const MAGIC: [u8; 4] = *b"HFlv";
const CRC_AT: usize = SLOT_LEN - 4;

/// A bit for each block of a pack.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveBits([u64; WORDS]);

impl LiveBits {
    /// No block.
    pub const NONE: LiveBits = LiveBits([0; WORDS]);

    /// The first `blocks` blocks.
    #[must_use]
    pub fn first(blocks: usize) -> Self {
        (0..blocks.min(PACK_BLOCKS) as u16).collect()
    }

    /// Whether `ordinal` is in the set; false for what no pack has.
    #[must_use]
    pub fn get(&self, ordinal: u16) -> bool {
        self.0
            .get(usize::from(ordinal) / 64)
            .is_some_and(|word| word >> (ordinal % 64) & 1 == 1)
    }

    /// Adds `ordinal`; what no pack has is left out.
    pub fn insert(&mut self, ordinal: u16) {
        if let Some(word) = self.0.get_mut(usize::from(ordinal) / 64) {
            *word |= 1 << (ordinal % 64);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::NONE
    }

    /// What is in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        LiveBits(std::array::from_fn(|i| self.0[i] | other.0[i]))
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        LiveBits(std::array::from_fn(|i| self.0[i] & other.0[i]))
    }

    /// Ordinals, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u16> + '_ {
        (0..PACK_BLOCKS as u16).filter(|&ordinal| self.get(ordinal))
    }
}

impl FromIterator<u16> for LiveBits {
    fn from_iter<I: IntoIterator<Item = u16>>(ordinals: I) -> Self {
        let mut bits = Self::NONE;
        ordinals
            .into_iter()
            .for_each(|ordinal| bits.insert(ordinal));
        bits
    }
}

/// What the slots of a pack say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveMap {
    /// Blocks that were not given up.
    pub bits: LiveBits,
    /// Grows whenever blocks are given up.
    pub revision: u32,
    /// A slot is neither blank nor sound. What it said may have been newer than `bits`: blocks said
    /// to be live may be holes. Reading finds that out by their checksums; nothing new may refer to them.
    pub doubtful: bool,
    newest: Option<usize>,
}

impl LiveMap {
    /// Of a pack of `blocks` blocks written at `revision`, from the first sectors of its object.
    #[must_use]
    pub fn decode(head: &[u8], pack: PackId, blocks: usize, revision: u32) -> Self {
        let all = LiveBits::first(blocks);
        let mut map = LiveMap {
            bits: all,
            revision,
            doubtful: false,
            newest: None,
        };
        for (i, offset) in SLOT_OFFSETS.into_iter().enumerate() {
            let slot = head.get(offset as usize..offset as usize + SLOT_LEN);
            match slot.map_or(Err(BROKEN), |slot| decode_slot(slot, pack)) {
                Ok(Some((found, bits))) if found >= map.revision => {
                    map.revision = found;
                    map.bits = bits.intersection(&all);
                    map.newest = Some(i);
                }
                Ok(_) => {}
                Err(_) => map.doubtful = true,
            }
        }
        map
    }

    /// The mark that leaves `bits`: where to write what. The newest slot so far stays.
    #[must_use]
    pub fn next_mark(&self, pack: PackId, bits: &LiveBits) -> (u64, [u8; SLOT_LEN]) {
        let slot = match self.newest {
            Some(0) => 1,
            _ => 0,
        };
        let revision = self.revision.saturating_add(1);
        (SLOT_OFFSETS[slot], encode_slot(pack, revision, bits))
    }
}

const BROKEN: Malformed = Malformed::new("live map", "neither blank nor sound");

/// One slot.
#[must_use]
pub fn encode_slot(pack: PackId, revision: u32, bits: &LiveBits) -> [u8; SLOT_LEN] {
    let mut slot = [0; SLOT_LEN];
    bytes::put(&mut slot, 0, &MAGIC);
    bytes::put(&mut slot, 4, &revision.to_le_bytes());
    bytes::put(&mut slot, 8, &pack.0.to_le_bytes());
    for (i, word) in bits.0.iter().enumerate() {
        bytes::put(&mut slot, 16 + i * 8, &word.to_le_bytes());
    }
    let crc = crc32c::crc32c(&slot[..CRC_AT]);
    bytes::put(&mut slot, CRC_AT, &crc.to_le_bytes());
    slot
}

/// `None` if it is blank.
fn decode_slot(slot: &[u8], pack: PackId) -> Result<Option<(u32, LiveBits)>, Malformed> {
    if types::is_zero(slot) {
        return Ok(None);
    }
    let body = slot.get(..CRC_AT).ok_or(BROKEN)?;
    let sound = bytes::array(slot, 0) == Some(MAGIC)
        && bytes::u64_at(slot, 8) == Some(pack.0)
        && bytes::u32_at(slot, CRC_AT) == Some(crc32c::crc32c(body));
    if !sound {
        return Err(BROKEN);
    }
    let revision = bytes::u32_at(slot, 4).ok_or(BROKEN)?;
    let mut bits = LiveBits::NONE;
    for (i, word) in bits.0.iter_mut().enumerate() {
        *word = bytes::u64_at(slot, 16 + i * 8).ok_or(BROKEN)?;
    }
    Ok(Some((revision, bits)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACK: PackId = PackId(9);

    fn marked(head: &mut [u8], bits: &LiveBits) {
        let (at, slot) = LiveMap::decode(head, PACK, 10, 0).next_mark(PACK, bits);
        head[at as usize..at as usize + SLOT_LEN].copy_from_slice(&slot);
    }

    #[test]
    fn slots_alternate_and_the_newest_counts() {
        let mut head = vec![0; 1536];
        let fresh = LiveMap::decode(&head, PACK, 10, 0);
        assert_eq!((fresh.bits, fresh.doubtful), (LiveBits::first(10), false));
        for n in (0..10).rev() {
            let before = LiveMap::decode(&head, PACK, 10, 0);
            let whole = head.clone();
            marked(&mut head, &LiveBits::first(n));
            let after = LiveMap::decode(&head, PACK, 10, 0);
            assert_eq!(after.bits, LiveBits::first(n));
            assert_eq!(after.revision, before.revision + 1);
            // Torn: every byte that changed may be the old or the new one.
            for cut in (512..1536).filter(|&at| head[at] != whole[at]).skip(1) {
                let torn = [&head[..cut], &whole[cut..]].concat();
                let map = LiveMap::decode(&torn, PACK, 10, 0);
                assert_eq!(map.bits, before.bits, "cut at {cut}");
                assert!(map.doubtful);
            }
        }
    }

    #[test]
    fn a_slot_of_another_pack_or_of_before_a_rewrite_says_nothing() {
        let mut head = vec![0; 1536];
        marked(&mut head, &LiveBits::first(3));
        assert!(LiveMap::decode(&head, PackId(8), 10, 0).doubtful);
        let rewritten = LiveMap::decode(&head, PACK, 10, 5);
        assert_eq!(
            (rewritten.bits, rewritten.revision),
            (LiveBits::first(10), 5)
        );
    }

    #[test]
    fn bits_are_a_set() {
        let mut bits: LiveBits = [1, 63, 64, 1023].into_iter().collect();
        bits.insert(4095);
        assert_eq!(bits.iter().collect::<Vec<_>>(), [1, 63, 64, 1023]);
        assert_eq!(bits.count(), 4);
        assert!(!bits.get(4095) && !bits.get(0) && bits.get(64));
        assert_eq!(bits.intersection(&LiveBits::first(64)).count(), 2);
        assert_eq!(bits.union(&LiveBits::first(2)).count(), 5);
    }
}
