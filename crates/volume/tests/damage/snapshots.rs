//! Snapshots that wait for their root, and whose submits the journal has lost: the last ones, as after a crash before
//! them.

use crate::{
    journal::{open_anyhow, repair},
    machine::{self, BLOCKS, Machine, name, rot},
};
use sim::{Fault, Injection};
use types::{BLOCK_SIZE, VolumeRef};
use volume::{Create, ErrorKind, Source, Store};

/// `a` and `b`, whose first blocks say that they were flushed three times. No pack can be written, so that snapshots wait.
fn machine() -> Machine {
    let mut machine = Machine::new(21);
    for volume in ["a", "b"] {
        machine.create(volume, Source::Empty(BLOCKS * BLOCK_SIZE as u64));
    }
    for tag in 1..=3 {
        for volume in ["a", "b"] {
            flush(&mut machine, volume, tag);
        }
    }
    inject(&machine, Fault::WriteError, "/brick", u64::MAX);
    machine
}

fn inject(machine: &Machine, fault: Fault, file: &str, times: u64) {
    machine.sim.inject(Injection {
        fault,
        file: file.to_owned(),
        skip: 0,
        times,
    });
}

/// So many commits of the journal from now on are damaged.
fn spoil(machine: &Machine, commits: u64) {
    inject(machine, Fault::Flipped, "/journal", commits);
}

fn flush(machine: &mut Machine, volume: &str, tag: u64) {
    machine.write(volume, 0, [tag]);
    machine.device(volume).flush().unwrap();
}

fn power_cut(machine: &Machine) {
    machine.sim.heal();
    machine.sim.power_cut();
}

/// Why the store is refused.
fn refused(machine: &Machine) -> String {
    let refused = Machine::open(&machine.sim).err();
    let refused = refused.expect("a submit is missing");
    assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
    machine.sim.kill();
    refused.to_string()
}

/// Repairs, and answers who lost flushes. What was repaired stays so.
fn repaired(machine: &Machine) -> (Store, Vec<String>) {
    assert!(repair(machine, true).is_none(), "the segments are sound");
    let (store, lost) = open_anyhow(machine);
    drop(store);
    machine.sim.power_cut();
    let store = Machine::open(&machine.sim).unwrap();
    (store, lost.into_iter().map(|lost| lost.owner).collect())
}

/// What the first block of each says.
fn tags<const N: usize>(store: &Store, of: [&str; N]) -> [u64; N] {
    of.map(|of| machine::tags::<1>(store, of)[0])
}

#[test]
fn a_snapshot_without_its_last_submit_is_refused_and_a_repair_names_it() {
    for flushed_before in [false, true] {
        let mut machine = machine();
        spoil(&machine, 1);
        machine.write("a", 0, [4]);
        if flushed_before {
            machine.device("a").flush().unwrap();
        }
        machine.snapshot("a", "s");
        power_cut(&machine);
        let why = refused(&machine);
        let says = "'a': a flush of generation 1 is lost, and the snapshot 's' needs it";
        assert!(why.contains(says), "{why}");
        let (store, lost) = repaired(&machine);
        assert_eq!(lost, ["a", "a@s"]);
        assert_eq!(tags(&store, ["a", "a@s", "b"]), [3, 3, 3]);
        // And they are as any others from now on.
        let clone = Source::Clone("a@s".parse().unwrap(), None);
        store.create_volume(&Create::new(name("c"), clone)).unwrap();
        store.rollback(&name("a"), &name("s")).unwrap();
        assert_eq!(tags(&store, ["a", "c"]), [3, 3]);
    }
}

/// What is newer than a snapshot is not needed by it.
#[test]
fn a_snapshot_does_not_need_what_came_after_it() {
    let mut machine = machine();
    machine.write("a", 0, [4]);
    machine.snapshot("a", "s");
    spoil(&machine, 1);
    flush(&mut machine, "a", 5);
    power_cut(&machine);
    // It looks like a crash in the flush.
    let store = Machine::open(&machine.sim).unwrap();
    assert_eq!(tags(&store, ["a", "a@s"]), [4, 4]);
}

#[test]
fn a_group_of_which_one_lost_a_submit_is_of_one_instant_no_more() {
    let mut machine = machine();
    spoil(&machine, 1);
    machine.write("b", 0, [4]);
    let group: [VolumeRef; 2] = ["a@g", "b@g"].map(|r| r.parse().unwrap());
    machine.store.create_group(&group).unwrap();
    power_cut(&machine);
    let why = refused(&machine);
    assert!(!why.contains("'a'"), "{why}");
    let (store, lost) = repaired(&machine);
    assert_eq!(lost, ["b", "b@g"]);
    assert_eq!(tags(&store, ["a@g", "b@g"]), [3, 3]);
    let together = store.rollback_group(&group).err().unwrap();
    assert_eq!(together.kind(), ErrorKind::Refused, "{together}");
    store.rollback(&name("b"), &name("g")).unwrap();
}

/// A process that is killed leaves all of it in its memory, and the next one tells the journal again.
#[test]
fn what_the_write_buffer_brings_back_is_missed_only_if_it_is_lost_again() {
    for told_again in [false, true] {
        let mut machine = machine();
        spoil(&machine, 2);
        flush(&mut machine, "a", 4);
        machine.write("a", 0, [5]);
        machine.snapshot("a", "s");
        machine.sim.heal();
        machine.crash();
        if told_again {
            machine.device("a").flush().unwrap();
        }
        power_cut(&machine);
        if told_again {
            let store = Machine::open(&machine.sim).unwrap();
            assert_eq!(tags(&store, ["a", "a@s"]), [5, 5]);
        } else {
            refused(&machine);
            let (store, lost) = repaired(&machine);
            assert_eq!(lost, ["a", "a@s"]);
            assert_eq!(tags(&store, ["a", "a@s"]), [3, 3]);
        }
    }
}

/// The journal is written anew, without the flushes of a volume that has lost one: records have other numbers then.
#[test]
fn a_repair_of_the_journal_takes_nothing_from_snapshots_of_others() {
    let mut machine = machine();
    spoil(&machine, 1);
    flush(&mut machine, "b", 4);
    machine.write("a", 0, [4]);
    machine.snapshot("a", "s");
    power_cut(&machine);
    let why = refused(&machine);
    assert!(why.contains("journal: recovery: "), "{why}");
    let done = repair(&machine, false).unwrap();
    let lost: Vec<_> = done.cut.iter().chain(&done.unsure).collect();
    assert_eq!(lost, ["b"]);
    let store = Machine::open(&machine.sim).unwrap();
    assert_eq!(tags(&store, ["a", "a@s", "b"]), [4, 4, 3]);
}

/// A repair gives the snapshot another generation, of which it needs all that is there.
#[test]
fn a_snapshot_that_a_repair_has_moved_is_missed_when_it_loses_more() {
    let mut machine = machine();
    flush(&mut machine, "a", 4);
    power_cut(&machine);
    machine.store = Machine::open(&machine.sim).unwrap();
    inject(&machine, Fault::WriteError, "/brick", u64::MAX);
    for tag in [5, 6] {
        flush(&mut machine, "b", tag);
    }
    spoil(&machine, 1);
    machine.write("a", 0, [7]);
    machine.snapshot("a", "s");
    power_cut(&machine);
    let why = refused(&machine);
    let says = "'a': what was flushed after generation 1 is lost, and the snapshot 's' needs it";
    assert!(why.contains(says), "{why}");
    drop(repaired(&machine));
    machine.sim.power_cut();
    rot(&machine, 4);
    let why = refused(&machine);
    assert!(why.contains("journal: recovery: "), "{why}");
    repair(&machine, false).unwrap();
    let (store, lost) = repaired(&machine);
    assert_eq!(lost, ["a", "a@s"]);
    assert_eq!(tags(&store, ["a", "a@s", "b"]), [3, 3, 6]);
}
