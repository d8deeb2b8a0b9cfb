//! Checking: is everything that is needed there and as it was written, and what is not needed?

pub(crate) mod owners;
mod report;

pub use report::{Afflicted, CheckReport, DamagedPack, Extent, PackCounts, Verdict};

use crate::{
    Error, Marks, Roots,
    mark::{Trouble, mark_with},
};
use brick::PackStat;
use format::pack::{FrameKind, PACK_BLOCKS};
use pack::{LiveBits, PackInfo, PackStore};
use rayon::prelude::*;
use rustc_hash::FxHashMap;
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};
use types::{PackId, Pointer, Progress};

/// How to check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckOptions {
    /// Also decompress every frame and hash every block, not only the frames' checksums.
    pub deep: bool,
}

/// What is wrong with packs: which blocks that roots need, and why (the first reason).
pub(crate) type Bad = FxHashMap<PackId, (LiveBits, String)>;

/// Checks every map, every pointer and every pack.
///
/// # Behavior
/// Volumes go on meanwhile; collections are refused until it is over, and it is refused while one runs. Packs
/// are read on the threads of the current rayon pool. Progress is first nodes, of an unknown total, then bytes.
///
/// # Errors
/// Damage is no error, but reported, and so is what the storage cannot read.
/// [`ErrorKind::Busy`](crate::ErrorKind::Busy), [`ErrorKind::Cancelled`](crate::ErrorKind::Cancelled), and those
/// of listing.
pub fn check(
    store: &Arc<PackStore>,
    roots: &dyn Roots,
    options: CheckOptions,
    progress: &dyn Progress,
) -> Result<CheckReport, Error> {
    const CHECKING: &str = "checking";
    // Nobody gives anything up while this lives.
    let collection = store.begin_collection();
    let collection = collection.map_err(|e| Error::pack(CHECKING, e))?;
    let owned = roots.roots()?;
    let mut bad = Bad::default();
    let mut wrong_roots = Vec::new();
    let marks = mark_with(store, &owned, progress, &mut |root, pointer, trouble| {
        match trouble {
            Trouble::Height => wrong_roots.push(root.owner.clone()),
            other => add(&mut bad, pointer, &other),
        }
        Ok(())
    })?;
    // After the roots: what they need was put before they became roots.
    let stats = store.list().map_err(|e| Error::pack(CHECKING, e))?;
    let checker = Checker {
        store,
        marks: &marks,
        limit: collection.limit(),
        options,
        progress,
        total: stats.iter().map(|stat| stat.len).sum(),
        done: AtomicU64::new(0),
    };
    let findings: Vec<Finding> = stats
        .par_iter()
        .map(|stat| checker.pack(stat))
        .collect::<Result<_, Error>>()?;
    let mut report = CheckReport {
        deep: options.deep,
        roots: owned.len() as u64,
        nodes: marks.nodes(),
        ..CheckReport::default()
    };
    for (stat, finding) in stats.iter().zip(findings) {
        report.bytes_stored += stat.stored;
        count(&mut report, stat.pack, finding, &mut bad);
    }
    missing(&marks, &stats, &mut bad);
    bad.iter()
        .for_each(|(pack, (blocks, _))| store.distrust(*pack, blocks));
    let any_wrong = !wrong_roots.is_empty() || marks.lost() > 0 || !bad.is_empty();
    report.damaged = damaged_packs(&bad);
    report.afflicted = owners::afflicted(store, &owned, any_wrong, &bad, progress)?;
    Ok(report)
}

fn add(bad: &mut Bad, pointer: Pointer, why: &dyn std::error::Error) {
    let entry = bad.entry(pointer.pack());
    let (bits, _) = entry.or_insert_with(|| (LiveBits::NONE, with_causes(why)));
    // A pointer to what no pack has is found again by its ordinal.
    bits.insert(pointer.ordinal());
}

/// An error and all its causes, in one line.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Packs that roots need and that are not there.
fn missing(marks: &Marks, stats: &[PackStat], bad: &mut Bad) {
    for pack in marks.packs() {
        if stats.binary_search_by_key(&pack, |stat| stat.pack).is_err() {
            let why = "the pack is missing".to_owned();
            bad.insert(pack, (marks.live(pack), why));
        }
    }
}

fn damaged_packs(bad: &Bad) -> Vec<DamagedPack> {
    let mut damaged: Vec<_> = bad
        .iter()
        .map(|(pack, (bits, why))| DamagedPack {
            pack: *pack,
            blocks: bits.count() as u64,
            why: why.clone(),
        })
        .collect();
    damaged.sort_by_key(|damaged| damaged.pack);
    damaged
}

/// What was found out about one pack.
#[derive(Default)]
struct Finding {
    state: State,
    live_blocks: u64,
    dead_blocks: u64,
    bytes_read: u64,
    /// Needed blocks that are not as they should be.
    bad: Option<(LiveBits, String)>,
    /// Why a pack, or a part that nothing needs, cannot be read.
    bad_unused: Option<String>,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Live,
    PartlyDead,
    Dead,
    Unreadable,
    Young,
}

fn count(report: &mut CheckReport, pack: PackId, finding: Finding, bad: &mut Bad) {
    let packs = &mut report.packs;
    *match finding.state {
        State::Live => &mut packs.live,
        State::PartlyDead => &mut packs.partly_dead,
        State::Dead => &mut packs.dead,
        State::Unreadable => &mut packs.unreadable,
        State::Young => &mut packs.young,
    } += 1;
    report.live_blocks += finding.live_blocks;
    report.dead_blocks += finding.dead_blocks;
    report.bytes_read += finding.bytes_read;
    if let Some(why) = finding.bad_unused {
        report.unused_damaged.push(DamagedPack {
            pack,
            blocks: 0,
            why,
        });
    }
    if let Some((bits, why)) = finding.bad {
        let entry = bad.entry(pack).or_insert((LiveBits::NONE, why));
        entry.0 = entry.0.union(&bits);
    }
}

struct Checker<'a> {
    store: &'a PackStore,
    marks: &'a Marks,
    limit: PackId,
    options: CheckOptions,
    progress: &'a dyn Progress,
    total: u64,
    done: AtomicU64,
}

impl Checker<'_> {
    fn pack(&self, stat: &PackStat) -> Result<Finding, Error> {
        let before = self.done.fetch_add(stat.len, Ordering::Relaxed);
        self.progress.report(before, self.total)?;
        let needed = self.marks.live(stat.pack);
        if needed.is_empty() && stat.pack >= self.limit {
            return Ok(Finding {
                state: State::Young,
                ..Finding::default()
            });
        }
        Ok(match self.store.info(stat.pack) {
            Ok(info) => self.readable(stat, &info, &needed),
            Err(error) if needed.is_empty() => Finding {
                state: State::Unreadable,
                bad_unused: Some(with_causes(&error)),
                ..Finding::default()
            },
            Err(error) => Finding {
                state: State::Unreadable,
                bad: Some((needed, with_causes(&error))),
                ..Finding::default()
            },
        })
    }

    fn readable(&self, stat: &PackStat, info: &PackInfo, needed: &LiveBits) -> Finding {
        let there = needed.intersection(&info.live);
        let dead = (info.live.count() - there.count()) as u64;
        let mut finding = Finding {
            state: match (there.is_empty(), dead) {
                (false, 0) => State::Live,
                // It has nothing but a root note.
                _ if info.blocks == 0 => State::Live,
                (false, _) => State::PartlyDead,
                (true, _) => State::Dead,
            },
            live_blocks: there.count() as u64,
            dead_blocks: dead,
            ..Finding::default()
        };
        finding.needs(without(needed, &there), || {
            "it was given up, or never was".to_owned()
        });
        finding.needs(self.of_wrong_kind(info, needed), || {
            "a node where a block should be, or the reverse".to_owned()
        });
        self.verify(stat, needed, &mut finding);
        finding
    }

    fn verify(&self, stat: &PackStat, needed: &LiveBits, finding: &mut Finding) {
        let all = LiveBits::first(PACK_BLOCKS);
        match self.store.verify(stat.pack, self.options.deep) {
            Ok(report) => {
                finding.bytes_read = report.bytes;
                if let Some(error) = &report.hashes {
                    finding.bad_unused.get_or_insert_with(|| with_causes(error));
                }
                for damage in report.damaged {
                    let bits: LiveBits = damage.ordinals.collect();
                    finding.damaged(needed, &bits, &damage.error);
                }
            }
            Err(error) => finding.damaged(needed, &all, &error),
        }
    }

    /// Needed blocks in frames of the other kind.
    fn of_wrong_kind(&self, info: &PackInfo, needed: &LiveBits) -> LiveBits {
        let mut wrong = LiveBits::NONE;
        for frame in &info.frames {
            for ordinal in frame.ordinals().filter(|&ordinal| needed.get(ordinal)) {
                let node = self.marks.is_node(Pointer::new(info.pack, ordinal));
                if node != (frame.kind == FrameKind::Node) {
                    wrong.insert(ordinal);
                }
            }
        }
        wrong
    }
}

impl Finding {
    fn damaged(&mut self, needed: &LiveBits, bits: &LiveBits, error: &pack::Error) {
        let hit = needed.intersection(bits);
        if hit.is_empty() {
            self.bad_unused.get_or_insert_with(|| with_causes(error));
        }
        self.needs(hit, || with_causes(error));
    }

    fn needs(&mut self, lacking: LiveBits, why: impl FnOnce() -> String) {
        if !lacking.is_empty() {
            let bad = self.bad.get_or_insert_with(|| (LiveBits::NONE, why()));
            bad.0 = bad.0.union(&lacking);
        }
    }
}

fn without(all: &LiveBits, some: &LiveBits) -> LiveBits {
    all.iter().filter(|&ordinal| !some.get(ordinal)).collect()
}
