//! Root notes: they lie where the root's node is, and stay there.

use super::*;
use format::RootNote;
use types::{Generation, Root, VolumeId};

fn note(generation: u64) -> RootNote {
    RootNote {
        volume: VolumeId(3),
        name: "vm".parse().unwrap(),
        epoch: Epoch(1),
        generation: Generation(generation),
        root: Root::EMPTY,
        size: 1 << 30,
        mapped_blocks: 5,
        dedup: true,
        codec: Codec::Lz4,
        read_only: false,
        partial: false,
    }
}

fn notes(store: &PackStore) -> Vec<(PackId, Option<RootNote>)> {
    let packs = store.list().unwrap().into_iter();
    packs
        .map(|stat| (stat.pack, store.note(stat.pack).unwrap()))
        .collect()
}

#[test]
fn a_note_is_in_the_pack_of_the_last_node() {
    // Data and nodes in one pack, data in several, no data, nothing at all.
    for (data, nodes) in [(5, 3), (1020, 9), (3000, 3), (0, 2), (0, 0)] {
        let machine = Machine::new(1);
        let store = machine.open();
        let mut writer = store.writer(Codec::Lz4, true);
        writer.write_blocks(&blocks(0..data)).unwrap();
        let pointer = |n: u64| Pointer::new(PackId(1 + n), 0);
        let nodes = (0..nodes).map(|n| {
            let mut node = Node::new();
            node.set(0, pointer(n));
            node
        });
        let last = nodes.map(|node| writer.write_node(&node).unwrap()).last();
        writer.note(&note(7));
        drop(writer.finish().unwrap());
        let noted = notes(&machine.open());
        let (with, without): (Vec<_>, Vec<_>) = noted.iter().partition(|(_, n)| n.is_some());
        assert_eq!(with.len(), 1, "{data} blocks");
        let (pack, found) = with[0];
        assert_eq!(found.as_ref(), Some(&note(7)));
        assert!(last.is_none_or(|last| last.pack() == *pack));
        assert!(without.iter().all(|(other, _)| other != pack));
        let info = store.info(*pack).unwrap();
        assert_eq!(info.noted, Some(VolumeId(3)));
        assert_eq!(info.blocks == 0, last.is_none());
        assert!(store.verify(*pack, true).unwrap().damaged.is_empty());
    }
}

#[test]
fn a_pack_that_loses_blocks_keeps_its_note() {
    for how in [How::Punch, How::Rewrite] {
        let machine = Machine::new(1);
        let store = machine.open();
        let mut writer = store.writer(Codec::Lz4, true);
        let pack = writer.write_blocks(&blocks(0..100)).unwrap()[0].pack();
        writer.note(&note(9));
        drop(writer.finish().unwrap());
        let collection = store.begin_collection().unwrap();
        let live = LiveBits::first(10);
        collection.give_up(pack, &live, how).unwrap();
        store.brick.sync().unwrap();
        assert_eq!(notes(&machine.open()), [(pack, Some(note(9)))]);
    }
}
