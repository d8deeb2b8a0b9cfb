//! `cargo xtask soak sim`: whole stores on simulated machines. A crash in every I/O of a scripted scenario and then in
//! every I/O of the recovery; random histories by seed, also on disks that fail and lie.

use super::binary::TestBinary;
use crate::stage::stage;
use anyhow::{Context, Result, bail};
use e2e::stopwatch::Stopwatch;
use parking_lot::Mutex;
use std::{
    ops::Range,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// Tests of crashes and errors in every I/O.
const CRASHES: [&str; 5] = [
    "script::the_power_goes_in_every_io",
    "script::the_process_is_killed_in_every_io",
    "script::every_sync_fails_once",
    "script::every_write_fails_once",
    "script::every_read_fails_once",
];
/// Tests of histories by seed.
const HISTORIES: [&str; 12] = [
    "random::histories_survive_restarts_kills_and_power_cuts",
    "faults::disks_that_fail_lose_nothing_that_was_acknowledged",
    "faults::disks_that_lie_are_found_out",
    "lies::disks_that_lie_about_the_journal_are_found_out",
    "lies::disks_that_lie_about_the_catalog_are_found_out",
    "rebuild::a_lost_catalog_is_made_anew_from_its_copy_and_nothing_is_missing",
    "rebuild::without_a_whole_copy_volumes_are_what_they_were_and_never_a_mixture",
    "modes::what_is_kept_apart_is_kept_or_discarded_as_a_whole",
    "importing::imports_survive_restarts_kills_and_power_cuts",
    "importing::imports_on_disks_that_fail_lose_nothing",
    "importing::imports_go_on_with_a_catalog_that_was_made_anew",
    "importing::what_an_import_lacks_without_a_copy_is_never_zeroes",
];
/// Seeds that one process takes.
const AT_ONCE: u64 = 50;
/// Reports are this far apart.
const REPORT: Duration = Duration::from_secs(15);

/// Which seeds.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only these.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// These seeds, the last one left out.
    #[arg(long, value_name = "FIRST..LAST", value_parser = parse_range, default_value = "0..10000")]
    seeds: Range<u64>,
    /// Begin with the first of the seeds, and stop after so many minutes, wherever that is.
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,
}

/// What there is.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// A crash, and an error, in every I/O.
    Crashes,
    /// Random histories by seed.
    Histories,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            only: None,
            seeds: 0..10_000,
            minutes: None,
        }
    }
}

fn parse_range(text: &str) -> Result<Range<u64>> {
    let (first, last) = text.split_once("..").context("FIRST..LAST")?;
    Ok(first.parse()?..last.parse()?)
}

/// Runs them on all cores.
pub(crate) fn run(options: &Options) -> Result<()> {
    let binary = stage("build", || TestBinary::build("volume", "sim"))?;
    if options.only != Some(Part::Histories) {
        stage("crashes and errors in every I/O", || crashes(&binary))?;
    }
    if options.only != Some(Part::Crashes) {
        stage("histories on simulated machines", || {
            histories(&binary, options)
        })?;
    }
    Ok(())
}

/// They use all cores themselves.
fn crashes(binary: &TestBinary) -> Result<()> {
    for test in CRASHES {
        let thorough = [("HOLDFAST_THOROUGH", "1".to_owned())];
        if let Some(output) = binary.run(test, &thorough)? {
            bail!("{output}");
        }
    }
    Ok(())
}

fn histories(binary: &TestBinary, options: &Options) -> Result<()> {
    let last = match options.minutes {
        Some(_) => u64::MAX,
        None => options.seeds.end,
    };
    let limit = options.minutes.map(|n| Duration::from_secs(n * 60));
    let work = Work {
        next: AtomicU64::new(options.seeds.start),
        last,
        done: AtomicU64::new(0),
        failure: Mutex::new(None),
        watch: Stopwatch::start(),
        limit: limit.unwrap_or(Duration::MAX),
        reported: Mutex::new(Duration::ZERO),
    };
    let cores = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| work.run(binary));
        }
    });
    if let Some(failure) = work.failure.into_inner() {
        bail!("{failure}");
    }
    println!("   {} histories", work.done.into_inner());
    Ok(())
}

/// What the workers share.
struct Work {
    next: AtomicU64,
    last: u64,
    done: AtomicU64,
    failure: Mutex<Option<String>>,
    watch: Stopwatch,
    limit: Duration,
    reported: Mutex<Duration>,
}

impl Work {
    fn run(&self, binary: &TestBinary) {
        while !self.is_over() {
            let first = self.next.fetch_add(AT_ONCE, Relaxed);
            let last = first.saturating_add(AT_ONCE).min(self.last);
            if first >= last {
                return;
            }
            let seeds = [("HOLDFAST_SEEDS", format!("{first}..{last}"))];
            for test in HISTORIES {
                match binary.run(test, &seeds) {
                    Ok(None) => {}
                    Ok(Some(output)) => self.fail(output),
                    Err(error) => self.fail(format!("{test}, seeds {first}..{last}: {error:#}")),
                }
            }
            self.report((last - first) * HISTORIES.len() as u64);
        }
    }

    fn is_over(&self) -> bool {
        self.watch.elapsed() >= self.limit || self.failure.lock().is_some()
    }

    /// The first failure is told: others are likely to be the same.
    fn fail(&self, why: String) {
        self.failure.lock().get_or_insert(why);
    }

    fn report(&self, count: u64) {
        let done = self.done.fetch_add(count, Relaxed) + count;
        let now = self.watch.elapsed();
        let mut reported = self.reported.lock();
        if now - *reported >= REPORT {
            *reported = now;
            println!("   {done} histories in {} s, all well", now.as_secs());
        }
    }
}
