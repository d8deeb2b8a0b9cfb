//! Records of the catalog, with right checksums over hostile fields.

use crate::{alloc::bounded, input::Input};
use catalog::{Properties, SnapshotPolicy, SnapshotRecord, Trashed, VolumeRecord};
use catalog_redb::testing::{reread, sealed, snapshot, volume};
use types::{Codec, Epoch, Generation, Limits, PackId, Pointer, Root, SnapshotId, VolumeId};

const TABLES: [&str; 4] = ["settings", "volumes", "snapshots", "counters"];
const KEYS: [&[u8]; 4] = [
    &[],
    &[7, 0, 0, 0, 0, 0, 0, 0],
    &[7, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0],
    b"pack",
];

/// A byte (which table; from 128 on: no checksum), then a version and fields.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let kind = input.u8();
    let (table, key) = (TABLES[usize::from(kind & 3)], KEYS[usize::from(kind & 3)]);
    let body = input.rest();
    let bytes = if kind < 128 {
        sealed(table, key, body)
    } else {
        body.to_vec()
    };
    // An empty text in a list is a byte in a record and 24 in memory, and a vector that grows is there twice.
    bounded(96 * data.len() + (16 << 10), || {
        let Ok(again) = reread(table, key, &bytes) else {
            return;
        };
        assert_eq!(reread(table, key, &again).expect("our own bytes"), again);
        for (other, key) in TABLES.into_iter().zip(KEYS) {
            assert!(other == table || reread(other, key, &bytes).is_err());
        }
    });
}

/// Records with and without everything optional.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![
        vec![0, 1, 1, 1, 1, 0, 0x80, 0xa3, 5],
        vec![3, 1, 4, b'p', b'a', b'c', b'k', 9],
    ];
    let mut add = |kind: u8, encoded: Result<(Vec<u8>, Vec<u8>), catalog::Error>| {
        let bytes = encoded.expect("a record").1;
        seeds.push([&[kind], &bytes[..bytes.len() - 4]].concat());
        seeds.push([&[kind | 128], &bytes[..]].concat());
    };
    let root = Root {
        pointer: Pointer::new(PackId(99), 5),
        height: 2,
    };
    for (root, origin) in [(Root::EMPTY, None), (root, Some("web@daily".to_owned()))] {
        let trashed = origin.as_ref().map(|_| Trashed {
            at_ms: 5,
            until_ms: 6,
        });
        let policy = origin.as_ref().map(|_| SnapshotPolicy {
            schedule: "@daily".to_owned(),
            keep: "daily:7".to_owned(),
            pattern: "d-%F".to_owned(),
            done_ms: 5,
            last_ms: Some(4),
            group: "db".to_owned(),
        });
        add(
            1,
            volume(&VolumeRecord {
                id: VolumeId(7),
                version: 3,
                name: "vm-1".parse().expect("a name"),
                epoch: Epoch(9),
                size: 1 << 30,
                root,
                destaged: Generation(4),
                mapped_blocks: 1000,
                properties: Properties {
                    codec: Codec::Zstd,
                    ..Properties::default()
                },
                created_ms: 1_700_000_000_000,
                origin,
                trashed,
                quota: Some(1 << 29),
                vhost_queues: 0,
                backend: catalog::Backend::Store,
                limits: Limits::NONE,
                source: None,
                mode: Default::default(),
                base: None,
                independent: false,
                policy: policy.map(Box::new),
            }),
        );
    }
    for root in [None, Some(root)] {
        add(
            2,
            snapshot(&SnapshotRecord {
                id: SnapshotId(3),
                version: 1,
                volume: VolumeId(7),
                name: "daily".parse().expect("a name"),
                size: 1 << 30,
                generation: Generation(4),
                root,
                mapped_blocks: 1000,
                created_ms: 1_700_000_000_000,
                vhost_queues: 16,
                group: Some(SnapshotId(3)),
                scheduled: true,
                submits: 2,
            }),
        );
    }
    seeds
}
