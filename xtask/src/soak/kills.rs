//! `cargo xtask soak kills`: the real daemon killed at random moments under load, and every block compared.

use super::binary::build_daemon;
use crate::stage::stage;
use anyhow::{Context, Result};
use e2e::torture::{self, Plan, Survives};
use std::time::Duration;

/// Kills of one store; then a new one is begun.
const KILLS_OF_A_STORE: u32 = 25;

/// How often, and from which seed on.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Kill it so often.
    #[arg(long, default_value_t = 500)]
    kills: u32,
    /// Seed of the first store; the next has the next. A failure names its own: with that, and as many kills
    /// as it says, the same choices are made again.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            kills: 500,
            seed: 1,
        }
    }
}

/// The plan that belongs to a seed: one store in four is on a file system that is full, one in three is without
/// shared memory.
fn plan(seed: u64, kills: u32) -> Plan {
    Plan {
        seed,
        kills,
        volumes: 3,
        connections: 3,
        blocks: 4096,
        survives: match seed % 3 {
            0 => Survives::Flushed,
            _ => Survives::Answered,
        },
        round: Duration::from_secs(4),
        space_mib: seed.is_multiple_of(4).then_some(128),
    }
}

/// Runs them, one store after the other.
pub(crate) fn run(options: &Options) -> Result<()> {
    stage("build", build_daemon)?;
    stage("kills of the real daemon", || {
        let mut left = options.kills;
        for seed in options.seed.. {
            let kills = left.min(KILLS_OF_A_STORE);
            if kills == 0 {
                break;
            }
            let again = || format!("again: cargo xtask soak kills --seed {seed} --kills {kills}");
            let tally = torture::run(&plan(seed, kills), &|line| println!("   {line}"));
            println!("   seed {seed}: {}", tally.with_context(again)?);
            left -= kills;
        }
        Ok(())
    })
}
