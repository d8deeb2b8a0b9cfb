//! Whole stores on simulated machines, against a model in memory: restarts, kills, power cuts, and disks that lie.
//!
//! [`model`] says what must be there after which end of a life, [`steps`] does one thing to the store and to the
//! model, and [`random`] strings them together by seed.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod model;
mod random;
mod steps;

use types::Name;

/// Of a new volume: the fewest that one may have.
const BLOCKS: usize = 256;
const DIR: &str = "/store";

/// Randomness of a test (xorshift64).
struct Dice(u64);

impl Dice {
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
