//! `holdfast store …`, `nbd …` and `events`.

use super::{
    args,
    client::Client,
    failure::Failure,
    health, jobs,
    output::{Output, duration, pairs, print, switch, table, time},
};
use api_types::{
    CollectReport, CollectRequest, Event, Job, NbdStatus, SpaceLevel, StoreInfo, StoreUsage,
};
use http_body_util::{BodyExt, Empty};
use hyper::Method;
use types::size::format_size;

type Result<T> = std::result::Result<T, Failure>;

/// `holdfast store …`.
pub(crate) async fn run(client: &Client, output: Output, command: args::Store) -> Result<()> {
    match command {
        args::Store::Info => {
            let info: StoreInfo = client.get("/v1/store").await?;
            output.show(&info, info_text)
        }
        args::Store::Df => {
            let usage: StoreUsage = client.get("/v1/store/usage").await?;
            output.show(&usage, usage_text)
        }
        args::Store::Collect { dry_run } => {
            let job: Job = client
                .post("/v1/store/collect", &CollectRequest { dry_run })
                .await?;
            let report: CollectReport = jobs::result(jobs::follow(client, output, job).await?)?;
            output.done(&report, collect_text)
        }
        args::Store::Check(how) => health::check(client, output, how).await,
    }
}

fn space_text(level: SpaceLevel) -> &'static str {
    match level {
        SpaceLevel::Ample => "less than 70 % taken",
        SpaceLevel::Filling => "70 % taken or more",
        SpaceLevel::Scarce => "85 % taken or more: remove, collect, or add space",
        SpaceLevel::Full => "full: remove, collect, or add space",
    }
}

fn info_text(i: &StoreInfo) -> String {
    let health = match &i.problems[..] {
        [] => "good".to_owned(),
        problems => problems.join("\n"),
    };
    let last_error = i.last_error.as_deref().unwrap_or("none");
    pairs(&[
        ("health", health),
        ("last disk error", last_error.to_owned()),
        ("space", space_text(i.space).to_owned()),
        ("store", i.path.clone()),
        ("id", i.id.clone()),
        ("format", i.format.to_string()),
        (
            "daemon",
            format!("holdfast {}, process {}", i.version, i.pid),
        ),
        ("running since", time(i.started_ms)),
        ("recovery took", duration(i.recovery_ms)),
        (
            "volumes",
            format!("{}, {} snapshots", i.volumes, i.snapshots),
        ),
        (
            "new volumes",
            format!("codec {}, dedup {}", i.codec, switch(i.dedup)),
        ),
        ("trash keeps", duration(i.trash_keep_s.saturating_mul(1000))),
        (
            "journal",
            format!(
                "{} of {}",
                format_size(i.journal_used),
                format_size(i.journal_capacity)
            ),
        ),
        (
            "dirty data",
            format!(
                "{} of {}",
                format_size(i.dirty),
                format_size(i.dirty_budget)
            ),
        ),
        (
            "write buffer",
            if i.survives {
                format!("shared memory, {}", format_size(i.shared_memory))
            } else {
                "of the process: answered writes are lost in a crash, unless flushed".to_owned()
            },
        ),
        ("caches", format!("at most {}", format_size(i.cache_budget))),
        (
            "dedup index",
            format!(
                "{} entries, 1 hash in {}, at most {}",
                i.index_entries,
                1u64.checked_shl(i.index_k).unwrap_or(u64::MAX),
                format_size(i.index_budget)
            ),
        ),
        (
            "scrubbed",
            i.scrub.finished_ms.map_or_else(
                || "not yet".to_owned(),
                |at| format!("{}, {} damaged packs", time(at), i.scrub.damaged),
            ),
        ),
        (
            "collected",
            i.collected_ms.map_or_else(|| "not yet".to_owned(), time),
        ),
    ])
}

fn usage_text(u: &StoreUsage) -> String {
    pairs(&[
        ("provisioned", format_size(u.provisioned)),
        ("used", format_size(u.used)),
        (
            "unique",
            format!("{} (dedup {:.2}x)", format_size(u.unique), u.dedup_ratio),
        ),
        (
            "stored",
            format!(
                "{} (compression {:.2}x)",
                format_size(u.stored),
                u.compression_ratio
            ),
        ),
        (
            "file system",
            format!("{} free of {}", format_size(u.free), format_size(u.total)),
        ),
    ])
}

fn collect_text(r: &CollectReport) -> String {
    let mut lines = r.plan.clone();
    let (freed, tense) = if r.dry_run {
        ("would free about", "to drop")
    } else {
        ("freed", "dropped")
    };
    lines.push(format!(
        "{freed} {} of {}: {} packs {tense}, {} rewritten, {} punched; {} of {} blocks live; took {}",
        format_size(r.bytes_freed),
        format_size(r.bytes_before),
        r.dropped,
        r.rewritten,
        r.punched,
        r.live_blocks,
        r.live_blocks + r.dead_blocks,
        duration(r.took_ms)
    ));
    lines.join("\n")
}

/// `holdfast nbd …`.
pub(crate) async fn nbd(client: &Client, output: Output, command: args::Nbd) -> Result<()> {
    let args::Nbd::Status = command;
    let status: NbdStatus = client.get("/v1/nbd").await?;
    output.show(&status, |status| {
        let rows = status.connections.iter().map(|c| {
            vec![
                c.id.to_string(),
                c.peer.clone(),
                c.export.clone(),
                time(c.since_ms),
                c.requests.to_string(),
                format_size(c.bytes_read),
                format_size(c.bytes_written),
            ]
        });
        let header = [
            ">ID",
            "PEER",
            "EXPORT",
            "SINCE",
            ">REQUESTS",
            ">READ",
            ">WRITTEN",
        ];
        format!(
            "listens on {}\n{}",
            status.listen.join(", "),
            table(&header, rows)
        )
    })
}

/// `holdfast events`: what happened lately, or what happens until somebody ends it.
pub(crate) async fn events(client: &Client, output: Output, follow: bool) -> Result<()> {
    let empty = Empty::new().map_err(|never| match never {}).boxed();
    let path = if follow {
        "/v1/events"
    } else {
        "/v1/events?since=0&follow=false"
    };
    let mut body = client
        .send(Method::GET, path, None, empty)
        .await?
        .into_body();
    let mut pending = Vec::new();
    while let Some(frame) = body.frame().await {
        let broken = |e: hyper::Error| Failure::internal(format!("the stream broke off: {e}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        // Whole lines only: what is left may end within a character.
        let whole = pending
            .iter()
            .rposition(|&b| b == b'\n')
            .map_or(0, |at| at + 1);
        let lines: Vec<u8> = pending.drain(..whole).collect();
        for line in String::from_utf8_lossy(&lines).lines() {
            if let Some(data) = line.strip_prefix("data:") {
                show_event(output, data.trim())?;
            }
        }
    }
    Ok(())
}

fn show_event(output: Output, data: &str) -> Result<()> {
    if output.json {
        return print(data);
    }
    match serde_json::from_str::<Event>(data) {
        Ok(e) => print(&format!("{}  {}  {}", time(e.at_ms), e.subject, e.message)),
        Err(_) => Ok(()),
    }
}
