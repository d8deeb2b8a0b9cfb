//! Everything at once: out of a database, and into a new one.

use crate::{
    guard::Cause,
    record,
    tables::{self, COMMIT, FORMAT, FORMAT_VERSION, STORE_EPOCH, counter, counter_of},
};
use catalog::{Contents, IdKind, Settings};
use redb::{ReadTransaction, WriteTransaction};
use types::Epoch;

/// Everything, as of the last commit.
pub(crate) fn contents(txn: &ReadTransaction) -> Result<Contents, Cause> {
    let counters = txn.open_table(tables::COUNTERS)?;
    let volumes = tables::volumes(&txn.open_table(tables::VOLUMES)?)?;
    let snapshots = tables::all_snapshots(&txn.open_table(tables::SNAPSHOTS)?)?;
    Ok(Contents {
        commit: counter(&counters, COMMIT)?,
        settings: tables::settings(&txn.open_table(tables::SETTINGS)?)?,
        volumes: volumes.into_iter().map(|v| (v.id, v)).collect(),
        snapshots: snapshots
            .into_iter()
            .map(|s| ((s.volume, s.id), s))
            .collect(),
        last_pack: counter(&counters, counter_of(IdKind::Pack))?,
        last_volume: counter(&counters, counter_of(IdKind::Volume))?,
        last_snapshot: counter(&counters, counter_of(IdKind::Snapshot))?,
        epoch: Epoch(counter(&counters, STORE_EPOCH)?),
    })
}

/// Makes all tables, with these contents.
pub(crate) fn fill(txn: &WriteTransaction, contents: &Contents) -> Result<(), Cause> {
    if !contents.is_sound() {
        return Err(Cause::damaged("contents that no catalog can have"));
    }
    let mut settings = txn.open_table(tables::SETTINGS)?;
    if contents.settings != Settings::default() {
        settings.insert(0, record::encode(&contents.settings)?.as_slice())?;
    }
    let mut volumes = txn.open_table(tables::VOLUMES)?;
    let mut names = txn.open_table(tables::NAMES)?;
    for volume in contents.volumes.values() {
        volumes.insert(volume.id.0, record::encode(volume)?.as_slice())?;
        if volume.trashed.is_none() {
            names.insert(volume.name.as_str(), volume.id.0)?;
        }
    }
    let mut snapshots = txn.open_table(tables::SNAPSHOTS)?;
    let mut names = txn.open_table(tables::SNAPSHOT_NAMES)?;
    for snapshot in contents.snapshots.values() {
        let (volume, id) = (snapshot.volume.0, snapshot.id.0);
        snapshots.insert((volume, id), record::encode(snapshot)?.as_slice())?;
        names.insert((volume, snapshot.name.as_str()), id)?;
    }
    let mut counters = txn.open_table(tables::COUNTERS)?;
    for (name, value) in [
        (FORMAT, FORMAT_VERSION),
        (COMMIT, contents.commit),
        (counter_of(IdKind::Pack), contents.last_pack),
        (counter_of(IdKind::Volume), contents.last_volume),
        (counter_of(IdKind::Snapshot), contents.last_snapshot),
        (STORE_EPOCH, contents.epoch.0),
    ] {
        counters.insert(name, tables::counter_bytes(name, value)?.as_slice())?;
    }
    Ok(())
}
