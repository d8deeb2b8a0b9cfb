//! What is served as vhost-user-blk is noted with volumes and snapshots, and stays noted.

#![expect(clippy::unwrap_used, reason = "these are tests")]

use block::Durability;
use sim::{Fault, Injection, SimEnv};
use std::path::Path;
use types::VolumeRef;
use volume::{Config, Create, ErrorKind, InitOptions, Source, Store, Update};

const DIR: &str = "/store";

fn open(sim: &SimEnv) -> Store {
    Store::open(&sim.env(), Path::new(DIR), Config::small()).unwrap()
}

fn create(name: &str, source: Source) -> Create {
    Create::new(name.parse().unwrap(), source)
}

/// A snapshot whose root is waited for has a record that destaging is about to change.
#[test]
fn queues_are_kept_also_of_a_snapshot_that_waits_for_its_root() {
    let sim = SimEnv::new(1);
    Store::init(&sim.env(), Path::new(DIR), &InitOptions::default()).unwrap();
    let store = open(&sim);
    let live: VolumeRef = "web".parse().unwrap();
    let daily: VolumeRef = "web@daily".parse().unwrap();
    let (web, at) = (&live.volume, daily.snapshot.as_ref().unwrap());
    store
        .create_volume(&create("web", Source::Empty(1 << 20)))
        .unwrap();
    let device = store.device(&live).unwrap();
    device.write(0, &[1; 4096], Durability::Volatile).unwrap();
    sim.inject(Injection {
        fault: Fault::NoSpace,
        file: "brick/".to_owned(),
        skip: 0,
        times: u64::MAX,
    });
    assert_eq!(store.create_snapshot(web, at).unwrap().root, None);
    sim.heal();

    store.set_vhost_queues(&daily, 2).unwrap();
    store.set_vhost_queues(&live, 4).unwrap();
    // The clone has the snapshot destaged.
    let clone = create("clone", Source::Clone(daily.clone(), None));
    let clone = store.create_volume(&clone).unwrap();
    assert_eq!((clone.mapped_blocks, clone.vhost_queues), (1, 0));
    device.write(4096, &[2; 4096], Durability::Durable).unwrap();
    let update = Update {
        name: Some("www".parse().unwrap()),
        ..Update::default()
    };
    store.update_volume(web, &update).unwrap();
    drop(device);
    store.close().unwrap();
    drop(store);

    let store = open(&sim);
    let www = update.name.unwrap();
    assert_eq!(store.find(&www).unwrap().vhost_queues, 4);
    let snapshot = &store.snapshots(&www).unwrap()[0];
    assert_eq!((snapshot.vhost_queues, snapshot.root.is_some()), (2, true));

    for missing in ["web", "www@weekly"] {
        let error = store.set_vhost_queues(&missing.parse().unwrap(), 1);
        assert_eq!(error.unwrap_err().kind(), ErrorKind::NotFound);
    }
}
