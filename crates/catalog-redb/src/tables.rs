//! The tables, and how they are read.

use crate::{
    guard::Cause,
    record::{self, Counter, Record},
};
use catalog::{IdKind, Settings, SnapshotRecord, VolumeRecord};
use redb::{ReadableTable, TableDefinition};
use types::{Name, SnapshotId, VolumeId};

type Bytes = &'static [u8];

/// The store-wide record, under 0.
pub(crate) const SETTINGS: TableDefinition<'_, u8, Bytes> = TableDefinition::new(Settings::TABLE);
/// Volumes by id.
pub(crate) const VOLUMES: TableDefinition<'_, u64, Bytes> =
    TableDefinition::new(VolumeRecord::TABLE);
/// Ids of volumes by name; those in the trash have none.
pub(crate) const NAMES: TableDefinition<'_, &str, u64> = TableDefinition::new("names");
/// Snapshots by volume and id.
pub(crate) const SNAPSHOTS: TableDefinition<'_, (u64, u64), Bytes> =
    TableDefinition::new(SnapshotRecord::TABLE);
/// Ids of snapshots by volume and name.
pub(crate) const SNAPSHOT_NAMES: TableDefinition<'_, (u64, &str), u64> =
    TableDefinition::new("snapshot_names");
/// The last id or epoch that was handed out; by name.
pub(crate) const COUNTERS: TableDefinition<'_, &str, Bytes> = TableDefinition::new(Counter::TABLE);

/// The counter of the store's epoch.
pub(crate) const STORE_EPOCH: &str = "store_epoch";
/// The counter of commits: every one counts up.
pub(crate) const COMMIT: &str = "commit";
/// The counter that says which format the tables have.
pub(crate) const FORMAT: &str = "format";
/// The format that this program writes.
pub(crate) const FORMAT_VERSION: u64 = 1;

/// The counter of a kind of ids.
pub(crate) const fn counter_of(kind: IdKind) -> &'static str {
    match kind {
        IdKind::Pack => "pack",
        IdKind::Volume => "volume",
        IdKind::Snapshot => "snapshot",
    }
}

/// The store-wide record; its default if there is none.
pub(crate) fn settings(table: &impl ReadableTable<u8, Bytes>) -> Result<Settings, Cause> {
    Ok(match table.get(0)? {
        Some(bytes) => record::decode(&[], bytes.value())?,
        None => Settings::default(),
    })
}

/// A volume.
pub(crate) fn volume(
    table: &impl ReadableTable<u64, Bytes>,
    id: VolumeId,
) -> Result<Option<VolumeRecord>, Cause> {
    let Some(bytes) = table.get(id.0)? else {
        return Ok(None);
    };
    record::decode(&record::volume_key(id), bytes.value()).map(Some)
}

/// A snapshot.
pub(crate) fn snapshot(
    table: &impl ReadableTable<(u64, u64), Bytes>,
    volume: VolumeId,
    id: SnapshotId,
) -> Result<Option<SnapshotRecord>, Cause> {
    let Some(bytes) = table.get((volume.0, id.0))? else {
        return Ok(None);
    };
    record::decode(&record::snapshot_key(volume, id), bytes.value()).map(Some)
}

/// A counter's value; 0 if it was never set.
pub(crate) fn counter(
    table: &impl ReadableTable<&'static str, Bytes>,
    name: &str,
) -> Result<u64, Cause> {
    let Some(bytes) = table.get(name)? else {
        return Ok(0);
    };
    let counter: Counter = record::decode(name.as_bytes(), bytes.value())?;
    Ok(counter.value)
}

/// The bytes of a counter.
pub(crate) fn counter_bytes(name: &str, value: u64) -> Result<Vec<u8>, Cause> {
    record::encode(&Counter {
        name: name.to_owned(),
        value,
    })
}

/// Every volume, in order of id.
pub(crate) fn volumes(table: &impl ReadableTable<u64, Bytes>) -> Result<Vec<VolumeRecord>, Cause> {
    table
        .iter()?
        .map(|entry| {
            let (key, bytes) = entry?;
            record::decode(&record::volume_key(VolumeId(key.value())), bytes.value())
        })
        .collect()
}

/// A volume's snapshots, in order of id.
pub(crate) fn snapshots(
    table: &impl ReadableTable<(u64, u64), Bytes>,
    volume: VolumeId,
) -> Result<Vec<SnapshotRecord>, Cause> {
    read_snapshots(table.range((volume.0, 0)..=(volume.0, u64::MAX))?)
}

/// Every snapshot, in order of volume and id.
pub(crate) fn all_snapshots(
    table: &impl ReadableTable<(u64, u64), Bytes>,
) -> Result<Vec<SnapshotRecord>, Cause> {
    read_snapshots(table.iter()?)
}

fn read_snapshots(range: redb::Range<'_, (u64, u64), Bytes>) -> Result<Vec<SnapshotRecord>, Cause> {
    range
        .map(|entry| {
            let (key, bytes) = entry?;
            let (volume, id) = key.value();
            let key = record::snapshot_key(VolumeId(volume), SnapshotId(id));
            record::decode(&key, bytes.value())
        })
        .collect()
}

/// The volume that a name leads to, which must bear it.
pub(crate) fn find(
    names: &impl ReadableTable<&'static str, u64>,
    table: &impl ReadableTable<u64, Bytes>,
    name: &Name,
) -> Result<Option<VolumeRecord>, Cause> {
    let Some(id) = names.get(name.as_str())? else {
        return Ok(None);
    };
    volume(table, VolumeId(id.value()))?
        .filter(|found| found.name == *name && found.trashed.is_none())
        .ok_or(Cause::damaged("a name leads to a volume of another name"))
        .map(Some)
}

/// The snapshot that a name leads to, which must bear it.
pub(crate) fn find_snapshot(
    names: &impl ReadableTable<(u64, &'static str), u64>,
    table: &impl ReadableTable<(u64, u64), Bytes>,
    volume: VolumeId,
    name: &Name,
) -> Result<Option<SnapshotRecord>, Cause> {
    let Some(id) = names.get((volume.0, name.as_str()))? else {
        return Ok(None);
    };
    snapshot(table, volume, SnapshotId(id.value()))?
        .filter(|found| found.name == *name)
        .ok_or(Cause::damaged("a name leads to a snapshot of another name"))
        .map(Some)
}
