//! Submits, waits, destages and a crash, in orders that a seed chooses: see `sync::model`.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use common::{batch, config, open};
use journal::{Error, ErrorKind, Journal, Replayed};
use sim::SimEnv;
use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering::SeqCst},
};
use sync::model::{explore, random};
use types::{Epoch, Generation, JournalSeq, VolumeId};

const VOLUMES: u64 = 3;
const GENERATIONS: u64 = 4;

/// What one volume was told, read when the power goes. Its generations have one submit each.
#[derive(Default)]
struct Told {
    durable: AtomicU64,
    /// Set before the journal is told.
    destaged: AtomicU64,
}

struct World {
    sim: SimEnv,
    journal: Journal,
    told: [Told; VOLUMES as usize],
    submitted: Mutex<Vec<(JournalSeq, u64, u64)>>,
}

/// A ring so small that it is full all the time.
fn small() -> journal::Config {
    config(16, 3 + random(3))
}

fn stamp(volume: u64, generation: u64) -> u64 {
    volume << 32 | generation << 8
}

/// Whether the machine is still there.
fn alive<T>(result: Result<T, Error>) -> Option<T> {
    match result {
        Ok(value) => Some(value),
        Err(e) if matches!(e.kind(), ErrorKind::Failed | ErrorKind::Io) => None,
        Err(e) => panic!("{e:?}"),
    }
}

impl World {
    fn new(config: journal::Config) -> Arc<Self> {
        let sim = SimEnv::new(random(u64::MAX));
        let journal = open(&sim.env(), config).unwrap().0;
        for dir in ["/", "/store"] {
            sim.env().files.sync_dir(dir.as_ref()).unwrap();
        }
        Arc::new(World {
            sim,
            journal,
            told: Default::default(),
            submitted: Mutex::default(),
        })
    }

    /// A volume that flushes, and destages what is older, or everything if the journal is full.
    fn live(&self, volume: u64) -> Option<()> {
        let told = &self.told[volume as usize];
        for generation in 1..=GENERATIONS {
            let blocks = 1 + random(4);
            let submit = || {
                let batches = vec![batch(generation, stamp(volume, generation), blocks)];
                let submitted = self.journal.submit(VolumeId(volume), Epoch(1), batches);
                if let Ok(ticket) = submitted {
                    let submit = (ticket.seq(), volume, generation);
                    self.submitted.lock().unwrap().push(submit);
                }
                submitted
            };
            let submitted = match submit() {
                Err(e) if e.kind() == ErrorKind::Full => {
                    self.destage(volume, generation - 1);
                    submit()
                }
                other => other,
            };
            let ticket = match submitted {
                // The others fill it: then this one is destaged, as it would be.
                Err(e) if e.kind() == ErrorKind::Full => {
                    self.destage(volume, generation);
                    continue;
                }
                other => alive(other)?,
            };
            if random(4) > 0 {
                alive(self.journal.wait(ticket))?;
                told.durable.store(generation, SeqCst);
            }
            if random(2) == 0 {
                self.destage(volume, generation - random(2));
            }
        }
        Some(())
    }

    fn destage(&self, volume: u64, generation: u64) {
        self.told[volume as usize]
            .destaged
            .fetch_max(generation, SeqCst);
        self.journal
            .destaged(VolumeId(volume), Generation(generation));
    }

    /// Everything that was durable and not destaged is replayed, in order, and nothing between is missing.
    fn check(&self, durable: &[u64], replayed: &[Replayed]) {
        assert!(replayed.is_sorted_by(|a, b| a.seq < b.seq));
        let last = replayed.last().map_or(JournalSeq(0), |submit| submit.seq);
        for &(seq, volume, generation) in self.submitted.lock().unwrap().iter() {
            let found = replayed.iter().find(|submit| submit.seq == seq);
            let destaged = self.told[volume as usize].destaged.load(SeqCst) >= generation;
            assert!(
                found.is_some() || destaged || seq > last && generation > durable[volume as usize],
                "{seq:?} of volume {volume}, generation {generation}, is lost"
            );
            if let Some(found) = found {
                assert_eq!(found.volume, VolumeId(volume));
                let blocks = found.batches[0].blocks.len() as u64;
                let wanted = batch(generation, stamp(volume, generation), blocks);
                assert_eq!(found.batches, [wanted], "{seq:?} is a mixture");
            }
        }
    }
}

#[test]
fn what_was_waited_for_is_replayed_whatever_the_order() {
    explore(2000, || {
        let world = World::new(small());
        if random(3) == 0 {
            world.sim.crash_after(random(30));
        }
        let volumes = [0, 1, 2].map(|volume| {
            let world = Arc::clone(&world);
            env::spawn("volume", move || world.live(volume)).unwrap()
        });
        let keeper = env::spawn("keeper", {
            let world = Arc::clone(&world);
            move || {
                for _ in 0..3 {
                    // The volumes find out if it fails.
                    drop(world.journal.prepare());
                    if random(8) == 0 {
                        world.sim.fail_next_sync();
                    }
                }
            }
        });
        keeper.unwrap().join().unwrap();
        let durable: Vec<u64> = world
            .told
            .iter()
            .map(|told| told.durable.load(SeqCst))
            .collect();
        world.sim.power_cut();
        for volume in volumes {
            volume.join().unwrap();
        }
        let (journal, replayed) = open(&world.sim.env(), small()).unwrap();
        world.check(&durable, &replayed);
        for volume in 0..VOLUMES {
            journal.destaged(VolumeId(volume), Generation(GENERATIONS));
        }
        let batches = vec![batch(GENERATIONS + 1, 1, 1)];
        let ticket = journal.submit(VolumeId(0), Epoch(1), batches).unwrap();
        journal.wait(ticket).unwrap();
    });
}

/// Once a fence stands, nothing below it is taken.
#[test]
fn nothing_below_a_fence_is_taken_once_it_stands() {
    explore(500, || {
        let world = World::new(config(64, 4));
        let raised = Arc::new(AtomicU64::new(0));
        let fence = env::spawn("fence", {
            let (world, raised) = (Arc::clone(&world), Arc::clone(&raised));
            move || {
                world.journal.fence(VolumeId(0), Epoch(2));
                raised.store(1, SeqCst);
                let newer = vec![batch(2, 2, 1)];
                let ticket = world.journal.submit(VolumeId(0), Epoch(2), newer).unwrap();
                world.journal.wait(ticket).unwrap();
            }
        });
        for _ in 0..3 {
            let before = raised.load(SeqCst) == 0;
            let older = vec![batch(1, 1, 1)];
            match world.journal.submit(VolumeId(0), Epoch(1), older) {
                Ok(ticket) => {
                    assert!(before, "an older epoch was taken");
                    world.journal.wait(ticket).unwrap();
                }
                Err(e) => assert_eq!(e.kind(), ErrorKind::StaleEpoch),
            }
        }
        fence.unwrap().join().unwrap();
    });
}
