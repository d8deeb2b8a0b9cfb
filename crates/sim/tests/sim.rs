//! What the simulated machine keeps and what it loses.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use env::{AlignedBuf, Env, File, LockError, OpenOptions};
use sim::{Fault, Injection, SimEnv};
use std::{collections::BTreeSet, path::Path, sync::Arc, time::Duration};

const NEW: OpenOptions = OpenOptions {
    write: true,
    create_new: true,
    direct: false,
};
const EIO: i32 = 5;
const WRITE: OpenOptions = OpenOptions {
    write: true,
    create_new: false,
    direct: false,
};

fn create(env: &Env, path: &str) -> Arc<dyn File> {
    env.files.open(Path::new(path), NEW).unwrap()
}

fn durable_file(env: &Env, path: &str, bytes: &[u8]) -> Arc<dyn File> {
    let file = create(env, path);
    file.write_at(0, bytes).unwrap();
    file.sync_data().unwrap();
    env.files.sync_dir(Path::new("/")).unwrap();
    file
}

#[test]
fn what_was_synced_survives_and_the_rest_is_torn_by_sectors() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..200 {
        let sim = SimEnv::new(seed);
        let file = durable_file(&sim.env(), "/f", &[1; 8192]);
        file.write_at(1024, &[2; 2048]).unwrap();
        sim.power_cut();
        assert!(
            file.read_at(0, &mut [0]).is_err(),
            "a handle of a former life"
        );
        let bytes = sim.env().files.read_all(Path::new("/f")).unwrap();
        assert!(bytes[..1024].iter().chain(&bytes[3072..]).all(|&b| b == 1));
        let sectors: Vec<u8> = bytes[1024..3072].chunks(512).map(|s| s[0]).collect();
        assert!(
            bytes[1024..3072]
                .chunks(512)
                .all(|s| s.iter().all(|b| *b == s[0]))
        );
        outcomes.insert(sectors);
    }
    assert!(outcomes.contains(&vec![1; 4]) && outcomes.contains(&vec![2; 4]));
    assert!(outcomes.len() > 8, "{outcomes:?}");
}

#[test]
fn names_are_durable_after_sync_dir_and_in_order_before() {
    let mut kept = BTreeSet::new();
    for seed in 0..50 {
        let sim = SimEnv::new(seed);
        let env = sim.env();
        env.files.create_dir_all(Path::new("/d/e")).unwrap();
        for dir in ["/", "/d", "/d/e"] {
            env.files.sync_dir(Path::new(dir)).unwrap();
        }
        create(&env, "/d/a");
        create(&env, "/d/b");
        env.files
            .rename(Path::new("/d/a"), Path::new("/d/c"))
            .unwrap();
        sim.power_cut();
        let names: BTreeSet<_> = sim
            .env()
            .files
            .list(Path::new("/d"))
            .unwrap()
            .into_iter()
            .collect();
        let names: Vec<_> = names
            .iter()
            .map(|n| n.to_str().unwrap().to_owned())
            .collect();
        kept.insert(names.join(" "));
    }
    let legal = ["e", "a e", "a b e", "b c e"].map(str::to_owned);
    assert!(kept.is_subset(&BTreeSet::from(legal)), "{kept:?}");
    assert!(kept.len() > 2, "{kept:?}");
}

#[test]
fn a_synced_file_without_a_synced_name_may_be_gone() {
    let there = (0..50).map(|seed| {
        let sim = SimEnv::new(seed);
        let env = sim.env();
        env.files.create_dir_all(Path::new("/d")).unwrap();
        env.files.sync_dir(Path::new("/")).unwrap();
        create(&env, "/d/f").sync_data().unwrap();
        // Of another directory.
        env.files.sync_dir(Path::new("/")).unwrap();
        sim.power_cut();
        sim.env().files.exists(Path::new("/d/f")).unwrap()
    });
    assert_eq!(
        there.collect::<BTreeSet<bool>>(),
        BTreeSet::from([false, true])
    );
}

#[test]
fn a_rename_between_directories_is_never_half_done() {
    for seed in 0..50 {
        let sim = SimEnv::new(seed);
        let env = sim.env();
        env.files.create_dir_all(Path::new("/a")).unwrap();
        env.files.create_dir_all(Path::new("/b")).unwrap();
        durable_file(&env, "/a/f", b"x");
        env.files.sync_dir(Path::new("/a")).unwrap();
        env.files
            .rename(Path::new("/a/f"), Path::new("/b/f"))
            .unwrap();
        if seed % 2 == 0 {
            env.files.sync_dir(Path::new("/b")).unwrap();
        }
        sim.power_cut();
        let env = sim.env();
        let there = ["/a/f", "/b/f"].map(|path| env.files.exists(Path::new(path)).unwrap());
        assert_eq!(there.iter().filter(|there| **there).count(), 1);
        assert!(seed % 2 != 0 || there[1]);
    }
}

#[test]
fn an_atomic_write_is_whole_at_every_crash() {
    let mut n = 0;
    loop {
        n += 1;
        let sim = SimEnv::new(n);
        sim.env()
            .files
            .write_atomic(Path::new("/s"), &[1; 5000])
            .unwrap();
        sim.crash_after(n);
        let done = sim.env().files.write_atomic(Path::new("/s"), &[2; 6000]);
        if done.is_err() {
            assert!(
                sim.env().files.exists(Path::new("/s")).is_err(),
                "dead until the cut"
            );
        }
        sim.power_cut();
        let bytes = sim.env().files.read_all(Path::new("/s")).unwrap();
        assert!(bytes == [1; 5000] && done.is_err() || bytes == [2; 6000]);
        if done.is_ok() {
            break;
        }
    }
    assert_eq!(n, 6, "create, write, sync, rename, sync of the directory");
}

#[test]
fn a_killed_process_loses_nothing_that_it_wrote() {
    let sim = SimEnv::new(1);
    let env = sim.env();
    let _lock = env.files.lock(Path::new("/lock")).unwrap();
    assert!(matches!(
        env.files.lock(Path::new("/lock")),
        Err(LockError::Held(_))
    ));
    create(&env, "/f").write_at(0, b"abc").unwrap();
    sim.kill();
    let env = sim.env();
    assert_eq!(env.files.read_all(Path::new("/f")).unwrap(), b"abc");
    env.files.lock(Path::new("/lock")).unwrap();
}

#[test]
fn after_a_failed_sync_the_next_does_not_help() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..50 {
        let sim = SimEnv::new(seed);
        let file = durable_file(&sim.env(), "/f", &[1; 512]);
        file.write_at(0, &[2; 512]).unwrap();
        sim.fail_next_sync();
        assert!(file.sync_data().is_err());
        let mut seen = [0];
        file.read_at(0, &mut seen).unwrap();
        file.sync_data().unwrap();
        sim.power_cut();
        let kept = sim.env().files.read_all(Path::new("/f")).unwrap()[0];
        outcomes.insert((seen[0], kept));
    }
    let all = [(1, 1), (2, 1), (2, 2)];
    assert_eq!(outcomes, BTreeSet::from(all), "what is seen, what is kept");
}

#[test]
fn of_several_unsynced_writes_any_one_may_be_kept() {
    let mut kept = BTreeSet::new();
    for seed in 0..200 {
        let sim = SimEnv::new(seed);
        let file = durable_file(&sim.env(), "/f", &[1; 512]);
        for n in 2..=3 {
            file.write_at(0, &vec![n; 512 * usize::from(n)]).unwrap();
        }
        sim.power_cut();
        let bytes = sim.env().files.read_all(Path::new("/f")).unwrap();
        kept.insert((bytes[0], bytes.len()));
    }
    let states: BTreeSet<u8> = kept.iter().map(|(first, _)| *first).collect();
    let lens: BTreeSet<usize> = kept.iter().map(|(_, len)| *len).collect();
    assert_eq!(states, BTreeSet::from([1, 2, 3]));
    assert_eq!(lens, BTreeSet::from([512, 1024, 1536]));
}

#[test]
fn a_killed_process_has_done_its_last_io_in_part() {
    let (mut lens, mut names) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..50 {
        let sim = SimEnv::new(seed);
        let env = sim.env();
        let file = create(&env, "/f");
        sim.crash_after(1);
        assert!(file.write_at(0, &[1; 2048]).is_err());
        assert!(file.sync_data().is_err(), "dead");
        sim.kill();
        let env = sim.env();
        lens.insert(env.files.read_all(Path::new("/f")).unwrap().len());
        sim.crash_after(1);
        assert!(env.files.rename(Path::new("/f"), Path::new("/g")).is_err());
        sim.kill();
        names.insert(sim.env().files.exists(Path::new("/g")).unwrap());
    }
    assert_eq!(lens, BTreeSet::from([0, 512, 1024, 1536, 2048]));
    assert_eq!(names, BTreeSet::from([false, true]));
}

fn struck(sim: &SimEnv, fault: Fault, skip: u64) {
    let file = "/f".to_owned();
    sim.inject(Injection {
        fault,
        file,
        skip,
        times: 1,
    });
}

#[test]
fn errors_strike_the_io_that_was_chosen() {
    let sim = SimEnv::new(1);
    let env = sim.env();
    let file = durable_file(&env, "/f", &[1; 4096]);
    let other = create(&env, "/other");
    let mut byte = [0];
    struck(&sim, Fault::ReadError, 1);
    file.read_at(0, &mut byte).unwrap();
    let error = file.read_at(0, &mut byte).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO));
    file.read_at(0, &mut byte).unwrap();
    struck(&sim, Fault::WriteError, 0);
    other.write_at(0, b"x").unwrap();
    assert!(file.write_at(0, &[2; 4096]).is_err());
    struck(&sim, Fault::NoSpace, 0);
    let full = file.write_at(0, b"x").unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    struck(&sim, Fault::WriteError, 0);
    assert!(env.files.remove(Path::new("/f")).is_err());
    assert_eq!(sim.struck(), 4);
    struck(&sim, Fault::WriteError, 0);
    sim.heal();
    file.write_at(0, b"x").unwrap();
    let before = env.clock.now();
    struck(&sim, Fault::Stall(Duration::from_secs(3)), 0);
    file.sync_data().unwrap();
    assert_eq!(env.clock.now() - before, Duration::from_secs(3));
}

/// What is read after a write of twos that a lying disk was given, in the same life and in the next.
fn lied_to(fault: Fault, seed: u64) -> [Vec<u8>; 2] {
    let sim = SimEnv::new(seed);
    let file = durable_file(&sim.env(), "/f", &[1; 3 * 4096]);
    struck(&sim, fault, 0);
    file.write_at(4096, &[2; 4096]).unwrap();
    file.sync_data().unwrap();
    let mut seen = vec![0; 3 * 4096];
    file.read_at(0, &mut seen).unwrap();
    sim.power_cut();
    [seen, sim.env().files.read_all(Path::new("/f")).unwrap()]
}

#[test]
fn a_disk_that_lies_says_that_all_is_well() {
    let pages = |bytes: &[u8]| [bytes[0], bytes[4096], bytes[8192]];
    let (mut lost, mut misdirected) = (BTreeSet::new(), BTreeSet::new());
    for seed in 0..50 {
        lost.insert(lied_to(Fault::Lost, seed).map(|bytes| pages(&bytes)));
        let [_, then] = lied_to(Fault::Misdirected, seed);
        misdirected.insert(pages(&then));
        let [seen, then] = lied_to(Fault::Flipped, seed);
        let wrong = then[4096..8192].iter().map(|b| (b ^ 2).count_ones());
        assert_eq!(wrong.sum::<u32>(), 1);
        assert_eq!(seen, then);
    }
    let all_lost = [[[1; 3]; 2], [[1, 2, 1], [1; 3]]];
    assert_eq!(lost, BTreeSet::from(all_lost));
    let elsewhere = [[2, 1, 1], [1, 1, 2], [1, 2, 1]];
    assert_eq!(misdirected, BTreeSet::from(elsewhere));
}

#[test]
fn space_is_counted_and_given_back() {
    let sim = SimEnv::new(1);
    sim.set_space(4 * 4096);
    let env = sim.env();
    let file = durable_file(&env, "/f", &[1; 3 * 4096]);
    let error = file.write_at(3 * 4096, &[1; 8192]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert_eq!(file.len().unwrap(), 4 * 4096, "what there was space for");
    file.punch_hole(0, 8192).unwrap();
    assert_eq!(file.allocated().unwrap(), 8192);
    file.write_at(3 * 4096, &[1; 8192]).unwrap();
    env.files.remove(Path::new("/f")).unwrap();
    assert_eq!(
        env.files.space(Path::new("/")).unwrap().free,
        4096,
        "open yet"
    );
    drop(file);
    assert_eq!(env.files.space(Path::new("/")).unwrap().free, 4 * 4096);
}

#[test]
fn direct_files_want_alignment() {
    let env = SimEnv::new(1).env();
    let file = env
        .files
        .open(
            Path::new("/f"),
            OpenOptions {
                direct: true,
                ..NEW
            },
        )
        .unwrap();
    let buf = AlignedBuf::zeroed(8192);
    file.write_at(4096, &buf).unwrap();
    for (offset, bytes) in [(512, &buf[..]), (0, &buf[..512]), (0, &buf[512..4608])] {
        assert!(file.write_at(offset, bytes).is_err());
    }
}

#[test]
fn a_flipped_bit_is_seen_before_and_after_a_cut() {
    let sim = SimEnv::new(1);
    let file = durable_file(&sim.env(), "/f", &[0; 100]);
    sim.flip_bit(Path::new("/f"), 7).unwrap();
    let mut byte = [0];
    file.read_at(7, &mut byte).unwrap();
    assert_eq!(byte, [1]);
    sim.power_cut();
    assert_eq!(sim.env().files.read_all(Path::new("/f")).unwrap()[7], 1);
    assert!(sim.flip_bit(Path::new("/f"), 100).is_err());
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let sim = SimEnv::new(seed);
        let file = durable_file(&sim.env(), "/f", &[0; 65536]);
        let mut bytes = vec![0; 65536];
        sim.env().random.fill(&mut bytes);
        file.write_at(0, &bytes).unwrap();
        sim.power_cut();
        (
            sim.env().files.read_all(Path::new("/f")).unwrap(),
            sim.trace(),
        )
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7).0, run(8).0);
    assert_ne!(run(7).1, run(8).1);
}

#[test]
fn time_moves_when_told() {
    let sim = SimEnv::new(1);
    let (clock, before) = (sim.env().clock, sim.env().clock.now());
    sim.advance(Duration::from_secs(5));
    assert_eq!(clock.now() - before, Duration::from_secs(5));
    let file = sim.env().files.open(Path::new("/none"), WRITE);
    assert!(file.is_err());
}
