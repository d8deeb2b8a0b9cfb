//! Runs a test in many orders of execution.
//!
//! | variable | what it does |
//! | --- | --- |
//! | `HOLDFAST_ORDERS` | how many orders each test tries, instead of its own number |
//! | `HOLDFAST_ORDERS_SEED` | the first seed, instead of 0; a failure prints the seed to try again |

#[cfg(test)]
mod interleavings;

use shuttle::{
    Config, FailurePersistence, MaxSteps, Runner,
    rand::Rng,
    scheduler::{PctScheduler, RandomScheduler},
};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

/// Orders tried with one seed.
const ROUND: usize = 16;
/// Preemptions that the scheduler chooses with care, at most: few bugs need more.
const DEPTH_MAX: u64 = 5;
/// Who has not ended by then never will: threads that ask again and again.
const STEPS_MAX: usize = 200_000;
/// What the engine's threads get, too.
const STACK_BYTES: usize = 1 << 20;

/// Calls `test` `orders` times, each time in another order of execution.
///
/// # Behavior
/// Every other seed chooses among the threads that can go on by chance, the others let one run until a few
/// chosen moments (probabilistic concurrency testing, Burckhardt 2010), which finds what needs a long delay.
///
/// # Panics
/// If `test` does, or all of its threads wait. The seed is printed before.
pub fn explore(orders: usize, test: impl Fn() + Send + Sync + Clone + 'static) {
    let first = number("HOLDFAST_ORDERS_SEED").unwrap_or(0);
    let orders = number("HOLDFAST_ORDERS").map_or(orders, |n| n as usize);
    for seed in (first..).take(orders.div_ceil(ROUND)) {
        let round = AssertUnwindSafe(|| run(seed, test.clone()));
        if let Err(panic) = catch_unwind(round) {
            eprintln!(
                "to try again: HOLDFAST_ORDERS_SEED={seed} HOLDFAST_ORDERS={ROUND} and this test"
            );
            resume_unwind(panic);
        }
    }
}

/// A number below `limit`, the seed's choice; to be called inside of [`explore`] only.
#[must_use]
pub fn random(limit: u64) -> u64 {
    shuttle::rand::thread_rng().gen_range(0..limit)
}

fn run(seed: u64, test: impl Fn() + Send + Sync + 'static) {
    let mut config = Config::new();
    config.stack_size = STACK_BYTES;
    config.failure_persistence = FailurePersistence::None;
    config.max_steps = MaxSteps::FailAfter(STEPS_MAX);
    config.silence_warnings = true;
    if seed.is_multiple_of(2) {
        let scheduler = RandomScheduler::new_from_seed(seed, ROUND);
        Runner::new(scheduler, config).run(test);
    } else {
        let depth = 2 + seed / 2 % (DEPTH_MAX - 1);
        let scheduler = PctScheduler::new_from_seed(seed, depth as usize, ROUND);
        Runner::new(scheduler, config).run(test);
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}
