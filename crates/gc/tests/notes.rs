//! Packs of nothing but a root note: the last of each volume stays, no other.
#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "helpers of tests"
)]

mod common;

use common::Machine;
use format::RootNote;
use gc::{How, Options, Verdict, collect};
use types::{Codec, Epoch, Generation, NoProgress, PackId, Root, VolumeId};

/// A destage that wrote nothing. Answers its pack.
fn note(machine: &Machine, volume: u64, generation: u64) -> PackId {
    let mut writer = machine.store.writer(Codec::Lz4, true);
    writer.note(&RootNote {
        volume: VolumeId(volume),
        name: "vm".parse().unwrap(),
        epoch: Epoch(1),
        generation: Generation(generation),
        root: Root::EMPTY,
        size: 1 << 30,
        mapped_blocks: 0,
        dedup: true,
        codec: Codec::Lz4,
        read_only: false,
        partial: false,
    });
    drop(writer.finish().unwrap());
    last(machine)
}

fn last(machine: &Machine) -> PackId {
    machine.store.list().unwrap().last().unwrap().pack
}

#[test]
fn the_last_note_of_a_volume_stays_and_no_other() {
    let machine = Machine::new();
    machine.volumes.lock().extend([VolumeId(1), VolumeId(2)]);
    let superseded = [
        note(&machine, 1, 1),
        note(&machine, 1, 2),
        note(&machine, 2, 1),
    ];
    let last_of_1 = note(&machine, 1, 3);
    let gone = note(&machine, 3, 1);
    // A pack with data supersedes, too.
    machine.write("a", &[], &(0..5).map(|n| (n, n)).collect());
    let last_of_2 = note(&machine, 2, 2);
    let verdict = machine.check().verdict();
    assert_eq!(verdict, Verdict::Healthy, "notes are no garbage");
    let collected = |options: &Options<'_>| {
        let report = collect(&machine.store, &machine, options, &NoProgress).unwrap();
        let drops = report.plan.actions.iter().map(|a| (a.pack, a.how));
        drops.collect::<Vec<_>>()
    };
    let mut expected: Vec<_> = superseded.iter().map(|p| (*p, How::Drop)).collect();
    expected.push((gone, How::Drop));
    assert_eq!(collected(&Options::default()), expected);
    let left: Vec<PackId> = machine
        .store
        .list()
        .unwrap()
        .iter()
        .map(|s| s.pack)
        .collect();
    assert!(left.contains(&last_of_1) && left.contains(&last_of_2));
    assert!(expected.iter().all(|(pack, _)| !left.contains(pack)));
    assert_eq!(collected(&Options::default()), []);
    machine.volumes.lock().remove(&VolumeId(1));
    assert_eq!(collected(&Options::default()), [(last_of_1, How::Drop)]);
}
