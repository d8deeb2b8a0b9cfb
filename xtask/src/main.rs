//! Automation for the workspace, in place of scripts: `cargo xtask help`.

mod bench;
mod demo;
mod fuzz;
mod install;
mod orders;
mod soak;
mod stage;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Automation for the workspace.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must hold before a change goes in; what CI runs.
    Test(test::Options),
    /// Watch a Debian guest run from a clone, survive a snapshot and a rollback.
    Demo(demo::Options),
    /// Tests that take as long as they are given: simulated machines by the thousand.
    Soak(soak::Options),
    /// Holdfast beside other servers: the table of targets.
    Bench(bench::Options),
    /// Hostile bytes for every decoder.
    Fuzz(fuzz::Options),
    /// Compare the code with ARCHITECTURE.md.
    Tidy,
    /// Build or find the guest's image, and say where it is.
    Image,
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // An interruption makes things fail; its own message is enough.
            e2e::cleanup::hold_if_interrupted();
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    e2e::cleanup::on_signals()?;
    match task {
        Task::Test(options) => test::run(&options),
        Task::Demo(options) => demo::run(&options),
        Task::Soak(options) => soak::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Tidy => tidy::run(),
        Task::Image => {
            install::for_guest()?;
            let image = e2e::image::ensure(&|line| println!("   {line}"))?;
            println!("{}", image.disk.display());
            Ok(())
        }
    }
}
