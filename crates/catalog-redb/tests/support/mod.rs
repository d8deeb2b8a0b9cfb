//! What the tests of this crate share.

#![allow(dead_code, unreachable_pub, reason = "each test uses its own part")]

use catalog::{Catalog, Error, Properties, Settings, SnapshotRecord, VolumeRecord};
use types::{Epoch, Generation, Limits, Name, Root, SnapshotId, VolumeId};

pub fn name(text: &str) -> Name {
    text.parse().expect("a good name")
}

pub fn volume(id: u64, text: &str) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        version: 0,
        name: name(text),
        epoch: Epoch(1),
        size: 1 << 30,
        root: Root::EMPTY,
        destaged: Generation(0),
        mapped_blocks: 0,
        properties: Properties::default(),
        created_ms: 1,
        origin: None,
        trashed: None,
        quota: None,
        vhost_queues: 0,
        backend: catalog::Backend::Store,
        limits: Limits::NONE,
        source: None,
        mode: Default::default(),
        base: None,
        independent: false,
        policy: None,
    }
}

pub fn snapshot(volume: u64, id: u64, text: &str) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId(id),
        version: 0,
        volume: VolumeId(volume),
        name: name(text),
        size: 1 << 30,
        generation: Generation(1),
        root: None,
        mapped_blocks: 0,
        created_ms: 2,
        vhost_queues: 0,
        group: None,
        scheduled: false,
        submits: 0,
    }
}

/// Everything that a catalog has.
pub type Contents = (Settings, Vec<VolumeRecord>, Vec<SnapshotRecord>);

/// Reads everything, names too.
pub fn contents(catalog: &dyn Catalog) -> Result<Contents, Error> {
    let volumes = catalog.volumes()?;
    let mut snapshots = Vec::new();
    for volume in &volumes {
        if volume.trashed.is_none() {
            assert_eq!(catalog.find(&volume.name)?.as_ref(), Some(volume));
        }
        for snapshot in catalog.snapshots(volume.id)? {
            let found = catalog.find_snapshot(volume.id, &snapshot.name)?;
            assert_eq!(found.as_ref(), Some(&snapshot));
            snapshots.push(snapshot);
        }
    }
    Ok((catalog.settings()?, volumes, snapshots))
}
