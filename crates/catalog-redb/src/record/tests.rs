//! What records look like, and what becomes of hostile ones.

use super::*;
use catalog::{ErrorKind, Properties, Trashed};
use proptest::prelude::*;
use types::{Codec, Epoch, Generation, Limits, PackId, Pointer, Root};

fn volume() -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(1),
        version: 2,
        name: "web".parse().unwrap(),
        epoch: Epoch(3),
        size: 1 << 30,
        root: Root {
            pointer: Pointer::new(PackId(5), 6),
            height: 2,
        },
        destaged: Generation(7),
        mapped_blocks: 8,
        properties: Properties {
            dedup: true,
            codec: Codec::Zstd,
            read_only: false,
        },
        created_ms: 9,
        origin: Some("t@1".to_owned()),
        trashed: Some(Trashed {
            at_ms: 10,
            until_ms: 11,
        }),
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

fn snapshot() -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId(4),
        version: 1,
        volume: VolumeId(1),
        name: "s".parse().unwrap(),
        size: 512,
        generation: Generation(2),
        root: None,
        mapped_blocks: 0,
        created_ms: 3,
        vhost_queues: 0,
        group: None,
        scheduled: false,
        submits: 0,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn sealed(key: &[u8], body: &[u8]) -> Vec<u8> {
    let crc = checksum(VolumeRecord::TABLE, key, body);
    [body, &crc.to_le_bytes()].concat()
}

fn why(bytes: &[u8]) -> String {
    let cause = decode::<VolumeRecord>(&volume_key(VolumeId(1)), bytes).unwrap_err();
    let newer = matches!(cause, Cause::Newer(_));
    let kind = if newer {
        ErrorKind::NewerFormat
    } else {
        ErrorKind::Corrupt
    };
    assert_eq!(cause.kind(), kind);
    cause.to_string()
}

/// A change here makes existing stores unreadable: give it a new version, and read the old one.
#[test]
fn version_3_looks_like_this() {
    assert_eq!(
        hex(&encode(&volume()).unwrap()),
        "0301020377656203808080800486a001020708010200090103744031010a0b0000000000000000000000000000f0d68400"
    );
    assert_eq!(
        hex(&encode(&snapshot()).unwrap()),
        "0304010101738004020000030000000078c73a3f"
    );
    assert_eq!(
        hex(&encode(&Settings::default()).unwrap()),
        "030001010080a30568a0eb48"
    );
    let counter = Counter {
        name: "pack".to_owned(),
        value: 300,
    };
    assert_eq!(hex(&encode(&counter).unwrap()), "03047061636bac02b34fc6cd");
}

fn unhex(text: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
    (0..text.len()).step_by(2).map(byte).collect()
}

#[test]
fn older_versions_are_read() {
    for old in [
        "0101020377656203808080800486a001020708010200090103744031010a0b6b7bcadf",
        "0201020377656203808080800486a001020708010200090103744031010a0b002ed006ec",
    ] {
        let decoded = decode::<VolumeRecord>(&volume_key(VolumeId(1)), &unhex(old)).unwrap();
        assert_eq!(decoded, volume());
    }
    let old = unhex("0204010101738004020000032e0b4f28");
    let key = snapshot_key(VolumeId(1), SnapshotId(4));
    assert_eq!(decode::<SnapshotRecord>(&key, &old).unwrap(), snapshot());
}

#[test]
fn no_flipped_bit_and_no_cut_goes_unnoticed() {
    let good = encode(&volume()).unwrap();
    let key = volume_key(VolumeId(1));
    assert_eq!(decode::<VolumeRecord>(&key, &good).unwrap(), volume());
    for bit in 0..good.len() * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(why(&bad), "a record's checksum is wrong", "bit {bit}");
    }
    for len in 0..good.len() {
        why(&good[..len]);
    }
}

#[test]
fn a_record_under_anothers_key_is_refused() {
    let good = encode(&volume()).unwrap();
    let other = volume_key(VolumeId(2));
    decode::<VolumeRecord>(&other, &good).unwrap_err();
    // With a checksum that is right for the place.
    let body = &good[..good.len() - CRC_LEN];
    decode::<VolumeRecord>(&other, &sealed(&other, body)).unwrap_err();
    decode::<SnapshotRecord>(&volume_key(VolumeId(1)), &good).unwrap_err();
}

#[test]
fn what_the_checksum_lets_pass_is_checked_too() {
    let key = volume_key(VolumeId(1));
    let body_of = |record: &VolumeRecord| {
        let mut bytes = encode(record).unwrap();
        bytes.truncate(bytes.len() - CRC_LEN);
        bytes
    };
    let mut newer = body_of(&volume());
    newer[0] = VERSION + 1;
    assert!(why(&sealed(&key, &newer)).contains("newer format"));
    newer[0] = 0;
    assert!(why(&sealed(&key, &newer)).contains("no known format"));
    let longer = [body_of(&volume()), vec![0]].concat();
    why(&sealed(&key, &longer));
    why(&sealed(&key, &[]));
    let mut tall = volume();
    tall.root.height = 5;
    why(&sealed(&key, &body_of(&tall)));
    let mut astray = volume();
    astray.root.pointer = postcard::from_bytes(&[7]).unwrap();
    why(&sealed(&key, &body_of(&astray)));
}

proptest! {
    #[test]
    fn no_bytes_make_the_decoder_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let key = volume_key(VolumeId(1));
        let bytes = sealed(&key, &[vec![VERSION], body].concat());
        if let Ok(record) = decode::<VolumeRecord>(&key, &bytes) {
            prop_assert_eq!(record.id, VolumeId(1));
        }
        let _ = decode::<SnapshotRecord>(&key, &bytes);
    }
}
