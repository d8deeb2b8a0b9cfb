//! A damaged journal, and a write buffer that outlived the process.

use crate::{
    journal::{open_anyhow, repair},
    machine::{BLOCKS, Machine, rot, tags},
};
use types::BLOCK_SIZE;
use volume::{ErrorKind, Source, Store};

/// `a` and `b`, not flushed yet.
fn machine() -> Machine {
    let mut machine = Machine::new(31);
    for volume in ["a", "b"] {
        machine.create(volume, Source::Empty(BLOCKS * BLOCK_SIZE as u64));
    }
    machine
}

fn flush<const N: usize>(machine: &mut Machine, volume: &str, first: u64, tags: [u64; N]) {
    machine.write(volume, first, tags);
    machine.device(volume).flush().unwrap();
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// The process dies, the block with this tag rots, and a repair says who lost something, and who may have.
fn repaired_without(machine: &Machine, tag: u64, cut: &[&str], unsure: &[&str]) -> Store {
    machine.sim.kill();
    rot(machine, tag);
    // Looking changes nothing.
    for _ in 0..2 {
        let refused = Machine::open(&machine.sim).err().unwrap();
        assert_eq!(refused.kind(), ErrorKind::Damaged, "{refused}");
        machine.sim.kill();
        repair(machine, true).unwrap();
    }
    let done = repair(machine, false).unwrap();
    assert_eq!(
        (&done.cut[..], &done.unsure[..]),
        (&owned(cut)[..], &owned(unsure)[..])
    );
    assert!(repair(machine, true).is_none());
    let (store, lost) = open_anyhow(machine);
    assert_eq!(lost, []);
    store
}

/// What the process had written is in its memory, and goes on top of what it had found in the journal. Of that a flush
/// is gone since: with the one and without the other it would be a mixture.
#[test]
fn what_goes_on_top_of_what_is_lost_is_left_out() {
    let mut machine = machine();
    flush(&mut machine, "a", 0, [1, 1, 1]);
    flush(&mut machine, "a", 1, [2]);
    machine.sim.power_cut();
    machine.store = Machine::open(&machine.sim).unwrap();
    flush(&mut machine, "a", 2, [3]);
    flush(&mut machine, "b", 0, [3]);
    machine.write("b", 1, [4]);
    let store = repaired_without(&machine, 2, &["a"], &[]);
    assert_eq!(tags(&store, "a"), [1, 1, 1]);
    assert_eq!(tags(&store, "b"), [3, 4]);
    drop(store);
    machine.sim.kill();
    let store = Machine::open(&machine.sim).unwrap();
    assert_eq!(tags(&store, "a"), [1, 1, 1]);
}

/// Nothing was flushed since, so that the journal looks as a crash during its last flush leaves it.
#[test]
fn what_goes_on_top_of_a_last_flush_that_is_lost_is_left_out() {
    let mut machine = machine();
    flush(&mut machine, "a", 0, [1, 1, 1]);
    flush(&mut machine, "a", 1, [2]);
    machine.sim.power_cut();
    machine.store = Machine::open(&machine.sim).unwrap();
    machine.write("a", 2, [3]);
    machine.write("b", 0, [4]);
    let store = repaired_without(&machine, 2, &[], &["a", "b"]);
    assert_eq!(tags(&store, "a"), [1, 1, 1]);
    assert_eq!(tags(&store, "b"), [4, 0]);
    drop(store);
    machine.sim.kill();
    let store = Machine::open(&machine.sim).unwrap();
    assert_eq!(tags(&store, "a"), [1, 1, 1]);
    assert_eq!(tags(&store, "b"), [4, 0]);
}

/// Who only opened the store knows how far the journal went.
#[test]
fn a_last_flush_that_is_lost_is_missed_though_nothing_was_written_since() {
    let mut machine = machine();
    flush(&mut machine, "a", 0, [1]);
    flush(&mut machine, "a", 1, [2]);
    machine.sim.power_cut();
    machine.store = Machine::open(&machine.sim).unwrap();
    let store = repaired_without(&machine, 2, &[], &["a", "b"]);
    assert_eq!(tags(&store, "a"), [1, 0]);
}

/// All that it had flushed is in its memory, too.
#[test]
fn what_is_lost_of_the_process_itself_is_brought_back() {
    let mut machine = machine();
    flush(&mut machine, "a", 0, [1, 1, 1]);
    flush(&mut machine, "a", 1, [2]);
    flush(&mut machine, "a", 2, [3]);
    let store = repaired_without(&machine, 2, &["a"], &["b"]);
    assert_eq!(tags(&store, "a"), [1, 2, 3]);
}
