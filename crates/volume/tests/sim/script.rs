//! A scripted scenario of everything that a store does, with a crash in every I/O of it.

use crate::{
    Replay,
    machine::Machine,
    model::End,
    ops::Op::{self, *},
    random, range_from,
};
use gc::CheckOptions;
use sim::{Fault, Injection};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use volume::Config;

/// Small enough for the journal to go round.
const JOURNAL_BYTES: u64 = 2 << 20;

/// A step of the scenario.
enum Step {
    Do(Op),
    /// The store is closed in order, and opened again.
    Restart,
}

fn scenario() -> Vec<Step> {
    let text = |text: &str| text.to_owned();
    let (a, b, c) = (|| text("a"), || text("b"), || text("c"));
    let (s1, s2, s3) = (|| text("s1"), || text("s2"), || text("s3"));
    let tags = |first: u32, count: u32| (first..first + count).map(|n| n % 39 + 1).collect();
    let mut ops = vec![
        Make(a()),
        Write(a(), 0, tags(0, 8), false),
        Flush(a()),
        Write(a(), 4, tags(10, 8), true),
        Snapshot(a(), s1()),
        Zero(a(), 2, 2),
        // A write that is destaged at once, and a flush that is.
        Write(a(), 100, tags(3, 72), false),
        Write(a(), 20, tags(30, 40), false),
        Flush(a()),
        Clone(a(), Some(s1()), b()),
        Write(b(), 0, tags(5, 4), false),
        Flush(b()),
        Write(a(), 0, tags(7, 2), false),
        Clone(a(), None, c()),
        Write(c(), 50, tags(1, 3), false),
        Snapshot(c(), s3()),
        Write(a(), 150, tags(4, 30), false),
        Write(b(), 30, tags(6, 3), false),
        Group(vec![a(), b(), c()], text("g")),
        Snapshot(a(), s2()),
        Hold(a(), Some(s2())),
        Discard(a(), 100, 32),
        Write(a(), 200, tags(2, 2), false),
        Flush(a()),
        Rollback(a(), s1()),
        Write(a(), 30, tags(9, 3), false),
        Flush(a()),
        RemoveSnapshot(a(), s2()),
        Resize(a(), 300),
        Write(a(), 290, tags(8, 10), false),
        Flush(a()),
        Resize(a(), 270),
        Settle,
        Collect,
        Remove(b()),
        Restore(b()),
        Remove(c()),
        Purge(c()),
        Write(b(), 9, tags(20, 3), false),
        Collect,
        Remove(b()),
        Expire,
        Collect,
    ];
    // Round the journal: what is written again and again is destaged when that is full.
    for n in 0..14 {
        ops.push(Write(a(), 60, tags(n, 30), true));
    }
    let mut steps: Vec<Step> = ops.into_iter().map(Step::Do).collect();
    steps.push(Step::Restart);
    let ops = [
        Write(a(), 0, tags(11, 4), false),
        Flush(a()),
        RemoveSnapshot(a(), s1()),
        Snapshot(a(), s2()),
        Write(a(), 2, tags(12, 4), false),
        Settle,
        Collect,
    ];
    steps.extend(ops.into_iter().map(Step::Do));
    steps.push(Step::Restart);
    steps
}

fn config() -> Config {
    Config {
        journal_bytes: JOURNAL_BYTES,
        // Shared memory is copied at each crash.
        dirty_bytes: 2 << 20,
        ..random::config(2)
    }
}

/// What is played.
type Scenario = fn() -> Vec<Step>;

/// A volume that is imported while it is used, to its end.
fn import() -> Vec<Step> {
    let text = |text: &str| text.to_owned();
    let (a, b) = (|| text("a"), || text("b"));
    let (s1, s2) = (|| text("s1"), || text("s2"));
    let tags = |first: u32, count: u32| (first..first + count).map(|n| n % 39 + 1).collect();
    let before = [
        Import(a(), 3),
        Write(a(), 4, tags(1, 8), false),
        Zero(a(), 0, 3),
        Flush(a()),
        Fill(a(), 20),
        Snapshot(a(), s1()),
        Write(a(), 30, tags(5, 6), false),
        Discard(a(), 8, 60),
        Settle,
        Fill(a(), 40),
        Clone(a(), Some(s1()), b()),
        Zero(b(), 50, 30),
        Flush(b()),
        Collect,
    ];
    let after = [
        Fill(b(), 300),
        Write(a(), 100, tags(7, 40), false),
        Snapshot(a(), s2()),
        Rollback(a(), s1()),
        Resize(a(), 300),
        Fill(a(), 300),
        Zero(a(), 120, 20),
        Settle,
        Collect,
        Remove(b()),
        Restore(b()),
    ];
    let steps = |ops: Vec<Op>| ops.into_iter().map(Step::Do);
    steps(before.into())
        .chain([Step::Restart])
        .chain(steps(after.into()))
        .chain([Step::Restart])
        .collect()
}

/// Plays it until the machine dies; whether it did.
fn play(machine: &mut Machine, scenario: Scenario) -> bool {
    for step in scenario() {
        let done = match &step {
            Step::Do(op) => machine.apply(op),
            Step::Restart => machine.close().and_then(|()| machine.open()),
        };
        if done.is_err() {
            return true;
        }
    }
    false
}

/// Plays the scenario up to its `n`-th I/O, in which it dies; none if it has fewer.
fn died_at(scenario: Scenario, n: u64, end: End) -> Option<Machine> {
    let mut machine = Machine::new(n, config());
    machine.sim.crash_after(n);
    if !play(&mut machine, scenario) {
        return None;
    }
    machine.crash(end);
    Some(machine)
}

/// The store is as it may be and as good as new: it goes on, and what the crash left is collected.
fn goes_on(mut machine: Machine, end: End, again: &[(u64, End)]) {
    machine.recover(end, again);
    for volume in machine.names() {
        machine.must(&Write(volume.clone(), 1, vec![1, 2, 3], true));
        machine.must(&Snapshot(volume, "later".to_owned()));
    }
    machine.must(&Settle);
    machine.must(&Collect);
    let store = machine.store();
    let options = CheckOptions { deep: false };
    let report = gc::check(store.packs(), store, options, &types::NoProgress).unwrap();
    assert_eq!(report.packs.dead, 0, "{report}");
    machine.close().unwrap();
    machine.recover(End::Closed, &[]);
}

/// I/Os of the recovery that follows.
fn recovery_ios(machine: &Machine) -> u64 {
    let mut machine = machine.fork();
    let before = machine.sim.io_count();
    machine.open().unwrap();
    machine.sim.io_count() - before
}

/// With a second crash in every I/O of the recovery if `thorough`. Else the power goes in even I/Os only, the
/// process is killed in odd ones, and now and then there is a second crash. False if the scenario has fewer I/Os.
fn crash_at(scenario: Scenario, n: u64, end: End, thorough: bool) -> bool {
    if !thorough && n.is_multiple_of(2) != (end == End::PowerCut) {
        return true;
    }
    let Some(machine) = died_at(scenario, n, end) else {
        return false;
    };
    let ios = recovery_ios(&machine);
    let second = |at: u64| (at, [End::Killed, End::PowerCut][(at / 2 + n) as usize % 2]);
    if thorough {
        for at in 1..=ios {
            goes_on(machine.fork(), end, &[second(at)]);
        }
    } else if n.is_multiple_of(3) {
        goes_on(machine, end, &[second(1 + n / 3 % ios)]);
        return true;
    }
    goes_on(machine, end, &[]);
    true
}

fn is_thorough() -> bool {
    std::env::var_os("HOLDFAST_THOROUGH").is_some()
}

/// Crashes in each of these I/Os, on all cores if it is `thorough`. How many there are.
fn crash_everywhere(scenario: Scenario, end: End, test: &str) -> u64 {
    let thorough = is_thorough();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let range = range_from("HOLDFAST_CRASHES", 1..u64::MAX);
    let (next, crashes) = (AtomicU64::new(range.start), AtomicU64::new(0));
    let work = || {
        loop {
            let n = next.fetch_add(1, Relaxed);
            let replay = format!("1 HOLDFAST_CRASHES={n}..{}", n + 1);
            let _replay = Replay::new("HOLDFAST_THOROUGH", &replay, test);
            if !range.contains(&n) || !crash_at(scenario, n, end, thorough) {
                return;
            }
            crashes.fetch_add(1, Relaxed);
        }
    };
    env::scope(|scope| {
        for _ in 0..if thorough { cores } else { 1 } {
            scope.spawn("crashes", work).unwrap();
        }
    });
    crashes.into_inner()
}

/// Plays the scenario with its `n`-th I/O of the kind struck by `fault`; false if it has fewer. What was answered
/// is there when the process is killed after that, and all that is done then is there when the power goes.
fn fault_at(scenario: Scenario, n: u64, fault: Fault) -> bool {
    let mut machine = Machine::new(n, config());
    machine.sim.inject(Injection {
        fault,
        file: String::new(),
        skip: n,
        times: 1,
    });
    let failed = play(&mut machine, scenario);
    let struck = machine.sim.struck() > 0;
    assert!(struck || !failed, "for no reason");
    if struck {
        machine.crash(End::Killed);
        machine.recover(End::Killed, &[]);
        for volume in machine.names() {
            machine.must(&Write(volume, 3, vec![4, 5, 6], true));
        }
        machine.crash(End::PowerCut);
        goes_on(machine, End::PowerCut, &[]);
    }
    struck
}

fn fault_everywhere(scenario: Scenario, fault: Fault, test: &str) {
    let step = if is_thorough() { 1 } else { 3 };
    for n in range_from("HOLDFAST_CRASHES", 0..u64::MAX).step_by(step) {
        let replay = format!("{n}..{}", n + 1);
        let _replay = Replay::new("HOLDFAST_CRASHES", &replay, test);
        if !fault_at(scenario, n, fault) {
            return;
        }
    }
}

/// Linux takes what a failed sync was for as synced: the next process sees it, and the disk has it not.
#[test]
fn every_sync_fails_once() {
    fault_everywhere(scenario, Fault::SyncError, "script::every_sync_fails_once");
}

#[test]
fn every_write_fails_once() {
    fault_everywhere(
        scenario,
        Fault::WriteError,
        "script::every_write_fails_once",
    );
}

#[test]
fn every_read_fails_once() {
    fault_everywhere(scenario, Fault::ReadError, "script::every_read_fails_once");
}

/// Only some with `HOLDFAST_CRASHES=FIRST..LAST`, and a second crash in every I/O of each recovery with
/// `HOLDFAST_THOROUGH=1`.
#[test]
fn the_power_goes_in_every_io() {
    let crashes = crash_everywhere(
        scenario,
        End::PowerCut,
        "script::the_power_goes_in_every_io",
    );
    println!("{crashes} power cuts");
}

/// As [`the_power_goes_in_every_io`].
#[test]
fn the_process_is_killed_in_every_io() {
    let crashes = crash_everywhere(
        scenario,
        End::Killed,
        "script::the_process_is_killed_in_every_io",
    );
    println!("{crashes} kills");
}

/// An import is killed in one I/O, the power goes in the next.
#[test]
fn an_import_dies_in_every_io() {
    const TEST: &str = "script::an_import_dies_in_every_io";
    let crashes =
        crash_everywhere(import, End::PowerCut, TEST) + crash_everywhere(import, End::Killed, TEST);
    println!("{crashes} crashes");
}

#[test]
fn every_write_of_an_import_fails_once() {
    fault_everywhere(
        import,
        Fault::WriteError,
        "script::every_write_of_an_import_fails_once",
    );
}

/// It does what it is meant to cover.
#[test]
fn the_scenario_goes_through_everything() {
    let mut machine = Machine::new(1, config());
    let before = machine.sim.io_count();
    assert!(!play(&mut machine, scenario));
    let ios = machine.sim.io_count() - before;
    assert!(ios > 300, "{ios}");
    let journal = machine.store().stats().journal;
    assert!(journal.capacity <= JOURNAL_BYTES, "{journal:?}");
    machine.close().unwrap();
    machine.recover(End::Closed, &[]);
}
