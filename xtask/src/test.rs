//! `cargo xtask test`: all checks and all tests, in the order in which they fail soonest.
//!
//! One profile, so that dependencies are compiled once for building and once for checking.

use crate::{
    fuzz, install, orders,
    stage::{build_holdfast, cargo, show, stage},
    tidy,
};
use anyhow::Result;
use std::process::Command;

/// For each fuzz target.
const FUZZ_SECONDS: u64 = 60;

/// What to run.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only tests that this filter matches (cargo nextest's expressions, or part of a name);
    /// formatting, lints and documentation are left out.
    #[arg(long, value_name = "EXPRESSION")]
    filter: Option<String>,
    /// Install nothing.
    #[arg(long)]
    no_install: bool,
}

/// Runs them; the runner's summary is the last line.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.filter.is_none() {
        stage("format", || {
            show("cargo fmt", &mut cargo(&["fmt", "--all", "--check"]))
        })?;
        stage("layering", tidy::run)?;
    }
    if !options.no_install {
        stage("tools", install::for_tests)?;
    }
    if options.filter.is_none() {
        stage("lints", lints)?;
        stage("documentation", documentation)?;
    }
    stage("build", build_holdfast)?;
    if options.filter.is_none() {
        fuzz::run(&fuzz::Options::all(FUZZ_SECONDS, Some(1)))?;
    }

    stage("guest image", || {
        e2e::image::ensure(&|line| println!("   {line}")).map(drop)
    })?;
    if options.filter.is_none() {
        println!("== orders of execution");
        show("cargo nextest", &mut orders::tests())?;
    }
    println!("== tests");
    show("cargo nextest", &mut tests(options.filter.as_deref()))
}

fn lints() -> Result<()> {
    let clippy = [
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ];
    show("cargo clippy", &mut cargo(&clippy))?;
    show("cargo clippy", &mut orders::lints())
}

fn documentation() -> Result<()> {
    let mut doc = cargo(&["doc", "--quiet", "--workspace", "--no-deps"]);
    show("cargo doc", doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn tests(filter: Option<&str>) -> Command {
    let mut nextest = cargo(&[
        "nextest",
        "run",
        "--workspace",
        "--cargo-quiet",
        "--no-input-handler",
    ]);
    if let Some(filter) = filter {
        // A name alone is no expression.
        match filter.contains(['(', '&', '|']) {
            true => nextest.args(["--filterset", filter]),
            false => nextest.arg(filter),
        };
    }
    // Errors that tests return say where they come from; where they were made does not help.
    nextest.env("RUST_LIB_BACKTRACE", "0");
    if std::env::var_os("HOLDFAST_BIN").is_none() {
        nextest.env("HOLDFAST_BIN", e2e::paths::target().join("debug/holdfast"));
    }
    nextest.env("HOLDFAST_CACHE", e2e::paths::cache());
    nextest
}
