//! The bytes of a record.
//!
//! ```text
//! version: u8 │ postcard of the record │ CRC-32C, little-endian, of table name ‖ key ‖ all before it
//! ```
//! redb verifies its pages' checksums when it opens a file, not when it reads a page: the CRC covers the
//! reads after that, and a record that turns up under another's key. A field more makes a new version.

use crate::guard::Cause;
use catalog::{Settings, SnapshotRecord, VolumeRecord};
use serde::{Serialize, de::DeserializeOwned};
use std::borrow::Cow;
use types::{SnapshotId, VolumeId};

/// Of the records that this program writes.
pub(crate) const VERSION: u8 = 3;
const CRC_LEN: usize = 4;

/// What is stored as a record.
pub(crate) trait Record: Serialize + DeserializeOwned {
    /// Its table; part of the checksum.
    const TABLE: &'static str;
    /// Its key's bytes; part of the checksum.
    fn key(&self) -> Vec<u8>;
    /// Whether the parts make sense: what a type's own decoder does not check.
    fn is_sound(&self) -> bool {
        true
    }
    /// What a record of that version, older than [`VERSION`], lacks at the end.
    fn lacks(_version: u8) -> &'static [u8] {
        &[]
    }
}

/// A counter, under its name.
#[derive(Debug, PartialEq, Eq, Serialize, serde::Deserialize)]
pub(crate) struct Counter {
    pub(crate) name: String,
    pub(crate) value: u64,
}

impl Record for Counter {
    const TABLE: &'static str = "counters";
    fn key(&self) -> Vec<u8> {
        self.name.as_bytes().to_vec()
    }
}

impl Record for Settings {
    const TABLE: &'static str = "settings";
    fn key(&self) -> Vec<u8> {
        Vec::new()
    }
}

impl Record for VolumeRecord {
    const TABLE: &'static str = "volumes";
    /// No quota; no queues, all of it in the store, none of six limits, no image that it is filled from, persistent, and no policy.
    fn lacks(version: u8) -> &'static [u8] {
        if version == 1 { &[0; 14] } else { &[0; 13] }
    }
    fn key(&self) -> Vec<u8> {
        volume_key(self.id)
    }
    fn is_sound(&self) -> bool {
        VolumeRecord::is_sound(self)
    }
}

impl Record for SnapshotRecord {
    const TABLE: &'static str = "snapshots";
    /// No queues; no group; not scheduled; nothing is known to be in the journal.
    fn lacks(_version: u8) -> &'static [u8] {
        &[0, 0, 0, 0]
    }
    fn key(&self) -> Vec<u8> {
        snapshot_key(self.volume, self.id)
    }
    fn is_sound(&self) -> bool {
        SnapshotRecord::is_sound(self)
    }
}

pub(crate) fn volume_key(id: VolumeId) -> Vec<u8> {
    id.0.to_le_bytes().to_vec()
}

pub(crate) fn snapshot_key(volume: VolumeId, id: SnapshotId) -> Vec<u8> {
    [volume.0.to_le_bytes(), id.0.to_le_bytes()].concat()
}

pub(crate) fn checksum(table: &str, key: &[u8], bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(table.as_bytes()), key);
    crc32c::crc32c_append(crc, bytes)
}

/// The bytes of a record.
pub(crate) fn encode<R: Record>(record: &R) -> Result<Vec<u8>, Cause> {
    let mut bytes = vec![VERSION];
    bytes = postcard::to_extend(record, bytes).map_err(|_| Cause::damaged("record too large"))?;
    let crc = checksum(R::TABLE, &record.key(), &bytes);
    bytes.extend(crc.to_le_bytes());
    Ok(bytes)
}

/// The record that lies under `key`.
pub(crate) fn decode<R: Record>(key: &[u8], bytes: &[u8]) -> Result<R, Cause> {
    let (body, crc) = bytes
        .split_last_chunk::<CRC_LEN>()
        .ok_or(Cause::damaged("a record is cut short"))?;
    if checksum(R::TABLE, key, body) != u32::from_le_bytes(*crc) {
        return Err(Cause::damaged("a record's checksum is wrong"));
    }
    let (&version, body) = body
        .split_first()
        .ok_or(Cause::damaged("a record is empty"))?;
    let body = match version {
        VERSION => Cow::Borrowed(body),
        0 => return Err(Cause::damaged("a record is of no known format")),
        1..VERSION => Cow::Owned([body, R::lacks(version)].concat()),
        _ => return Err(Cause::Newer("a record is of a newer format")),
    };
    let (record, rest): (R, _) =
        postcard::take_from_bytes(&body).map_err(|_| Cause::damaged("a record makes no sense"))?;
    if rest.is_empty() && record.key() == key && record.is_sound() {
        Ok(record)
    } else {
        Err(Cause::damaged("a record makes no sense"))
    }
}

#[cfg(test)]
mod tests;
