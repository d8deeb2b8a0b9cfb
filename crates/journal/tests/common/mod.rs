//! A journal on a simulated machine, beside a model that says what it must give back.

#![allow(dead_code, reason = "each test uses a part")]

use journal::{After, Batch, Config, Error, ErrorKind, Journal, Replayed, Ticket};
use sim::SimEnv;
use std::{collections::BTreeMap, path::Path, sync::Arc};
use types::{BlockIndex, Epoch, Generation, JournalSeq, SharedBlock, StoreId, VolumeId};

pub(crate) const DIR: &str = "/store/journal";
pub(crate) const STORE: StoreId = StoreId([9; 16]);

pub(crate) fn config(segment_kib: u64, segments: u64) -> Config {
    Config {
        segment_bytes: segment_kib << 10,
        capacity_bytes: segments * (segment_kib << 10),
    }
}

pub(crate) fn block(stamp: u64) -> SharedBlock {
    let mut block = [0; 4096];
    for (n, word) in block.chunks_mut(8).enumerate() {
        word.copy_from_slice(&(stamp << 16 | n as u64).to_le_bytes());
    }
    Arc::new(block)
}

/// One batch with `blocks` blocks.
pub(crate) fn batch(generation: u64, stamp: u64, blocks: u64) -> Batch {
    Batch {
        generation: Generation(generation),
        after: [After::Same, After::Packs, After::Journal][stamp as usize % 3],
        zeroes: Vec::new(),
        blocks: (0..blocks)
            .map(|n| (BlockIndex(n * 3 / 2), block(stamp + n)))
            .collect(),
    }
}

/// What replay gives.
pub(crate) fn open(env: &env::Env, config: Config) -> Result<(Journal, Vec<Replayed>), Error> {
    open_reached(env, config, JournalSeq(0))
}

/// As [`open`], of a journal that is known to have had this end.
pub(crate) fn open_reached(
    env: &env::Env,
    config: Config,
    reached: JournalSeq,
) -> Result<(Journal, Vec<Replayed>), Error> {
    let mut replayed = Vec::new();
    let journal = Journal::open(env, Path::new(DIR), STORE, config, reached, &mut |submit| {
        replayed.push(submit);
        Ok(())
    })?;
    Ok((journal, replayed))
}

/// What can happen to a journal.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// A volume logs: blocks of each generation not yet destaged.
    Submit {
        volume: u64,
        blocks: u64,
        zeroes: u64,
    },
    Wait,
    Freeze(u64),
    /// All frozen generations.
    Destage(u64),
    Prepare,
    /// The process dies and starts again.
    Kill,
    PowerCut,
    /// The power goes at the n-th I/O from now.
    CrashAfter(u64),
}

struct Submitted {
    seq: JournalSeq,
    volume: VolumeId,
    batches: Vec<Batch>,
}

/// The journal, and what was done to it.
pub(crate) struct Driver {
    seed: u64,
    pub(crate) sim: SimEnv,
    config: Config,
    journal: Option<Journal>,
    log: Vec<Submitted>,
    /// So many of the log must be there.
    durable: usize,
    /// Its end, when that was last looked at.
    reached: JournalSeq,
    ticket: Option<Ticket>,
    generations: BTreeMap<u64, u64>,
    destaged: BTreeMap<u64, u64>,
    stamp: u64,
    pub(crate) crashes: u64,
    pub(crate) full: u64,
}

impl Driver {
    pub(crate) fn new(seed: u64, config: Config) -> Self {
        let sim = SimEnv::new(seed);
        let files = sim.env().files;
        files.create_dir_all(Path::new(DIR)).unwrap();
        for dir in ["/", "/store"] {
            files.sync_dir(Path::new(dir)).unwrap();
        }
        Driver {
            seed,
            sim,
            config,
            journal: None,
            log: Vec::new(),
            durable: 0,
            reached: JournalSeq(0),
            ticket: None,
            generations: BTreeMap::new(),
            destaged: BTreeMap::new(),
            stamp: 0,
            crashes: 0,
            full: 0,
        }
    }

    pub(crate) fn run(&mut self, ops: &[Op]) {
        for &op in ops {
            self.step(op);
        }
        self.step(Op::Kill);
        self.reopen();
        // All that was ever dropped or freed stays so, and the journal is as good as new.
        self.destage_all();
        for _ in 0..3 {
            self.step(Op::Submit {
                volume: 1,
                blocks: 2,
                zeroes: 1,
            });
            self.step(Op::Wait);
        }
        self.step(Op::PowerCut);
        self.reopen();
    }

    fn step(&mut self, op: Op) {
        match op {
            Op::CrashAfter(n) => self.sim.crash_after(n),
            Op::Freeze(volume) => *self.generations.entry(volume).or_insert(1) += 1,
            Op::Kill => {
                self.sim.kill();
                self.journal = None;
            }
            Op::PowerCut => self.power_cut(),
            Op::Destage(volume) => {
                let frozen = self.generation(volume) - 1;
                self.destage(volume, frozen);
            }
            Op::Submit {
                volume,
                blocks,
                zeroes,
            } => self.submit(volume, blocks, zeroes),
            Op::Wait => {
                self.reopen();
                let Some(ticket) = self.ticket else { return };
                let submitted = self.log.len();
                let journal = self.journal.as_ref().unwrap();
                match journal.wait(ticket) {
                    Ok(()) => (self.durable, self.reached) = (submitted, journal.end()),
                    Err(e) => self.crashed(&e),
                }
            }
            Op::Prepare => {
                self.reopen();
                if let Err(e) = self.journal.as_ref().unwrap().prepare() {
                    self.crashed(&e);
                }
            }
        }
    }

    fn generation(&self, volume: u64) -> u64 {
        self.generations.get(&volume).copied().unwrap_or(1)
    }

    fn destage(&mut self, volume: u64, generation: u64) {
        let known = self.destaged.entry(volume).or_default();
        *known = generation.max(*known);
        if let Some(journal) = &self.journal {
            journal.destaged(VolumeId(volume), Generation(generation));
        }
    }

    fn destage_all(&mut self) {
        let volumes: Vec<u64> = self.log.iter().map(|s| s.volume.0).collect();
        for volume in volumes {
            let generation = self.generation(volume);
            self.generations.insert(volume, generation + 1);
            self.destage(volume, generation);
        }
    }

    fn submit(&mut self, volume: u64, blocks: u64, zeroes: u64) {
        self.reopen();
        let first = self.destaged.get(&volume).copied().unwrap_or(0) + 1;
        let mut batches = Vec::new();
        for generation in first..=self.generation(volume) {
            self.stamp += 1000;
            batches.push(Batch {
                zeroes: (0..zeroes).map(|n| (BlockIndex(n << 40), n + 1)).collect(),
                ..batch(generation, self.stamp, blocks)
            });
        }
        let journal = self.journal.as_ref().unwrap();
        match journal.submit(VolumeId(volume), Epoch(1), batches.clone()) {
            Ok(ticket) => {
                self.ticket = Some(ticket);
                self.log.push(Submitted {
                    seq: ticket.seq(),
                    volume: VolumeId(volume),
                    batches,
                });
                let stats = journal.stats();
                assert!(stats.used <= stats.capacity);
            }
            Err(e) if e.kind() == ErrorKind::Full => self.make_room(),
            Err(e) => self.crashed(&e),
        }
    }

    /// Once everything is destaged and written, a small submit fits.
    fn make_room(&mut self) {
        self.full += 1;
        self.destage_all();
        self.step(Op::Wait);
        self.reopen();
        let small = vec![batch(self.generation(1), 1, 1)];
        let journal = self.journal.as_ref().unwrap();
        let ticket = journal
            .submit(VolumeId(1), Epoch(1), small.clone())
            .expect("there is room");
        self.ticket = Some(ticket);
        self.log.push(Submitted {
            seq: ticket.seq(),
            volume: VolumeId(1),
            batches: small,
        });
    }

    fn crashed(&mut self, e: &Error) {
        assert!(
            matches!(e.kind(), ErrorKind::Failed | ErrorKind::Io),
            "{e:?}"
        );
        let dead = self.sim.env().files.exists(Path::new("/")).is_err();
        assert!(dead, "no crash, but {e:?}");
        // A process may die where a machine may: what it wrote is there, and not durable yet.
        if self.crashes % 2 == self.seed % 2 {
            self.power_cut();
        } else {
            self.crashes += 1;
            self.step(Op::Kill);
        }
    }

    fn power_cut(&mut self) {
        self.crashes += 1;
        self.sim.power_cut();
        self.journal = None;
    }

    /// Opens the journal if it is not open, and holds what it replays against the model.
    fn reopen(&mut self) {
        while self.journal.is_none() {
            // It never ends before a place that it had reached.
            match open_reached(&self.sim.env(), self.config, self.reached) {
                Ok((journal, replayed)) => {
                    self.check(&replayed);
                    self.reached = journal.end();
                    self.journal = Some(journal);
                    for (&volume, &generation) in &self.destaged {
                        self.journal
                            .as_ref()
                            .unwrap()
                            .destaged(VolumeId(volume), Generation(generation));
                    }
                    self.ticket = None;
                }
                Err(e) => self.crashed(&e),
            }
        }
    }

    fn check(&mut self, replayed: &[Replayed]) {
        assert!(replayed.is_sorted_by(|a, b| a.seq < b.seq));
        let destaged = |s: &Submitted| {
            let newest = s.batches.iter().map(|b| b.generation.0).max().unwrap_or(0);
            newest <= self.destaged.get(&s.volume.0).copied().unwrap_or(0)
        };
        let same = |s: &Submitted, r: &Replayed| {
            s.seq == r.seq && s.volume == r.volume && s.batches == r.batches
        };
        let lost_none = |log: &[Submitted]| assert!(log.iter().all(destaged), "something is lost");
        let Some(first) = replayed.first() else {
            lost_none(&self.log[..self.durable]);
            self.log.clear();
            self.durable = 0;
            return;
        };
        let begin = self
            .log
            .iter()
            .position(|s| s.seq == first.seq)
            .expect("never submitted");
        let end = begin + replayed.len();
        assert!(
            end >= self.durable && end <= self.log.len(),
            "{end}: {}",
            self.durable
        );
        lost_none(&self.log[..begin]);
        for (submitted, replayed) in self.log[begin..].iter().zip(replayed) {
            assert!(same(submitted, replayed), "{:?}", replayed.seq);
        }
        self.log.truncate(end);
        self.log.drain(..begin);
        self.durable = self.log.len();
    }
}
