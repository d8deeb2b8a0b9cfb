//! `cargo xtask soak`: the tests that take as long as they are given, on all cores, with an optimized build
//! that has every check on.
//!
//! A failure ends it with the one command that does it again.

mod binary;
mod database;
mod kills;
mod orders;
mod sim;

use crate::fuzz;
use anyhow::Result;
use clap::Subcommand;

/// What to run, and for how long.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Everything, one after the other, if none is named.
    #[command(subcommand)]
    soak: Option<Soak>,
}

#[derive(Subcommand)]
enum Soak {
    /// The whole engine on simulated disks: histories by seed.
    Sim(sim::Options),
    /// Threads of the engine, in orders chosen by seed.
    Orders(orders::Options),
    /// The real daemon, killed at random moments under load.
    Kills(kills::Options),
    /// A database in a guest, killed with the daemon.
    Database(database::Options),
    /// Hostile bytes for every decoder.
    Fuzz(fuzz::Options),
}

/// For each fuzz target, if everything is run.
const FUZZ_SECONDS: u64 = 600;

/// Runs one, or all with their defaults.
pub(crate) fn run(options: &Options) -> Result<()> {
    match &options.soak {
        Some(Soak::Sim(options)) => sim::run(options),
        Some(Soak::Orders(options)) => orders::run(options),
        Some(Soak::Kills(options)) => kills::run(options),
        Some(Soak::Database(options)) => database::run(options),
        Some(Soak::Fuzz(options)) => fuzz::run(options),
        None => {
            sim::run(&sim::Options::default())?;
            orders::run(&orders::Options::default())?;
            kills::run(&kills::Options::default())?;
            database::run(&database::Options::default())?;
            fuzz::run(&fuzz::Options::all(FUZZ_SECONDS, None))
        }
    }
}
