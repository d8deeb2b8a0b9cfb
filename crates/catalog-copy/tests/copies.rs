//! The copy knows what the catalog knows, whatever dies and whatever is damaged.

#![expect(clippy::unwrap_used, reason = "tests: the helpers too")]

use catalog::{
    Catalog, Change, Contents, IdKind, MemoryCatalog, Properties, Settings, VolumeRecord,
};
use catalog_copy::{Copied, OpenError, read};
use env::{Env, OpenOptions};
use sim::SimEnv;
use std::{path::Path, sync::Arc};
use types::{Epoch, Generation, Limits, Root, StoreId, VolumeId};

const STORE: StoreId = StoreId([5; 16]);

fn dir() -> &'static Path {
    Path::new("/store/catalog-copy")
}

fn volume(id: u64, name: &str) -> Change {
    Change::PutVolume(VolumeRecord {
        id: VolumeId(id),
        version: 0,
        name: name.parse().unwrap(),
        epoch: Epoch(1),
        size: 1 << 30,
        root: Root::EMPTY,
        destaged: Generation(0),
        mapped_blocks: 0,
        properties: Properties::default(),
        created_ms: 1,
        origin: None,
        trashed: None,
        quota: None,
        vhost_queues: 0,
        backend: catalog::Backend::Store,
        limits: Limits::NONE,
        source: None,
        mode: Default::default(),
        base: None,
        independent: false,
        policy: None,
    })
}

fn open(env: &Env, catalog: &Arc<MemoryCatalog>) -> Result<Copied, OpenError> {
    Copied::open(env, dir(), STORE, Arc::clone(catalog) as Arc<dyn Catalog>)
}

/// A machine on whose disk the store's directory is.
fn machine(seed: u64) -> SimEnv {
    let sim = SimEnv::new(seed);
    let files = sim.env().files;
    files.create_dir_all(Path::new("/store")).unwrap();
    files.sync_dir(Path::new("/")).unwrap();
    sim
}

/// One commit of each kind.
fn work(catalog: &dyn Catalog, round: u64) {
    catalog.next_store_epoch().unwrap();
    catalog.reserve(IdKind::Pack, 10).unwrap();
    catalog
        .commit(&[volume(round, &format!("vm-{round}"))])
        .unwrap();
    catalog.commit(&[]).unwrap();
    let refused = catalog.commit(&[volume(round, "again")]);
    refused.unwrap_err();
}

fn names(env: &Env) -> Vec<String> {
    let names = env.files.list(dir()).unwrap();
    let mut names: Vec<_> = names
        .iter()
        .map(|name| name.to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn conforms() {
    catalog::conformance::suite(&|| {
        let sim = machine(1);
        Box::new(open(&sim.env(), &Arc::default()).unwrap())
    });
}

#[test]
fn every_commit_that_returned_is_known_after_a_power_cut() {
    for seed in 0..10 {
        let sim = machine(seed);
        let catalog = Arc::new(MemoryCatalog::new());
        for round in 1..=4 {
            let copied = open(&sim.env(), &catalog).unwrap();
            work(&copied, round);
            let expected = copied.contents().unwrap();
            drop(copied);
            sim.power_cut();
            let found = read(&sim.env(), dir(), STORE).unwrap();
            assert_eq!(found.contents.as_ref(), Some(&expected));
            assert!(found.complete && found.damaged.is_empty());
            assert!(names(&sim.env()).len() <= 2);
        }
    }
}

/// The machine dies at every I/O of the copy: it is then as new as the catalog, or one commit behind.
#[test]
fn dying_anywhere_loses_no_commit_that_returned() {
    for at in 1.. {
        let sim = machine(at);
        let catalog = Arc::new(MemoryCatalog::new());
        let copied = open(&sim.env(), &catalog).unwrap();
        sim.crash_after(at);
        let mut states: Vec<Contents> = vec![copied.contents().unwrap()];
        let before = sim.io_count();
        for round in 1..=3 {
            work(&copied, round);
            states.push(copied.contents().unwrap());
        }
        drop(copied);
        let died = sim.io_count() - before >= at;
        sim.power_cut();
        let known = read(&sim.env(), dir(), STORE).unwrap().contents.unwrap();
        let last = states.last().unwrap();
        assert!(known.commit <= last.commit);
        if !died {
            assert_eq!(known, *last);
            return;
        }
        // What the catalog did while the copy was dead is in the next one.
        let copied = open(&sim.env(), &catalog).unwrap();
        assert_eq!(
            read(&sim.env(), dir(), STORE).unwrap().contents,
            Some(copied.contents().unwrap())
        );
    }
}

#[test]
fn a_catalog_older_than_its_copy_is_refused_and_nothing_is_changed() {
    let sim = machine(1);
    let catalog = Arc::new(MemoryCatalog::new());
    let copied = open(&sim.env(), &catalog).unwrap();
    work(&copied, 1);
    drop(copied);
    let before = names(&sim.env());
    let old = Arc::new(MemoryCatalog::new());
    old.next_store_epoch().unwrap();
    old.reserve(IdKind::Pack, 10).unwrap();
    let refused = open(&sim.env(), &old).err().unwrap();
    assert!(
        matches!(
            refused,
            OpenError::Stale {
                catalog: 2,
                copy: 3
            }
        ),
        "{refused}"
    );
    // As many commits, but others: it was put back from a backup and used.
    old.commit(&[Change::PutSettings(Settings::default())])
        .unwrap();
    assert!(matches!(
        open(&sim.env(), &old),
        Err(OpenError::Stale { .. })
    ));
    assert_eq!(names(&sim.env()), before);
    assert!(open(&sim.env(), &catalog).is_ok());
}

/// The newest file begins damaged: the one before leads up to it, and its own steps go on.
#[test]
fn a_file_whose_beginning_is_damaged_is_made_up_for_by_the_one_before() {
    let sim = machine(1);
    let catalog = Arc::new(MemoryCatalog::new());
    for round in 1..=3 {
        work(&open(&sim.env(), &catalog).unwrap(), round);
    }
    let expected = catalog.contents().unwrap();
    let files = names(&sim.env());
    let [older, newest] = &files[..] else {
        panic!("{files:?}")
    };
    for offset in 64..80 {
        sim.flip_bit(&dir().join(newest), offset).unwrap();
        let found = read(&sim.env(), dir(), STORE).unwrap();
        assert_eq!(found.contents.as_ref(), Some(&expected), "byte {offset}");
        assert_eq!(&found.damaged[..], std::slice::from_ref(newest));
        sim.flip_bit(&dir().join(newest), offset).unwrap();
    }
    // Both: nothing is known, and nothing is invented.
    for file in [older, newest] {
        sim.flip_bit(&dir().join(file), 70).unwrap();
    }
    let found = read(&sim.env(), dir(), STORE).unwrap();
    assert_eq!((found.contents, found.complete), (None, false));
}

#[test]
fn damage_among_the_steps_leaves_a_state_that_was() {
    let sim = machine(1);
    let catalog = Arc::new(MemoryCatalog::new());
    let copied = open(&sim.env(), &catalog).unwrap();
    let mut states = vec![copied.contents().unwrap()];
    for id in 1..20 {
        copied.commit(&[volume(id, &format!("v{id}"))]).unwrap();
        states.push(copied.contents().unwrap());
    }
    let [file] = &names(&sim.env())[..] else {
        panic!("one file")
    };
    let path = dir().join(file);
    let len = sim.env().files.read_all(&path).unwrap().len() as u64;
    for offset in (0..len).step_by(7) {
        sim.flip_bit(&path, offset).unwrap();
        let found = read(&sim.env(), dir(), STORE).unwrap();
        assert!(!found.complete, "byte {offset}");
        if let Some(contents) = found.contents {
            assert_eq!(contents, states[contents.commit as usize]);
        }
        sim.flip_bit(&path, offset).unwrap();
    }
}

/// Found by fuzzing: steps under right checksums could lead to what is no catalog.
#[test]
fn a_step_to_what_cannot_be_is_not_taken() {
    let sim = machine(3);
    let copied = open(&sim.env(), &Arc::default()).unwrap();
    copied.commit(&[volume(1, "sound")]).unwrap();
    let mut record = copied.volume(VolumeId(1)).unwrap().unwrap();
    record.root.height = 200;
    copied.commit(&[Change::PutVolume(record)]).unwrap();
    copied.commit(&[volume(2, "behind")]).unwrap();
    drop(copied);
    let found = read(&sim.env(), dir(), STORE).unwrap();
    let contents = found.contents.unwrap();
    assert!(contents.is_sound() && !found.complete);
    assert_eq!((contents.commit, contents.volumes.len()), (1, 1));
}

#[test]
fn a_copy_that_cannot_be_written_refuses_nothing_and_is_caught_up() {
    let sim = machine(1);
    let catalog = Arc::new(MemoryCatalog::new());
    let copied = open(&sim.env(), &catalog).unwrap();
    work(&copied, 1);
    sim.set_space(0);
    for id in 100..300 {
        copied.commit(&[volume(id, &format!("v{id}"))]).unwrap();
    }
    let known = read(&sim.env(), dir(), STORE).unwrap().contents.unwrap();
    assert!(known.commit < copied.contents().unwrap().commit);
    assert_eq!(names(&sim.env()).len(), 1, "nothing half is left");
    sim.set_space(1 << 40);
    sim.fail_next_sync();
    copied.reserve(IdKind::Volume, 1).unwrap();
    copied.reserve(IdKind::Volume, 1).unwrap();
    let found = read(&sim.env(), dir(), STORE).unwrap();
    assert_eq!(found.contents, Some(copied.contents().unwrap()));
}

/// Many records and as many commits: files stay in proportion to the contents.
#[test]
fn files_are_begun_anew_before_they_grow_large() {
    let sim = machine(1);
    let catalog = Arc::new(MemoryCatalog::new());
    let all: Vec<Change> = (1..=2_000)
        .map(|id| volume(id, &format!("v{id}")))
        .collect();
    catalog.commit(&all).unwrap();
    let copied = open(&sim.env(), &catalog).unwrap();
    let first = names(&sim.env());
    let changes: Vec<Change> = (20_000..20_100)
        .map(|id| volume(id, &format!("{}{id}", "x".repeat(100))))
        .collect();
    let mut round = 0;
    while names(&sim.env()).len() < 2 || names(&sim.env())[0] == first[0] {
        let moved: Vec<Change> = changes
            .iter()
            .map(|change| match change {
                Change::PutVolume(v) => Change::PutVolume(VolumeRecord {
                    version: round,
                    ..v.clone()
                }),
                other => other.clone(),
            })
            .collect();
        copied.commit(&moved).unwrap();
        round += 1;
        assert!(round < 1000, "no file was begun");
    }
    for name in names(&sim.env()) {
        let bytes = sim.env().files.read_all(&dir().join(name)).unwrap();
        assert!(bytes.len() < 4 << 20, "{} bytes", bytes.len());
    }
    let found = read(&sim.env(), dir(), STORE).unwrap();
    assert_eq!(found.contents, Some(copied.contents().unwrap()));
}

#[test]
fn other_files_are_left_alone() {
    let sim = machine(1);
    let env = sim.env();
    env.files.create_dir_all(dir()).unwrap();
    let options = OpenOptions {
        write: true,
        create_new: true,
        direct: false,
    };
    for name in [
        "notes.txt",
        "0000000000000001.copyx",
        "00000000000000ff.tmp",
    ] {
        env.files.open(&dir().join(name), options).unwrap();
    }
    work(&open(&env, &Arc::default()).unwrap(), 1);
    let expected = [
        "0000000000000001.copyx",
        "0000000000000100.copy",
        "notes.txt",
    ];
    assert_eq!(names(&env), expected);
}
