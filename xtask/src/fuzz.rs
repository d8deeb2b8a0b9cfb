//! `cargo xtask fuzz`: hostile bytes for every decoder, with libFuzzer.
//!
//! The targets are in `fuzz/`, a workspace of its own that is laid out as cargo-fuzz wants it, so that
//! `cargo fuzz run TARGET` works too for whoever has that and a nightly compiler. Here the stable one does:
//! what libFuzzer needs to see of a program (which edges were taken, what was compared) comes from a
//! pass of LLVM that needs flags, but no nightly. Address sanitizing would; the decoders have no unsafe code.

use crate::stage::{cargo, stage};
use anyhow::{Context, Result, bail, ensure};
use e2e::{
    paths,
    process::{Finished, command, finish, run as run_to_end, tail},
};
use parking_lot::Mutex;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

/// What instruments the program; cargo-fuzz uses the same.
const RUSTFLAGS: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing \
    -Ccodegen-units=4";
/// Naming a target keeps build scripts from being instrumented.
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// One input may take as long, on a busy machine.
const INPUT_SECONDS_MAX: u32 = 30;
/// A process may take as much memory, MiB: more is a bug. Targets have closer limits of their own.
const MEMORY_MIB_MAX: u32 = 2048;
/// redb takes a page to be as large as the pointer to it says, up to 4 GiB, and fills that much with zeroes before it
/// reads and finds that the file is shorter.
const CATALOG_FILE_MIB_MAX: u32 = 6144;
/// Compiling everything anew takes minutes.
const BUILD_LIMIT: Duration = Duration::from_secs(1800);
/// Beyond the time that fuzzing was given: reading the corpus, and ending.
const GRACE: Duration = Duration::from_secs(600);

/// What to fuzz, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Targets; all if none is named.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// For so long each.
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u64,
    /// Make the same choices each time, as far as time allows.
    #[arg(long, value_name = "N")]
    seed: Option<u32>,
    /// Run this input only, which a crash left.
    #[arg(
        long,
        value_name = "FILE",
        requires = "targets",
        conflicts_with = "seed_corpus"
    )]
    input: Option<PathBuf>,
    /// Make the corpus anew: the least of what the real encoders make, of what is there, and of what fuzzing
    /// found since, that reaches all that they reach.
    #[arg(long)]
    seed_corpus: bool,
}

impl Options {
    /// All targets, each for so long.
    pub(crate) const fn all(seconds: u64, seed: Option<u32>) -> Self {
        Options {
            targets: Vec::new(),
            seconds,
            seed,
            input: None,
            seed_corpus: false,
        }
    }
}

/// Builds the targets, and does with them what is asked.
pub(crate) fn run(options: &Options) -> Result<()> {
    let all = targets()?;
    for name in &options.targets {
        ensure!(
            all.contains(name),
            "no target {name}; there are {}",
            all.join(", ")
        );
    }
    let chosen = if options.targets.is_empty() {
        &all
    } else {
        &options.targets
    };
    stage("fuzz targets", build)?;
    if let Some(input) = &options.input {
        return replay(&chosen[0], input);
    }
    stage(
        if options.seed_corpus {
            "corpus"
        } else {
            "fuzz"
        },
        || {
            side_by_side(chosen, |target| match options.seed_corpus {
                true => merge(target),
                false => fuzz(target, options.seconds, options.seed),
            })
        },
    )
}

/// Names of all targets, in order.
fn targets() -> Result<Vec<String>> {
    let dir = home().join("fuzz_targets");
    let entries = fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let path = entry?.path();
        names.extend(
            path.file_stem()
                .map(|stem| stem.to_string_lossy().into_owned()),
        );
    }
    names.sort();
    Ok(names)
}

fn home() -> PathBuf {
    paths::workspace().join("fuzz")
}

/// Where it is compiled, and where what is found is kept until it is merged.
fn target_dir() -> PathBuf {
    paths::target().join("fuzz")
}

fn build() -> Result<()> {
    let mut build = cargo(&["build", "--release", "--quiet", "--target", TRIPLE]);
    build
        .current_dir(home())
        .env("CARGO_TARGET_DIR", target_dir())
        .env("RUSTFLAGS", RUSTFLAGS);
    run_to_end("cargo build", &mut build, BUILD_LIMIT).map(drop)
}

/// Does something with each target, as many at a time as there are cores; all failures are told.
fn side_by_side(targets: &[String], what: impl Fn(&str) -> Result<()> + Sync) -> Result<()> {
    let waiting = Mutex::new(targets.iter());
    let failures = Mutex::new(Vec::new());
    let cores = std::thread::available_parallelism()?.get();
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                loop {
                    let Some(target) = waiting.lock().next() else {
                        return;
                    };
                    if let Err(error) = what(target) {
                        failures.lock().push(format!("{target}: {error:#}"));
                    }
                }
            });
        }
    });
    let failures = failures.into_inner();
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

/// One target's program with what is the same for every run.
fn libfuzzer(target: &str, arguments: &[String]) -> std::process::Command {
    let program = target_dir().join(TRIPLE).join("release").join(target);
    let mut fuzzer = command(program);
    fuzzer
        .current_dir(home())
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-rss_limit_mb={}", memory_mib_max(target)))
        .arg(format!("-artifact_prefix=artifacts/{target}/"))
        .args(arguments)
        .env("RUST_BACKTRACE", "1");
    fuzzer
}

fn memory_mib_max(target: &str) -> u32 {
    match target {
        "catalog_file" => CATALOG_FILE_MIB_MAX,
        _ => MEMORY_MIB_MAX,
    }
}

/// What is found goes to a directory of its own, so that a run changes nothing in the corpus.
fn found(target: &str) -> Result<PathBuf> {
    let found = target_dir().join("found").join(target);
    for dir in [
        &found,
        &home().join("artifacts").join(target),
        &corpus(target),
    ] {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    Ok(found)
}

fn corpus(target: &str) -> PathBuf {
    home().join("corpus").join(target)
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn fuzz(target: &str, seconds: u64, seed: Option<u32>) -> Result<()> {
    let arguments = [
        format!("-max_total_time={seconds}"),
        // 0: whatever comes.
        format!("-seed={}", seed.unwrap_or(0)),
        "-print_final_stats=1".into(),
        shown(&found(target)?),
        shown(&corpus(target)),
    ];
    let limit = Duration::from_secs(seconds) + GRACE;
    let done = finish(target, &mut libfuzzer(target, &arguments), limit)?;
    if !done.status.success() {
        bail!(crash(target, &done));
    }
    let stat = |name: &str| {
        let line = done.stderr.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or("?").trim().to_owned()
    };
    println!(
        "   {target}: {} inputs, {} new",
        stat("stat::number_of_executed_units:"),
        stat("stat::new_units_added:")
    );
    Ok(())
}

/// What is wrong, and the one command that does it again.
fn crash(target: &str, done: &Finished) -> String {
    let panic = done
        .stderr
        .find("panicked at")
        .or_else(|| done.stderr.find("ERROR: libFuzzer"));
    let why = panic.map_or_else(|| tail(&done.stderr, 15), |at| head(&done.stderr[at..], 12));
    let input = done.stderr.lines().find_map(|line| {
        let (_, path) = line.split_once("Test unit written to ")?;
        Some(path.trim().to_owned())
    });
    match input {
        Some(path) => format!("{why}\n\nagain: cargo xtask fuzz {target} --input fuzz/{path}"),
        None => format!("{why}\n({})", done.status),
    }
}

fn head(text: &str, lines: usize) -> String {
    text.lines().take(lines).collect::<Vec<_>>().join("\n")
}

fn replay(target: &str, input: &Path) -> Result<()> {
    let input = input.canonicalize().with_context(|| shown(input))?;
    let done = finish(target, &mut libfuzzer(target, &[shown(&input)]), GRACE)?;
    eprint!("{}", done.stderr);
    ensure!(done.status.success(), "it still fails ({})", done.status);
    Ok(())
}

/// The corpus becomes the least of itself, the seeds and what was found that reaches all that they reach.
fn merge(target: &str) -> Result<()> {
    let (found, corpus) = (found(target)?, corpus(target));
    let (seeds, merged) = (
        found.with_extension("seeds"),
        found.with_extension("merged"),
    );
    for dir in [&seeds, &merged] {
        // It is there if a merge was interrupted.
        let _ = fs::remove_dir_all(dir);
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    run_to_end(
        target,
        libfuzzer(target, &[]).env("FUZZ_SEEDS", &seeds),
        GRACE,
    )?;
    let dirs = [&merged, &seeds, &corpus, &found].map(|dir| shown(dir));
    // How often an edge is taken does not count here: that would make thousands of files.
    let least = ["-merge=1", "-use_counters=0"].map(str::to_owned);
    let arguments = [&least[..], &dirs[..]].concat();
    let done = finish(target, &mut libfuzzer(target, &arguments), BUILD_LIMIT)?;
    ensure!(done.status.success(), crash(target, &done));
    fs::remove_dir_all(&corpus)?;
    fs::create_dir_all(&corpus)?;
    let mut count = 0;
    for entry in fs::read_dir(&merged)? {
        let entry = entry?;
        fs::copy(entry.path(), corpus.join(entry.file_name()))?;
        count += 1;
    }
    for dir in [seeds, merged, found] {
        fs::remove_dir_all(&dir)?;
    }
    println!("   {target}: {count} inputs");
    Ok(())
}
