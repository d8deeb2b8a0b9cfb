//! The catalog and its naive model in memory do the same, whatever is asked of them, and whenever the
//! machine dies: on simulated files.

#![expect(clippy::unwrap_used, reason = "tests: the helpers too")]

mod support;

use catalog::{Catalog, Change, IdKind, MemoryCatalog, Settings, Trashed};
use catalog_redb::RedbCatalog;
use proptest::prelude::*;
use sim::SimEnv;
use std::path::{Path, PathBuf};
use support::{contents, snapshot, volume};
use types::{Epoch, SnapshotId, VolumeId};

#[derive(Clone, Debug)]
enum Op {
    Commit(Vec<Draft>),
    /// The machine dies in one of the commit's writes, if it makes so many.
    DieInCommit(u64, Vec<Draft>),
    Reserve(IdKind, u64),
    NextEpoch,
    CloseAndOpen,
    Kill,
    PowerCut,
}

/// A change before it is known which version is there.
#[derive(Clone, Debug)]
struct Draft {
    what: u8,
    volume: u64,
    snapshot: u64,
    name: u8,
    epoch: u64,
    trashed: bool,
    /// What to add to the version that is there.
    off: u64,
}

fn draft() -> impl Strategy<Value = Draft> {
    let off = prop_oneof![12 => Just(0), 1 => Just(1u64)];
    let trashed = proptest::bool::weighted(0.2);
    (0..10u8, 1..4u64, 1..4u64, 0..3u8, 1..3u64, trashed, off).prop_map(
        |(what, volume, snapshot, name, epoch, trashed, off)| Draft {
            what,
            volume,
            snapshot,
            name,
            epoch,
            trashed,
            off,
        },
    )
}

fn op() -> impl Strategy<Value = Op> {
    let drafts = || proptest::collection::vec(draft(), 1..4);
    let kind = prop_oneof![
        Just(IdKind::Pack),
        Just(IdKind::Volume),
        Just(IdKind::Snapshot)
    ];
    prop_oneof![
        12 => drafts().prop_map(Op::Commit),
        3 => (1..20u64, drafts()).prop_map(|(n, drafts)| Op::DieInCommit(n, drafts)),
        2 => (kind, 0..5u64).prop_map(|(kind, count)| Op::Reserve(kind, count)),
        1 => Just(Op::NextEpoch),
        1 => Just(Op::CloseAndOpen),
        1 => Just(Op::Kill),
        1 => Just(Op::PowerCut),
    ]
}

impl Draft {
    fn change(&self, model: &MemoryCatalog) -> Change {
        let id = VolumeId(self.volume);
        let text = ["a", "b", "c"][usize::from(self.name)];
        let there = model.volume(id).unwrap().map_or(0, |v| v.version);
        let snapshots = model.snapshots(id).unwrap();
        let mut same = snapshots.iter().filter(|s| s.id.0 == self.snapshot);
        let snapshot_there = same.next().map_or(0, |s| s.version);
        match self.what {
            0 => Change::PutSettings(Settings {
                version: model.settings().unwrap().version + self.off,
                trash_keep_s: self.volume,
                ..Settings::default()
            }),
            1..=4 => {
                let mut record = volume(self.volume, text);
                record.version = there + self.off;
                record.epoch = Epoch(self.epoch);
                record.trashed = self.trashed.then_some(Trashed {
                    at_ms: 1,
                    until_ms: 2,
                });
                Change::PutVolume(record)
            }
            5 => Change::RemoveVolume {
                id,
                version: there + self.off,
            },
            6..=8 => {
                let mut record = snapshot(self.volume, self.snapshot, text);
                record.version = snapshot_there + self.off;
                Change::PutSnapshot(record)
            }
            _ => Change::RemoveSnapshot {
                volume: id,
                id: SnapshotId(self.snapshot),
                version: snapshot_there + self.off,
            },
        }
    }
}

struct Run {
    sim: SimEnv,
    path: PathBuf,
    real: Option<RedbCatalog>,
    model: MemoryCatalog,
}

impl Run {
    fn new(seed: u64) -> Self {
        let sim = SimEnv::new(seed);
        sim.env().files.create_dir_all(Path::new("/store")).unwrap();
        let path = PathBuf::from("/store/catalog.redb");
        sim.env().files.sync_dir(Path::new("/")).unwrap();
        let real = Some(RedbCatalog::create(&sim.env(), &path).unwrap());
        Run {
            sim,
            path,
            real,
            model: MemoryCatalog::new(),
        }
    }

    fn real(&self) -> &RedbCatalog {
        self.real.as_ref().unwrap()
    }

    fn open(&mut self) {
        self.real = None;
        let opened = RedbCatalog::open(&self.sim.env(), &self.path);
        self.real = Some(opened.unwrap());
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Commit(drafts) => {
                let (here, there) = self.commit(drafts);
                assert_eq!(here.map_err(|e| e.kind()), there.map_err(|e| e.kind()));
            }
            Op::DieInCommit(n, drafts) => self.die_in_commit(*n, drafts),
            Op::Reserve(kind, count) => {
                let model = self.model.reserve(*kind, *count).unwrap();
                assert_eq!(self.real().reserve(*kind, *count).unwrap(), model);
            }
            Op::NextEpoch => {
                let model = self.model.next_store_epoch().unwrap();
                assert_eq!(self.real().next_store_epoch().unwrap(), model);
            }
            Op::CloseAndOpen => self.open(),
            Op::Kill => {
                self.sim.kill();
                self.open();
            }
            Op::PowerCut => {
                self.sim.power_cut();
                self.open();
            }
        }
        let model = contents(&self.model).unwrap();
        assert_eq!(contents(self.real()).unwrap(), model, "after {op:?}");
    }

    fn changes(&self, drafts: &[Draft]) -> Vec<Change> {
        drafts.iter().map(|d| d.change(&self.model)).collect()
    }

    fn commit(&self, drafts: &[Draft]) -> (Result<(), catalog::Error>, Result<(), catalog::Error>) {
        let changes = self.changes(drafts);
        (self.real().commit(&changes), self.model.commit(&changes))
    }

    /// All of the commit is there afterwards or nothing; all, if it was acknowledged.
    fn die_in_commit(&mut self, n: u64, drafts: &[Draft]) {
        let changes = self.changes(drafts);
        self.sim.crash_after(n);
        let acknowledged = self.real().commit(&changes).is_ok();
        self.real = None;
        self.sim.power_cut();
        self.open();
        let before = contents(&self.model).unwrap();
        if acknowledged || contents(self.real()).unwrap() != before {
            self.model.commit(&changes).unwrap();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn does_what_the_model_does(
        seed in any::<u64>(),
        ops in proptest::collection::vec(op(), 1..40),
    ) {
        let mut run = Run::new(seed);
        for op in &ops {
            run.step(op);
        }
    }
}

#[test]
fn conforms_on_simulated_files() {
    let sim = SimEnv::new(1);
    let made = std::cell::Cell::new(0);
    catalog::conformance::suite(&|| {
        made.set(made.get() + 1);
        let path = PathBuf::from(format!("/{}.redb", made.get()));
        Box::new(RedbCatalog::create(&sim.env(), &path).unwrap())
    });
}

/// The machine dies in each of the writes that make a catalog: it is there then, or can be made.
#[test]
fn a_creation_cut_short_can_be_done_again() {
    for seed in 0..3 {
        for n in 1..100 {
            let sim = SimEnv::new(seed);
            let path = Path::new("/catalog.redb");
            sim.crash_after(n);
            let made = RedbCatalog::create(&sim.env(), path).is_ok();
            sim.power_cut();
            let env = sim.env();
            let catalog = if made || env.files.exists(path).unwrap() {
                RedbCatalog::open(&env, path).unwrap()
            } else {
                RedbCatalog::create(&env, path).unwrap()
            };
            catalog
                .commit(&[Change::PutVolume(volume(1, "a"))])
                .unwrap();
            if made {
                break;
            }
        }
    }
}
