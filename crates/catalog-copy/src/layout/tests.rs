//! Copies come back; damaged ones do not, and harm nobody.

use super::*;
use catalog::{Change, IdKind, Settings};
use proptest::prelude::*;

const STORE: StoreId = StoreId([3; 16]);

fn sample() -> (Vec<u8>, Copy) {
    let mut contents = Contents::default();
    contents.apply(&Step::Reserve(IdKind::Pack, 100)).unwrap();
    let steps = vec![
        (2, Step::Epoch),
        (
            3,
            Step::Commit(vec![Change::PutSettings(Settings::default())]),
        ),
        (4, Step::Reserve(IdKind::Volume, 1)),
    ];
    let mut bytes = encode_contents(STORE, &contents).unwrap();
    for (commit, step) in &steps {
        bytes.extend(encode_step(STORE, *commit, step).unwrap());
    }
    let copy = Copy {
        contents: Some(contents),
        steps,
        ends_well: true,
    };
    (bytes, copy)
}

#[test]
fn a_copy_comes_back_and_not_as_another_stores() {
    let (bytes, copy) = sample();
    assert_eq!(decode(STORE, &bytes), Some(copy));
    assert_eq!(decode(StoreId([4; 16]), &bytes), None);
    let step = encode_step(StoreId([4; 16]), 5, &Step::Epoch).unwrap();
    let mixed = [bytes, step].concat();
    let decoded = decode(STORE, &mixed).unwrap();
    assert_eq!((decoded.steps.len(), decoded.ends_well), (3, false));
}

#[test]
fn every_changed_bit_is_found_and_ends_what_it_is_in() {
    let (bytes, copy) = sample();
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        let Some(decoded) = decode(STORE, &bad) else {
            assert!(bit / 8 < HEADER_LEN, "only a bad header makes it none");
            continue;
        };
        // What lies before the damage is as it was, what lies in it is not there.
        if let Some(contents) = &decoded.contents {
            assert_eq!(Some(contents), copy.contents.as_ref());
            assert!(!decoded.ends_well, "bit {bit}");
            assert!(decoded.steps.len() < copy.steps.len());
        }
        assert!(copy.steps.starts_with(&decoded.steps), "bit {bit}");
    }
}

#[test]
fn a_copy_cut_short_ends_early() {
    let (bytes, copy) = sample();
    for len in 0..bytes.len() {
        if let Some(decoded) = decode(STORE, &bytes[..len]) {
            assert!(copy.steps.starts_with(&decoded.steps));
            assert!(decoded.steps.len() < copy.steps.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// With right checksums too: what is decoded is sound, or nothing.
    #[test]
    fn hostile_bytes_are_no_panic(noise in prop::collection::vec(any::<u8>(), 0..200), at: prop::sample::Index, byte: u8) {
        let _ = decode(STORE, &noise);
        let (mut bytes, _) = sample();
        let at = HEADER_LEN + at.index(bytes.len() - HEADER_LEN);
        bytes[at] = byte;
        let body_len = u64::from_le_bytes(bytes[40..48].try_into().unwrap()) as usize;
        let crc = crc32c::crc32c(&bytes[HEADER_LEN..HEADER_LEN + body_len]);
        bytes[48..52].copy_from_slice(&crc.to_le_bytes());
        bytes[CRC_AT..CRC_AT + 4].fill(0);
        let crc = crc32c::crc32c(&bytes[..HEADER_LEN]);
        bytes[CRC_AT..CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
        let decoded = decode(STORE, &bytes).expect("the header is right");
        if let Some(contents) = decoded.contents {
            prop_assert!(contents.is_sound());
        }
    }
}
