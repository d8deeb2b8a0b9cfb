//! Whether all of an image is there: QEMU reads what is behind the end of a file as zeroes, without a word.

use crate::vhdx::Bat;
use image_formats::{Error, Source};
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
    let end = Bat::find(source).and_then(|bat| bat.end());
    match end.and_then(|end| end.checked_sub(source.len())) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(source.damaged(
            source.len(),
            format_args!("the file was cut: {missing} bytes are missing"),
        )),
    }
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
