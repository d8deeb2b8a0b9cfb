use super::*;
use proptest::prelude::*;

const PACK: PackId = PackId(0x1234);
const STORE: StoreId = StoreId([7; 16]);

fn frames(shape: &[(bool, u8, u16)]) -> Vec<NewFrame> {
    shape
        .iter()
        .map(|&(node, blocks, len)| NewFrame {
            kind: if node {
                FrameKind::Node
            } else {
                FrameKind::Data
            },
            blocks: if node { 1 } else { blocks },
            codec: Codec::Lz4,
            stored: (0..len).map(|i| i as u8).collect(),
        })
        .collect()
}

fn object(frames: &[NewFrame], hashed: bool) -> Vec<u8> {
    let blocks: usize = frames.iter().map(|f| usize::from(f.blocks)).sum();
    let hashes: Vec<BlockHash> = (0..blocks).map(|i| BlockHash([i as u8; 16])).collect();
    NewPack {
        pack: PACK,
        store: STORE,
        revision: 0,
        hashes: if hashed { &hashes } else { &[] },
        live: None,
        note: &[],
    }
    .assemble(frames)
}

fn shapes() -> impl Strategy<Value = Vec<(bool, u8, u16)>> {
    prop::collection::vec((any::<bool>(), 1_u8..5, 1_u16..4096), 0..200)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_pack_comes_back(shape in shapes(), hashed: bool) {
        let frames = frames(&shape);
        let object = object(&frames, hashed);
        prop_assert_eq!(object.len() % PAGE, 0);
        let needed = PackHeader::needed(&object[..PAGE], PACK, STORE).unwrap();
        let header = PackHeader::decode(&object[..needed], PACK, STORE).unwrap();
        prop_assert_eq!(header.frames.len(), frames.len());
        let mut ordinal = 0;
        for (i, frame) in frames.iter().enumerate() {
            for _ in 0..frame.blocks {
                let (number, entry) = header.frame_of(ordinal).unwrap();
                prop_assert_eq!(number as usize, i);
                prop_assert_eq!(entry.kind, frame.kind);
                let range = entry.range();
                let stored = &object[range.start as usize..range.end as usize];
                prop_assert_eq!(stored, &frame.stored);
                prop_assert_eq!(entry.crc, frame::checksum(PACK, number, stored));
                ordinal += 1;
            }
        }
        prop_assert!(header.frame_of(ordinal).is_none());
        prop_assert_eq!(header.live.bits, LiveBits::first(usize::from(ordinal)));
        if let Some(range) = header.hashes.clone() {
            let hashes = header
                .decode_hashes(&object[range.start as usize..range.end as usize])
                .unwrap();
            prop_assert_eq!(hashes.len(), usize::from(header.blocks));
        }
    }

    #[test]
    fn every_changed_byte_of_a_header_is_found(
        shape in shapes(),
        at: prop::sample::Index,
        bit in 0_u32..8,
    ) {
        let mut object = object(&frames(&shape), true);
        let good = PackHeader::decode(&object, PACK, STORE).unwrap();
        let at = at.index(good.payload.start as usize);
        object[at] ^= 1_u8 << bit;
        let Ok(header) = PackHeader::decode(&object, PACK, STORE) else {
            return Ok(());
        };
        if (512..TABLES_AT).contains(&at) {
            prop_assert!(header.live.doubtful);
        } else {
            let range = header.hashes.clone().unwrap();
            prop_assert!(range.contains(&(at as u64)), "{} went unseen", at);
            let table = &object[range.start as usize..range.end as usize];
            prop_assert!(header.decode_hashes(table).is_err());
        }
    }

    /// Checksums made right: what remains are the checks of the values.
    #[test]
    fn hostile_headers_are_no_panic(
        shape in shapes(),
        writes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut: prop::sample::Index,
    ) {
        let mut object = object(&frames(&shape), true);
        let tables = PackHeader::needed(&object, PACK, STORE).unwrap();
        for (at, byte) in writes {
            object[[at.index(80), 1536 + at.index(tables - 1535)][at.index(2)]] = byte;
        }
        let crc = crc32c::crc32c(&object[TABLES_AT..tables]);
        bytes::put(&mut object, 60, &crc.to_le_bytes());
        let crc = crc32c::crc32c(&object[..CRC_AT]);
        bytes::put(&mut object, CRC_AT, &crc.to_le_bytes());
        let _ = PackHeader::needed(&object, PACK, STORE);
        if let Ok(header) = PackHeader::decode(&object, PACK, STORE) {
            for ordinal in [0, 1, 500, 1023, 4095, u16::MAX] {
                let _ = header.frame_of(ordinal);
            }
            let _ = header.decode_hashes(&object);
        }
        let _ = PackHeader::decode(&object[..cut.index(object.len())], PACK, STORE);
    }
}

#[test]
fn another_packs_or_stores_header_is_refused() {
    let object = object(&frames(&[(false, 4, 100)]), true);
    assert!(PackHeader::decode(&object, PACK, STORE).is_ok());
    assert!(PackHeader::decode(&object, PACK.next(), STORE).is_err());
    assert!(PackHeader::decode(&object, PACK, StoreId([8; 16])).is_err());
}
