//! The bytes of a copy: see `docs/format.md`.

use catalog::{Contents, Step};
use types::StoreId;

const MAGIC: [u8; 8] = *b"HFcopy\r\n";
const VERSION: u32 = 2;
/// Bytes before the contents.
pub(crate) const HEADER_LEN: usize = 64;
/// Bytes before a step.
const STEP_HEADER_LEN: usize = 16;
const CRC_AT: usize = 12;

/// The name of a copy's file.
pub(crate) fn name(number: u64) -> String {
    format!("{number:016x}.copy")
}

/// The number of a file that may be a copy, or a part of one that was never finished.
pub(crate) fn number(name: &str) -> Option<u64> {
    let (digits, ending) = name.split_once('.')?;
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    let good = digits.len() == 16 && digits.bytes().all(hex) && matches!(ending, "copy" | "tmp");
    u64::from_str_radix(digits, 16).ok().filter(|_| good)
}

/// The beginning of a file; `None` if it cannot be encoded.
pub(crate) fn encode_contents(store: StoreId, contents: &Contents) -> Option<Vec<u8>> {
    let mut bytes = postcard::to_extend(contents, vec![0; HEADER_LEN]).ok()?;
    let body_crc = crc32c::crc32c(&bytes[HEADER_LEN..]);
    let body_len = (bytes.len() - HEADER_LEN) as u64;
    bytes[..8].copy_from_slice(&MAGIC);
    bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
    bytes[16..32].copy_from_slice(&store.0);
    bytes[32..40].copy_from_slice(&contents.commit.to_le_bytes());
    bytes[40..48].copy_from_slice(&body_len.to_le_bytes());
    bytes[48..52].copy_from_slice(&body_crc.to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..HEADER_LEN]);
    bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

/// The step that made commit `commit`; `None` if it cannot be encoded.
pub(crate) fn encode_step(store: StoreId, commit: u64, step: &Step) -> Option<Vec<u8>> {
    let mut bytes = postcard::to_extend(step, vec![0; STEP_HEADER_LEN]).ok()?;
    let len = u32::try_from(bytes.len() - STEP_HEADER_LEN).ok()?;
    bytes[..4].copy_from_slice(&len.to_le_bytes());
    bytes[8..16].copy_from_slice(&commit.to_le_bytes());
    let crc = step_crc(store, &bytes);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    Some(bytes)
}

/// Of the store, the commit, the length and the step.
fn step_crc(store: StoreId, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(&store.0), &bytes[..4]);
    crc32c::crc32c_append(crc, &bytes[8..])
}

/// What a file says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Copy {
    /// What it begins with, if that is sound.
    pub(crate) contents: Option<Contents>,
    /// Steps by the number of the commit that they made.
    pub(crate) steps: Vec<(u64, Step)>,
    /// Whether its last step is followed by nothing.
    pub(crate) ends_well: bool,
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// `None` if it is no copy of this store's catalog that this program can read.
pub(crate) fn decode(store: StoreId, bytes: &[u8]) -> Option<Copy> {
    let mut header: [u8; HEADER_LEN] = array(bytes, 0)?;
    let crc = u32::from_le_bytes(array(&header, CRC_AT)?);
    header[CRC_AT..CRC_AT + 4].fill(0);
    let ours = header[..8] == MAGIC
        && header[8..12] == VERSION.to_le_bytes()
        && header[16..32] == store.0
        && crc == crc32c::crc32c(&header);
    if !ours {
        return None;
    }
    let commit = u64::from_le_bytes(array(&header, 32)?);
    let len = usize::try_from(u64::from_le_bytes(array(&header, 40)?)).ok()?;
    let body_crc = u32::from_le_bytes(array(&header, 48)?);
    let body = bytes.get(HEADER_LEN..HEADER_LEN.checked_add(len)?)?;
    let contents = (crc32c::crc32c(body) == body_crc)
        .then(|| decode_whole::<Contents>(body))
        .flatten()
        .filter(|contents| contents.commit == commit && contents.is_sound());
    let mut rest = bytes.get(HEADER_LEN + len..)?;
    let mut steps = Vec::new();
    while let Some((commit, step, behind)) = decode_step(store, rest) {
        steps.push((commit, step));
        rest = behind;
    }
    Some(Copy {
        contents,
        steps,
        ends_well: rest.is_empty(),
    })
}

fn decode_step(store: StoreId, bytes: &[u8]) -> Option<(u64, Step, &[u8])> {
    let len = u32::from_le_bytes(array(bytes, 0)?) as usize;
    let crc = u32::from_le_bytes(array(bytes, 4)?);
    let commit = u64::from_le_bytes(array(bytes, 8)?);
    let end = STEP_HEADER_LEN.checked_add(len)?;
    let whole = bytes.get(..end)?;
    if step_crc(store, whole) != crc {
        return None;
    }
    let step = decode_whole(whole.get(STEP_HEADER_LEN..)?)?;
    Some((commit, step, bytes.get(end..)?))
}

fn decode_whole<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let (value, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(value)
}

#[cfg(test)]
mod tests;
