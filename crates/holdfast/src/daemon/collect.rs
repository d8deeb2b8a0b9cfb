//! Space: collection and usage.

use super::{
    control::{Daemon, bytes},
    convert,
};
use api_types::{
    ApiError, CollectReport, CollectRequest, ErrorCode, StoreUsage, VolumeUsage, Work,
};
use gc::{How, OwnedRoot, Roots};
use pack::{FrameKind, PackStore};
use std::{sync::atomic::Ordering::Relaxed, time::Duration};
use types::{BLOCK_SIZE, NoProgress, VolumeRef, size::format_size};
use volume::SpaceLevel;

type Result<T> = std::result::Result<T, ApiError>;

/// Stores that grew by less are not worth a collection that nobody asked for, bytes.
const GROWTH_MIN: u64 = 1 << 30;
/// Nobody looks for garbage more often.
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// What removals left is collected so often, unasked, while there is space; what discards left, when there is none.
const REMOVED_EVERY: Duration = Duration::from_secs(600);
/// Lines of a plan that are worth sending.
const PLAN_LINES_MAX: usize = 1000;

/// When garbage was looked for, and what was left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Last {
    looked: Option<Duration>,
    stored: Option<u64>,
    /// Something was removed since: there is garbage without growth.
    removed: bool,
    collected: Option<Duration>,
}

pub(crate) fn api_error(e: gc::Error) -> ApiError {
    use gc::ErrorKind as Kind;
    let code = match e.kind() {
        Kind::Cancelled => ErrorCode::Cancelled,
        Kind::Busy => ErrorCode::InUse,
        Kind::Damaged => ErrorCode::Damaged,
        Kind::NoSpace => ErrorCode::NoSpace,
        Kind::StaleEpoch => ErrorCode::Unavailable,
        Kind::Io => ErrorCode::Internal,
    };
    tracing::warn!(error = ?e, "collection or check");
    let error = ApiError::new(code, e.to_string());
    match code {
        ErrorCode::Damaged => error.hint("nothing was given up; run 'holdfast check'"),
        ErrorCode::InUse => error.hint("a collection or a check runs already: wait for it"),
        _ => error,
    }
}

fn pack_error(e: pack::Error) -> ApiError {
    convert::api_error(e.into())
}

fn stored_bytes(packs: &PackStore) -> Result<u64> {
    Ok(packs
        .list()
        .map_err(pack_error)?
        .iter()
        .map(|stat| stat.stored)
        .sum())
}

impl Daemon {
    /// Something was removed for good: the next collections will find garbage.
    pub(crate) fn note_removal(&self) {
        let mut last = self.last_collect.lock();
        last.removed = true;
        // Who waits for space waits for the next round only.
        last.looked = None;
    }

    /// Whether the store grew enough, enough was removed, or space is scarce enough, to collect
    /// unasked.
    pub(crate) fn collection_is_due(&self, space: SpaceLevel) -> bool {
        let now = self.env.clock.monotonic();
        let mut last = self.last_collect.lock();
        if self.growth_percent == 0 || last.looked.is_some_and(|at| now - at < LOOK_EVERY) {
            return false;
        }
        last.looked = Some(now);
        let Ok(stored) = stored_bytes(self.store.packs()) else {
            return false;
        };
        let base = *last.stored.get_or_insert(stored);
        let growth = (base / 100 * u64::from(self.growth_percent)).max(GROWTH_MIN);
        let since = last.collected.map_or(now, |at| now - at);
        let removed = last.removed && (since >= REMOVED_EVERY || space >= SpaceLevel::Filling);
        // Nothing grows where writers are refused, but guests discard.
        let discarded = space == SpaceLevel::Full && since >= REMOVED_EVERY;
        let scarce = space >= SpaceLevel::Scarce && stored > base;
        stored >= base + growth || removed || discarded || scarce
    }

    pub(crate) fn collect_now(
        &self,
        request: &CollectRequest,
        work: Work<'_>,
    ) -> Result<CollectReport> {
        let began = self.env.clock.monotonic();
        let options = gc::Options {
            dry_run: request.dry_run,
            ..gc::Options::default()
        };
        let collect = || gc::collect(self.store.packs(), &*self.store, &options, work);
        let full = |e: &gc::Error| e.kind() == gc::ErrorKind::NoSpace;
        let report = self.store.freeing(full, collect).map_err(api_error)?;
        if !request.dry_run {
            self.store.update_space();
            let stored = stored_bytes(self.store.packs())?;
            let collected = Some(self.env.clock.monotonic());
            let mut last = self.last_collect.lock();
            *last = Last {
                stored: Some(stored),
                collected,
                removed: false,
                ..*last
            };
            drop(last);
            self.last_collect_ms
                .store(self.env.clock.now().as_millis() as u64, Relaxed);
        }
        let plan = &report.plan;
        let lines = plan.actions.iter().filter(|action| action.how != How::Keep);
        Ok(CollectReport {
            dry_run: report.dry_run,
            packs: plan.packs,
            live_blocks: plan.live_blocks,
            dead_blocks: plan.dead_blocks,
            dropped: plan.count(How::Drop),
            rewritten: plan.count(How::Rewrite),
            punched: plan.count(How::Punch),
            bytes_before: report.bytes_before(),
            bytes_freed: if report.dry_run {
                plan.frees_estimate()
            } else {
                report.bytes_freed
            },
            took_ms: (self.env.clock.monotonic() - began).as_millis() as u64,
            plan: if report.dry_run {
                lines.take(PLAN_LINES_MAX).map(plan_line).collect()
            } else {
                Vec::new()
            },
        })
    }
}

fn plan_line(action: &gc::Action) -> String {
    let how = match action.how {
        How::Keep => "keep",
        How::Punch => "punch holes in",
        How::Rewrite => "rewrite",
        How::Drop => "drop",
    };
    format!(
        "{how} pack {}: {} of {} blocks are live, frees about {}",
        action.pack,
        action.live_blocks,
        action.live_blocks + action.dead_blocks,
        format_size(action.frees_estimate)
    )
}

/// What the store holds and takes.
pub(crate) fn usage(daemon: &Daemon) -> Result<StoreUsage> {
    let packs = daemon.store.packs();
    let (mut stored, mut blocks) = (0, 0);
    for stat in packs.list().map_err(pack_error)? {
        stored += stat.stored;
        // One that cannot be read is the check's business, not df's.
        let Ok(info) = packs.info(stat.pack) else {
            continue;
        };
        let data = info
            .frames
            .iter()
            .filter(|frame| frame.kind == FrameKind::Data);
        let live = |frame: &pack::FrameEntry| {
            (frame.first..frame.first + u16::from(frame.blocks))
                .filter(|&ordinal| info.live.get(ordinal))
                .count() as u64
        };
        blocks += data.map(live).sum::<u64>();
    }
    let records = daemon.records()?;
    let live = || records.iter().filter(|record| record.trashed.is_none());
    let used = bytes(live().map(|record| record.mapped_blocks).sum());
    let (unique, pressure) = (bytes(blocks), daemon.store.stats().pressure);
    let ratio = |a: u64, b: u64| if b == 0 { 1.0 } else { a as f64 / b as f64 };
    Ok(StoreUsage {
        total: pressure.total,
        free: pressure.free,
        stored,
        provisioned: live().map(|record| record.size).sum(),
        used,
        unique,
        dedup_ratio: ratio(used, unique),
        compression_ratio: ratio(unique, stored),
    })
}

/// What a volume or snapshot takes, and what of that nothing else refers to.
pub(crate) fn volume_usage(daemon: &Daemon, r: &VolumeRef) -> Result<VolumeUsage> {
    let store = &daemon.store;
    // Kept to the end: what is marked from it is not collected meanwhile.
    let pinned = store.root_of(r).map_err(convert::api_error)?;
    let (root, size) = (pinned.root, pinned.size);
    let name = r.to_string();
    let mine = [OwnedRoot {
        root,
        size_blocks: size.div_ceil(BLOCK_SIZE as u64),
        owner: name.clone(),
    }];
    let mut others = store.roots().map_err(api_error)?;
    others.retain(|other| other.owner != name);
    let packs = store.packs();
    let mine = gc::mark(packs, &mine, &NoProgress).map_err(api_error)?;
    let others = gc::mark(packs, &others, &NoProgress).map_err(api_error)?;
    let mut usage = VolumeUsage {
        name,
        size,
        used: 0,
        stored: 0,
        unique: 0,
    };
    for pack in mine.packs() {
        let info = packs.info(pack).map_err(pack_error)?;
        let (needed, shared) = (mine.live(pack), others.live(pack));
        for frame in &info.frames {
            let share = u64::from(frame.stored_len) / u64::from(frame.blocks.max(1));
            for ordinal in frame.first..frame.first + u16::from(frame.blocks) {
                if needed.get(ordinal) {
                    usage.stored += share;
                    usage.unique += if shared.get(ordinal) { 0 } else { share };
                }
            }
        }
    }
    // Blocks that the volume maps: one that is mapped twice is stored once.
    let record = store.find(&r.volume).map_err(convert::api_error)?;
    let mapped = match &r.snapshot {
        None => record.mapped_blocks,
        Some(snapshot) => store
            .catalog()
            .find_snapshot(record.id, snapshot)
            .map_err(|e| convert::api_error(e.into()))?
            .map_or(0, |snapshot| snapshot.mapped_blocks),
    };
    usage.used = bytes(mapped);
    Ok(usage)
}
