//! The first words of the region.
//!
//! ```text
//!  0 magic and version │ 1–2 store │ 3 chunks │ 4 which list holds │ 5 end of the journal │ 16… list 0: count, epochs │ 4096… list 1
//! ```

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};
use types::{Epoch, JournalSeq, StoreId};

/// Bytes of the header.
pub(crate) const HEADER_BYTES: u64 = 64 << 10;
/// Words of the header.
pub(crate) const WORDS: usize = HEADER_BYTES as usize / 8;

/// "HFWBUF" and a version.
const MAGIC: u64 = u64::from_le_bytes(*b"HFWBUF\0\x01");
const STORE: usize = 1;
const CHUNKS: usize = 3;
const LIST: usize = 4;
const JOURNAL_END: usize = 5;
const LISTS: [usize; 2] = [16, WORDS / 2];
/// More daemons than this never died, one after the other, with blocks left of each.
const EPOCHS_MAX: usize = WORDS / 2 - 17;

/// Whether this buffer is of this store, and of this version.
pub(crate) fn is_ours(words: &[AtomicU64], store: StoreId) -> bool {
    words[0].load(Acquire) == MAGIC && store_words(store) == [1, 2].map(|n| words[n].load(Relaxed))
}

/// Writes the header of an empty buffer; the region has only zeroes.
pub(crate) fn begin(words: &[AtomicU64], store: StoreId) {
    for (word, value) in words[STORE..].iter().zip(store_words(store)) {
        word.store(value, Relaxed);
    }
    words[0].store(MAGIC, Release);
}

fn store_words(store: StoreId) -> [u64; 2] {
    let (a, b) = store.0.split_at(8);
    [a, b].map(|half| {
        half.iter()
            .fold(0, |word, &byte| word << 8 | u64::from(byte))
    })
}

/// Chunks that may hold something.
pub(crate) fn chunks(words: &[AtomicU64]) -> u32 {
    u32::try_from(words[CHUNKS].load(Relaxed)).unwrap_or(u32::MAX)
}

pub(crate) fn set_chunks(words: &[AtomicU64], chunks: u32) {
    words[CHUNKS].store(u64::from(chunks), Release);
}

/// Where the journal ended when the last of them began.
pub(crate) fn journal_end(words: &[AtomicU64]) -> JournalSeq {
    JournalSeq(words[JOURNAL_END].load(Acquire))
}

pub(crate) fn set_journal_end(words: &[AtomicU64], end: JournalSeq) {
    words[JOURNAL_END].store(end.0, Release);
}

/// The epochs of those who wrote what is in the buffer.
pub(crate) fn lineage(words: &[AtomicU64]) -> Vec<Epoch> {
    let list = &words[LISTS[words[LIST].load(Acquire) as usize & 1]..];
    let count = list[0].load(Relaxed).min(EPOCHS_MAX as u64) as usize;
    let epochs = list[1..=count].iter();
    epochs.map(|word| Epoch(word.load(Relaxed))).collect()
}

/// Replaces the list: who dies in between leaves the old one.
pub(crate) fn set_lineage(words: &[AtomicU64], epochs: impl Iterator<Item = Epoch>) {
    let mut epochs: Vec<Epoch> = epochs.collect();
    // The latest first: they are kept, should there be too many.
    epochs.sort_unstable_by(|a, b| b.cmp(a));
    epochs.dedup();
    epochs.truncate(EPOCHS_MAX);
    let other = (words[LIST].load(Relaxed) as usize & 1) ^ 1;
    let list = &words[LISTS[other]..];
    list[0].store(epochs.len() as u64, Relaxed);
    for (word, epoch) in list[1..].iter().zip(&epochs) {
        word.store(epoch.0, Relaxed);
    }
    words[LIST].store(other as u64, Release);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_says_whose_it_is_and_who_wrote() {
        let words: Vec<AtomicU64> = (0..WORDS).map(|_| AtomicU64::new(0)).collect();
        let store = StoreId([7; 16]);
        assert!(!is_ours(&words, store));
        begin(&words, store);
        assert!(is_ours(&words, store) && !is_ours(&words, StoreId([8; 16])));
        assert!(lineage(&words).is_empty());
        set_lineage(&words, [3, 1, 3].map(Epoch).into_iter());
        assert_eq!(lineage(&words), [3, 1].map(Epoch));
        set_lineage(&words, (0..10_000).map(Epoch));
        assert_eq!(lineage(&words).len(), EPOCHS_MAX);
        assert_eq!(lineage(&words)[0], Epoch(9_999));
        assert_eq!(journal_end(&words), JournalSeq(0));
        set_journal_end(&words, JournalSeq(7));
        assert_eq!(journal_end(&words), JournalSeq(7));
        assert!(is_ours(&words, store) && chunks(&words) == 0);
    }
}
