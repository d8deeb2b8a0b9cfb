//! How a store may use the machine.

use crate::below::Images;
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
    /// Written data is kept where the next process finds it, if this machine can do so: guests may go on over a crash
    /// of the process.
    pub shared_memory: bool,
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
    /// Opens the images that volumes are imported from while they are used.
    pub images: Images,
}

const MIB: u64 = 1 << 20;

impl Config {
    /// The defaults for a machine with so much memory: a sixteenth of it for dirty data (16 MiB to
    /// 384 MiB: more would make flushes and snapshots under load wait longer), three sixteenths for
    /// caches (32 MiB to 16 GiB), a thirty-second for the index (16 to 256 MiB). Of the disk, what one of 8 GiB or
    /// more has room for; see [`on_disk`](Self::on_disk).
    #[must_use]
    pub fn for_memory(memory_bytes: u64) -> Self {
        Config {
            dirty_bytes: (memory_bytes / 16).clamp(16 * MIB, 384 * MIB),
            shared_memory: true,
            cache_bytes: (memory_bytes / 16 * 3).clamp(32 * MIB, 16_384 * MIB),
            index_bytes: (memory_bytes / 32).clamp(16 * MIB, 256 * MIB),
            journal_bytes: 512 * MIB,
            destage_bytes: 32 * MIB,
            flush_destage_bytes: 256 * MIB,
            destage_after: Duration::from_secs(5),
            reserve_bytes: 256 * MIB,
            background: Background::Threads(2),
            images: Images::default(),
        }
    }

    /// The same with a journal and a reserve that a file system of so many bytes has room for: a sixteenth of it
    /// (16 to 512 MiB), and a thirty-second (8 to 256 MiB).
    #[must_use]
    pub fn on_disk(self, disk_bytes: u64) -> Self {
        let journal_bytes = (disk_bytes / 16).clamp(16 * MIB, 512 * MIB);
        Config {
            journal_bytes,
            flush_destage_bytes: self.flush_destage_bytes.min(journal_bytes / 2),
            reserve_bytes: (disk_bytes / 32).clamp(8 * MIB, 256 * MIB),
            ..self
        }
    }

    /// Small budgets and nothing in the background: for simulations and tests.
    #[must_use]
    pub fn small() -> Self {
        Config {
            dirty_bytes: 8 * MIB,
            shared_memory: true,
            cache_bytes: 4 * MIB,
            index_bytes: MIB,
            journal_bytes: 8 * MIB,
            destage_bytes: MIB,
            flush_destage_bytes: 2 * MIB,
            destage_after: Duration::from_secs(3600),
            reserve_bytes: MIB,
            background: Background::Inline,
            images: Images::default(),
        }
    }
}

impl Default for Config {
    /// For a machine with 4 GiB.
    fn default() -> Self {
        Config::for_memory(4096 * MIB)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_disk_gives_scales_with_it() {
        let of = |disk: u64| {
            let config = Config::default().on_disk(disk * MIB);
            (config.journal_bytes / MIB, config.reserve_bytes / MIB)
        };
        assert_eq!(of(256), (16, 8));
        assert_eq!(of(1024), (64, 32));
        assert_eq!(of(8192), (512, 256));
        assert_eq!(of(1 << 24), (512, 256));
        let small = Config::default().on_disk(256 * MIB);
        assert_eq!(small.flush_destage_bytes, 8 * MIB);
    }
}
