//! Destagers and what they are woken for.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use crate::{
    config::{Background, Config},
    create::{Create, Source},
    open::InitOptions,
    store::{Shared, Store},
    volume::Volume,
    work::WorkQueue,
};
use std::{path::Path, sync::Arc};
use sync::{
    atomic::{AtomicU64, Ordering::SeqCst},
    model::explore,
};

const DIR: &str = "/store";

fn store() -> Store {
    let env = sim::SimEnv::new(1).env();
    Store::init(&env, Path::new(DIR), &InitOptions::default()).unwrap();
    let config = Config {
        background: Background::Inline,
        ..Config::small()
    };
    Store::open(&env, Path::new(DIR), config).unwrap()
}

fn volume(shared: &Arc<Shared>, store: &Store, name: &str) -> Arc<Volume> {
    let create = Create::new(name.parse().unwrap(), Source::Empty(1 << 20));
    let id = store.create_volume(&create).unwrap().id;
    shared.volume(id).unwrap()
}

/// What was asked for is looked at after it was asked for, by whichever destager; and all of them end.
#[test]
fn work_that_was_asked_for_is_done_afterwards() {
    explore(160, || {
        let store = store();
        let volumes = ["a", "b"].map(|name| volume(&store.shared, &store, name));
        // How much each volume has to do, and how much of it was done.
        let due: Arc<[(AtomicU64, AtomicU64); 2]> = Arc::default();
        let queue = Arc::new(WorkQueue::default());
        let destagers = [0, 1].map(|_| {
            let (queue, due, first) = (Arc::clone(&queue), Arc::clone(&due), volumes[0].id);
            env::spawn("destager", move || {
                while let Ok(volume) = queue.pop() {
                    let Some(volume) = volume else { continue };
                    let (asked, done) = &due[usize::from(volume.id != first)];
                    done.fetch_max(asked.load(SeqCst), SeqCst);
                }
            })
            .unwrap()
        });
        let askers = [0, 1].map(|_| {
            let (queue, due, volumes) = (Arc::clone(&queue), Arc::clone(&due), volumes.clone());
            env::spawn("asker", move || {
                for _ in 0..2 {
                    for (volume, (asked, _)) in volumes.iter().zip(&*due) {
                        asked.fetch_add(1, SeqCst);
                        queue.push(volume);
                    }
                }
            })
            .unwrap()
        });
        for asker in askers {
            asker.join().unwrap();
        }
        while due
            .iter()
            .any(|(asked, done)| done.load(SeqCst) < asked.load(SeqCst))
        {
            sync::thread::yield_now();
        }
        queue.close();
        for destager in destagers {
            destager.join().unwrap();
        }
    });
}
