//! Segments that are damaged, cut, replaced by garbage, or written by a newer version.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{DIR, batch, config, open};
use env::OpenOptions;
use format::journal::{After, Before, Extent, PAGE, RecordHeader, SegmentHeader, seal};
use journal::{Error, ErrorKind, Replayed};
use proptest::prelude::*;
use sim::SimEnv;
use std::path::{Path, PathBuf};
use types::{BlockIndex, Epoch, Generation, JournalSeq, VolumeId};

const SUBMITS: u64 = 12;

fn segment(n: u64) -> PathBuf {
    Path::new(DIR).join(format!("{n:08}.seg"))
}

/// A journal of several segments, each submit in a commit of its own but the last two.
fn written() -> (SimEnv, Vec<Replayed>) {
    let sim = SimEnv::new(3);
    let env = sim.env();
    env.files.create_dir_all(Path::new(DIR)).unwrap();
    for dir in ["/", "/store"] {
        env.files.sync_dir(Path::new(dir)).unwrap();
    }
    let (journal, _) = open(&env, config(64, 8)).unwrap();
    for n in 1..=SUBMITS {
        let batches = vec![batch(n, n * 100, n)];
        let ticket = journal.submit(VolumeId(n % 2), Epoch(1), batches).unwrap();
        if n != SUBMITS - 1 {
            journal.wait(ticket).unwrap();
        }
    }
    sim.power_cut();
    let (_, replayed) = open(&sim.env(), config(64, 8)).unwrap();
    assert_eq!(replayed.len() as u64, SUBMITS);
    (sim, replayed)
}

fn reopen(sim: &SimEnv) -> Result<Vec<Replayed>, Error> {
    open(&sim.env(), config(64, 8)).map(|(_, replayed)| replayed)
}

#[test]
fn damage_to_what_was_durable_is_told_from_a_torn_end() {
    let (sim, whole) = written();
    let files = sim.env().files.list(Path::new(DIR)).unwrap().len() as u64;
    assert!(files >= 4);
    let (mut refused, mut shortened) = (0, 0);
    for n in 1..=files {
        for page in 0..16 {
            let at = page * PAGE as u64 + 9;
            sim.flip_bit(&segment(n), at).unwrap();
            match reopen(&sim) {
                Ok(replayed) => {
                    assert_eq!(whole[..replayed.len()], replayed[..]);
                    // Only the last commit may be damaged unseen; and pages with nothing in them.
                    let lost = SUBMITS - replayed.len() as u64;
                    assert!(
                        lost == 0 || (n == files && lost <= 2),
                        "segment {n}, page {page}"
                    );
                    shortened += u64::from(replayed.len() < whole.len());
                }
                Err(e) => {
                    assert_eq!(e.kind(), ErrorKind::Corrupt, "{e:?}");
                    let text = e.to_string();
                    assert!(text.contains(".seg at byte "), "{text}");
                    refused += 1;
                }
            }
            sim.flip_bit(&segment(n), at).unwrap();
        }
    }
    assert!(refused > 20 && shortened > 0, "{refused} {shortened}");
    assert_eq!(reopen(&sim).unwrap(), whole);
}

/// Commits in one segment, each of one submit of one block: two pages.
fn written_in_one_segment(commits: u64) -> SimEnv {
    let sim = SimEnv::new(4);
    let (journal, _) = open(&sim.env(), config(64, 8)).unwrap();
    for n in 1..=commits {
        let batches = vec![batch(n, n * 100, 1)];
        let ticket = journal.submit(VolumeId(1), Epoch(1), batches).unwrap();
        journal.wait(ticket).unwrap();
    }
    sim.kill();
    sim
}

#[test]
fn a_record_that_a_later_one_calls_durable_is_missed() {
    let commits = 5;
    let sim = written_in_one_segment(commits);
    for n in 0..commits {
        let page = 1 + 2 * n;
        let at = page * PAGE as u64 + PAGE as u64 + 5;
        sim.flip_bit(&segment(1), at).unwrap();
        let found = reopen(&sim);
        if n + 1 < commits {
            let text = found.unwrap_err().to_string();
            let place = format!("00000001.seg at byte {}", page * PAGE as u64);
            assert!(text.contains(&place), "{text}");
        } else {
            assert_eq!(found.unwrap().len() as u64, commits - 1);
        }
        sim.flip_bit(&segment(1), at).unwrap();
    }
}

/// A file is used again, and what it held before may have the very seq that comes next, if
/// a recovery had dropped it: only the salt says that it is old.
#[test]
fn records_of_another_use_of_a_segment_are_not_taken() {
    let sim = written_in_one_segment(2);
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    let file = sim.env().files.open(&segment(1), options).unwrap();
    let mut page = vec![0; PAGE];
    file.read_at(0, &mut page).unwrap();
    let header = SegmentHeader::decode(&page).unwrap();
    let cases = [(1, 0, 2), (0, 1, 2), (0, 0, 3)];
    for (other_salt, other_number, expected) in cases {
        let stale = RecordHeader {
            salt: header.salt ^ other_salt,
            number: header.number + other_number,
            seq: JournalSeq(3),
            durable: JournalSeq(0),
            volume: VolumeId(1),
            epoch: Epoch(1),
            before: Before::Unknown,
            first: true,
            last: true,
        };
        stale.encode(&[], &mut page);
        seal(&mut page);
        file.write_at(5 * PAGE as u64, &page).unwrap();
        assert_eq!(reopen(&sim).unwrap().len(), expected);
    }
}

/// Found by fuzzing: under a right checksum a submit could go back to an older generation, or to one and an epoch
/// after which no other can come.
#[test]
fn generations_that_make_no_sense_are_refused() {
    let cases = [
        (&[7, 8][..], 1, None),
        (&[8, 8][..], 1, None),
        (&[8, 7][..], 1, Some(ErrorKind::Corrupt)),
        (&[u64::MAX][..], 1, Some(ErrorKind::Corrupt)),
        (&[7][..], u64::MAX, Some(ErrorKind::Corrupt)),
    ];
    for (generations, epoch, expected) in cases {
        let sim = written_in_one_segment(2);
        let options = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let file = sim.env().files.open(&segment(1), options).unwrap();
        let mut page = vec![0; PAGE];
        file.read_at(0, &mut page).unwrap();
        let header = SegmentHeader::decode(&page).unwrap();
        let extent = |generation: &u64| Extent {
            generation: Generation(*generation),
            first: BlockIndex(0),
            blocks: 0,
            zeroed: true,
            after: After::Same,
        };
        let extents: Vec<_> = generations.iter().map(extent).collect();
        let record = RecordHeader {
            salt: header.salt,
            number: header.number,
            seq: JournalSeq(3),
            durable: JournalSeq(0),
            volume: VolumeId(1),
            epoch: Epoch(epoch),
            before: Before::Unknown,
            first: true,
            last: true,
        };
        record.encode(&extents, &mut page);
        seal(&mut page);
        file.write_at(5 * PAGE as u64, &page).unwrap();
        assert_eq!(
            reopen(&sim).err().map(|e| e.kind()),
            expected,
            "{generations:?}"
        );
    }
}

#[test]
fn segments_that_are_missing_or_cut_are_noticed() {
    for n in 1..=3 {
        let (sim, _) = written();
        let env = sim.env();
        env.files
            .rename(&segment(n), &Path::new(DIR).join("away"))
            .unwrap();
        assert_eq!(
            reopen(&sim).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "missing {n}"
        );

        let (sim, _) = written();
        let options = OpenOptions {
            write: true,
            ..OpenOptions::default()
        };
        let file = sim.env().files.open(&segment(n), options).unwrap();
        file.set_len(5 * PAGE as u64).unwrap();
        assert_eq!(
            reopen(&sim).unwrap_err().kind(),
            ErrorKind::Corrupt,
            "cut {n}"
        );
    }
}

#[test]
fn a_newer_version_is_refused_and_left_alone() {
    let (sim, _) = written();
    let env = sim.env();
    let options = OpenOptions {
        write: true,
        ..OpenOptions::default()
    };
    let file = env.files.open(&segment(2), options).unwrap();
    let mut page = vec![0; PAGE];
    file.read_at(0, &mut page).unwrap();
    let before = SegmentHeader::decode(&page).unwrap();
    page[12] = 9;
    reseal(&mut page);
    file.write_at(0, &page).unwrap();
    assert_eq!(reopen(&sim).unwrap_err().kind(), ErrorKind::NewerFormat);
    let mut after = vec![0; PAGE];
    file.read_at(0, &mut after).unwrap();
    assert_eq!(page, after);
    page[12] = 1;
    reseal(&mut page);
    assert_eq!(SegmentHeader::decode(&page), Ok(before));
}

/// Puts the right checksum into a segment header.
fn reseal(page: &mut [u8]) {
    page[8..12].fill(0);
    let crc = crc32c::crc32c(&page[..512]);
    page[8..12].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn an_error_of_the_replay_is_passed_on() {
    let (sim, _) = written();
    let mut calls = 0;
    let opened = journal::Journal::open(
        &sim.env(),
        Path::new(DIR),
        common::STORE,
        config(64, 8),
        JournalSeq(0),
        &mut |_| {
            calls += 1;
            Err(Error::new(ErrorKind::StaleEpoch, "replay"))
        },
    );
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::StaleEpoch);
    assert_eq!(calls, 1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn garbage_is_an_error_or_a_prefix(
        writes in prop::collection::vec((1u64..7, 0usize..65536, prop::collection::vec(any::<u8>(), 1..64)), 1..4),
        fields in prop::collection::vec((1u64..7, 0u64..16, 12usize..120, any::<u8>()), 0..4),
    ) {
        let (sim, whole) = written();
        let options = OpenOptions { write: true, ..OpenOptions::default() };
        let open = |n| sim.env().files.open(&segment(n), options);
        for (n, at, bytes) in writes {
            if let Ok(file) = open(n) {
                file.write_at(at as u64, &bytes).unwrap();
            }
        }
        // Fields that lie under a right checksum.
        for (n, page_number, at, byte) in fields {
            let Ok(file) = open(n) else { continue };
            let mut page = vec![0; PAGE];
            file.read_at(page_number * PAGE as u64, &mut page).unwrap();
            page[at] ^= byte;
            if page_number == 0 {
                reseal(&mut page);
            }
            file.write_at(page_number * PAGE as u64, &page).unwrap();
        }
        if let Ok(replayed) = reopen(&sim) {
            prop_assert!(replayed.len() <= whole.len());
            for submit in &replayed {
                prop_assert!(whole.contains(submit));
            }
        }
    }
}
