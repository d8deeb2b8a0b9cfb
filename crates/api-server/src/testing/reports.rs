//! What the store in memory says of itself.

use api_types::{
    ByteRange, CheckReport, CheckRequest, CollectReport, CollectRequest, DamagedPack, Lost, Repair,
    RepairKind, RepairOutcome, ScrubStatus, StoreInfo, StoreUsage, Verdict,
};
use types::Codec;

pub(super) fn store(volumes: u64, scrub: ScrubStatus) -> StoreInfo {
    StoreInfo {
        id: "00".repeat(16),
        path: "/fake".into(),
        format: 1,
        version: "0.0.0-fake".into(),
        pid: 1,
        started_ms: 1_700_000_000_000,
        recovery_ms: 5,
        scrub,
        dedup: true,
        codec: Codec::Lz4,
        trash_keep_s: 86_400,
        volumes,
        snapshots: 0,
        journal_used: 0,
        journal_capacity: 1 << 30,
        dirty: 0,
        dirty_budget: 1 << 28,
        survives: true,
        shared_memory: 1 << 22,
        cache_budget: 1 << 29,
        index_entries: 0,
        index_k: 0,
        index_budget: 1 << 27,
        space: Default::default(),
        problems: Vec::new(),
        last_error: None,
        collected_ms: None,
    }
}

pub(super) fn usage() -> StoreUsage {
    StoreUsage {
        total: 100 << 30,
        free: 60 << 30,
        stored: 1 << 30,
        provisioned: 20 << 30,
        used: 6 << 30,
        unique: 2 << 30,
        dedup_ratio: 3.0,
        compression_ratio: 2.0,
    }
}

pub(super) fn collect(request: &CollectRequest) -> CollectReport {
    CollectReport {
        dry_run: request.dry_run,
        packs: 3,
        dropped: 1,
        bytes_before: 3 << 20,
        bytes_freed: 1 << 20,
        plan: if request.dry_run {
            vec!["drop pack 1".into()]
        } else {
            vec![]
        },
        ..CollectReport::default()
    }
}

pub(super) fn check(request: &CheckRequest, damaged: bool) -> CheckReport {
    let mut report = CheckReport::default();
    if damaged {
        report.verdict = Verdict::Damaged;
        report.damaged_packs.push(DamagedPack {
            pack: "0000000000000001".into(),
            blocks: 4,
            reason: "a frame's checksum is wrong".into(),
        });
        let range = ByteRange {
            offset: 4096,
            len: 16384,
        };
        report.lost.push(Lost {
            owner: "web".into(),
            bytes: 16384,
            ranges: vec![range],
            more: false,
        });
    }
    if request.repair {
        report.repairs.push(Repair {
            what: RepairKind::Orphan,
            subject: "0000000000000009".into(),
            action: "remove".into(),
            outcome: if request.dry_run {
                RepairOutcome::Planned
            } else {
                RepairOutcome::Done
            },
            error: None,
        });
    }
    report
}
