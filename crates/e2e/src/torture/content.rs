//! What the torture writes: blocks that say whose they are, and prove it.

use anyhow::{Result, bail, ensure};

/// Bytes of a block.
pub const BLOCK: usize = 4096;

const MAGIC: u64 = 0x6f77_6e62_6c6f_636b;
const HEAD: usize = 40;

/// What a block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Zeroes: never written, discarded, zeroed.
    Zero,
    /// One write to one block of one volume.
    Own {
        /// The volume's number in this run.
        volume: u32,
        /// The block's index.
        block: u32,
        /// Number of the write in the volume's history.
        sequence: u64,
    },
    /// Bytes that many blocks have: something to find duplicates of.
    Common(u32),
}

impl Content {
    /// Writes the block's bytes into `bytes`, which is one block long.
    pub fn fill(self, bytes: &mut [u8]) {
        let (kind, a, b) = match self {
            Content::Zero => return bytes.fill(0),
            Content::Own {
                volume,
                block,
                sequence,
            } => (1, u64::from(volume) << 32 | u64::from(block), sequence),
            Content::Common(number) => (2, u64::from(number), 0),
        };
        let seed = mix(a ^ mix(b ^ mix(kind)));
        let words = [MAGIC, kind, a, b, seed];
        for (word, place) in words.iter().zip(bytes.chunks_exact_mut(8)) {
            place.copy_from_slice(&word.to_le_bytes());
        }
        // One in four cannot be compressed; the others repeat themselves.
        let ballast =
            matches!(self, Content::Own { volume, .. } if volume == super::ballast::NUMBER);
        let period = if ballast || seed.is_multiple_of(4) {
            u64::MAX
        } else {
            16
        };
        for (i, place) in (0_u64..).zip(bytes[HEAD..].chunks_exact_mut(8)) {
            place.copy_from_slice(&mix(seed.wrapping_add(i % period)).to_le_bytes());
        }
    }

    /// What `bytes` hold: every bit of them is compared with what was written.
    ///
    /// # Errors
    /// Nobody wrote that block: it is torn, or damaged.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        if bytes.iter().all(|&byte| byte == 0) {
            return Ok(Content::Zero);
        }
        let word = |i: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[i * 8..i * 8 + 8]);
            u64::from_le_bytes(word)
        };
        ensure!(word(0) == MAGIC, "a block that nobody wrote");
        let content = match word(1) {
            1 => Content::Own {
                volume: (word(2) >> 32) as u32,
                block: word(2) as u32,
                sequence: word(3),
            },
            2 => Content::Common(word(2) as u32),
            _ => bail!("a block that nobody wrote"),
        };
        let mut want = [0; BLOCK];
        content.fill(&mut want);
        if let Some(at) = (0..BLOCK).find(|&i| want[i] != bytes[i]) {
            bail!("a mixture: it begins as {content:?} and is something else at byte {at}");
        }
        Ok(content)
    }
}

/// One step of SplitMix64.
fn mix(seed: u64) -> u64 {
    let x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::{BLOCK, Content};

    #[test]
    fn every_byte_of_a_block_is_proof() {
        let own = |sequence| Content::Own {
            volume: 3,
            block: 77,
            sequence,
        };
        for content in [own(1), own(2), Content::Common(5), Content::Zero] {
            let mut bytes = [0; BLOCK];
            content.fill(&mut bytes);
            assert_eq!(Content::of(&bytes).unwrap(), content);
            for at in (0..BLOCK).step_by(509) {
                bytes[at] ^= 1;
                assert!(Content::of(&bytes).ok() != Some(content), "byte {at}");
                bytes[at] ^= 1;
            }
        }
    }

    #[test]
    fn halves_of_two_blocks_are_a_mixture() {
        let mut bytes = [0; BLOCK];
        Content::Common(1).fill(&mut bytes);
        let mut other = [0; BLOCK];
        Content::Common(2).fill(&mut other);
        bytes[512..].copy_from_slice(&other[512..]);
        assert!(Content::of(&bytes).is_err());
    }
}
