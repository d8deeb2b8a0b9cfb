//! Collecting beside a small engine: what is needed stays, what is not goes, whatever happens meanwhile.
#![allow(
    clippy::unwrap_used,
    clippy::single_range_in_vec_init,
    reason = "helpers of tests"
)]

mod common;

use common::{Contents, Machine};
use gc::{ErrorKind, How, Options, Throttle, collect};
use proptest::prelude::*;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};
use types::{Cancelled, NoProgress, Progress};

#[derive(Clone, Debug)]
enum Op {
    Write {
        volume: usize,
        start: u64,
        len: u64,
        contents: u64,
    },
    Zero {
        volume: usize,
        start: u64,
        len: u64,
    },
    Copy {
        from: usize,
        to: usize,
    },
    Remove {
        volume: usize,
    },
    Collect,
    Crash {
        after: u64,
        seed: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let volume = 0..4usize;
    let start = prop_oneof![0..64u64, 500..530u64, 262_140..262_150u64];
    // Few contents, so that blocks are often met again.
    let write = (volume.clone(), start.clone(), 1..40u64, 0..200u64);
    prop_oneof![
        5 => write.prop_map(|(volume, start, len, contents)| Op::Write { volume, start, len, contents }),
        1 => (volume.clone(), start, 1..300u64).prop_map(|(volume, start, len)| Op::Zero { volume, start, len }),
        2 => (volume.clone(), volume.clone()).prop_map(|(from, to)| Op::Copy { from, to }),
        2 => volume.prop_map(|volume| Op::Remove { volume }),
        3 => Just(Op::Collect),
        2 => (0..12u64, any::<u64>()).prop_map(|(after, seed)| Op::Crash { after, seed }),
    ]
}

fn name(n: usize) -> String {
    format!("v{n}")
}

fn apply(machine: &mut Machine, op: &Op) {
    match *op {
        Op::Write {
            volume,
            start,
            len,
            contents,
        } => {
            machine.fill(&name(volume), start..start + len, contents);
        }
        Op::Zero { volume, start, len } => {
            machine.write(&name(volume), &[start..start + len], &Contents::new());
        }
        Op::Copy { from, to } => machine.clone_root(&name(from), &name(to)),
        Op::Remove { volume } => machine.remove(&name(volume)),
        Op::Collect => drop(machine.collect().unwrap()),
        Op::Crash { after, seed } => {
            machine.brick.die_after(after);
            let _ = machine.collect();
            machine.crash(seed);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    #[test]
    fn what_is_needed_stays_and_the_rest_goes(ops in prop::collection::vec(op(), 1..25)) {
        let mut machine = Machine::new();
        for op in &ops {
            apply(&mut machine, op);
        }
        machine.verify();
        machine.collect().unwrap();
        machine.verify();
        machine.reopen();
        machine.verify();
        let again = machine.collect().unwrap();
        prop_assert_eq!((again.done, again.bytes_freed), (0, 0), "{}", again);
        let checked = machine.check();
        prop_assert!(checked.damaged.is_empty() && checked.unused_damaged.is_empty(), "{}", checked);
        let names: Vec<_> = machine.roots.lock().keys().cloned().collect();
        names.iter().for_each(|name| machine.remove(name));
        machine.collect().unwrap();
        prop_assert_eq!(machine.brick.stored(), 0);
    }
}

/// Half of two volumes dies: dead packs go, mixed ones are punched or written again.
fn with_garbage() -> Machine {
    let machine = Machine::new();
    for volume in 0..3 {
        machine.fill(&name(volume), 0..1500, volume as u64 * 10_000);
    }
    machine.clone_root("v2", "v2@kept");
    machine.remove("v0");
    let holes: Vec<_> = (0..1400).step_by(8).map(|at| at..at + 6).collect();
    machine.write("v1", &holes, &Contents::new());
    machine.write("v1", &[1440..1490], &Contents::new());
    machine.fill("v2", 0..700, 90_000);
    machine
}

#[test]
fn a_dry_run_tells_and_does_nothing() {
    let machine = with_garbage();
    let before = (machine.brick.stored(), machine.brick.mutations());
    let options = Options {
        dry_run: true,
        ..Options::default()
    };
    let report = collect(&machine.store, &machine, &options, &NoProgress).unwrap();
    assert_eq!(before, (machine.brick.stored(), machine.brick.mutations()));
    assert!(
        report.plan.count(How::Drop) > 0 && report.plan.count(How::Rewrite) > 0,
        "{report}"
    );
    assert!(report.to_string().contains("nothing was done"));
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<gc::Report>(&json).unwrap(), report);

    let estimate = report.plan.frees_estimate();
    let done = machine.collect().unwrap();
    assert_eq!(done.plan, report.plan);
    let freed = before.0 - machine.brick.stored();
    assert_eq!(freed, done.bytes_freed, "{done}");
    assert!(
        estimate.abs_diff(freed) < estimate / 10,
        "{estimate} promised, {freed} freed"
    );
    machine.verify();
}

#[test]
fn dying_anywhere_in_a_sweep_loses_nothing_and_the_next_finishes_it() {
    let whole = {
        let machine = with_garbage();
        let before = machine.brick.mutations();
        machine.collect().unwrap();
        machine.brick.mutations() - before
    };
    assert!(whole > 4, "{whole} mutations");
    for after in 0..whole {
        let mut machine = with_garbage();
        machine.brick.die_after(after);
        assert_eq!(machine.collect().unwrap_err().kind(), ErrorKind::Io);
        machine.crash(after);
        machine.verify();
        machine.collect().unwrap();
        machine.verify();
        assert_eq!(machine.collect().unwrap().done, 0);
    }
}

/// A volume stores again what only a removed one had, between marking and sweeping: the hit pins the block.
/// Whether the root is committed before the sweep or after it makes no difference.
#[test]
fn what_is_referred_to_again_stays() {
    let writes: Contents = (0..100).map(|at| (at, 300 + at)).collect();
    for hook in ["asked", "quiet", "uncommitted"] {
        let machine = Machine::new();
        machine.fill("old", 0..1024, 0);
        machine.remove("old");
        let again = writes.clone();
        let uncommitted = std::sync::Arc::new(parking_lot::Mutex::new(None));
        let slot = std::sync::Arc::clone(&uncommitted);
        let run: common::Hook = match hook {
            "uncommitted" => Box::new(move |machine| {
                *slot.lock() = Some(machine.destage(types::Root::EMPTY, &[], &again).unwrap());
            }),
            _ => Box::new(move |machine| machine.write("new", &[], &again)),
        };
        let place = if hook == "asked" {
            &machine.when_asked
        } else {
            &machine.when_quiet
        };
        *place.lock() = Some(run);
        let report = machine.collect().unwrap();
        assert!(report.bytes_freed > 0, "{hook}: {report}");
        assert!(place.lock().is_none(), "{hook} was not called");
        if let Some((root, written)) = uncommitted.lock().take() {
            assert_eq!(written.stats.blocks_deduped, 100);
            machine
                .roots
                .lock()
                .insert("new".to_owned(), (root, writes.clone()));
        }
        machine.verify();
        machine.collect().unwrap();
        machine.verify();
    }
}

#[test]
fn packs_that_are_being_written_are_not_considered() {
    let machine = Machine::new();
    let writes: Contents = (0..100).map(|at| (at, at)).collect();
    let (root, written) = machine.destage(types::Root::EMPTY, &[], &writes).unwrap();
    let report = machine.collect().unwrap();
    assert_eq!((report.plan.packs, report.plan.young), (0, 1));
    machine.roots.lock().insert("v".to_owned(), (root, writes));
    drop(written);
    machine.collect().unwrap();
    machine.verify();
}

#[test]
fn damage_met_while_marking_stops_everything_and_names_the_owner() {
    let machine = with_garbage();
    let node = machine.roots.lock().get("v2@kept").unwrap().0.pointer;
    let info = machine.store.info(node.pack()).unwrap();
    let mut frames = info.frames.iter();
    let frame = frames
        .find(|frame| frame.ordinals().contains(&node.ordinal()))
        .unwrap();
    machine.brick.rot(node.pack(), frame.offset as usize + 3);
    let mut machine = machine;
    machine.reopen();
    let before = machine.brick.mutations();
    let error = machine.collect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(error.owner(), Some("v2@kept"));
    assert_eq!(machine.brick.mutations(), before);
    machine.remove("v2@kept");
    machine.collect().unwrap();
    machine.verify();
}

#[test]
fn a_pack_that_is_missing_stops_everything_too() {
    let mut machine = with_garbage();
    machine.brick.lose(machine.pointer("v1", 1439).pack());
    machine.reopen();
    let before = machine.brick.mutations();
    let error = machine.collect().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(machine.brick.mutations(), before);
}

#[test]
fn what_is_no_pack_is_left_alone() {
    let machine = Machine::new();
    machine.fill("v", 0..10, 0);
    let young = machine.pointer("v", 0).pack();
    machine.fill("w", 0..10, 100);
    machine.remove("v");
    machine.brick.litter(young);
    let mut machine = machine;
    machine.reopen();
    assert_eq!(machine.collect().unwrap().plan.unreadable, 1);
    machine.verify();
}

struct StopAt(AtomicU64);

impl Progress for StopAt {
    fn report(&self, _: u64, _: u64) -> Result<(), Cancelled> {
        let left = self.0.load(Ordering::Relaxed);
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        if left == 0 { Err(Cancelled) } else { Ok(()) }
    }

    fn stored(&self, _: u64) {}
}

#[test]
fn it_can_be_stopped_anywhere_and_held_back() {
    let machine = with_garbage();
    let slept = AtomicU64::new(0);
    let sleep = |time: Duration| {
        slept.fetch_add(time.as_secs(), Ordering::Relaxed);
    };
    let throttle = Throttle {
        bytes_per_second: 4096,
        sleep: &sleep,
    };
    let options = Options {
        throttle: Some(throttle),
        ..Options::default()
    };
    let mut freed = 0;
    for stop in 0.. {
        match collect(
            &machine.store,
            &machine,
            &options,
            &StopAt(AtomicU64::new(stop)),
        ) {
            Err(error) => assert_eq!(error.kind(), ErrorKind::Cancelled),
            Ok(report) => {
                freed += report.bytes_freed;
                break;
            }
        }
        machine.verify();
    }
    assert!(slept.load(Ordering::Relaxed) >= freed / 4096);
    assert!(
        machine.store.begin_collection().is_ok(),
        "no collection is left running"
    );
}

#[test]
fn nothing_is_given_up_before_reads_have_ended() {
    let machine = with_garbage();
    let before = machine.brick.mutations();
    *machine.when_quiet.lock() = Some(Box::new(move |machine| {
        assert_eq!(machine.brick.mutations(), before);
    }));
    machine.collect().unwrap();
    assert!(machine.when_quiet.lock().is_none());
    assert!(machine.brick.mutations() > before);
}

#[test]
fn one_at_a_time() {
    let machine = with_garbage();
    let _running = machine.store.begin_collection().unwrap();
    assert_eq!(machine.collect().unwrap_err().kind(), ErrorKind::Busy);
}
