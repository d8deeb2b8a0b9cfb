//! Snapshots: what the call takes, and what a guest that writes notices.

use super::{
    bed::{Bed, drained},
    clones::with_filled_volume,
    contender::VOLUME,
    figures::{Outcome, Side, median, most, quantile},
    fio::{self, Load},
};
use anyhow::{Context, Result, bail};
use e2e::{
    api,
    daemon::Daemon,
    stopwatch::Stopwatch,
    torture::nbd::{Client, Request},
};
use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const SNAPSHOTS: usize = 100;
/// Of a run that snapshots are taken during.
const RUN_SECONDS: u32 = 20;
/// Blocks that a probe writes to.
const BLOCKS: u64 = 256 << 10;

/// The run's throughput, stalls of a writer, and the calls: idle, loaded, and deletion.
pub(crate) fn run(bed: &mut Bed) -> Result<Vec<Outcome>> {
    bed.clear();
    let daemon = with_filled_volume(bed)?;
    let (mut without, mut with, mut loaded, mut deletions) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let idle: Vec<f64> = take(&daemon, Duration::from_millis(5))?;
    deletions.extend(delete(&daemon)?);
    let (stalls, calm) = stalls(&daemon)?;
    deletions.extend(delete(&daemon)?);
    for _ in 0..bed.rounds {
        drained(&daemon)?;
        without.push(load(&daemon)?.iops);
        drained(&daemon)?;
        let (done, calls) = std::thread::scope(|scope| {
            let load = scope.spawn(|| load(&daemon));
            std::thread::sleep(Duration::from_secs(1));
            let pause = Duration::from_secs(u64::from(RUN_SECONDS - 2)) / SNAPSHOTS as u32;
            let calls = take(&daemon, pause);
            (load.join(), calls)
        });
        let Ok(done) = done else {
            bail!("the load ended badly")
        };
        with.push(done?.iops);
        loaded.extend(calls?);
        println!(
            "   {:.0} IOPS without snapshots, {:.0} with",
            last(&without),
            last(&with)
        );
        deletions.extend(delete(&daemon)?);
    }
    let sides = vec![
        Side::new("with snapshots", with),
        Side::new("without", without),
    ];
    let stalls = p99("ms", stalls).noting(format!(
        "longest write while a snapshot is taken, one at a time; in as many moments without one: median {:.2}, p99 {:.2} ms",
        median(&calm),
        quantile(&calm, 0.99)
    ));
    Ok(vec![
        Outcome::ratio("IOPS", sides, false).context("no rounds")?,
        stalls,
        p99("ms", idle),
        p99("ms", loaded),
        p99("ms", deletions),
    ])
}

fn last(figures: &[f64]) -> f64 {
    figures.last().copied().unwrap_or_default()
}

/// All of them stand for one figure: the 99th percentile.
fn p99(unit: &str, figures: Vec<f64>) -> Outcome {
    let note = format!(
        "p50 {:.2}, most {:.2}, {} calls",
        median(&figures),
        most(&figures),
        figures.len()
    );
    Outcome::alone(unit, vec![quantile(&figures, 0.99)]).noting(note)
}

fn load(daemon: &Daemon) -> Result<fio::Done> {
    let load = Load {
        seconds: Some(RUN_SECONDS),
        ..Load::new("randwrite", "4k", 16)
    };
    fio::timed(&daemon.uri(VOLUME), &load, RUN_SECONDS, &[])
}

/// Takes snapshots, one after each `pause`; the milliseconds of each call.
fn take(daemon: &Daemon, pause: Duration) -> Result<Vec<f64>> {
    (0..SNAPSHOTS)
        .map(|index| {
            std::thread::sleep(pause);
            timed(|| snapshot(daemon, index))
        })
        .collect()
}

fn snapshot(daemon: &Daemon, index: usize) -> Result<()> {
    let path = format!("/v1/volumes/{VOLUME}/snapshots");
    api::request(
        &daemon.socket(),
        "POST",
        &path,
        &format!(r#"{{"name": "s{index}"}}"#),
    )
    .map(drop)
}

fn delete(daemon: &Daemon) -> Result<Vec<f64>> {
    let one = |index| {
        let path = format!("/v1/volumes/{VOLUME}/snapshots/s{index}");
        timed(|| api::request(&daemon.socket(), "DELETE", &path, "").map(drop))
    };
    (0..SNAPSHOTS).map(one).collect()
}

fn timed(body: impl FnOnce() -> Result<()>) -> Result<f64> {
    let watch = Stopwatch::start();
    body()?;
    Ok(watch.elapsed().as_secs_f64() * 1e3)
}

/// The longest write, in milliseconds, of a writer that has one in flight at any time: while each snapshot is taken, and
/// in as many spans of the same length between them.
fn stalls(daemon: &Daemon) -> Result<(Vec<f64>, Vec<f64>)> {
    let watch = Arc::new(Stopwatch::start());
    let stop = Arc::new(AtomicBool::new(false));
    let now = || watch.elapsed().as_secs_f64() * 1e3;
    let writer = {
        let (watch, stop, socket) = (Arc::clone(&watch), Arc::clone(&stop), daemon.nbd_socket());
        std::thread::Builder::new()
            .spawn(move || write_until(&stop, &watch, socket))
            .context("starting a thread")?
    };
    let mut spans = Vec::new();
    let mut between = Vec::new();
    let mut taken = Ok(());
    for index in 0..SNAPSHOTS {
        std::thread::sleep(Duration::from_millis(100));
        let from = now();
        taken = snapshot(daemon, index);
        if taken.is_err() {
            break;
        }
        let to = now();
        spans.push((from, to));
        let length = to - from;
        between.push((from - 50.0 - length, from - 50.0));
    }
    stop.store(true, Ordering::Relaxed);
    let Ok(writes) = writer.join() else {
        bail!("the writer ended badly")
    };
    taken?;
    let writes = writes?;
    let longest = |(from, to): &(f64, f64)| {
        let within = writes
            .iter()
            .filter(|(start, end)| end >= from && start <= to);
        within.map(|(start, end)| end - start).fold(0.0, f64::max)
    };
    Ok((
        spans.iter().map(longest).collect(),
        between.iter().map(longest).collect(),
    ))
}

/// Writes random blocks one by one; when each was sent and answered, in milliseconds.
fn write_until(stop: &AtomicBool, watch: &Stopwatch, socket: PathBuf) -> Result<Vec<(f64, f64)>> {
    let mut client = Client::connect(&socket, VOLUME)?;
    let mut random = super::random::Random::new(1);
    let mut writes = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let block = random.block();
        let start = watch.elapsed().as_secs_f64() * 1e3;
        client.ask(Request::Write(random.below(BLOCKS) * 4096, block, false))?;
        writes.push((start, watch.elapsed().as_secs_f64() * 1e3));
    }
    Ok(writes)
}
