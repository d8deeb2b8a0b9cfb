//! What a run has done so far, for people and for the test that insists that it did something.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

/// A number that many threads add to.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Relaxed);
    }

    /// Keeps the larger one.
    pub fn max(&self, n: u64) {
        self.0.fetch_max(n, Relaxed);
    }

    /// The number.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// Numbers of a run.
#[derive(Debug, Default)]
pub struct Tally {
    /// SIGKILLs.
    pub kills: Count,
    /// Of these, while the daemon was starting.
    pub kills_at_start: Count,
    /// Of these, with the write buffer lost too.
    pub power_cuts: Count,
    /// SIGTERMs.
    pub stops: Count,
    /// Blocks whose writes were answered.
    pub blocks_written: Count,
    /// Flushes that succeeded.
    pub flushes: Count,
    /// Requests that were answered with "no space", where that may be.
    pub full: Count,
    /// Blocks that were read and compared.
    pub blocks_verified: Count,
    /// Snapshots taken.
    pub snapshots: Count,
    /// Clones made.
    pub clones: Count,
    /// Images imported.
    pub imports: Count,
    /// Removals, of snapshots, of volumes, of what was in the trash.
    pub removals: Count,
    /// Rollbacks.
    pub rollbacks: Count,
    /// Collections.
    pub collections: Count,
    /// Checks.
    pub checks: Count,
    /// Operations that a kill cut off.
    pub cut_off: Count,
    /// The longest time from a kill to the first answer, milliseconds, with an immediate restart.
    pub restart_ms_max: Count,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (&self.kills, "kills"),
            (&self.kills_at_start, "of them at the start"),
            (&self.power_cuts, "with the power"),
            (&self.stops, "stops"),
            (&self.blocks_written, "blocks written"),
            (&self.flushes, "flushes"),
            (&self.full, "refusals for want of space"),
            (&self.blocks_verified, "blocks verified"),
            (&self.snapshots, "snapshots"),
            (&self.clones, "clones"),
            (&self.imports, "imports"),
            (&self.removals, "removals"),
            (&self.rollbacks, "rollbacks"),
            (&self.collections, "collections"),
            (&self.checks, "checks"),
            (&self.cut_off, "operations cut off"),
            (&self.restart_ms_max, "ms the longest restart"),
        ];
        let parts = all.map(|(count, what)| format!("{} {what}", count.get()));
        f.write_str(&parts.join(", "))
    }
}
