//! Which blocks of a VHDX are in the file ("Virtual Hard Disk v2 (VHDX) File Format", 3.1.3, 3.4, 3.5): QEMU does not tell.

use image_formats::{Run, Source};

/// Blocks that are told of at once.
const BLOCKS_MAX: u64 = 1024;
/// Blocks have at least so many bytes.
const BLOCK_MIN: u64 = 1 << 20;

/// The block allocation table.
pub(crate) struct Bat {
    source: Source,
    /// Where it begins.
    at: u64,
    /// Bytes of a block.
    block: u64,
    /// After so many entries there is one that is none of a block.
    ratio: u64,
    /// Bytes of the disk.
    size: u64,
}

impl Bat {
    /// Finds it; none if the image makes no sense: QEMU says so.
    pub(crate) fn find(source: &Source) -> Option<Self> {
        const REGIONS: u64 = 192 << 10;
        const BAT: u128 = 0x2DC2_7766_F623_4200_9D64_115E_9BFD_4A08;
        const METADATA: u128 = 0x8B7C_A206_4790_4B9A_B8FE_575F_050F_886E;
        const PARAMETERS: u128 = 0xCAA1_6737_FA36_4D43_B3B6_33F0_AA44_E76B;
        const DISK_SIZE: u128 = 0x2FA5_4224_CD1B_4876_B211_5DBE_D83B_F4B8;
        const SECTOR_SIZE: u128 = 0x8141_BF1D_A96F_4709_BA47_F233_A8FA_AB5F;

        let low = |value: u64| value & u64::from(u32::MAX);
        let region = |id| u64_at(source, entry(source, REGIONS + 16, id)? + 16);
        let metadata = region(METADATA)?;
        let item = |id| {
            let found = entry(source, metadata.checked_add(32)?, id)?;
            u64_at(
                source,
                metadata.checked_add(low(u64_at(source, found + 16)?))?,
            )
        };
        let block = low(item(PARAMETERS)?);
        let (size, sector) = (item(DISK_SIZE)?, low(item(SECTOR_SIZE)?));
        let ratio = (sector << 23).checked_div(block)?;
        (block >= BLOCK_MIN && ratio > 0 && size > 0).then_some(Bat {
            source: source.clone(),
            at: region(BAT)?,
            block,
            ratio,
            size,
        })
    }

    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Where in the file the last block of the disk ends, as far as the disk goes; none if it is not there.
    pub(crate) fn end(&self) -> Option<u64> {
        let last = (self.size - 1) / self.block;
        let entry = u64_at(&self.source, self.at.checked_add(self.index(last) * 8)?)?;
        let start = entry >> 20 << 20;
        is_present(entry).then(|| start.saturating_add(self.size - last * self.block))
    }

    /// What there is from `offset` on, which is below the size.
    pub(crate) fn runs(&self, offset: u64) -> Option<Vec<Run>> {
        let first = offset / self.block;
        let last = ((self.size - 1) / self.block).min(first + BLOCKS_MAX - 1);
        let (start, end) = (self.index(first), self.index(last) + 1);
        let len = (end - start) * 8;
        let at = self.at.checked_add(start * 8)?;
        let entries = self.source.bytes(at, len, len as usize).ok()?;
        let mut runs: Vec<Run> = Vec::new();
        let mut from = offset;
        for number in first..=last {
            let at = (self.index(number) - start) * 8;
            let entry = entries.get(at as usize..)?.first_chunk::<8>()?;
            let data = is_present(u64::from_le_bytes(*entry));
            let until = ((number + 1) * self.block).min(self.size);
            let len = until - from;
            from = until;
            match runs.last_mut() {
                Some(run) if run.data == data => run.len += len,
                _ => runs.push(Run { len, data }),
            }
        }
        Some(runs)
    }

    /// The entry of a block of the disk.
    const fn index(&self, block: u64) -> u64 {
        block + block / self.ratio
    }
}

/// Whether a block is in the file. Those that are only in part are QEMU's to refuse.
const fn is_present(entry: u64) -> bool {
    !matches!(entry & 7, 0..=3 | 5)
}

/// Where the entry of 32 bytes that begins with the GUID `id` is, in a table whose entries begin at `table`.
fn entry(source: &Source, table: u64, id: u128) -> Option<u64> {
    const ENTRIES_MAX: u64 = 2047;
    // The first three fields are little-endian.
    let [a, b, c, d, e, f, g, h, rest @ ..] = id.to_be_bytes();
    let mut guid = [d, c, b, a, f, e, h, g, 0, 0, 0, 0, 0, 0, 0, 0];
    guid.get_mut(8..)?.copy_from_slice(&rest);
    let entries = (0..ENTRIES_MAX).map(|n| table.checked_add(n * 32));
    entries.map_while(|at| at).find(|at| {
        let mut found = [0; 16];
        source.read_at(*at, &mut found).is_ok() && found == guid
    })
}

fn u64_at(source: &Source, at: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    source.read_at(at, &mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}
