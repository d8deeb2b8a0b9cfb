//! Checking finds what is wrong and says who is hit.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Contents, Machine};
use gc::{CheckOptions, Extent, PackCounts, Verdict, check};
use types::{NoProgress, Pointer};

const BLOCK: u64 = 4096;

fn machine() -> Machine {
    let machine = Machine::new();
    machine.fill("a", 0..1500, 0);
    machine.clone_root("a", "a@old");
    machine.fill("a", 0..600, 50_000);
    machine.fill("b", 0..1500, 100_000);
    machine
}

/// Where the frame of a block lies.
fn place(machine: &Machine, pointer: Pointer) -> (u64, usize) {
    let info = machine.store.info(pointer.pack()).unwrap();
    let mut frames = info.frames.iter();
    let frame = frames
        .find(|frame| frame.ordinals().contains(&pointer.ordinal()))
        .unwrap();
    (u64::from(frame.first), frame.offset as usize)
}

#[test]
fn all_is_well_then_there_is_garbage_then_none() {
    let machine = machine();
    let report = machine.check();
    assert_eq!(report.verdict(), Verdict::Healthy, "{report}");
    assert_eq!(report.roots, 3);
    machine.remove("b");
    machine.remove("a@old");
    let report = machine.check();
    assert_eq!(report.verdict(), Verdict::HealthyWithGarbage);
    assert!(
        report.packs.dead > 0 && report.packs.partly_dead > 0,
        "{report}"
    );
    assert!(
        report
            .to_string()
            .ends_with("garbage that a collection would remove"),
        "{report}"
    );
    machine.collect().unwrap();
    let report = machine.check();
    assert_eq!(report.packs.dead, 0, "{report}");
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(
        serde_json::from_str::<gc::CheckReport>(&json).unwrap(),
        report
    );
}

#[test]
fn a_flipped_bit_is_found_and_its_owners_named() {
    let mut machine = machine();
    // Block 1000 is shared by "a" and "a@old".
    let (first, offset) = place(&machine, machine.pointer("a", 1000));
    machine
        .brick
        .rot(machine.pointer("a", 1000).pack(), offset + 9);
    machine.reopen();
    let report = machine.check();
    assert_eq!(report.verdict(), Verdict::Damaged);
    let owners: Vec<_> = report
        .afflicted
        .iter()
        .map(|hit| hit.owner.as_str())
        .collect();
    assert_eq!(owners, ["a", "a@old"]);
    let start = 1000 - (u64::from(machine.pointer("a", 1000).ordinal()) - first);
    let extent = Extent {
        offset: start * BLOCK,
        len: 4 * BLOCK,
    };
    assert!(
        report.afflicted.iter().all(|hit| hit.extents == [extent]),
        "{report}"
    );
    assert!(
        report
            .to_string()
            .contains("a@old: up to 16.0 KiB cannot be read"),
        "{report}"
    );
    // In what nothing needs the same does no harm.
    machine.remove("a");
    machine.remove("a@old");
    let report = machine.check();
    assert_eq!(report.verdict(), Verdict::HealthyWithGarbage, "{report}");
    assert_eq!(report.unused_damaged.len(), 1);
}

#[test]
fn a_missing_pack_is_found() {
    let mut machine = machine();
    let pack = machine.pointer("b", 0).pack();
    let hit = |at: &u64| machine.pointer("b", *at).pack() == pack;
    let blocks = (0..1500).filter(hit).count() as u64;
    machine.brick.lose(pack);
    machine.reopen();
    let report = machine.check();
    assert_eq!(report.verdict(), Verdict::Damaged);
    assert_eq!(report.damaged.len(), 1);
    assert_eq!(report.damaged[0].pack, pack);
    assert!(report.damaged[0].why.contains("missing"), "{report}");
    let [hit] = &report.afflicted[..] else {
        panic!("{report}");
    };
    assert_eq!((hit.owner.as_str(), hit.bytes), ("b", blocks * BLOCK));
}

#[test]
fn a_damaged_node_takes_all_below_it_but_not_more_than_the_volume() {
    let mut machine = machine();
    let root = machine.roots.lock().get("b").unwrap().0;
    let (_, offset) = place(&machine, root.pointer);
    machine.brick.rot(root.pointer.pack(), offset + 3);
    machine.reopen();
    let report = machine.check();
    let [hit] = &report.afflicted[..] else {
        panic!("{report}");
    };
    assert_eq!(root.height, 2);
    assert_eq!((hit.owner.as_str(), hit.bytes), ("b", (1 << 18) * BLOCK));
    assert!(report.damaged[0].why.contains("checksum"), "{report}");
}

#[test]
fn a_header_that_cannot_be_read_hits_only_who_needs_it() {
    let mut machine = machine();
    machine.fill("c", 0..10, 900_000);
    let pack = machine.pointer("c", 0).pack();
    machine.brick.rot(pack, 100);
    machine.reopen();
    let report = machine.check();
    let hit: Vec<_> = report
        .afflicted
        .iter()
        .map(|hit| hit.owner.as_str())
        .collect();
    assert_eq!((hit, report.packs.unreadable), (vec!["c"], 1), "{report}");
    machine.remove("c");
    let report = machine.check();
    assert_eq!(report.verdict(), Verdict::HealthyWithGarbage, "{report}");
    assert!(report.afflicted.is_empty());
}

#[test]
fn a_root_that_makes_no_sense_is_named() {
    let machine = machine();
    machine.clone_root("b", "odd");
    machine.clone_root("b", "tall");
    if let Some((root, _)) = machine.roots.lock().get_mut("odd") {
        root.height = 9;
    }
    let report = machine.check();
    let hit: Vec<_> = report
        .afflicted
        .iter()
        .map(|hit| hit.owner.as_str())
        .collect();
    assert_eq!(hit, ["odd"]);
    // Leaves taken for nodes: data where nodes should be.
    machine.remove("odd");
    if let Some((root, _)) = machine.roots.lock().get_mut("tall") {
        root.height = 3;
    }
    let report = machine.check();
    assert_eq!(report.verdict(), Verdict::Damaged, "{report}");
    assert!(
        report.afflicted.iter().any(|hit| hit.owner == "tall"),
        "{report}"
    );
    assert_eq!(
        machine.collect().unwrap_err().kind(),
        gc::ErrorKind::Damaged
    );
}

#[test]
fn what_is_written_meanwhile_is_new_and_collection_waits() {
    let machine = machine();
    *machine.when_asked.lock() = Some(Box::new(|machine| {
        let writes: Contents = (0..10).map(|at| (at, 700_000 + at)).collect();
        machine.write("late", &[], &writes);
        assert!(machine.store.begin_collection().is_err());
    }));
    let report = check(
        &machine.store,
        &machine,
        CheckOptions { deep: false },
        &NoProgress,
    )
    .unwrap();
    assert_eq!(report.verdict(), Verdict::Healthy, "{report}");
    assert_eq!(
        report.packs,
        PackCounts {
            young: 1,
            ..report.packs
        }
    );
    assert!(!report.deep);
}
