//! What to do with each pack: pure, printable, decided before anything is done.

use brick::PackStat;
use format::pack::PAGE;
use pack::{FrameEntry, LiveBits, PackInfo};
use serde::{Deserialize, Serialize};
use std::fmt;
use types::{PackId, size::format_size};

/// How the dead blocks of a pack are given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Not now: it would free nothing.
    Keep,
    /// Holes where frames are dead.
    Punch,
    /// Written again without them, under its id, ordinals unchanged.
    Rewrite,
    /// Removed.
    Drop,
}

/// When a pack is worth rewriting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Thresholds {
    /// At least so much of what it takes is dead.
    pub rewrite_dead_percent: u64,
    /// And holes would free less than so much of that.
    pub punch_enough_percent: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Thresholds {
            rewrite_dead_percent: 50,
            punch_enough_percent: 70,
        }
    }
}

/// What happens to one pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// Which.
    pub pack: PackId,
    /// What.
    pub how: How,
    /// Blocks that some root reaches.
    pub live_blocks: u64,
    /// Blocks that none reaches and that were not given up yet.
    pub dead_blocks: u64,
    /// Bytes that it should free.
    pub frees_estimate: u64,
}

/// What a collection does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Packs that were looked at.
    pub packs: u64,
    /// Packs too young to be considered.
    pub young: u64,
    /// Packs that cannot be read and that no root reaches: left behind by a crash, or not ours. They stay.
    pub unreadable: u64,
    /// Live blocks in all.
    pub live_blocks: u64,
    /// Dead blocks in all.
    pub dead_blocks: u64,
    /// Bytes that all packs take, the young ones too.
    pub stored_bytes: u64,
    /// What is done, in order of the packs; packs that are kept are left out.
    pub actions: Vec<Action>,
}

impl Plan {
    /// Bytes that it should free.
    #[must_use]
    pub fn frees_estimate(&self) -> u64 {
        self.actions
            .iter()
            .map(|action| action.frees_estimate)
            .sum()
    }

    /// How many packs are treated so.
    #[must_use]
    pub fn count(&self, how: How) -> u64 {
        let same = self.actions.iter().filter(|action| action.how == how);
        same.count() as u64
    }

    pub(crate) fn add(&mut self, action: Action) {
        self.packs += 1;
        self.live_blocks += action.live_blocks;
        self.dead_blocks += action.dead_blocks;
        if action.how != How::Keep {
            self.actions.push(action);
        }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan {
            packs,
            young,
            live_blocks,
            dead_blocks,
            ..
        } = self;
        let stored = format_size(self.stored_bytes);
        writeln!(
            f,
            "{packs} packs considered, {young} too young; all take {stored}"
        )?;
        writeln!(f, "{live_blocks} blocks live, {dead_blocks} dead")?;
        if self.unreadable > 0 {
            writeln!(f, "{} unreadable packs that nothing needs", self.unreadable)?;
        }
        for (how, verb) in [
            (How::Drop, "remove"),
            (How::Rewrite, "rewrite"),
            (How::Punch, "punch holes in"),
        ] {
            let same = self.actions.iter().filter(|action| action.how == how);
            let frees: u64 = same.map(|action| action.frees_estimate).sum();
            if self.count(how) > 0 {
                writeln!(
                    f,
                    "{verb} {} packs: frees about {}",
                    self.count(how),
                    format_size(frees)
                )?;
            }
        }
        write!(f, "in all about {}", format_size(self.frees_estimate()))
    }
}

/// What to do with a pack of which `live` is reached.
#[must_use]
pub fn decide(
    stat: &PackStat,
    info: &PackInfo,
    live: &LiveBits,
    thresholds: &Thresholds,
) -> Action {
    let stays = live.intersection(&info.live);
    let dead_blocks = (info.live.count() - stays.count()) as u64;
    let (how, frees_estimate) = if dead_blocks == 0 {
        // Giving nothing up writes a sound live map.
        (if info.doubtful { How::Punch } else { How::Keep }, 0)
    } else if stays.is_empty() {
        (How::Drop, stat.stored)
    } else {
        punch_or_rewrite(stat, info, &stays, thresholds)
    };
    Action {
        pack: info.pack,
        how,
        live_blocks: stays.count() as u64,
        dead_blocks,
        frees_estimate,
    }
}

fn punch_or_rewrite(
    stat: &PackStat,
    info: &PackInfo,
    stays: &LiveBits,
    thresholds: &Thresholds,
) -> (How, u64) {
    let punch = holes(info, stays).saturating_sub(holes(info, &info.live));
    let rewrite = stat.stored.saturating_sub(rewritten_len(info, stays));
    let mostly_dead = rewrite * 100 >= stat.stored * thresholds.rewrite_dead_percent;
    let punch_enough = punch * 100 >= rewrite * thresholds.punch_enough_percent;
    if mostly_dead && !punch_enough {
        (How::Rewrite, rewrite)
    } else if punch > 0 || info.doubtful {
        (How::Punch, punch)
    } else {
        (How::Keep, 0)
    }
}

/// How many blocks of a frame are in `bits`.
fn count(frame: &FrameEntry, bits: &LiveBits) -> u64 {
    frame
        .ordinals()
        .filter(|&ordinal| bits.get(ordinal))
        .count() as u64
}

/// Bytes of whole pages of frames of which nothing stays: neighbours share the pages between them.
fn holes(info: &PackInfo, stays: &LiveBits) -> u64 {
    let page = PAGE as u64;
    let pages = |run: std::ops::Range<u64>| {
        (run.end / page * page).saturating_sub(run.start.next_multiple_of(page))
    };
    let mut run = 0..0;
    let mut sum = 0;
    for frame in info.frames.iter().filter(|frame| count(frame, stays) == 0) {
        let range = frame.range();
        if range.start == run.end {
            run.end = range.end;
        } else {
            sum += pages(run);
            run = range;
        }
    }
    sum + pages(run)
}

/// About how long the object would be without what does not stay.
fn rewritten_len(info: &PackInfo, stays: &LiveBits) -> u64 {
    let header = info
        .frames
        .first()
        .map_or(0, |frame| u64::from(frame.offset));
    let part = |frame: &FrameEntry| {
        u64::from(frame.stored_len) * count(frame, stays) / u64::from(frame.blocks.max(1))
    };
    let frames: u64 = info.frames.iter().map(part).sum();
    (header + frames).next_multiple_of(PAGE as u64)
}

#[cfg(test)]
mod tests;
