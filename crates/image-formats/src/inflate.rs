//! Decompressing, into as many bytes as are expected and no more.

use std::io;
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// Fills `out` from deflated bytes; what follows them is not looked at.
///
/// # Errors
/// If they are damaged, or yield less.
pub(crate) fn inflate(zlib_header: bool, bytes: &[u8], out: &mut [u8]) -> io::Result<()> {
    let mut state = flate2::Decompress::new(zlib_header);
    let finish = flate2::FlushDecompress::Finish;
    // That there is no room for more than `out` is how it ends for who stores more, which is nobody's right.
    let decompressed = state.decompress(bytes, out, finish);
    match decompressed {
        Ok(_) if state.total_out() == out.len() as u64 => Ok(()),
        Ok(_) => Err(short(state.total_out() as usize, out.len())),
        Err(e) => Err(io::Error::other(e)),
    }
}

/// Fills `out` from a zstd frame; what follows it is not looked at.
///
/// # Errors
/// If it is damaged, or yields less.
pub(crate) fn unzstd(bytes: &[u8], out: &mut [u8]) -> io::Result<()> {
    let mut decoder = Decoder::new()?;
    let expected = out.len();
    let (mut from, mut to) = (InBuffer::around(bytes), OutBuffer::around(out));
    while to.pos() < expected {
        let before = (from.pos(), to.pos());
        decoder.run(&mut from, &mut to)?;
        if before == (from.pos(), to.pos()) {
            return Err(short(to.pos(), expected));
        }
    }
    Ok(())
}

fn short(got: usize, expected: usize) -> io::Error {
    let message = format!("compressed data yields {got} bytes, not {expected}");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn as_much_as_is_expected_and_nothing_else_is_good() {
        let plain: Vec<u8> = (0..100_000u32)
            .flat_map(|i| (i / 7).to_le_bytes())
            .collect();
        let level = flate2::Compression::default();
        let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), level);
        encoder.write_all(&plain).unwrap();
        let mut zlib = encoder.finish().unwrap();
        let mut zstd = zstd::encode_all(&plain[..], 3).unwrap();
        zlib.extend([7; 300]);
        zstd.extend([7; 300]);
        let (mut exact, mut longer) = (vec![0; plain.len()], vec![0; plain.len() + 1]);
        inflate(true, &zlib, &mut exact).unwrap();
        assert!(exact == plain);
        unzstd(&zstd, &mut exact).unwrap();
        assert!(exact == plain);
        assert!(inflate(true, &zlib, &mut longer).is_err());
        assert!(unzstd(&zstd, &mut longer).is_err());
        assert!(inflate(true, &zlib[..100], &mut exact).is_err());
        assert!(unzstd(&zstd[..100], &mut exact).is_err());
        assert!(unzstd(b"", &mut exact).is_err());
    }
}
