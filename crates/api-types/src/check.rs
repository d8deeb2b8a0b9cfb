//! Whether a store is whole, and what can be done where it is not.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Asks for a check.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CheckRequest {
    /// Checksums only: do not decompress and hash every block.
    #[serde(default)]
    pub quick: bool,
    /// Restore what can be restored. What is lost stays an error.
    #[serde(default)]
    pub repair: bool,
    /// With `repair`: only say what it would do.
    #[serde(default)]
    pub dry_run: bool,
}

/// The outcome of a check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Everything is as it should be.
    #[default]
    Healthy,
    /// Nothing is lost, but there is garbage: a collection or a repair would remove it.
    Garbage,
    /// Something is lost.
    Damaged,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    /// The outcome, after what was repaired.
    pub verdict: Verdict,
    /// Roots walked: volumes, snapshots, trash.
    pub roots: u64,
    /// Nodes of block maps verified.
    pub nodes: u64,
    /// Blocks verified.
    pub blocks: u64,
    /// Packs that are live, at least in part.
    pub packs_live: u64,
    /// Packs that nothing refers to.
    pub packs_dead: u64,
    /// Unreferenced packs that cannot be read: left by a crash.
    pub packs_orphan: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes that a collection would free, about.
    pub garbage: u64,
    /// Packs whose damage hits something.
    pub damaged_packs: Vec<DamagedPack>,
    /// What is lost: one entry for each volume and snapshot that is hit.
    pub lost: Vec<Lost>,
    /// Volumes and snapshots that were set to an older flush, since the journal of later ones is lost.
    pub older: Vec<Older>,
    /// What was repaired, or would be; empty if nobody asked for it.
    pub repairs: Vec<Repair>,
    /// How long it took, milliseconds.
    pub took_ms: u64,
}

/// A pack with something wrong that somebody needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DamagedPack {
    /// Its number, as its file's name has it: hexadecimal.
    pub pack: String,
    /// Blocks and nodes that are needed and cannot be had.
    pub blocks: u64,
    /// The first thing found wrong.
    pub reason: String,
}

/// What a volume or a snapshot has lost.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Lost {
    /// `volume`, `volume@snapshot`, or `trash:ID`.
    pub owner: String,
    /// Bytes in all. Where a node of the block map is damaged, holes below it count too.
    pub bytes: u64,
    /// Where, in order; neighbours are one range.
    pub ranges: Vec<ByteRange>,
    /// There are more ranges than are listed.
    pub more: bool,
}

/// Bytes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ByteRange {
    /// The first.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

/// A volume or a snapshot that lacks what was flushed last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Older {
    /// `volume`, `volume@snapshot`, or `trash:ID`; empty if it cannot be told which.
    pub owner: String,
    /// What is known of it.
    pub reason: String,
}

/// One thing that a check repaired, or would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Repair {
    /// What kind of thing.
    pub what: RepairKind,
    /// Which: a file or a pack.
    pub subject: String,
    /// What is done about it, for people.
    pub action: String,
    /// Whether it was.
    pub outcome: RepairOutcome,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What is repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RepairKind {
    /// The catalog.
    Catalog,
    /// The journal: what is readable is kept, the rest is put aside.
    Journal,
    /// A pack that is not where it belongs.
    Misplaced,
    /// A pack that cannot be read and that nothing needs.
    Orphan,
    /// A pack whose hashes cannot be read: made anew from its blocks.
    Hashes,
}

/// How a repair ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RepairOutcome {
    /// Nothing was changed: it was a dry run.
    Planned,
    /// Done.
    Done,
    /// It could not be done.
    Failed,
}
