//! Steps with a header and a time.

use anyhow::{Context, Result, ensure};
use e2e::{
    process::{Process, command},
    stopwatch::Stopwatch,
};
use std::{process::Command, time::Duration};

/// Longest that one step may take: CI gives up before.
const LIMIT: Duration = Duration::from_secs(3600);

/// Runs `body` under a header, and prints how long it took.
pub(crate) fn stage<T>(name: &str, body: impl FnOnce() -> Result<T>) -> Result<T> {
    println!("== {name}");
    let watch = Stopwatch::start();
    let result = body().with_context(|| name.to_owned())?;
    println!("   {:.1} s", watch.elapsed().as_secs_f64());
    Ok(result)
}

/// A cargo command in the workspace, in the same target directory as the tests look into.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut cargo = command(program);
    cargo
        .args(arguments)
        .current_dir(e2e::paths::workspace())
        .env("CARGO_TARGET_DIR", e2e::paths::target());
    cargo
}

/// Runs a command whose output is shown.
pub(crate) fn show(name: &str, command: &mut Command) -> Result<()> {
    let status = Process::start(name, command)?.wait(LIMIT)?;
    ensure!(status.success(), "{name} failed ({status})");
    Ok(())
}

/// Compiles the program, unless `HOLDFAST_BIN` names one to be used.
pub(crate) fn build_holdfast() -> Result<()> {
    if std::env::var_os("HOLDFAST_BIN").is_some() {
        return Ok(());
    }
    let build = ["build", "--quiet", "--package", "holdfast"];
    show("cargo build", &mut cargo(&build))
}
