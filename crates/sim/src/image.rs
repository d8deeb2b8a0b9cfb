//! The bytes of one file, twice: what readers see, and what a power cut leaves.

use crate::random::Dice;
use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

pub(crate) const PAGE: u64 = 4096;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// All eight sectors of a page.
const WHOLE_PAGE: u8 = 0xff;

type Page = [u8; PAGE as usize];
/// Pages that are not there are holes.
type Pages = BTreeMap<u64, Arc<Page>>;

static ZEROES: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE as usize]));

#[derive(Default)]
pub(crate) struct Image {
    live: Pages,
    live_len: u64,
    durable: Pages,
    durable_len: u64,
    /// Sectors, a bit each, that were written and not synced, by page.
    dirty: BTreeMap<u64, u8>,
    len_dirty: bool,
}

/// Which of a file's unsynced sectors a power cut keeps. Extremes are as likely as mixtures,
/// because most mistakes show at the extremes.
enum Luck {
    None,
    All,
    Half,
    /// In order of offset, up to this many.
    Prefix(u64),
    /// In order of offset, from this one.
    Suffix(u64),
}

impl Luck {
    fn draw(dice: &mut Dice, sectors: u64) -> Self {
        match dice.below(5) {
            0 => Luck::None,
            1 => Luck::All,
            2 => Luck::Half,
            3 => Luck::Prefix(dice.below(sectors + 1)),
            _ => Luck::Suffix(dice.below(sectors + 1)),
        }
    }

    fn keeps(&self, nth: u64, dice: &mut Dice) -> bool {
        match self {
            Luck::None => false,
            Luck::All => true,
            Luck::Half => dice.coin(),
            Luck::Prefix(count) => nth < *count,
            Luck::Suffix(start) => nth >= *start,
        }
    }
}

impl Image {
    pub(crate) fn len(&self) -> u64 {
        self.live_len
    }

    /// Pages that take space.
    pub(crate) fn pages(&self) -> u64 {
        self.live.len() as u64
    }

    /// Pages that a write would add.
    pub(crate) fn pages_missing(&self, offset: u64, len: u64) -> u64 {
        if len == 0 {
            return 0;
        }
        let (first, last) = (offset / PAGE, (offset + len - 1) / PAGE);
        last - first + 1 - self.live.range(first..=last).count() as u64
    }

    /// False if the file ends before.
    pub(crate) fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        if offset.saturating_add(buf.len() as u64) > self.live_len {
            return false;
        }
        for (page, within, part) in pieces(offset, buf.len()) {
            match self.live.get(&page) {
                Some(bytes) => {
                    buf[part.clone()].copy_from_slice(&bytes[within..within + part.len()]);
                }
                None => buf[part].fill(0),
            }
        }
        true
    }

    pub(crate) fn write(&mut self, offset: u64, data: &[u8]) {
        for (page, within, part) in pieces(offset, data.len()) {
            let piece = &data[part];
            let slot = self.live.entry(page).or_insert_with(|| ZEROES.clone());
            if piece.len() as u64 == PAGE && piece.iter().all(|&byte| byte == 0) {
                *slot = ZEROES.clone();
            } else {
                Arc::make_mut(slot)[within..within + piece.len()].copy_from_slice(piece);
            }
            *self.dirty.entry(page).or_default() |= sectors(within, piece.len());
        }
        let end = offset + data.len() as u64;
        if !data.is_empty() && end > self.live_len {
            self.live_len = end;
            self.len_dirty = true;
        }
    }

    /// Makes zeroes and gives whole pages back.
    pub(crate) fn punch(&mut self, offset: u64, len: u64) {
        let end = offset.saturating_add(len).min(self.live_len);
        if offset >= end {
            return;
        }
        // A last page that the file does not fill is punched whole.
        let end = if end == self.live_len {
            end.next_multiple_of(PAGE)
        } else {
            end
        };
        for (page, within, part) in pieces(offset, (end - offset) as usize) {
            if part.len() as u64 == PAGE {
                self.live.remove(&page);
            } else if let Some(slot) = self.live.get_mut(&page) {
                Arc::make_mut(slot)[within..within + part.len()].fill(0);
            }
            *self.dirty.entry(page).or_default() |= sectors(within, part.len());
        }
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.live_len {
            self.punch(len, self.live_len - len);
        }
        self.len_dirty |= len != self.live_len;
        self.live_len = len;
    }

    pub(crate) fn sync(&mut self) {
        for (page, dirty) in std::mem::take(&mut self.dirty) {
            self.persist(page, dirty);
        }
        self.durable_len = self.live_len;
        self.len_dirty = false;
    }

    /// Some unsynced sectors reach the disk. What went through the page cache is forgotten to be
    /// unsynced, as by Linux after an error of writeback: readers see it until the power goes.
    /// What was written directly waits in the device for the next sync.
    pub(crate) fn sync_badly(&mut self, direct: bool, dice: &mut Dice) {
        self.persist_some(dice);
        if !direct {
            self.dirty.clear();
            self.len_dirty = false;
        }
    }

    pub(crate) fn power_cut(&mut self, dice: &mut Dice) {
        self.persist_some(dice);
        self.live = self.durable.clone();
        self.live_len = self.durable_len;
        self.dirty.clear();
        self.len_dirty = false;
    }

    /// Damages a byte in both images. False if the file has no such byte.
    pub(crate) fn flip_bit(&mut self, offset: u64) -> bool {
        let (page, within) = (offset / PAGE, (offset % PAGE) as usize);
        let images = [
            (&mut self.live, self.live_len),
            (&mut self.durable, self.durable_len),
        ];
        let mut flipped = false;
        for (pages, len) in images {
            if offset < len {
                let slot = pages.entry(page).or_insert_with(|| ZEROES.clone());
                Arc::make_mut(slot)[within] ^= 1;
                flipped = true;
            }
        }
        flipped
    }

    fn persist_some(&mut self, dice: &mut Dice) {
        let count = self
            .dirty
            .values()
            .map(|bits| bits.count_ones())
            .sum::<u32>();
        let luck = Luck::draw(dice, u64::from(count));
        let mut nth = 0;
        for (page, dirty) in self.dirty.clone() {
            let mut kept = 0;
            for bit in (0..8).map(|n| 1 << n).filter(|bit| dirty & bit != 0) {
                if luck.keeps(nth, dice) {
                    kept |= bit;
                }
                nth += 1;
            }
            self.persist(page, kept);
        }
        if self.len_dirty && dice.coin() {
            self.durable_len = self.live_len;
        }
        self.cut_durable();
    }

    /// Nothing lies past the end, to be found when the file grows again.
    fn cut_durable(&mut self) {
        let end = self.durable_len.div_ceil(PAGE);
        self.durable.split_off(&end);
        let within = (self.durable_len % PAGE) as usize;
        if within != 0
            && let Some(last) = self.durable.get_mut(&(end - 1))
        {
            Arc::make_mut(last)[within..].fill(0);
        }
    }

    fn persist(&mut self, page: u64, dirty: u8) {
        if dirty == 0 {
            return;
        }
        match self.live.get(&page) {
            Some(bytes) if dirty == WHOLE_PAGE => {
                self.durable.insert(page, bytes.clone());
            }
            None if dirty == WHOLE_PAGE => {
                self.durable.remove(&page);
            }
            live => {
                let live = live.unwrap_or(&ZEROES).clone();
                let slot = self.durable.entry(page).or_insert_with(|| ZEROES.clone());
                let durable = Arc::make_mut(slot);
                for sector in (0..8).filter(|n| dirty & (1 << n) != 0) {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    durable[range.clone()].copy_from_slice(&live[range]);
                }
            }
        }
    }
}

/// The pages that `[offset, offset + len)` touches: page, offset in it, range of the buffer.
fn pieces(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let at = offset + done as u64;
        let within = (at % PAGE) as usize;
        let count = (PAGE as usize - within).min(len - done);
        done += count;
        Some((at / PAGE, within, done - count..done))
    })
}

/// The bits of the sectors that `[within, within + len)` of a page touches.
fn sectors(within: usize, len: usize) -> u8 {
    (within / SECTOR..(within + len).div_ceil(SECTOR)).fold(0, |bits, n| bits | 1 << n)
}
