//! Reading from what can only be read once.

use crate::error::Error;
use std::io::Read;

/// Fills `buf`, which begins at byte `at` of the stream.
///
/// # Errors
/// If reading fails, or the stream ends before.
pub(crate) fn read_exactly(
    reader: &mut impl Read,
    buf: &mut [u8],
    shown: &str,
    at: u64,
) -> Result<(), Error> {
    reader.read_exact(buf).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => Error::invalid(format!(
            "{shown} ends within the {} bytes after byte {at}: it was cut",
            buf.len()
        )),
        _ => Error::io(format_args!("{shown} cannot be read at byte {at}"), e),
    })
}
