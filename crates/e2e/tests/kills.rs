//! The daemon killed a dozen times under load; `cargo xtask soak kills` goes on for longer.

use anyhow::Result;
use e2e::torture::{Plan, Survives, run};
use std::time::Duration;

fn plan(seed: u64) -> Plan {
    Plan {
        seed,
        kills: 12,
        volumes: 2,
        connections: 3,
        blocks: 2048,
        survives: Survives::Answered,
        round: Duration::from_millis(1500),
        space_mib: None,
    }
}

/// `HOLDFAST_SEED` repeats a run.
fn seed() -> u64 {
    let given = std::env::var("HOLDFAST_SEED").ok();
    let seed = given.and_then(|text| text.parse().ok());
    seed.unwrap_or_else(|| u64::from(std::process::id()))
}

#[test]
fn kills_take_nothing_that_was_answered() -> Result<()> {
    let tally = run(&plan(seed()), &|line| println!("{line}"))?;
    println!("{tally}");
    assert!(tally.blocks_written.get() > 0 && tally.flushes.get() > 0);
    assert!(tally.kills.get() > 0 && tally.blocks_verified.get() > 0);
    Ok(())
}

#[test]
fn kills_on_a_full_file_system_take_nothing_that_was_flushed() -> Result<()> {
    let plan = Plan {
        kills: 5,
        survives: Survives::Flushed,
        space_mib: Some(96),
        ..plan(seed())
    };
    let tally = run(&plan, &|line| println!("{line}"))?;
    println!("{tally}");
    assert!(tally.full.get() > 0, "it was never full");
    Ok(())
}
