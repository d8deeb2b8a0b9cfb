//! What a check tells an administrator.

use serde::{Deserialize, Serialize};
use std::fmt;
use types::{PackId, size::format_size};

/// In one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everything is there, and nothing else.
    Healthy,
    /// Everything is there; some of what is stored is not needed.
    HealthyWithGarbage,
    /// Something that a volume or a snapshot needs is damaged or missing.
    Damaged,
}

/// Packs by what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PackCounts {
    /// All that they have is needed.
    pub live: u64,
    /// Some of it is.
    pub partly_dead: u64,
    /// None of it is: a collection removes them.
    pub dead: u64,
    /// Their headers cannot be read. Those that nothing needs were left behind by a crash, or are not ours.
    pub unreadable: u64,
    /// Written while the check ran, and not looked at.
    pub young: u64,
}

/// A pack with something wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DamagedPack {
    /// Which.
    pub pack: PackId,
    /// Blocks and nodes that are needed and cannot be had.
    pub blocks: u64,
    /// The first thing found wrong.
    pub why: String,
}

/// Bytes of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// The first.
    pub offset: u64,
    /// How many.
    pub len: u64,
}

/// A volume or a snapshot that is hit by damage.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Afflicted {
    /// `volume` or `volume@snapshot`.
    pub owner: String,
    /// Bytes that cannot be read, at most: where a node is damaged, holes below it count too.
    pub bytes: u64,
    /// Where, in order.
    pub extents: Vec<Extent>,
    /// Whether there are more than are listed.
    pub more: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// Whether blocks were hashed, not only frames' checksums verified.
    pub deep: bool,
    /// Volumes and snapshots.
    pub roots: u64,
    /// Nodes of their block maps.
    pub nodes: u64,
    /// Packs.
    pub packs: PackCounts,
    /// Blocks and nodes that are needed and there.
    pub live_blocks: u64,
    /// Those that are there and not needed.
    pub dead_blocks: u64,
    /// Bytes that all packs take.
    pub bytes_stored: u64,
    /// Bytes of frames that were read.
    pub bytes_read: u64,
    /// Packs whose damage hits something that is needed.
    pub damaged: Vec<DamagedPack>,
    /// Packs whose damage hits nothing that is needed.
    pub unused_damaged: Vec<DamagedPack>,
    /// Who is hit.
    pub afflicted: Vec<Afflicted>,
}

impl CheckReport {
    /// All of it in one word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        if !self.damaged.is_empty() || !self.afflicted.is_empty() {
            Verdict::Damaged
        } else if self.dead_blocks > 0 || self.packs.dead > 0 || !self.unused_damaged.is_empty() {
            Verdict::HealthyWithGarbage
        } else {
            Verdict::Healthy
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Healthy => "healthy",
            Verdict::HealthyWithGarbage => "healthy, with garbage that a collection would remove",
            Verdict::Damaged => "DAMAGED",
        })
    }
}

impl fmt::Display for Afflicted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = format_size(self.bytes);
        write!(f, "{}: up to {bytes} cannot be read", self.owner)?;
        for Extent { offset, len } in &self.extents {
            write!(f, "\n    {} at byte {offset}", format_size(*len))?;
        }
        if self.more {
            write!(f, "\n    and more")?;
        }
        Ok(())
    }
}

impl fmt::Display for DamagedPack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pack {}, {} blocks needed: {}",
            self.pack, self.blocks, self.why
        )
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PackCounts {
            live,
            partly_dead,
            dead,
            unreadable,
            young,
        } = self.packs;
        let depth = if self.deep { "contents" } else { "checksums" };
        let read = format_size(self.bytes_read);
        writeln!(
            f,
            "{} volumes and snapshots, {} map nodes",
            self.roots, self.nodes
        )?;
        writeln!(
            f,
            "{} blocks needed, {} not",
            self.live_blocks, self.dead_blocks
        )?;
        writeln!(
            f,
            "packs: {live} needed, {partly_dead} in part, {dead} garbage, {unreadable} unreadable, {young} new"
        )?;
        writeln!(
            f,
            "{depth} of {read} verified, {} stored",
            format_size(self.bytes_stored)
        )?;
        for damaged in &self.damaged {
            writeln!(f, "damaged: {damaged}")?;
        }
        for damaged in &self.unused_damaged {
            writeln!(
                f,
                "damaged, but nothing needs it: pack {}: {}",
                damaged.pack, damaged.why
            )?;
        }
        for afflicted in &self.afflicted {
            writeln!(f, "hit: {afflicted}")?;
        }
        write!(f, "the store is {}", self.verdict())
    }
}
