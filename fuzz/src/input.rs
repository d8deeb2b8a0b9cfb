//! A fuzzer's bytes as a stream of decisions. Where they end everything is zero.

/// What is left of the bytes.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of them.
    #[must_use]
    pub const fn new(data: &'a [u8]) -> Self {
        Input(data)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let (head, rest) = self.0.split_at(self.0.len().min(N));
        out[..head.len()].copy_from_slice(head);
        self.0 = rest;
        out
    }

    /// A byte.
    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    /// A number: small ones take few bytes, and those at the edges are likely.
    pub fn number(&mut self) -> u64 {
        match self.u8() {
            251 => u64::from(self.u16()),
            252 => u64::from(u32::from_le_bytes(self.array())),
            253 => u64::from_le_bytes(self.array()),
            254 => 1 << (self.u8() % 64),
            255 => u64::MAX - u64::from(self.u8()),
            small => u64::from(small),
        }
    }

    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        let number = if limit > 256 {
            self.u16().into()
        } else {
            usize::from(self.u8())
        };
        number % limit
    }

    /// At most `len` bytes.
    pub fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(self.0.len().min(len));
        self.0 = rest;
        head
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
