//! The daemon's configuration file.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use types::size::{format_size, parse_size};
use volume::Config as StoreConfig;

/// `holdfast.toml`: every entry has a default, and a text that is no entry is an error.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Budgets of memory.
    pub(crate) memory: Memory,
    /// Disk.
    pub(crate) disk: Disk,
    /// The NBD server.
    pub(crate) nbd: Nbd,
    /// vhost-user-blk devices.
    pub(crate) vhost: Vhost,
    /// Garbage collection.
    pub(crate) collect: Collect,
    /// The slow verification in the background.
    pub(crate) scrub: Scrub,
    /// Volumes that are plain files.
    pub(crate) files: Files,
    /// Machines that are powered off.
    pub(crate) power: Power,
    /// Volumes that are used while they are imported.
    pub(crate) import: Import,
}

/// Machines that are powered off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Power {
    /// A machine is powered off if its disk had no client for so long after one that wrote has left: a number and s, m, h
    /// or d; or `off`: only if somebody says so.
    pub(crate) grace: Every,
}

impl Default for Power {
    fn default() -> Self {
        Power {
            grace: Every(Some(Duration::from_secs(60))),
        }
    }
}

/// Volumes that are used while they are imported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Import {
    /// Bytes of images that are brought into the store in a second, at most. Default: as many as can be, half of the time while
    /// guests are at work.
    pub(crate) rate: Option<Size>,
}

/// Volumes that are plain files.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Files {
    /// Directories beside the store's own in which image files may be; absolute paths.
    pub(crate) allowed: Vec<PathBuf>,
}

/// Sizes with suffixes; the defaults depend on the machine's memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Memory {
    /// For written data that is not in packs yet. Default: 1/16 of memory, at most 384 MiB.
    pub(crate) dirty: Option<Size>,
    /// For caches. Default: 3/16 of memory, at most 16 GiB.
    pub(crate) cache: Option<Size>,
    /// For the deduplication index. Default: 1/32 of memory, at most 256 MiB.
    pub(crate) index: Option<Size>,
    /// Written data is in shared memory, where the next daemon finds it after a crash. Default: yes.
    pub(crate) shared: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            dirty: None,
            cache: None,
            index: None,
            shared: true,
        }
    }
}

/// Disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Disk {
    /// For the journal. Default: 1/16 of the file system, 16 to 512 MiB.
    pub(crate) journal: Option<Size>,
    /// Left to deleting and collecting. Default: 1/32 of the file system, 8 to 256 MiB.
    pub(crate) reserve: Option<Size>,
}

/// For how long threads look for requests before they sleep.
const POLL_US: u64 = env::Vigil::MAX.as_micros() as u64;

/// The NBD server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Nbd {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Threads for requests that wait for storage.
    pub(crate) threads: usize,
    /// A thread that has answered looks for the next request for so many microseconds before it sleeps, if that has paid
    /// lately. 0: it sleeps.
    pub(crate) poll_us: u64,
}

impl Default for Nbd {
    fn default() -> Self {
        Nbd {
            connections: 1024,
            threads: 16,
            poll_us: POLL_US,
        }
    }
}

/// vhost-user-blk devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Vhost {
    /// Queues of a device of which nobody said how many it has.
    pub(crate) queues: u16,
    /// Threads for requests that wait for storage, of all devices.
    pub(crate) threads: usize,
    /// As that of `nbd`.
    pub(crate) poll_us: u64,
}

impl Default for Vhost {
    fn default() -> Self {
        Vhost {
            queues: 4,
            threads: 16,
            poll_us: POLL_US,
        }
    }
}

/// Garbage collection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Collect {
    /// Collect without being asked once packs have grown by this share, and by 1 GiB, since the last
    /// time. 0: never.
    pub(crate) growth_percent: u8,
}

impl Default for Collect {
    fn default() -> Self {
        Collect { growth_percent: 25 }
    }
}

/// The slow verification in the background.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Scrub {
    /// Bytes of packs that it reads in a second, at most.
    pub(crate) rate: Size,
    /// From one round to the next: a number and s, m, h or d; or `off`.
    pub(crate) every: Every,
}

impl Default for Scrub {
    fn default() -> Self {
        Scrub {
            rate: Size(16 << 20),
            every: Every(Some(Duration::from_secs(7 * 24 * 3600))),
        }
    }
}

impl Scrub {
    pub(crate) fn settings(&self) -> super::scrub::Settings {
        super::scrub::Settings {
            rate: self.rate.0,
            every: self.every.0,
        }
    }
}

/// A time from one to the next, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Every(pub(crate) Option<Duration>);

impl TryFrom<String> for Every {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        if text == "off" {
            return Ok(Every(None));
        }
        match schedule::parse_period(&text) {
            Some(period) => Ok(Every(Some(period))),
            None => Err(format!(
                "'{text}' is no time: a number and s, m, h or d, or 'off'"
            )),
        }
    }
}

impl From<Every> for String {
    fn from(every: Every) -> String {
        every
            .0
            .map_or_else(|| "off".to_owned(), |every| format!("{}s", every.as_secs()))
    }
}

/// Bytes, written with a suffix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Size(pub(crate) u64);

impl TryFrom<String> for Size {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        parse_size(&text).map(Size)
    }
}

impl From<Size> for String {
    fn from(size: Size) -> String {
        format_size(size.0)
    }
}

impl Config {
    /// Reads the file, or the defaults if there is no path.
    pub(crate) fn load(path: Option<&Path>) -> Result<Config> {
        let Some(path) = path else {
            return Ok(Config::default());
        };
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        toml::from_str(&text).with_context(|| format!("in the configuration {}", path.display()))
    }

    /// The store's part, on a file system of so many bytes.
    pub(crate) fn store(&self, disk_bytes: u64) -> StoreConfig {
        let mut config = StoreConfig::for_memory(machine_memory()).on_disk(disk_bytes);
        let set = |field: &mut u64, size: Option<Size>| {
            if let Some(size) = size {
                *field = size.0;
            }
        };
        set(&mut config.dirty_bytes, self.memory.dirty);
        config.shared_memory = self.memory.shared;
        set(&mut config.cache_bytes, self.memory.cache);
        set(&mut config.index_bytes, self.memory.index);
        set(&mut config.journal_bytes, self.disk.journal);
        set(&mut config.reserve_bytes, self.disk.reserve);
        config.destage_bytes = config.destage_bytes.min(config.dirty_bytes / 4);
        config.flush_destage_bytes = config.flush_destage_bytes.min(config.journal_bytes / 2);
        config
    }
}

/// Bytes of memory that this process may use: the machine's, or its control group's if that is less.
fn machine_memory() -> u64 {
    let fallback = 4 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .map_or(fallback, |kib| kib * 1024);
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let limit = group
        .lines()
        .find_map(|line| line.strip_prefix("0::"))
        .and_then(|path| std::fs::read_to_string(format!("/sys/fs/cgroup{path}/memory.max")).ok())
        .and_then(|text| text.trim().parse::<u64>().ok());
    limit.map_or(total, |limit| limit.min(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_suffixes_and_unknown_entries_are_errors() {
        let config: Config =
            toml::from_str("[memory]\ncache = '2G'\n[nbd]\nthreads = 4\n").unwrap();
        assert_eq!(config.store(1 << 40).cache_bytes, 2 << 30);
        assert_eq!(
            config.nbd,
            Nbd {
                connections: 1024,
                threads: 4,
                poll_us: 64,
            }
        );
        let scrub = |text: &str| toml::from_str::<Config>(text).map(|config| config.scrub.every.0);
        let hour = Some(Duration::from_secs(3600));
        assert_eq!(scrub("[scrub]\nevery = '1h'\nrate = '8M'").unwrap(), hour);
        assert_eq!(scrub("[scrub]\nevery = 'off'").unwrap(), None);
        for wrong in ["0s", "7", "d", "", "-1d", "1ü"] {
            assert!(
                scrub(&format!("[scrub]\nevery = '{wrong}'")).is_err(),
                "{wrong}"
            );
        }
        assert!(toml::from_str::<Config>("[memory]\ncash = '2G'").is_err());
        assert!(toml::from_str::<Config>("[memory]\ncache = 'much'").is_err());
    }

    #[test]
    fn what_is_said_holds_on_any_disk() {
        let config: Config = toml::from_str("[disk]\njournal = '64M'\nreserve = '5M'\n").unwrap();
        let store = config.store(256 << 20);
        assert_eq!(
            (store.journal_bytes, store.reserve_bytes),
            (64 << 20, 5 << 20)
        );
        assert_eq!(Config::default().store(256 << 20).journal_bytes, 16 << 20);
    }

    #[test]
    fn defaults_fit_a_small_host() {
        let config = StoreConfig::for_memory(4 << 30);
        let all = config.dirty_bytes + config.cache_bytes + config.index_bytes;
        assert!(all <= 5 << 28, "{all}");
    }
}
