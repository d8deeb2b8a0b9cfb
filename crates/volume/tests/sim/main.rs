//! Whole stores on simulated machines, against a model in memory: restarts, kills, power cuts, and disks that
//! fail or lie.
//!
//! ```text
//!  random ─┐                      ┌─▶ store ─▶ simulated disk ◀── crash, fault
//!  script ─┼─▶ Op ─▶ machine ─────┤                │
//!  modes ──┤                      │                │
//!  faults ─┘                      └─▶ model ──▶ verify: is what is there what may be there?
//! ```
//! [`model`] says what must be there after which end of a life, and is the only place that does. One seed is one
//! run: the same I/Os in the same order.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod blocks;
mod faults;
mod images;
mod importing;
mod lies;
mod machine;
mod model;
mod modes;
mod ops;
mod random;
mod rebuild;
mod script;
mod startup;
mod verify;

use types::Name;

/// Blocks of a new volume: the fewest that one may have.
const BLOCKS: usize = 256;
const DIR: &str = "/store";

/// Randomness of a test (xorshift64).
struct Dice(u64);

impl Dice {
    fn of_seed(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() {
            None
        } else {
            from.get(self.roll(from.len() as u64) as usize)
        }
    }
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Says how to do it again, whatever panics.
struct Replay(String);

impl Drop for Replay {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("do it again: {}", self.0);
        }
    }
}

impl Replay {
    fn new(variable: &str, value: &str, test: &str) -> Self {
        Replay(format!(
            "{variable}={value} cargo test --profile soak -p volume --test sim -- --exact {test}"
        ))
    }
}

/// `FIRST..LAST` from the environment, or what there is time for in CI.
fn range_from(variable: &str, default: std::ops::Range<u64>) -> std::ops::Range<u64> {
    let Ok(text) = std::env::var(variable) else {
        return default;
    };
    let (first, last) = text.split_once("..").expect("FIRST..LAST");
    first.parse().expect("a number")..last.parse().expect("a number")
}
