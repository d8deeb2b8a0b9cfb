//! Whether all of an image is there: QEMU reads what is behind the end of a file as zeroes, without a word.

use image_formats::{Error, Source};
use std::ops::Range;
use types::ImageFormat;

/// Looks at what QEMU does not look at.
///
/// # Errors
/// If the file is shorter than it says itself, or refers to what it has not.
pub(crate) fn check(source: &Source, format: ImageFormat) -> Result<(), Error> {
    match format {
        ImageFormat::Vdi => check_vdi(source),
        ImageFormat::Vhd => check_vhd(source),
        ImageFormat::Vhdx => check_vhdx(source),
        _ => Ok(()),
    }
}

/// Bytes of the map that are looked at at once.
const MAP_PART: u64 = 64 << 10;
/// Of map entries, those from here on stand for no block.
const NO_BLOCK: u32 = 0xffff_fffe;

/// VDI: a header, a map of numbers of blocks, and as many blocks as the header says.
fn check_vdi(source: &Source) -> Result<(), Error> {
    const HEADER_LEN: usize = 400;
    let header = source.head(HEADER_LEN)?;
    let field = |at: usize| {
        let bytes = header.get(at..).and_then(|rest| rest.first_chunk::<4>());
        bytes.map(|bytes| u32::from_le_bytes(*bytes))
    };
    let fields = [
        field(0x154),
        field(0x158),
        field(0x178),
        field(0x180),
        field(0x184),
    ];
    let [
        Some(map),
        Some(data),
        Some(block),
        Some(blocks),
        Some(allocated),
    ] = fields
    else {
        return Err(source.damaged(0, "the header was cut"));
    };
    let end = u64::from(data) + u64::from(allocated) * u64::from(block);
    let map = u64::from(map)..u64::from(map) + u64::from(blocks) * 4;
    let len = source.len();
    if end.max(map.end) > len {
        let missing = end.max(map.end) - len;
        return Err(source.damaged(
            len,
            format_args!("the file was cut: {missing} bytes are missing"),
        ));
    }
    let mut at = map.start;
    while at < map.end {
        let len = MAP_PART.min(map.end - at);
        let part = source.bytes(at, len, MAP_PART as usize)?;
        let (entries, _) = part.as_chunks::<4>();
        for (place, entry) in (at..).step_by(4).zip(entries) {
            let number = u32::from_le_bytes(*entry);
            if (allocated..NO_BLOCK).contains(&number) {
                let what = format!("block {number} is referred to, there are {allocated}");
                return Err(source.damaged(place, what));
            }
        }
        at += len;
    }
    Ok(())
}

/// VHD: the last 512 bytes (of the oldest ones 511) are a footer.
fn check_vhd(source: &Source) -> Result<(), Error> {
    const COOKIE: &[u8] = b"conectix";
    const FIXED: u32 = 2;
    const DIFFERENCING: u32 = 4;
    let mut cookie = [0; COOKIE.len()];
    for footer_len in [512, 511] {
        let Some(footer) = source.len().checked_sub(footer_len) else {
            continue;
        };
        source.read_at(footer, &mut cookie)?;
        if cookie != COOKIE {
            continue;
        }
        let (mut size, mut kind) = ([0; 8], [0; 4]);
        source.read_at(footer + 48, &mut size)?;
        source.read_at(footer + 60, &mut kind)?;
        let size = u64::from_be_bytes(size);
        let kind = u32::from_be_bytes(kind);
        if kind == DIFFERENCING {
            // Its parent would be left out.
            let what = "only what differs from another disk is here; merge it into that one first";
            return Err(source.damaged(footer, what));
        }
        if kind == FIXED && size > footer {
            let what = format!("a fixed disk of {size} bytes does not fit before the footer");
            return Err(source.damaged(footer, what));
        }
        return Ok(());
    }
    let what = "the file does not end with a footer: it was cut";
    Err(source.damaged(source.len(), what))
}

/// VHDX: QEMU looks at its tables, but lets the last block of the disk be as short as it likes.
fn check_vhdx(source: &Source) -> Result<(), Error> {
    // What makes no sense is left to QEMU, which says so.
    let Some(last) = vhdx_last_block(source) else {
        return Ok(());
    };
    match last.end.checked_sub(source.len()) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(source.damaged(
            source.len(),
            format_args!("the file was cut: {missing} bytes are missing"),
        )),
    }
}

/// Where in the file the last block of the disk is, as far as the disk goes ("Virtual Hard Disk v2 (VHDX) File Format", 3.1.3, 3.4, 3.5).
fn vhdx_last_block(source: &Source) -> Option<Range<u64>> {
    const REGIONS: u64 = 192 << 10;
    const BAT: u128 = 0x2DC2_7766_F623_4200_9D64_115E_9BFD_4A08;
    const METADATA: u128 = 0x8B7C_A206_4790_4B9A_B8FE_575F_050F_886E;
    const PARAMETERS: u128 = 0xCAA1_6737_FA36_4D43_B3B6_33F0_AA44_E76B;
    const DISK_SIZE: u128 = 0x2FA5_4224_CD1B_4876_B211_5DBE_D83B_F4B8;
    const SECTOR_SIZE: u128 = 0x8141_BF1D_A96F_4709_BA47_F233_A8FA_AB5F;
    /// A block of the disk that is in the file.
    const PRESENT: u64 = 6;

    let region = |id| vhdx_entry(source, REGIONS + 16, id);
    let metadata = u64_at(source, region(METADATA)? + 16)?;
    let item = |id| {
        let offset = u64_at(
            source,
            vhdx_entry(source, metadata.checked_add(32)?, id)? + 16,
        )?;
        metadata.checked_add(offset & u64::from(u32::MAX))
    };
    let block = u64_at(source, item(PARAMETERS)?)? & u64::from(u32::MAX);
    let size = u64_at(source, item(DISK_SIZE)?)?;
    let sector = u64_at(source, item(SECTOR_SIZE)?)? & u64::from(u32::MAX);
    let last = size.checked_sub(1)?.checked_div(block)?;
    // After so many blocks there is an entry for their bitmap.
    let ratio = (sector << 23).checked_div(block)?;
    let entry = last.checked_add(last.checked_div(ratio)?)?;
    let bat = u64_at(source, region(BAT)? + 16)?;
    let entry = u64_at(source, bat.checked_add(entry.checked_mul(8)?)?)?;
    if entry & 7 != PRESENT {
        return None;
    }
    let start = entry >> 20 << 20;
    Some(start..start.checked_add(size - last * block)?)
}

/// Where the entry of 32 bytes that begins with the GUID `id` is, in a table whose entries begin at `table`.
fn vhdx_entry(source: &Source, table: u64, id: u128) -> Option<u64> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use env::Env;

    fn source(bytes: &[u8]) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        std::fs::write(&path, bytes).unwrap();
        let source = Source::open(&Env::real(), &path).unwrap();
        (dir, source)
    }

    /// 3 blocks of 1 MiB, of which 2 are there.
    fn vdi(map: [u32; 3]) -> Vec<u8> {
        let mut bytes = vec![0; 1024 + (2 << 20)];
        let mut put =
            |at: usize, value: u32| bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(0x154, 512);
        put(0x158, 1024);
        put(0x178, 1 << 20);
        put(0x180, 3);
        put(0x184, 2);
        for (at, entry) in map.into_iter().enumerate() {
            put(512 + at * 4, entry);
        }
        bytes
    }

    fn said(bytes: &[u8], format: ImageFormat) -> String {
        let (dir, source) = source(bytes);
        let said = check(&source, format)
            .err()
            .map_or(String::new(), |e| e.to_string());
        let shown = dir.path().join("image").display().to_string();
        assert!(said.is_empty() || said.starts_with(&shown), "{said}");
        said
    }

    #[test]
    fn a_vdi_has_all_blocks_that_it_refers_to() {
        let format = ImageFormat::Vdi;
        let whole = vdi([1, u32::MAX, 0]);
        assert_eq!(said(&whole, format), "");
        assert!(said(&whole[..whole.len() - 1], format).contains("1 bytes are missing"));
        assert!(said(&whole[..300], format).contains("header was cut"));
        assert!(said(&vdi([0, 2, NO_BLOCK]), format).contains("block 2 is referred to"));
        for at in [0x154, 0x158, 0x178, 0x180, 0x184] {
            let mut huge = whole.clone();
            huge[at..at + 4].fill(0xff);
            assert!(said(&huge, format).contains("missing"), "{at}");
        }
    }

    #[test]
    fn a_vhdx_that_makes_no_sense_is_left_to_qemu() {
        let mut bytes = vec![0; 300 << 10];
        let metadata = 192 << 10;
        // The regions, and metadata at the very end of what there can be.
        bytes[metadata + 16..metadata + 32].copy_from_slice(&[
            0x06, 0xA2, 0x7C, 0x8B, 0x90, 0x47, 0x9A, 0x4B, 0xB8, 0xFE, 0x57, 0x5F, 0x05, 0x0F,
            0x88, 0x6E,
        ]);
        for offset in [u64::MAX, u64::MAX - 40, 0, 299 << 10] {
            bytes[metadata + 32..metadata + 40].copy_from_slice(&offset.to_le_bytes());
            assert_eq!(said(&bytes, ImageFormat::Vhdx), "");
        }
        assert_eq!(said(b"vhdxfile", ImageFormat::Vhdx), "");
    }

    #[test]
    fn a_vhd_ends_with_its_footer() {
        let format = ImageFormat::Vhd;
        let mut fixed = vec![7; 4096 + 512];
        fixed[4096..4104].copy_from_slice(b"conectix");
        fixed[4096 + 48..4096 + 56].copy_from_slice(&4096_u64.to_be_bytes());
        fixed[4096 + 60..4096 + 64].copy_from_slice(&2_u32.to_be_bytes());
        assert_eq!(said(&fixed, format), "");
        assert_eq!(said(&fixed[..4096 + 511], format), "");
        assert!(said(&fixed[..4096 + 100], format).contains("it was cut"));
        assert!(said(b"conectix", format).contains("it was cut"));
        fixed[4096 + 48] = 1;
        assert!(said(&fixed, format).contains("does not fit"));
        fixed[4096 + 63] = 4;
        assert!(said(&fixed, format).contains("differs from another disk"));
    }
}
