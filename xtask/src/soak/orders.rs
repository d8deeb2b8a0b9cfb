//! `cargo xtask soak orders`: threads go on in as many orders as are asked for.

use crate::{
    orders,
    stage::{show, stage},
};
use anyhow::Result;

/// How many orders.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// So many in each test.
    #[arg(long, value_name = "COUNT", default_value_t = 20_000)]
    orders: u64,
    /// The first seed; one seed is sixteen orders.
    #[arg(long, value_name = "SEED", default_value_t = 1_000_000)]
    seed: u64,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            orders: 20_000,
            seed: 1_000_000,
        }
    }
}

/// Runs them; a failure says with which seed it comes again.
pub(crate) fn run(options: &Options) -> Result<()> {
    let mut tests = orders::tests();
    tests.args(["--cargo-profile", "soak", "--profile", "soak"]);
    tests.env("HOLDFAST_ORDERS", options.orders.to_string());
    tests.env("HOLDFAST_ORDERS_SEED", options.seed.to_string());
    stage("orders of execution", || show("cargo nextest", &mut tests))
}
