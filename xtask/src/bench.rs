//! `cargo xtask bench`: Holdfast beside other servers on the same machine.
//!
//! ```text
//!  job ──▶ bed: servers, started once, each with its own 2 GiB, filled alike
//!   │       round 1: ours, peer, peer …   round 2: ours, peer, peer …
//!   └─▶ outcome: each side's figure of each round, median of the rounds' ratios
//!        └─▶ docs/performance: results.json, results.md, plots
//! ```
//!
//! How it measures, and why so, is in docs/performance.md. Benchmarks never decide whether tests pass.

mod ageing;
mod bed;
mod clones;
mod contender;
mod cow;
mod diff;
mod driver;
mod fair;
mod figures;
mod fio;
mod images;
mod import;
mod import_formats;
mod jobs;
mod machine;
mod memory;
mod nbd;
mod pause;
mod plot;
mod random;
mod report;
mod snapshots;
mod tail;

use crate::stage::{cargo, show, stage};
use anyhow::{Context, Result, bail, ensure};
use bed::Bed;
use jobs::{CATALOG, Job};
use std::path::PathBuf;

/// What every job takes, and its Debian package.
const NEEDS: &[(&str, &str)] = &[
    ("fio", "fio"),
    ("setpriv", "util-linux"),
    ("findmnt", "util-linux"),
];

/// What to measure, and how.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// These jobs; all, if none is named.
    #[arg(value_name = "JOB")]
    jobs: Vec<String>,
    /// Say which jobs there are, with their targets, and measure nothing.
    #[arg(long)]
    list: bool,
    /// Rounds: in each, every server has its turn at the job.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Seconds of one turn; without it each job knows, and 3 where it does not matter.
    #[arg(long)]
    seconds: Option<u32>,
    /// Directory for stores and disks, on the file system to be measured. It gets a directory of its own in it, which
    /// is removed in the end.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    dir: PathBuf,
    /// Where results and plots go; results of other jobs that are there are kept.
    #[arg(long, default_value_os_t = e2e::paths::workspace().join("docs/performance"))]
    output: PathBuf,
    /// Measure this program instead of building one.
    #[arg(long, env = "HOLDFAST_BIN")]
    program: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let jobs = chosen(&options.jobs)?;
    if options.list {
        jobs.iter().for_each(|job| print!("{}", job.describe()));
        return Ok(());
    }
    let missing: Vec<&str> = NEEDS
        .iter()
        .filter(|need| !e2e::tools::have(need.0))
        .map(|need| need.1)
        .collect();
    ensure!(
        missing.is_empty(),
        "programs are missing; run this first:\n  apt-get install {}",
        missing.join(" ")
    );
    ensure!(
        options.rounds > 0 && options.seconds != Some(0),
        "at least one round of one second"
    );
    let program = program(options)?;
    let mut report = report::Report::open(&options.output, machine::describe(&options.dir)?)?;
    let bed = &mut Bed::new(&options.dir, program, options.rounds, options.seconds)?;
    let mut failed = Vec::new();
    for job in jobs {
        let outcome = stage(job.name, || job.run(bed));
        match outcome {
            Ok(outcomes) => report.put(job, &outcomes, job.rounds(options.rounds))?,
            // One that cannot run here does not keep the others from it.
            Err(error) => {
                e2e::cleanup::hold_if_interrupted();
                eprintln!("   {error:#}");
                failed.push(job.name);
            }
        }
    }
    bed.skipped()
        .iter()
        .for_each(|line| println!("   left out: {line}"));
    println!("results are in {}", options.output.display());
    ensure!(
        failed.is_empty(),
        "these jobs failed: {}",
        failed.join(", ")
    );
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Job>> {
    if names.is_empty() {
        return Ok(CATALOG.iter().collect());
    }
    let find = |name: &String| CATALOG.iter().find(|job| job.name == name);
    if let Some(unknown) = names.iter().find(|name| find(name).is_none()) {
        bail!("there is no job {unknown}; `cargo xtask bench --list` names all");
    }
    Ok(names.iter().filter_map(find).collect())
}

/// The optimized program.
fn program(options: &Options) -> Result<PathBuf> {
    if let Some(path) = &options.program {
        return path
            .canonicalize()
            .with_context(|| format!("finding {}", path.display()));
    }
    stage("build", || {
        show(
            "cargo build",
            &mut cargo(&["build", "--quiet", "--release", "--package", "holdfast"]),
        )
    })?;
    Ok(e2e::paths::target().join("release/holdfast"))
}
