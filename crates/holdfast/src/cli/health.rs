//! `holdfast check`: what is damaged, what is lost, what was repaired.

use super::{
    args,
    client::Client,
    failure::{DAMAGED, Failure},
    jobs,
    output::{Output, duration, pairs, time},
};
use api_types::{
    CheckReport, CheckRequest, Job, Lost, Repair, RepairOutcome, ScrubStatus, Verdict,
};
use types::size::format_size;

type Result<T> = std::result::Result<T, Failure>;

/// Ranges of one volume that are shown to people; `--json` has more.
const RANGES_SHOWN: usize = 20;

/// `holdfast check` of the running daemon's store.
pub(crate) async fn check(client: &Client, output: Output, how: args::HowToCheck) -> Result<()> {
    let request = CheckRequest::from(how);
    let job: Job = client.post("/v1/store/check", &request).await?;
    let report: CheckReport = jobs::result(jobs::follow(client, output, job).await?)?;
    verdict(output, &report)
}

/// `holdfast scrub …`.
pub(crate) async fn scrub(client: &Client, output: Output, command: args::Scrub) -> Result<()> {
    const PATH: &str = "/v1/store/scrub";
    match command {
        args::Scrub::Start { wait } => {
            let job: Job = client.post(PATH, &serde_json::json!({})).await?;
            if !wait {
                return output.done(&job, |job| {
                    format!(
                        "scrubbing: see 'holdfast scrub status', or 'holdfast job wait {}'",
                        job.id
                    )
                });
            }
            let status: ScrubStatus = jobs::result(jobs::follow(client, output, job).await?)?;
            output.show(&status, scrub_text)?;
            if status.damaged > 0 {
                let message = "damaged packs were found; 'holdfast check' lists what is lost";
                return Err(Failure::new(DAMAGED, message));
            }
            Ok(())
        }
        args::Scrub::Stop => {
            let status: ScrubStatus = client.delete(PATH).await?;
            output.done(&status, scrub_text)
        }
        args::Scrub::Status => {
            let status: ScrubStatus = client.get(PATH).await?;
            output.show(&status, scrub_text)
        }
    }
}

fn scrub_text(s: &ScrubStatus) -> String {
    let every = match s.every_s {
        0 => "only when asked".to_owned(),
        every => format!("every {}", duration(every * 1000)),
    };
    let mut lines = vec![
        (
            "scrub",
            if s.running {
                "running".to_owned()
            } else {
                "idle".to_owned()
            },
        ),
        ("begins", every),
        ("at most", format!("{} a second", format_size(s.rate))),
        (
            "read",
            format!(
                "{} in {} of {} packs",
                format_size(s.bytes),
                s.packs_done,
                s.packs_total
            ),
        ),
        ("damaged packs", s.damaged.to_string()),
        (
            "last finished",
            s.finished_ms.map_or_else(|| "not yet".to_owned(), time),
        ),
    ];
    if !s.position.is_empty() {
        lines.push(("at pack", s.position.clone()));
    }
    pairs(&lines)
}

/// Shows a report; damage is an error, and so is a repair that failed.
pub(crate) fn verdict(output: Output, report: &CheckReport) -> Result<()> {
    output.show(report, check_text)?;
    let failed = |repair: &Repair| repair.outcome == RepairOutcome::Failed;
    match report.verdict {
        Verdict::Damaged => Err(Failure::new(DAMAGED, "the store is damaged")),
        _ if report.repairs.iter().any(failed) => {
            Err(Failure::internal("not everything could be repaired"))
        }
        Verdict::Healthy | Verdict::Garbage => Ok(()),
    }
}

fn check_text(r: &CheckReport) -> String {
    let mut lines: Vec<String> = r.repairs.iter().map(repair_line).collect();
    lines.extend(r.damaged_packs.iter().map(|damaged| {
        format!(
            "damaged: pack {}: {} ({} blocks needed)",
            damaged.pack, damaged.reason, damaged.blocks
        )
    }));
    r.lost.iter().for_each(|lost| lost_lines(lost, &mut lines));
    lines.extend(r.older.iter().map(|older| {
        let owner = if older.owner.is_empty() {
            "any volume"
        } else {
            &older.owner
        };
        format!("older: {owner}: {}", older.reason)
    }));
    lines.push(format!(
        "{} volumes and snapshots, {} nodes, {} blocks; packs: {} live, {} garbage, {} left by crashes; read {} in {}",
        r.roots,
        r.nodes,
        r.blocks,
        r.packs_live,
        r.packs_dead,
        r.packs_orphan,
        format_size(r.bytes_read),
        duration(r.took_ms)
    ));
    lines.push(match r.verdict {
        Verdict::Healthy => "healthy: everything is there and as it was written".to_owned(),
        Verdict::Garbage => format!(
            "healthy; {} of garbage can be collected with 'holdfast store collect'",
            format_size(r.garbage)
        ),
        Verdict::Damaged => {
            "DAMAGED: what is named above is lost unless a copy exists elsewhere".to_owned()
        }
    });
    lines.join("\n")
}

fn repair_line(repair: &Repair) -> String {
    let Repair {
        subject, action, ..
    } = repair;
    match (repair.outcome, &repair.error) {
        (RepairOutcome::Planned, _) => format!("would repair: {subject}: {action}"),
        (RepairOutcome::Done, _) => format!("repaired: {subject}: {action}"),
        (RepairOutcome::Failed, why) => {
            let why = why.as_deref().unwrap_or("it failed");
            format!("not repaired: {subject}: {action}: {why}")
        }
    }
}

fn lost_lines(lost: &Lost, lines: &mut Vec<String>) {
    lines.push(format!("lost: {}: {} bytes", lost.owner, lost.bytes));
    for range in lost.ranges.iter().take(RANGES_SHOWN) {
        let end = range.offset + range.len;
        lines.push(format!("    bytes {}..{end}", range.offset));
    }
    if lost.more || lost.ranges.len() > RANGES_SHOWN {
        let listed = lost.ranges.len();
        let least = if lost.more { "more than " } else { "" };
        lines.push(format!("    … of {least}{listed} ranges; see --json"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::{ByteRange, DamagedPack, Older, RepairKind};

    #[test]
    fn people_are_told_what_is_lost_and_where() {
        let range = |offset| ByteRange { offset, len: 4096 };
        let report = CheckReport {
            verdict: Verdict::Damaged,
            damaged_packs: vec![DamagedPack {
                pack: "00000000000000a3".into(),
                blocks: 4,
                reason: "wrong checksum of its frame".into(),
            }],
            lost: vec![Lost {
                owner: "web@old".into(),
                bytes: 30 * 4096,
                ranges: (0..30).map(|n| range(n * 8192)).collect(),
                more: false,
            }],
            older: vec![Older {
                owner: "db".into(),
                reason: "a flush is lost".into(),
            }],
            repairs: vec![Repair {
                what: RepairKind::Orphan,
                subject: "pack 9".into(),
                action: "remove".into(),
                outcome: RepairOutcome::Failed,
                error: Some("no space".into()),
            }],
            ..CheckReport::default()
        };
        let text = check_text(&report);
        for expected in [
            "not repaired: pack 9: remove: no space",
            "damaged: pack 00000000000000a3: wrong checksum of its frame (4 blocks needed)",
            "lost: web@old: 122880 bytes\n    bytes 0..4096\n    bytes 8192..12288\n",
            "… of 30 ranges; see --json",
            "older: db: a flush is lost",
            "DAMAGED",
        ] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
        let line = serde_json::to_value(&report).unwrap();
        assert_eq!(line["repairs"][0]["what"], "orphan");
        assert_eq!(line["lost"][0]["ranges"][29]["offset"], 29 * 8192);
    }
}
