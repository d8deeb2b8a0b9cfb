//! Random blocks and places, the same in every run.

/// A generator: xorshift64.
pub(crate) struct Random(u64);

impl Random {
    /// One that begins with `seed`, which is not zero.
    pub(crate) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// The next number.
    pub(crate) fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.number() % bound
    }

    /// 4 KiB of which one half compresses away.
    pub(crate) fn block(&mut self) -> Vec<u8> {
        let random = (0..256).flat_map(|_| self.number().to_le_bytes());
        random.chain([0; 2048]).collect()
    }
}
