//! Health: checks of live and closed stores, and their repair.
//!
//! What cannot be opened cannot be checked, so a repair goes from the outside in: catalog, journal, then packs.

use super::{collect, control::bytes, convert};
use api_types::{
    ApiError, ByteRange, CheckReport, CheckRequest, DamagedPack, ErrorCode, Lost, Older, Repair,
    RepairKind, RepairOutcome, Verdict, Work,
};
use std::path::Path;
use volume::Store;

type Result<T> = std::result::Result<T, ApiError>;

/// Verifies a store, after repairing its packs if that is asked for.
pub(crate) fn check(store: &Store, request: &CheckRequest, work: Work<'_>) -> Result<CheckReport> {
    let clock = env::RealClock::new();
    let mut repairs = Vec::new();
    if request.repair {
        let mended = gc::repair(store.packs(), store, request.dry_run, work);
        repairs.extend(mended.map_err(collect::api_error)?.iter().map(of_pack));
    }
    let options = gc::CheckOptions {
        deep: !request.quick,
    };
    let report = gc::check(store.packs(), store, options, work).map_err(collect::api_error)?;
    Ok(CheckReport {
        verdict: match report.verdict() {
            gc::Verdict::Healthy => Verdict::Healthy,
            gc::Verdict::HealthyWithGarbage => Verdict::Garbage,
            gc::Verdict::Damaged => Verdict::Damaged,
        },
        roots: report.roots,
        nodes: report.nodes,
        blocks: report.live_blocks,
        packs_live: report.packs.live + report.packs.partly_dead + report.packs.young,
        packs_dead: report.packs.dead,
        packs_orphan: report.packs.unreadable,
        bytes_read: report.bytes_read,
        garbage: bytes(report.dead_blocks),
        damaged_packs: report.damaged.iter().map(damaged_pack).collect(),
        lost: report.afflicted.into_iter().map(lost).collect(),
        older: Vec::new(),
        repairs,
        took_ms: env::Clock::monotonic(&clock).as_millis() as u64,
    })
}

fn damaged_pack(damaged: &gc::DamagedPack) -> DamagedPack {
    DamagedPack {
        pack: damaged.pack.to_string(),
        blocks: damaged.blocks,
        reason: damaged.why.clone(),
    }
}

fn lost(afflicted: gc::Afflicted) -> Lost {
    let range = |extent: gc::Extent| ByteRange {
        offset: extent.offset,
        len: extent.len,
    };
    Lost {
        owner: afflicted.owner,
        bytes: afflicted.bytes,
        ranges: afflicted.extents.into_iter().map(range).collect(),
        more: afflicted.more,
    }
}

fn of_pack(mended: &gc::Mended) -> Repair {
    let (what, action) = match &mended.what {
        gc::Mend::Misplaced(from) => (
            RepairKind::Misplaced,
            format!("put back what is stored as pack {from}"),
        ),
        gc::Mend::Orphan(why) => (
            RepairKind::Orphan,
            format!("remove, as it cannot be read and nothing needs it ({why})"),
        ),
        gc::Mend::Hashes(why) => (
            RepairKind::Hashes,
            format!("make its hashes anew from its blocks ({why})"),
        ),
    };
    let (outcome, error) = match &mended.outcome {
        None => (RepairOutcome::Planned, None),
        Some(Ok(())) => (RepairOutcome::Done, None),
        Some(Err(why)) => (RepairOutcome::Failed, Some(why.clone())),
    };
    Repair {
        what,
        subject: format!("pack {}", mended.pack),
        action,
        outcome,
        error,
    }
}

/// Verifies a store that no daemon has open.
pub(crate) fn check_closed(
    dir: &Path,
    request: &CheckRequest,
    work: Work<'_>,
) -> Result<CheckReport> {
    let dir = std::path::absolute(dir)
        .map_err(|e| ApiError::new(ErrorCode::Invalid, format!("{}: {e}", dir.display())))?;
    let env = env::Env::real();
    // The journal's size is the default one: another would change its segments.
    let config = volume::Config {
        background: volume::Background::Inline,
        ..volume::Config::for_memory(1 << 30).on_disk(super::serve::disk_bytes(&env, &dir))
    };
    let rebuilt = if request.repair {
        let rebuilt = Store::rebuild_catalog(&env, &dir, &config, request.dry_run);
        rebuilt.map_err(convert::api_error)?
    } else {
        None
    };
    let mut before = CheckReport::default();
    if let Some(rebuilt) = rebuilt {
        add_catalog(&mut before, rebuilt, request.dry_run);
        if request.dry_run {
            // Nothing more can be said of a store without a catalog.
            before.verdict = Verdict::Damaged;
            return Ok(before);
        }
    }
    let store = if request.repair {
        match open_repaired(&env, &dir, config, request.dry_run, &mut before)? {
            Some(store) => store,
            None => return Ok(before),
        }
    } else {
        Store::open(&env, &dir, config).map_err(|e| open_error(&dir, e))?
    };
    // What is damaged or full is checked all the more: the journal keeps what cannot be destaged.
    if let Err(e) = store.settle_all() {
        tracing::warn!(error = ?e, "not everything could be destaged before the check");
    }
    let report = check(&store, request, work);
    if let Err(e) = store.close() {
        tracing::warn!(error = ?e, "closing after the check");
    }
    let mut report = report?;
    report.repairs.splice(0..0, before.repairs);
    report.older.splice(0..0, before.older);
    if !report.older.is_empty() {
        report.verdict = Verdict::Damaged;
    }
    Ok(report)
}

/// Reports a catalog that was made anew, or would be.
fn add_catalog(report: &mut CheckReport, rebuilt: volume::Rebuilt, dry_run: bool) {
    let volume::Rebuilt {
        why,
        from,
        volumes,
        snapshots,
        ..
    } = rebuilt;
    let kept = rebuilt
        .kept
        .map(|path| format!("; the old one is {}", path.display()));
    report.repairs.push(Repair {
        what: RepairKind::Catalog,
        subject: "catalog.redb".to_owned(),
        action: format!(
            "it {why}: make it anew from {from}, with {volumes} volumes and {snapshots} snapshots{}",
            kept.unwrap_or_default()
        ),
        outcome: if dry_run {
            RepairOutcome::Planned
        } else {
            RepairOutcome::Done
        },
        error: None,
    });
    let older = rebuilt.older.into_iter();
    report
        .older
        .extend(older.map(|(owner, reason)| Older { owner, reason }));
}

/// Repairs what keeps a store from being opened, notes it in `report`, and opens the store; `None` if a dry run finds
/// that it would have to be repaired first.
fn open_repaired(
    env: &env::Env,
    dir: &Path,
    config: volume::Config,
    dry_run: bool,
    report: &mut CheckReport,
) -> Result<Option<Store>> {
    let journal = Store::repair_journal(env, dir, &config, dry_run);
    if let Some(damage) = journal.map_err(convert::api_error)? {
        note_journal(report, &damage, dry_run);
        if dry_run {
            return Ok(None);
        }
    }
    if dry_run {
        return match Store::open(env, dir, config) {
            Err(e) if e.kind() == volume::ErrorKind::Damaged => {
                let damage = e.to_string();
                report.verdict = Verdict::Damaged;
                report
                    .repairs
                    .push(leave_out(&damage, RepairOutcome::Planned));
                Ok(None)
            }
            other => other.map(Some).map_err(convert::api_error),
        };
    }
    let opened = Store::open_without_lost_flushes(env, dir, config);
    let (store, lost) = opened.map_err(convert::api_error)?;
    for volume::LostFlushes { owner, what } in lost {
        report.repairs.push(leave_out(&owner, RepairOutcome::Done));
        report.older.push(Older {
            owner,
            reason: what,
        });
    }
    Ok(Some(store))
}

fn leave_out(subject: &str, outcome: RepairOutcome) -> Repair {
    Repair {
        what: RepairKind::Journal,
        subject: subject.to_owned(),
        action: "leave out what the journal has of later writes".to_owned(),
        outcome,
        error: None,
    }
}

fn note_journal(report: &mut CheckReport, damage: &volume::JournalDamage, dry_run: bool) {
    report.verdict = Verdict::Damaged;
    report.repairs.push(Repair {
        what: RepairKind::Journal,
        subject: damage.damage.clone(),
        action: format!(
            "keep {} flushes, of each volume all before the first that is missing; put the damaged journal aside as {}",
            damage.kept,
            damage.aside.display()
        ),
        outcome: if dry_run {
            RepairOutcome::Planned
        } else {
            RepairOutcome::Done
        },
        error: None,
    });
    let lost = "flushes that were in the damaged part of the journal are lost";
    let unsure = "its last flushes may have been in the damaged part of the journal";
    for (owners, reason) in [(&damage.cut, lost), (&damage.unsure, unsure)] {
        report.older.extend(owners.iter().map(|owner| Older {
            owner: owner.clone(),
            reason: reason.to_owned(),
        }));
    }
}

/// Why a store cannot be opened, and the way out.
pub(crate) fn open_error(dir: &Path, e: volume::Error) -> ApiError {
    let damaged = e.kind() == volume::ErrorKind::Damaged;
    let error = convert::api_error(e);
    if !damaged {
        return error;
    }
    let dir = dir.display();
    error.hint(format!(
        "see what can be kept with: holdfast check {dir} --repair --dry-run"
    ))
}
