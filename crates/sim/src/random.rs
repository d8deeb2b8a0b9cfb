//! Randomness that is the same for the same seed.

use env::Random;
use parking_lot::Mutex;

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to choose faults with.
#[derive(Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `limit`, which is not zero.
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    pub(crate) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }
}

/// What [`env::Env::random`] is in a simulation. Apart from the dice of the faults, so that the
/// randomness a program draws does not depend on the faults it meets.
pub(crate) struct SimRandom(Mutex<Dice>);

impl SimRandom {
    pub(crate) fn new(seed: u64) -> Self {
        SimRandom(Mutex::new(Dice::new(seed ^ 0x5eed_0f5e_ed0f_5eed)))
    }

    pub(crate) fn fork(&self) -> Self {
        SimRandom(Mutex::new(self.0.lock().clone()))
    }
}

impl Random for SimRandom {
    fn fill(&self, bytes: &mut [u8]) {
        let mut dice = self.0.lock();
        for chunk in bytes.chunks_mut(8) {
            let word = dice.next().to_le_bytes();
            chunk.copy_from_slice(&word[..chunk.len()]);
        }
    }
}
