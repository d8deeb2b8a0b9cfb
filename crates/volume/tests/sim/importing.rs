//! Histories in which volumes are imported while they are used.

use crate::{Replay, faults, random, range_from, rebuild, verify::Damage};
use std::ops::Range;

fn for_seeds(seeds: Range<u64>, test: &str, history: impl Fn(u64)) {
    for seed in range_from("HOLDFAST_SEEDS", seeds) {
        let seeds = format!("{seed}..{}", seed + 1);
        let _replay = Replay::new("HOLDFAST_SEEDS", &seeds, test);
        history(seed);
    }
}

/// A volume is its image under what was written, whatever of it is in the store, and so are its snapshots and clones. More with
/// `HOLDFAST_SEEDS=FIRST..LAST`, as of the others.
#[test]
fn imports_survive_restarts_kills_and_power_cuts() {
    const TEST: &str = "importing::imports_survive_restarts_kills_and_power_cuts";
    for_seeds(0..60, TEST, |seed| {
        random::history(seed, true);
    });
}

#[test]
fn imports_on_disks_that_fail_lose_nothing() {
    const TEST: &str = "importing::imports_on_disks_that_fail_lose_nothing";
    for_seeds(0..30, TEST, |seed| {
        faults::history(seed, Damage::None, true)
    });
}

#[test]
fn imports_go_on_with_a_catalog_that_was_made_anew() {
    const TEST: &str = "importing::imports_go_on_with_a_catalog_that_was_made_anew";
    for_seeds(0..15, TEST, |seed| rebuild::lost_catalogs(seed, true));
}

/// The power went while the last part of an import was committed: its packs were there, the copy of the catalog torn, and
/// the catalog was lost. The volume has all then, and its snapshots are named.
#[test]
fn seed_60764_an_import_ended_where_the_copy_is_torn() {
    rebuild::lost_catalogs(60764, true);
}

/// Without a copy it is not known what a volume was imported from: that is an error, never zeroes.
#[test]
fn what_an_import_lacks_without_a_copy_is_never_zeroes() {
    const TEST: &str = "importing::what_an_import_lacks_without_a_copy_is_never_zeroes";
    for_seeds(0..40, TEST, |seed| {
        rebuild::lost_copies(seed, true);
    });
}
