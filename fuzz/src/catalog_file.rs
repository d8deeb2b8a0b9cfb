//! A whole catalog's file, spoiled: opening and using it is an error or works, whatever redb makes of it.

use crate::{alloc::bounded, input::Input};
use catalog::{
    Catalog, Change, Error, ErrorKind, IdKind, Properties, SnapshotRecord, VolumeRecord,
};
use catalog_redb::RedbCatalog;
use env::OpenOptions;
use sim::SimEnv;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::abort,
    sync::{LazyLock, Once},
};
use types::{Epoch, Generation, Limits, Root, SnapshotId, VolumeId};

const PATH: &str = "/catalog.redb";
const DEEDS_MAX: usize = 16;
/// The file, its cache, and what the simulated disk keeps of it are some MiB. But a page of redb is as large as the
/// pointer to it says, up to 4 GiB, and redb fills that much memory with zeroes before it reads; the read then fails at
/// the file's end.
const MEMORY_MAX: usize = 5 << 30;
/// A header, its two commit slots, and the pages that a small catalog uses.
const USED: usize = 256 << 10;

static TEMPLATES: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [true, false].map(template));

/// A catalog's bytes after a clean close, or as a killed process leaves them.
fn template(closed: bool) -> Vec<u8> {
    let sim = SimEnv::new(1);
    let catalog = RedbCatalog::create(&sim.env(), Path::new(PATH)).expect("a new catalog");
    fill(&catalog);
    if closed {
        drop(catalog);
    } else {
        sim.kill();
    }
    sim.env().files.read_all(Path::new(PATH)).expect("the file")
}

/// Some volumes with snapshots, each as it is new to the catalog; and ids.
pub(crate) fn fill(catalog: &dyn Catalog) {
    let first = catalog.volumes().map_or(0, |volumes| volumes.len() as u64);
    for id in first + 1..first + 5 {
        let name = format!("vm-{id}");
        let changes = [
            Change::PutVolume(volume(id, &name)),
            Change::PutSnapshot(snapshot(id)),
        ];
        catalog.commit(&changes).expect("a commit");
    }
    let (id, version) = (SnapshotId(first + 1), 1);
    let remove = Change::RemoveSnapshot {
        volume: VolumeId(id.0),
        id,
        version,
    };
    catalog.commit(&[remove]).expect("a commit");
    catalog.next_store_epoch().expect("an epoch");
    catalog.reserve(IdKind::Pack, 100).expect("ids");
}

fn volume(id: u64, name: &str) -> VolumeRecord {
    VolumeRecord {
        id: VolumeId(id),
        version: 0,
        name: name.parse().expect("a name"),
        epoch: Epoch(1),
        size: 1 << 30,
        root: Root::EMPTY,
        destaged: Generation(0),
        mapped_blocks: 0,
        properties: Properties::default(),
        created_ms: 5,
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
    }
}

fn snapshot(volume: u64) -> SnapshotRecord {
    SnapshotRecord {
        id: SnapshotId(volume),
        version: 0,
        volume: VolumeId(volume),
        name: "daily".parse().expect("a name"),
        size: 1 << 30,
        generation: Generation(1),
        root: None,
        mapped_blocks: 0,
        created_ms: 5,
        vhost_queues: 0,
        group: None,
        scheduled: false,
        submits: 0,
    }
}

/// Which template, then places and what to write there; perhaps the file is cut.
pub fn run(data: &[u8]) {
    let_panics_be_caught();
    let templates = LazyLock::force(&TEMPLATES);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        bounded(MEMORY_MAX, || attempt(data, templates));
    }));
    if outcome.is_err() {
        abort();
    }
}

/// The catalog catches redb's panics, which the fuzzer's own hook would take for crashes.
fn let_panics_be_caught() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        std::panic::set_hook(Box::new(|info| {
            let ours = info
                .location()
                .is_some_and(|at| !at.file().contains("/redb-"));
            if ours {
                eprintln!("{info}");
            }
        }));
    });
}

fn attempt(data: &[u8], templates: &[Vec<u8>; 2]) {
    let mut input = Input::new(data);
    let kind = input.u8();
    let mut bytes = templates[usize::from(kind & 1)].clone();
    for _ in 0..DEEDS_MAX {
        if input.is_empty() {
            break;
        }
        let at = match input.u8() % 3 {
            0 => input.below(320),
            1 => input.below(USED / 4096) * 4096 + input.below(64),
            _ => input.below(USED / 4096) * 4096 + input.below(4096),
        };
        let len = 1 + input.below(8);
        let patch = input.bytes(len);
        if let Some(place) = bytes.get_mut(at..at + patch.len()) {
            place.copy_from_slice(patch);
        }
    }
    if kind & 0x80 != 0 {
        let pages = bytes.len() / 512;
        bytes.truncate(input.below(pages) * 512 + input.below(2));
    }
    let sim = SimEnv::new(1);
    let options = OpenOptions {
        write: true,
        create_new: true,
        direct: false,
    };
    let file = sim
        .env()
        .files
        .open(Path::new(PATH), options)
        .expect("a file");
    file.write_at(0, &bytes).expect("a write");
    if let Err(error) = use_all(&sim) {
        let damage = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NewerFormat);
        assert!(damage, "{error:?}");
    }
}

fn use_all(sim: &SimEnv) -> Result<(), Error> {
    let catalog = RedbCatalog::open(&sim.env(), Path::new(PATH))?;
    catalog.settings()?;
    for volume in catalog.volumes()? {
        catalog.find(&volume.name)?;
        for snapshot in catalog.snapshots(volume.id)? {
            catalog.find_snapshot(volume.id, &snapshot.name)?;
        }
    }
    catalog.reserve(IdKind::Pack, 1)?;
    catalog.commit(&[Change::PutVolume(volume(1000, "new"))])?;
    assert_eq!(
        catalog
            .find(&"new".parse().expect("a name"))?
            .map(|found| found.id),
        Some(VolumeId(1000))
    );
    Ok(())
}

/// Both templates as they are, and with some damage.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1], vec![0x80, 9, 0], vec![0x81, 0xff, 0xff]];
    for kind in 0..2 {
        for at in (0..=255).step_by(16) {
            seeds.push(vec![kind, 0, at, 0, 0, 1]);
            seeds.push(vec![kind, 1, at % 64, 7, 3, 9, 9, 9, 9]);
        }
    }
    seeds
}
