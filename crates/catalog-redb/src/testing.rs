//! The bytes of records, for those who attack their decoder.

use crate::{
    guard::Cause,
    record::{self, Counter, Record},
};
use catalog::{Error, Settings, SnapshotRecord, VolumeRecord};

/// `body` (a version and fields) with the checksum that it would have as a record of `table` under `key`.
#[must_use]
pub fn sealed(table: &str, key: &[u8], body: &[u8]) -> Vec<u8> {
    let crc = record::checksum(table, key, body);
    [body, &crc.to_le_bytes()].concat()
}

/// Decodes what lies under `key` of `table`, and encodes it again.
///
/// # Errors
/// [`Corrupt`](catalog::ErrorKind::Corrupt) if it is no record of that table and key, [`NewerFormat`](catalog::ErrorKind::NewerFormat) if it is of a newer one.
pub fn reread(table: &str, key: &[u8], bytes: &[u8]) -> Result<Vec<u8>, Error> {
    let again = match table {
        Settings::TABLE => again::<Settings>(key, bytes),
        VolumeRecord::TABLE => again::<VolumeRecord>(key, bytes),
        SnapshotRecord::TABLE => again::<SnapshotRecord>(key, bytes),
        _ => again::<Counter>(key, bytes),
    };
    again.map_err(|cause| cause.into_error("decode"))
}

fn again<R: Record>(key: &[u8], bytes: &[u8]) -> Result<Vec<u8>, Cause> {
    record::encode(&record::decode::<R>(key, bytes)?)
}

/// A volume's record under its key.
///
/// # Errors
/// None that a record of a sane size has.
pub fn volume(record: &VolumeRecord) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let bytes = record::encode(record).map_err(|cause| cause.into_error("encode"))?;
    Ok((record.key(), bytes))
}

/// A snapshot's record under its key.
///
/// # Errors
/// As [`volume`].
pub fn snapshot(record: &SnapshotRecord) -> Result<(Vec<u8>, Vec<u8>), Error> {
    let bytes = record::encode(record).map_err(|cause| cause.into_error("encode"))?;
    Ok((record.key(), bytes))
}
