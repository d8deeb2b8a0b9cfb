//! Fullness, reuse, fences, and what happens when the disk refuses.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{DIR, STORE, batch, config, open};
use journal::{Config, ErrorKind, Journal};
use sim::SimEnv;
use std::path::Path;
use types::{Epoch, Generation, JournalSeq, StoreId, VolumeId};

const ONE: VolumeId = VolumeId(1);
const EPOCH: Epoch = Epoch(5);

fn machine() -> SimEnv {
    let sim = SimEnv::new(1);
    let files = sim.env().files;
    files.create_dir_all(Path::new(DIR)).unwrap();
    for dir in ["/", "/store"] {
        files.sync_dir(Path::new(dir)).unwrap();
    }
    sim
}

fn fresh(sim: &SimEnv, config: Config) -> Journal {
    let (journal, replayed) = open(&sim.env(), config).unwrap();
    assert!(replayed.is_empty());
    journal
}

/// Logs a batch of `blocks` blocks and waits.
fn log(journal: &Journal, generation: u64, blocks: u64) -> Result<(), ErrorKind> {
    let batch = batch(generation, generation * 1000, blocks);
    let ticket = journal
        .submit(ONE, EPOCH, vec![batch])
        .map_err(|e| e.kind())?;
    journal.wait(ticket).map_err(|e| e.kind())
}

fn segments(sim: &SimEnv) -> usize {
    sim.env().files.list(Path::new(DIR)).unwrap().len()
}

#[test]
fn a_full_journal_says_who_must_destage_and_uses_its_files_again() {
    let sim = machine();
    let config = config(64, 4);
    let journal = fresh(&sim, config);
    let mut generation = 0;
    for _ in 0..10 {
        loop {
            generation += 1;
            match log(&journal, generation, 6) {
                Ok(()) => {}
                Err(kind) => break assert_eq!(kind, ErrorKind::Full),
            }
        }
        let stats = journal.stats();
        assert_eq!(stats.used, stats.capacity);
        let (volume, oldest) = journal.oldest().unwrap();
        assert_eq!(volume, ONE);
        journal.destaged(volume, oldest);
        assert!(journal.stats().used < stats.used);
    }
    assert_eq!(segments(&sim), 4);
    journal.destaged(ONE, Generation(generation));
    assert_eq!(journal.oldest(), None);
    assert_eq!(journal.stats().used, 64 << 10, "the one that is written");
}

#[test]
fn what_cannot_fit_changes_nothing() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    assert_eq!(log(&journal, 1, 1000), Err(ErrorKind::Full));
    assert_eq!(journal.stats().used, 0);
    assert_eq!(log(&journal, 1, 1), Ok(()));
    sim.kill();
    let (_, replayed) = open(&sim.env(), config(64, 4)).unwrap();
    assert_eq!(replayed.len(), 1);
}

#[test]
fn prepared_segments_cost_a_commit_no_more_than_its_write_and_sync() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    for generation in 1..40 {
        while journal.prepare().unwrap() {}
        let before = sim.io_count();
        log(&journal, generation, 6).unwrap();
        let ios = sim.io_count() - before;
        // A segment has two of these commits, and its header is written once more with the second.
        let second = u64::from(generation % 2 == 0);
        assert!(ios <= 2 + second, "{ios} for generation {generation}");
        journal.destaged(ONE, Generation(generation));
    }
}

#[test]
fn older_epochs_are_refused_also_after_recovery() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    let submit = |journal: &Journal, volume, epoch| {
        let submitted = journal.submit(volume, Epoch(epoch), vec![batch(1, 1, 1)]);
        submitted.map_err(|e| e.kind())
    };
    let last = submit(&journal, ONE, 3).unwrap();
    assert_eq!(submit(&journal, ONE, 2), Err(ErrorKind::StaleEpoch));
    journal.fence(VolumeId(2), Epoch(9));
    journal.fence(VolumeId(2), Epoch(8));
    assert_eq!(submit(&journal, VolumeId(2), 8), Err(ErrorKind::StaleEpoch));
    let other = submit(&journal, VolumeId(2), 9).unwrap();
    journal.wait(other).unwrap();
    journal.wait(last).unwrap();
    sim.power_cut();
    let (journal, _) = open(&sim.env(), config(64, 4)).unwrap();
    assert_eq!(submit(&journal, ONE, 2), Err(ErrorKind::StaleEpoch));
    assert!(submit(&journal, ONE, 3).is_ok());
}

#[test]
fn a_failed_sync_ends_the_journal_until_it_is_opened_anew() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    log(&journal, 1, 1).unwrap();
    sim.fail_next_sync();
    assert_eq!(log(&journal, 2, 1), Err(ErrorKind::Failed));
    assert_eq!(log(&journal, 3, 1), Err(ErrorKind::Failed));
    let (journal, replayed) = open(&sim.env(), config(64, 4)).unwrap();
    assert!((1..=2).contains(&replayed.len()));
    log(&journal, 3, 1).unwrap();
    sim.power_cut();
    let (_, again) = open(&sim.env(), config(64, 4)).unwrap();
    assert_eq!(again[..again.len() - 1], replayed);
}

/// The queue of a commit that failed is gone: who waits for a submit of it finds nothing left to write, and must not
/// take that for durable.
#[test]
fn all_who_wait_for_a_commit_that_failed_are_told() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    let submit = |generation| journal.submit(ONE, EPOCH, vec![batch(generation, generation, 1)]);
    log(&journal, 1, 1).unwrap();
    let tickets = [2, 3, 4].map(|generation| submit(generation).unwrap());
    sim.fail_next_sync();
    for ticket in tickets.into_iter().chain(tickets) {
        let failed = journal.wait(ticket).map_err(|e| e.kind());
        assert_eq!(failed, Err(ErrorKind::Failed));
        assert!(journal.has_failed());
    }
    assert_eq!(submit(5).unwrap_err().kind(), ErrorKind::Failed);
}

#[test]
fn without_space_a_submit_keeps_its_place() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    sim.set_space(100 << 10);
    let first = journal.submit(ONE, EPOCH, vec![batch(1, 1, 20)]).unwrap();
    assert_eq!(journal.wait(first).unwrap_err().kind(), ErrorKind::NoSpace);
    let second = journal.submit(ONE, EPOCH, vec![batch(2, 100, 1)]).unwrap();
    sim.set_space(1 << 20);
    journal.wait(second).unwrap();
    journal.wait(first).unwrap();
    sim.power_cut();
    let (_, replayed) = open(&sim.env(), config(64, 4)).unwrap();
    assert_eq!(replayed.len(), 2);
}

#[test]
fn segments_may_change_their_size() {
    let sim = machine();
    let mut generation = 0;
    for (kib, count) in [(64, 4), (16, 6), (128, 3), (64, 4)] {
        let config = config(kib, count);
        for _ in 0..2 {
            let (journal, replayed) = open(&sim.env(), config).unwrap();
            let newest = replayed
                .last()
                .map_or(0, |submit| submit.batches[0].generation.0);
            assert_eq!(newest, generation);
            for _ in 0..60 {
                generation += 1;
                log(&journal, generation, 1).unwrap();
                journal.destaged(ONE, Generation(generation - 1));
            }
            sim.power_cut();
        }
    }
}

#[test]
fn the_journal_of_another_store_is_refused() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    log(&journal, 1, 1).unwrap();
    sim.kill();
    let other = Journal::open(
        &sim.env(),
        Path::new(DIR),
        StoreId([1; 16]),
        config(64, 4),
        JournalSeq(0),
        &mut |_| panic!("replayed another store's submits"),
    );
    assert_eq!(other.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_ne!(STORE, StoreId([1; 16]));
}

#[test]
fn what_is_allocated_is_known() {
    let sim = machine();
    let journal = fresh(&sim, config(64, 4));
    assert_eq!(journal.stats().allocated, 0);
    for generation in 1..40 {
        log(&journal, generation, 4).unwrap();
        journal.destaged(ONE, Generation(generation));
    }
    let of_files = |sim: &SimEnv| {
        let files = sim.env().files;
        let names = files.list(Path::new(DIR)).unwrap().into_iter();
        let len = |name| {
            let path = Path::new(DIR).join(name);
            files
                .open(&path, Default::default())
                .unwrap()
                .len()
                .unwrap()
        };
        names.map(len).sum::<u64>()
    };
    assert!((64 << 10..=256 << 10).contains(&journal.stats().allocated));
    assert_eq!(journal.stats().allocated, of_files(&sim));
    sim.kill();
    let (journal, _) = open(&sim.env(), config(128, 4)).unwrap();
    assert_eq!(journal.stats().allocated, of_files(&sim));
    for generation in 40..80 {
        log(&journal, generation, 4).unwrap();
        journal.destaged(ONE, Generation(generation));
    }
    assert_eq!(journal.stats().allocated, of_files(&sim));
}
