//! Collecting: mark, plan, give up.

use crate::{Action, Error, How, Marks, Plan, Roots, Thresholds, decide, mark};
use brick::PackStat;
use pack::{Collection, PackInfo, PackStore};
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc, time::Duration};
use sync::thread::make_way;
use types::{PackId, Progress, VolumeId, size::format_size};

/// How to collect.
#[derive(Clone, Copy, Default)]
pub struct Options<'a> {
    /// Plan only.
    pub dry_run: bool,
    /// What is worth it.
    pub thresholds: Thresholds,
    /// Not faster than this.
    pub throttle: Option<Throttle<'a>>,
}

/// Holds a collection back, so that it does not take the disks from volumes.
#[derive(Clone, Copy)]
pub struct Throttle<'a> {
    /// Bytes of packs given up in a second, at most.
    pub bytes_per_second: u64,
    /// Waits.
    pub sleep: &'a (dyn Fn(Duration) + Sync),
}

impl Throttle<'_> {
    fn pass(&self, bytes: u64) {
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second.max(1));
        (self.sleep)(Duration::from_nanos(
            u64::try_from(nanos).unwrap_or(u64::MAX),
        ));
    }
}

/// What a collection did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// What it was to do.
    pub plan: Plan,
    /// Whether it was to be done at all.
    pub dry_run: bool,
    /// Roots that were marked from.
    pub roots: u64,
    /// Nodes of block maps that were read.
    pub nodes: u64,
    /// Bytes freed, about.
    pub bytes_freed: u64,
    /// Packs that were removed, rewritten, or had holes punched.
    pub done: u64,
    /// Packs that could not be treated as planned, since they are damaged or gone.
    pub skipped: u64,
}

impl Report {
    /// Bytes that all packs took before.
    #[must_use]
    pub fn bytes_before(&self) -> u64 {
        self.plan.stored_bytes
    }

    /// Bytes that they take now, but for what was written meanwhile.
    #[must_use]
    pub fn bytes_after(&self) -> u64 {
        self.plan.stored_bytes.saturating_sub(self.bytes_freed)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.plan)?;
        if self.dry_run {
            return write!(f, "nothing was done");
        }
        if self.skipped > 0 {
            writeln!(
                f,
                "{} packs were left as they are: check the store",
                self.skipped
            )?;
        }
        write!(
            f,
            "freed {} in {} packs",
            format_size(self.bytes_freed),
            self.done
        )
    }
}

/// Gives back what no root needs.
///
/// # Behavior
/// Volumes go on meanwhile. Stopped at any point, by `progress`, an error or a crash, it leaves a store that is
/// as good as before; the next collection finds what is left. Progress is first nodes, of an unknown
/// total, then packs.
///
/// # Errors
/// [`ErrorKind::Busy`](crate::ErrorKind::Busy) if another runs. [`ErrorKind::Damaged`](crate::ErrorKind::Damaged), before anything is given up, if what roots
/// need is damaged or missing: [`Error::owner`] says whose where a block map is. Others as they come.
pub fn collect(
    store: &Arc<PackStore>,
    roots: &dyn Roots,
    options: &Options<'_>,
    progress: &dyn Progress,
) -> Result<Report, Error> {
    let collection = store.begin_collection();
    let collection = collection.map_err(|e| Error::pack("beginning a collection", e))?;
    let owned = roots.roots()?;
    let marks = mark(store, &owned, progress)?;
    let plan = plan(
        store,
        roots,
        collection.limit(),
        &marks,
        &options.thresholds,
        progress,
    )?;
    let mut report = Report {
        plan,
        dry_run: options.dry_run,
        roots: owned.len() as u64,
        nodes: marks.nodes(),
        ..Report::default()
    };
    if !options.dry_run {
        roots.quiesce();
        sweep(&collection, &marks, options, progress, &mut report)?;
    }
    Ok(report)
}

fn plan(
    store: &PackStore,
    roots: &dyn Roots,
    limit: PackId,
    marks: &Marks,
    thresholds: &Thresholds,
    progress: &dyn Progress,
) -> Result<Plan, Error> {
    const PLANNING: &str = "planning a collection";
    let missing = |pack| {
        let lost = pack::Error::new(pack::ErrorKind::NotFound, "looking for what is needed");
        Error::pack(PLANNING, lost.of_pack(pack))
    };
    let stats = store.list().map_err(|e| Error::pack(PLANNING, e))?;
    let needed = marks.packs().into_iter().filter(|pack| *pack < limit);
    for pack in needed {
        let found = stats.binary_search_by_key(&pack, |stat| stat.pack);
        found.map_err(|_| missing(pack))?;
    }
    let mut plan = Plan::default();
    let mut notes = Notes::default();
    for (done, stat) in stats.iter().enumerate() {
        progress.report(done as u64, stats.len() as u64)?;
        make_way();
        plan.stored_bytes += stat.stored;
        if stat.pack >= limit {
            plan.young += 1;
            continue;
        }
        let live = marks.live(stat.pack);
        match store.info(stat.pack) {
            Ok(info) if live.intersection(&info.live) != live => return Err(missing(stat.pack)),
            Ok(info) => {
                plan.add(decide(stat, &info, &live, thresholds));
                notes.add(stat, &info);
            }
            Err(error) if live.is_empty() && is_damage(&error) => {
                tracing::warn!(%error, "not collected");
                plan.unreadable += 1;
            }
            Err(error) => return Err(Error::pack(PLANNING, error)),
        }
    }
    notes.finish(roots, &mut plan)?;
    Ok(plan)
}

/// Packs of nothing but a root note: needed while it is the last of its volume.
#[derive(Default)]
struct Notes {
    /// For each volume the last pack with a note of it, if it is one of those.
    last: FxHashMap<VolumeId, Option<PackStat>>,
    of_no_use: Vec<PackStat>,
}

impl Notes {
    /// In order of the packs.
    fn add(&mut self, stat: &PackStat, info: &PackInfo) {
        let Some(volume) = info.noted else { return };
        let alone = (info.blocks == 0).then_some(*stat);
        self.of_no_use
            .extend(self.last.insert(volume, alone).flatten());
    }

    fn finish(mut self, roots: &dyn Roots, plan: &mut Plan) -> Result<(), Error> {
        for (volume, alone) in self.last {
            if let Some(stat) = alone
                && !roots.has_volume(volume)?
            {
                self.of_no_use.push(stat);
            }
        }
        plan.actions
            .extend(self.of_no_use.into_iter().map(|stat| Action {
                pack: stat.pack,
                how: How::Drop,
                live_blocks: 0,
                dead_blocks: 0,
                frees_estimate: stat.stored,
            }));
        plan.actions.sort_unstable_by_key(|action| action.pack);
        Ok(())
    }
}

fn is_damage(error: &pack::Error) -> bool {
    matches!(
        error.kind(),
        pack::ErrorKind::Damaged | pack::ErrorKind::NotFound
    )
}

fn sweep(
    collection: &Collection,
    marks: &Marks,
    options: &Options<'_>,
    progress: &dyn Progress,
    report: &mut Report,
) -> Result<(), Error> {
    let total = report.plan.actions.len() as u64;
    for (done, action) in (0..).zip(&report.plan.actions) {
        progress.report(done, total)?;
        make_way();
        match give_up(collection, marks, action) {
            Ok(freed) => {
                report.done += 1;
                report.bytes_freed += freed;
                let moved = freed.max(format::pack::PAGE as u64);
                options
                    .throttle
                    .iter()
                    .for_each(|throttle| throttle.pass(moved));
            }
            Err(error) if is_damage(&error) => {
                tracing::warn!(%error, "left as it is");
                report.skipped += 1;
            }
            Err(error) => return Err(Error::pack("giving up what is not needed", error)),
        }
    }
    progress.report(total, total)?;
    Ok(())
}

/// A pack that is too damaged to be rewritten can still have holes.
fn give_up(collection: &Collection, marks: &Marks, action: &Action) -> Result<u64, pack::Error> {
    let live = marks.live(action.pack);
    let how = match action.how {
        How::Keep => return Ok(0),
        How::Punch => pack::How::Punch,
        How::Rewrite => pack::How::Rewrite,
        How::Drop => pack::How::Drop,
    };
    match collection.give_up(action.pack, &live, how) {
        Err(error) if action.how == How::Rewrite && is_damage(&error) => {
            collection.give_up(action.pack, &live, pack::How::Punch)
        }
        other => other,
    }
}
