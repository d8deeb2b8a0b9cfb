use crate::support::{World, noise};
use proptest::{prelude::*, test_runner::TestRunner};
use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};
use types::{BLOCK_SIZE, NoProgress, VOLUME_SIZE_MIN, is_zero};

/// A run of an image: bytes, and what they are.
#[derive(Clone, Debug)]
enum Run {
    Hole(usize),
    Zeroes(usize),
    Noise(usize, u64),
    /// The same block again and again: deduplicated.
    Same(usize),
}

fn runs() -> impl Strategy<Value = Vec<Run>> {
    let len = || prop_oneof![1..9000usize, (1..300usize).prop_map(|n| n * BLOCK_SIZE)];
    let run = prop_oneof![
        len().prop_map(Run::Hole),
        len().prop_map(Run::Zeroes),
        (len(), any::<u64>()).prop_map(|(len, seed)| Run::Noise(len, seed)),
        len().prop_map(Run::Same),
    ];
    proptest::collection::vec(run, 1..12)
}

/// What the file holds; holes are not written.
fn write(path: &std::path::Path, runs: &[Run]) -> Vec<u8> {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).unwrap();
    let mut all = Vec::new();
    for run in runs {
        let (bytes, hole) = match *run {
            Run::Hole(len) => (vec![0; len], true),
            Run::Zeroes(len) => (vec![0; len], false),
            Run::Noise(len, seed) => (noise(seed, len), false),
            Run::Same(len) => (
                noise(1, 4096).into_iter().cycle().take(len).collect(),
                false,
            ),
        };
        if !hole {
            file.write_all_at(&bytes, all.len() as u64).unwrap();
        }
        all.extend(bytes);
    }
    file.set_len(all.len() as u64).unwrap();
    all
}

/// In one store, one after the other: so later images share blocks with earlier ones.
#[test]
fn what_comes_out_is_what_went_in() {
    let world = World::new();
    let count = AtomicU64::new(0);
    let mut runner = TestRunner::new(ProptestConfig::with_cases(24));
    runner
        .run(&runs(), |runs| {
            check(&world, count.fetch_add(1, Relaxed), &runs)
        })
        .unwrap();
}

fn check(world: &World, case: u64, runs: &[Run]) -> Result<(), TestCaseError> {
    let (path, out) = (world.path("x.raw"), world.path("out.raw"));
    let (first, second) = (format!("v{case}"), format!("w{case}"));
    let mut bytes = write(&path, runs);
    let record = world.import(&first, &path).unwrap();
    let size = bytes.len().next_multiple_of(512);
    bytes.resize(size.max(VOLUME_SIZE_MIN as usize), 0);
    let mapped = bytes.chunks(BLOCK_SIZE).filter(|block| !is_zero(block));
    prop_assert_eq!(record.mapped_blocks, mapped.count() as u64);
    world.export_with(&first, &out, true, &NoProgress).unwrap();
    prop_assert!(fs::read(&out).unwrap() == bytes);
    let again = world.import(&second, &out).unwrap();
    prop_assert_eq!(again.mapped_blocks, record.mapped_blocks);
    prop_assert!(world.contents(&second) == bytes);
    Ok(())
}
