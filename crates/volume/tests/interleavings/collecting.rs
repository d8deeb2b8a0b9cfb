//! Collections against readers, writers that find what is being given up, clones and rollbacks.

use crate::world::{World, get, name, of, put, read};
use block::BlockDevice;
use gc::{Options, Thresholds};
use std::sync::Arc;
use sync::model::{explore, random};
use types::NoProgress;
use volume::{Background, Config, Source};

const BLOCKS: u64 = 4;

/// Reads go to packs, or some of them.
fn forgetful() -> Config {
    Config {
        background: Background::Threads(1),
        cache_bytes: [16, 128 << 10][random(2) as usize],
        destage_bytes: 2 * 4096,
        ..Config::small()
    }
}

/// A world whose volume is in packs, with the snapshot `s`; what it says is not what the volume says any more.
fn world(background: Background) -> Arc<World> {
    let world = World::new(Config {
        background,
        ..forgetful()
    });
    let device = world.device("v");
    for number in [1, 2] {
        (0..BLOCKS).for_each(|index| put(&*device, index, number * 10 + index).unwrap());
        if number == 1 {
            world.store.create_snapshot(&name("v"), &name("s")).unwrap();
        }
        world.store.settle_all().unwrap();
    }
    world
}

/// Nobody but a reader and who gives up what it may be reading: few steps, so that every order of them is met.
#[test]
fn a_reader_of_an_old_root_never_meets_what_was_collected() {
    explore(480, || {
        let world = World::new(Config {
            background: Background::Inline,
            ..forgetful()
        });
        let device = world.device("v");
        let write = move |world: &World, number| {
            put(&*world.device("v"), 0, number).unwrap();
            world.store.settle_all().unwrap();
        };
        write(&world, 1);
        let reader = env::spawn("reader", move || {
            let read = |_| get(&*device, 0).unwrap();
            let numbers: Vec<u64> = (0..6).map(read).collect();
            assert!(numbers.is_sorted(), "{numbers:?} went back");
        });
        for number in 2..4 {
            write(&world, number);
            collect(&world);
        }
        reader.unwrap().join().unwrap();
    });
}

/// Gives up all that is not needed, by every means.
pub(crate) fn try_collect(world: &World) -> Result<(), gc::Error> {
    let thresholds = Thresholds {
        rewrite_dead_percent: random(2) * 100,
        punch_enough_percent: random(2) * 100,
    };
    let options = Options {
        thresholds,
        ..Options::default()
    };
    gc::collect(world.store.packs(), &world.store, &options, &NoProgress).map(drop)
}

fn collect(world: &World) {
    try_collect(world).unwrap();
}

/// Closes the store, and answers what a volume holds for who opens it again.
fn closed_and_reopened(world: Arc<World>) -> World {
    world.store.close().unwrap();
    world.reopened()
}

#[test]
fn a_reader_never_meets_what_was_collected() {
    explore(160, || {
        let world = world(Background::Threads(1));
        let snapshot = world.device("v@s");
        let threads = [
            world.spawn("collector", |world| {
                collect(world);
                collect(world);
            }),
            world.spawn("writer", |world| {
                let device = world.device("v");
                for number in 3..6 {
                    (0..BLOCKS)
                        .for_each(|index| put(&*device, index, number * 10 + index).unwrap());
                    world.store.settle_all().unwrap();
                }
            }),
            world.spawn("remover", |world| {
                world.store.remove_snapshot(&name("v"), &name("s")).unwrap();
            }),
        ];
        let device = world.device("v");
        for _ in 0..2 {
            for index in 0..BLOCKS {
                let number = get(&*device, index).unwrap();
                assert!(number % 10 == index && number >= 20, "{number} at {index}");
            }
            let kept = read(&*snapshot, 0..BLOCKS).unwrap();
            assert_eq!(kept, [10, 11, 12, 13], "the snapshot changed");
        }
        for thread in threads {
            thread.join().unwrap();
        }
        drop((device, snapshot));
        let world = closed_and_reopened(world);
        let now = read(&*world.device("v"), 0..BLOCKS).unwrap();
        assert_eq!(now, [50, 51, 52, 53]);
    });
}

/// What is written was stored before, is garbage, and is found while it is given up.
#[test]
fn a_block_that_is_found_while_it_is_collected_stays() {
    explore(160, || {
        let world = world(Background::Threads(1));
        world.store.remove_snapshot(&name("v"), &name("s")).unwrap();
        world.make("w", Source::Empty(1 << 20)).unwrap();
        let collector = world.spawn("collector", |world| {
            collect(world);
            collect(world);
        });
        let writers = ["v", "w"].map(|volume| {
            world.spawn("writer", move |world| {
                let device = world.device(volume);
                for number in [1, 2, 1] {
                    for index in 0..BLOCKS {
                        put(&*device, index, number * 10 + index).unwrap();
                    }
                    world.store.settle_all().unwrap();
                }
            })
        });
        for thread in writers.into_iter().chain([collector]) {
            thread.join().unwrap();
        }
        let world = closed_and_reopened(world);
        for volume in ["v", "w"] {
            let now = read(&*world.device(volume), 0..BLOCKS).unwrap();
            assert_eq!(now, [10, 11, 12, 13], "{volume}");
        }
    });
}

/// A root that is carried from one place of the catalog to another is never overlooked, though the snapshot that it
/// was of goes away. Nothing happens in the background: few steps, so that every order of them is met.
#[test]
fn what_is_rolled_back_to_or_opened_while_it_is_collected_stays() {
    explore(320, || {
        let world = world(Background::Inline);
        let carrier = world.spawn("carrier", |world| {
            // The snapshot may be gone by now.
            match random(2) {
                0 => drop(world.store.rollback(&name("v"), &name("s"))),
                _ => {
                    if let Ok(device) = world.store.frozen_device(&of("v@s")) {
                        assert_snapshot(&*device);
                    }
                }
            }
        });
        world.store.remove_snapshot(&name("v"), &name("s")).unwrap();
        collect(&world);
        carrier.join().unwrap();
        let world = closed_and_reopened(world);
        let now = read(&*world.device("v"), 0..BLOCKS).unwrap();
        assert!(
            now == [10, 11, 12, 13] || now == [20, 21, 22, 23],
            "{now:?}"
        );
    });
}

/// The same for clones: several, as each gives the collection one moment to come between.
#[test]
fn what_is_cloned_while_it_is_collected_stays() {
    explore(480, || {
        let world = world(Background::Inline);
        let cloner = world.spawn("cloner", |world| {
            let clones = (0..8).map(|number| format!("c{number}"));
            clones
                .take_while(|clone| world.make(clone, Source::Clone(of("v@s"), None)).is_ok())
                .collect::<Vec<_>>()
        });
        world.store.remove_snapshot(&name("v"), &name("s")).unwrap();
        collect(&world);
        for clone in cloner.join().unwrap() {
            assert_snapshot(&*world.device(&clone));
        }
    });
}

fn assert_snapshot(device: &dyn BlockDevice) {
    let kept = read(device, 0..BLOCKS).unwrap();
    assert_eq!(kept, [10, 11, 12, 13], "the snapshot changed");
}
