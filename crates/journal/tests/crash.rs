//! Crashes: at every I/O of scripts, and at random ones of random runs.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{Driver, Op, config};
use proptest::prelude::*;

fn submit(volume: u64, blocks: u64) -> Op {
    Op::Submit {
        volume,
        blocks,
        zeroes: blocks % 3,
    }
}

/// Goes round the ring with submits of all lengths, several to a commit.
fn round_the_ring() -> Vec<Op> {
    let mut ops = vec![submit(1, 1), Op::Wait];
    for n in 0..9 {
        ops.extend([
            submit(1, 1),
            submit(2, n % 5),
            Op::Wait,
            Op::Freeze(1),
            submit(1, 2),
        ]);
        ops.extend([Op::Freeze(2), Op::Wait, Op::Destage(1 + n % 2)]);
        if n % 3 == 2 {
            ops.extend([
                Op::Prepare,
                Op::Destage(1),
                Op::Destage(2),
                submit(3 + n, 0),
                Op::Wait,
            ]);
        }
        if n == 4 {
            ops.extend([submit(1, 7), Op::Kill, submit(2, 1), Op::Wait]);
        }
    }
    ops
}

/// Submits that span segments, each in a commit with others.
fn long_submits() -> Vec<Op> {
    let mut ops = Vec::new();
    for n in 0..5 {
        ops.extend([
            submit(1, 1),
            submit(2, 9),
            submit(1, 1),
            Op::Wait,
            submit(2, 5),
            Op::Wait,
        ]);
        ops.extend([Op::Freeze(1), Op::Freeze(2), Op::Destage(2), Op::Destage(1)]);
        if n == 2 {
            ops.push(Op::Prepare);
        }
    }
    ops
}

fn crash_everywhere(script: &[Op], segment_kib: u64, segments: u64) {
    for n in 1.. {
        let mut crashes = 0;
        for seed in 0..6 {
            let mut driver = Driver::new(seed * 1000 + n, config(segment_kib, segments));
            let mut ops = vec![Op::CrashAfter(n)];
            ops.extend(script);
            // And again, soon after or in the recovery.
            let again = script.len() / 2;
            ops.insert(again, Op::CrashAfter(1 + seed));
            driver.run(&ops);
            crashes += driver.crashes;
        }
        if crashes == 6 * 2 {
            break;
        }
        assert!(n < 2000, "the script never ends");
    }
}

#[test]
fn a_ring_survives_a_crash_at_every_io() {
    crash_everywhere(&round_the_ring(), 32, 5);
}

#[test]
fn submits_that_span_segments_survive_a_crash_at_every_io() {
    crash_everywhere(&long_submits(), 16, 9);
}

fn op() -> impl Strategy<Value = Op> {
    let volume = || 1u64..4;
    prop_oneof![
        8 => (volume(), 0u64..12, 0u64..3).prop_map(|(volume, blocks, zeroes)| Op::Submit { volume, blocks, zeroes }),
        6 => Just(Op::Wait),
        3 => volume().prop_map(Op::Freeze),
        3 => volume().prop_map(Op::Destage),
        1 => Just(Op::Prepare),
        1 => Just(Op::Kill),
        1 => Just(Op::PowerCut),
        2 => (1u64..20).prop_map(Op::CrashAfter),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn random_runs_agree_with_the_model(
        seed: u64,
        segment_kib in prop_oneof![Just(16u64), Just(32), Just(64)],
        segments in 2u64..7,
        ops in prop::collection::vec(op(), 0..60),
    ) {
        Driver::new(seed, config(segment_kib, segments)).run(&ops);
    }
}
