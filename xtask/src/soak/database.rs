//! `cargo xtask soak database`: a guest's database keeps what it committed, whatever is killed.

use super::binary::build_daemon;
use crate::{install, stage::stage};
use anyhow::{Context, Result};
use e2e::database::{self, Plan};

/// How often, and with which choices.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kill guest and daemon, or the daemon, so often. Each kill of the guest is a boot of some ten seconds.
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Of all random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options { kills: 20, seed: 1 }
    }
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let Options { kills, seed } = *options;
    stage("tools", install::for_database)?;
    stage("build", build_daemon)?;
    stage("a database in a guest that is killed", || {
        let again = || format!("again: cargo xtask soak database --seed {seed} --kills {kills}");
        let report = database::run(&Plan { seed, kills }, &|line| println!("   {line}"));
        report.map(drop).with_context(again)
    })
}
