//! How a store may use the machine.

use std::time::Duration;

/// Who destages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// That many threads.
    Threads(usize),
    /// Whoever writes or flushes, when it is due: nothing happens by itself. For simulations.
    Inline,
}

/// Budgets and thresholds. Bytes unless a name says otherwise.
#[derive(Clone, Debug)]
pub struct Config {
    /// Memory for written data that is not in packs yet, of all volumes.
    pub dirty_bytes: u64,
    /// Memory for caches: blocks, nodes, pack headers.
    pub cache_bytes: u64,
    /// Memory for the deduplication index.
    pub index_bytes: u64,
    /// Disk for the journal.
    pub journal_bytes: u64,
    /// A head of this size is destaged in the background.
    pub destage_bytes: u64,
    /// A flush that finds more than this not yet durable destages it instead of journaling it.
    pub flush_destage_bytes: u64,
    /// A head that has been dirty for so long is destaged, whatever its size.
    pub destage_after: Duration,
    /// Space that is left to deleting and collecting: writers get an error when less is free.
    pub reserve_bytes: u64,
    /// Who destages.
    pub background: Background,
}

const MIB: u64 = 1 << 20;

impl Config {
    /// The defaults for a machine with so much memory: a sixteenth of it for dirty data (16 MiB to
    /// 384 MiB: more would make flushes and snapshots under load wait longer), three sixteenths for
    /// caches (32 MiB to 16 GiB), a thirty-second for the index (16 to 256 MiB).
    #[must_use]
    pub fn for_memory(memory_bytes: u64) -> Self {
        Config {
            dirty_bytes: (memory_bytes / 16).clamp(16 * MIB, 384 * MIB),
            cache_bytes: (memory_bytes / 16 * 3).clamp(32 * MIB, 16_384 * MIB),
            index_bytes: (memory_bytes / 32).clamp(16 * MIB, 256 * MIB),
            journal_bytes: 512 * MIB,
            destage_bytes: 32 * MIB,
            flush_destage_bytes: 256 * MIB,
            destage_after: Duration::from_secs(5),
            reserve_bytes: 256 * MIB,
            background: Background::Threads(2),
        }
    }

    /// Small budgets and nothing in the background: for simulations and tests.
    #[must_use]
    pub fn small() -> Self {
        Config {
            dirty_bytes: 8 * MIB,
            cache_bytes: 4 * MIB,
            index_bytes: MIB,
            journal_bytes: 8 * MIB,
            destage_bytes: MIB,
            flush_destage_bytes: 2 * MIB,
            destage_after: Duration::from_secs(3600),
            reserve_bytes: MIB,
            background: Background::Inline,
        }
    }
}

impl Default for Config {
    /// For a machine with 4 GiB.
    fn default() -> Self {
        Config::for_memory(4096 * MIB)
    }
}
