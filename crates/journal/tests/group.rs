//! Group commit with real files and threads.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{STORE, batch, config};
use journal::{Journal, Replayed};
use std::{collections::BTreeMap, path::Path, sync::Arc};
use types::{Epoch, Generation, JournalSeq, VolumeId};

const THREADS: u64 = 6;
const FLUSHES: u64 = 60;

fn open(dir: &Path) -> (Journal, Vec<Replayed>) {
    let mut replayed = Vec::new();
    let opened = Journal::open(
        &env::Env::real(),
        dir,
        STORE,
        config(256, 64),
        JournalSeq(0),
        &mut |submit| {
            replayed.push(submit);
            Ok(())
        },
    );
    (opened.unwrap(), replayed)
}

/// Flushes of one volume; half of it is destaged on the way.
fn flushes(journal: &Journal, volume: u64) {
    for n in 1..=FLUSHES {
        let generation = n.div_ceil(2);
        let submit = vec![batch(generation, volume << 32 | n << 8, n % 7)];
        let ticket = journal.submit(VolumeId(volume), Epoch(1), submit).unwrap();
        journal.wait(ticket).unwrap();
        journal.wait(ticket).unwrap();
        if n % 10 == 0 {
            journal.prepare().unwrap();
        }
        if generation > FLUSHES / 4 {
            journal.destaged(VolumeId(volume), Generation(generation - FLUSHES / 4));
        }
    }
}

#[test]
fn many_writers_share_syncs_and_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let journal_dir = dir.path().join("journal");
    let journal = Arc::new(open(&journal_dir).0);
    let threads: Vec<_> = (0..THREADS)
        .map(|volume| {
            let journal = journal.clone();
            env::spawn("flusher", move || flushes(&journal, volume)).unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let stats = journal.stats();
    assert_eq!(stats.submits, THREADS * FLUSHES);
    assert!(stats.syncs <= stats.submits + stats.appended / (256 << 10) + 1);
    drop(journal);

    let (_, replayed) = open(&journal_dir);
    let mut by_volume: BTreeMap<VolumeId, Vec<Replayed>> = BTreeMap::new();
    for submit in replayed {
        by_volume.entry(submit.volume).or_default().push(submit);
    }
    assert_eq!(by_volume.len() as u64, THREADS);
    for (volume, submits) in by_volume {
        let kept = submits.len() as u64;
        assert!(kept >= FLUSHES / 2, "{kept} of volume {volume}");
        for (n, submit) in (FLUSHES - kept + 1..).zip(&submits) {
            let expected = batch(n.div_ceil(2), volume.0 << 32 | n << 8, n % 7);
            assert_eq!(submit.batches, [expected]);
        }
    }
}

/// A large submit goes through buffers that are much smaller than it.
#[test]
fn a_large_submit_streams() {
    let dir = tempfile::tempdir().unwrap();
    let journal_dir = dir.path().join("journal");
    let (journal, _) = open(&journal_dir);
    let large = batch(1, 7, 2000);
    let ticket = journal
        .submit(VolumeId(1), Epoch(1), vec![large.clone()])
        .unwrap();
    journal.wait(ticket).unwrap();
    drop(journal);
    let (_, replayed) = open(&journal_dir);
    assert_eq!(replayed.len(), 1);
    assert_eq!(replayed[0].batches, [large]);
}
