//! The store and its upkeep.

use serde::{Deserialize, Serialize};
use types::Codec;
use utoipa::ToSchema;

/// The store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreInfo {
    /// Its identity, hexadecimal.
    pub id: String,
    /// Its directory.
    pub path: String,
    /// On-disk format version.
    pub format: u32,
    /// The daemon's version.
    pub version: String,
    /// The daemon's process id.
    pub pid: u32,
    /// When the daemon started.
    pub started_ms: u64,
    /// How long recovery took at the start, milliseconds.
    pub recovery_ms: u64,
    /// Default for volumes.
    pub dedup: bool,
    /// Default for volumes.
    #[schema(value_type = String)]
    pub codec: Codec,
    /// How long the trash keeps, seconds.
    pub trash_keep_s: u64,
    /// Volumes, the trash left out.
    pub volumes: u64,
    /// Snapshots.
    pub snapshots: u64,
    /// Bytes of journal in use.
    pub journal_used: u64,
    /// Bytes of journal in all.
    pub journal_capacity: u64,
    /// Bytes dirty in memory, and their budget.
    pub dirty: u64,
    /// See `dirty`.
    pub dirty_budget: u64,
    /// Whether what was written is in shared memory, and so survives a crash of the daemon.
    pub survives: bool,
    /// Bytes of shared memory taken now.
    pub shared_memory: u64,
    /// Bytes of memory that the caches may take.
    pub cache_budget: u64,
    /// Entries of the dedup index, and the share of hashes that it samples is 1 in 2^`index_k`.
    pub index_entries: u64,
    /// See `index_entries`.
    pub index_k: u32,
    /// Bytes of memory that the index may take.
    pub index_budget: u64,
    /// How full the file system is.
    pub space: SpaceLevel,
    /// What is wrong, a line each: what, why, what to do. Nothing, if the store is healthy.
    #[serde(default)]
    pub problems: Vec<String>,
    /// The last time that storage refused to work, if ever since the daemon started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The slow verification in the background.
    #[serde(default)]
    pub scrub: crate::ScrubStatus,
    /// When garbage was last collected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub collected_ms: Option<u64>,
}

/// How full the store's file system is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SpaceLevel {
    /// Less than 70 %.
    #[default]
    Ample,
    /// 70 % or more.
    Filling,
    /// 85 % or more.
    Scarce,
    /// 95 % or more, or writers are refused.
    Full,
}

/// What the store holds and takes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StoreUsage {
    /// The file system's size, bytes.
    pub total: u64,
    /// Free bytes of it.
    pub free: u64,
    /// Bytes that packs take.
    pub stored: u64,
    /// Virtual bytes of all volumes, the trash left out.
    pub provisioned: u64,
    /// Bytes that all volumes map, the trash left out; each as often as it is mapped.
    pub used: u64,
    /// Bytes (whole blocks, before compression) in packs, garbage included.
    pub unique: u64,
    /// `used` / `unique`: above 1, blocks are shared.
    pub dedup_ratio: f64,
    /// `unique` / `stored`.
    pub compression_ratio: f64,
}

/// Asks for a collection.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CollectRequest {
    /// Only make the plan.
    #[serde(default)]
    pub dry_run: bool,
}

/// What a collection did or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CollectReport {
    /// Nothing was changed.
    pub dry_run: bool,
    /// Packs looked at.
    pub packs: u64,
    /// Blocks that something refers to.
    pub live_blocks: u64,
    /// Blocks that nothing refers to.
    pub dead_blocks: u64,
    /// Packs removed.
    pub dropped: u64,
    /// Packs rewritten under their own id.
    pub rewritten: u64,
    /// Packs in which holes were punched.
    pub punched: u64,
    /// Stored bytes before.
    pub bytes_before: u64,
    /// Bytes given back (an estimate in a dry run).
    pub bytes_freed: u64,
    /// How long it took, milliseconds.
    pub took_ms: u64,
    /// The plan, a line a pack, of a dry run.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub plan: Vec<String>,
}

/// The NBD server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NbdStatus {
    /// Where it listens: `unix:PATH`, `tcp:ADDRESS:PORT`.
    pub listen: Vec<String>,
    /// Who is connected.
    pub connections: Vec<Connection>,
}

/// One client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Connection {
    /// Its number since the daemon started.
    pub id: u64,
    /// The other end, as far as known.
    pub peer: String,
    /// What it opened.
    pub export: String,
    /// Since when.
    pub since_ms: u64,
    /// Requests answered.
    pub requests: u64,
    /// Bytes read by it.
    pub bytes_read: u64,
    /// Bytes written by it.
    pub bytes_written: u64,
}
