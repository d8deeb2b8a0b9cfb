//! The bytes of one file, twice: what readers see, and what a power cut leaves.

use crate::random::Dice;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, LazyLock},
};

pub(crate) const PAGE: u64 = 4096;
/// What a disk writes whole or not at all.
pub(crate) const SECTOR: usize = 512;
/// All eight sectors of a page.
const WHOLE_PAGE: u8 = 0xff;
/// Former states of a page, and former lengths, that a power cut can bring back; older ones are forgotten.
const FORMER_MAX: usize = 4;

type Page = [u8; PAGE as usize];
/// Pages that are not there are holes.
type Pages = BTreeMap<u64, Arc<Page>>;

static ZEROES: LazyLock<Arc<Page>> = LazyLock::new(|| Arc::new([0; PAGE as usize]));

#[derive(Clone, Default)]
pub(crate) struct Image {
    live: Pages,
    live_len: u64,
    durable: Pages,
    durable_len: u64,
    dirty: BTreeMap<u64, Dirty>,
    /// Lengths that the file had since its last sync, but for the last one.
    former_lens: VecDeque<u64>,
}

/// What was written to a page since the last sync.
#[derive(Clone, Default)]
struct Dirty {
    /// Sectors, a bit each.
    sectors: u8,
    /// What was there after earlier writes, and in which sectors: the disk may have that.
    former: VecDeque<(u8, Option<Arc<Page>>)>,
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
            self.soil(page, sectors(within, piece.len()));
            let slot = self.live.entry(page).or_insert_with(|| ZEROES.clone());
            if piece.len() as u64 == PAGE && piece.iter().all(|&byte| byte == 0) {
                *slot = ZEROES.clone();
            } else {
                Arc::make_mut(slot)[within..within + piece.len()].copy_from_slice(piece);
            }
        }
        let end = offset + data.len() as u64;
        if !data.is_empty() && end > self.live_len {
            self.change_len(end);
        }
    }

    /// Sectors of a page are about to be written.
    fn soil(&mut self, page: u64, sectors: u8) {
        let dirty = self.dirty.entry(page).or_default();
        if dirty.sectors != 0 {
            if dirty.former.len() == FORMER_MAX {
                dirty.former.pop_front();
            }
            let now = self.live.get(&page).cloned();
            dirty.former.push_back((dirty.sectors, now));
        }
        dirty.sectors |= sectors;
    }

    fn change_len(&mut self, len: u64) {
        if self.former_lens.len() == FORMER_MAX {
            self.former_lens.pop_front();
        }
        self.former_lens.push_back(self.live_len);
        self.live_len = len;
    }

    /// A write that never reaches the disk; `cached`: readers see it until the power goes.
    pub(crate) fn lose(&mut self, offset: u64, data: &[u8], cached: bool) {
        let dirty = self.dirty.clone();
        let live = self.live.clone();
        self.write(offset, data);
        if !cached {
            self.live = live;
        }
        // Sectors that waited to be synced are lost with those that the write replaced.
        self.dirty = dirty;
        for (page, within, part) in pieces(offset, data.len()) {
            if let Some(dirty) = self.dirty.get_mut(&page) {
                dirty.sectors &= !sectors(within, part.len());
                dirty.former.clear();
            }
        }
    }

    /// A write that is durable at once.
    pub(crate) fn write_through(&mut self, offset: u64, data: &[u8]) {
        let end = self.durable_len.min(self.live_len);
        let len = end.saturating_sub(offset).min(data.len() as u64) as usize;
        for (page, within, part) in pieces(offset, len) {
            for pages in [&mut self.live, &mut self.durable] {
                let slot = pages.entry(page).or_insert_with(|| ZEROES.clone());
                let place = within..within + part.len();
                Arc::make_mut(slot)[place].copy_from_slice(&data[part.clone()]);
            }
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
            self.soil(page, sectors(within, part.len()));
            if part.len() as u64 == PAGE {
                self.live.remove(&page);
            } else if let Some(slot) = self.live.get_mut(&page) {
                Arc::make_mut(slot)[within..within + part.len()].fill(0);
            }
        }
    }

    pub(crate) fn set_len(&mut self, len: u64) {
        if len < self.live_len {
            self.punch(len, self.live_len - len);
        }
        if len != self.live_len {
            self.change_len(len);
        }
    }

    pub(crate) fn sync(&mut self) {
        for (page, dirty) in std::mem::take(&mut self.dirty) {
            let live = self.live.get(&page).cloned();
            self.persist(page, dirty.sectors, live.as_ref());
        }
        self.durable_len = self.live_len;
        self.former_lens.clear();
    }

    /// Some unsynced sectors reach the disk. What went through the page cache is forgotten to be
    /// unsynced, as by Linux after an error of writeback: readers see it until the power goes, or, by file
    /// system, what the disk has. What was written directly waits in the device for the next sync, or is lost there.
    pub(crate) fn sync_badly(&mut self, direct: bool, dice: &mut Dice) {
        self.persist_some(dice);
        let reverted = dice.coin();
        if reverted {
            for page in self.dirty.keys() {
                match self.durable.get(page) {
                    Some(bytes) => self.live.insert(*page, bytes.clone()),
                    None => self.live.remove(page),
                };
            }
        }
        if reverted || !direct {
            self.dirty.clear();
            self.former_lens.clear();
        }
    }

    pub(crate) fn power_cut(&mut self, dice: &mut Dice) {
        self.persist_some(dice);
        self.live = self.durable.clone();
        self.live_len = self.durable_len;
        self.dirty.clear();
        self.former_lens.clear();
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
        let count: u32 = self.dirty.values().map(|d| d.sectors.count_ones()).sum();
        let luck = Luck::draw(dice, u64::from(count));
        let mut nth = 0;
        for (page, dirty) in self.dirty.clone() {
            let mut kept = 0;
            for bit in (0..8)
                .map(|n| 1 << n)
                .filter(|bit| dirty.sectors & bit != 0)
            {
                if luck.keeps(nth, dice) {
                    kept |= bit;
                }
                nth += 1;
            }
            self.persist_page(page, kept, &dirty.former, dice);
        }
        if !self.former_lens.is_empty() && dice.coin() {
            let lens = self.former_lens.iter().copied().chain([self.live_len]);
            let nth = dice.below(2 * self.former_lens.len() as u64) as usize;
            // The last one half of the time.
            self.durable_len = lens.clone().nth(nth).unwrap_or(self.live_len);
        }
        self.cut_durable();
    }

    /// Some sectors of a page, each as the last write left it, or an earlier one.
    fn persist_page(
        &mut self,
        page: u64,
        kept: u8,
        former: &VecDeque<(u8, Option<Arc<Page>>)>,
        dice: &mut Dice,
    ) {
        let mut last = kept;
        for (written, then) in former {
            // An eighth of the time each; whole pages as often as single sectors.
            let some = match dice.below(8) {
                0 => last & written,
                1 => last & written & dice.next() as u8,
                _ => 0,
            };
            self.persist(page, some, then.as_ref());
            last &= !some;
        }
        let live = self.live.get(&page).cloned();
        self.persist(page, last, live.as_ref());
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

    /// These sectors of a page are on the disk as `bytes` has them; none is a hole.
    fn persist(&mut self, page: u64, sectors: u8, bytes: Option<&Arc<Page>>) {
        match (bytes, sectors) {
            (_, 0) => {}
            (Some(bytes), WHOLE_PAGE) => {
                self.durable.insert(page, bytes.clone());
            }
            (None, WHOLE_PAGE) => {
                self.durable.remove(&page);
            }
            (bytes, _) => {
                let bytes = bytes.unwrap_or(&ZEROES);
                let slot = self.durable.entry(page).or_insert_with(|| ZEROES.clone());
                let durable = Arc::make_mut(slot);
                for sector in (0..8).filter(|n| sectors & (1 << n) != 0) {
                    let range = sector * SECTOR..(sector + 1) * SECTOR;
                    durable[range.clone()].copy_from_slice(&bytes[range]);
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
