//! Snapshots, clones, rollbacks and removals against each other, and against writers.

use crate::world::{World, alive, assert_prefix, eager, get, name, of, put, read};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};
use sync::{model::explore, thread::JoinHandle};
use volume::Source;

const BLOCKS: u64 = 3;
const ROUNDS: u64 = 4;

/// How far a writer is.
#[derive(Default)]
struct Progress {
    begun: AtomicU64,
    written: AtomicU64,
}

/// Writes a number to one block after the other, then the next number.
fn writer(world: &Arc<World>, progress: &Arc<Progress>) -> JoinHandle<()> {
    let progress = Arc::clone(progress);
    world.spawn("writer", move |world| {
        let device = world.device("v");
        for number in 1..=ROUNDS {
            progress.begun.store(number, SeqCst);
            (0..BLOCKS).for_each(|index| put(&*device, index, number).unwrap());
            progress.written.store(number, SeqCst);
        }
    })
}

/// What something that was made between two looks at a writer must hold.
struct Window {
    what: &'static str,
    least: u64,
    most: u64,
}

impl Progress {
    fn during(&self, what: &'static str, make: impl FnOnce()) -> Window {
        let least = self.written.load(SeqCst);
        make();
        let most = self.begun.load(SeqCst);
        Window { what, least, most }
    }
}

fn assert_holds(world: &World, window: &Window) {
    let numbers = read(&*world.device(window.what), 0..BLOCKS).unwrap();
    assert_prefix(&numbers, window.least, window.most, window.what);
}

/// A snapshot holds what was written before it was asked for, nothing that was begun after it was there, and always
/// the same; so does a clone. A power cut takes none of them away.
#[test]
fn snapshots_and_clones_are_moments_of_the_volume() {
    explore(240, || {
        let world = World::new(eager());
        let progress = Arc::new(Progress::default());
        let writing = writer(&world, &progress);
        let snapshots = ["s", "t"].map(|snapshot| {
            let progress = Arc::clone(&progress);
            world.spawn("snapshots", move |world| {
                let what = if snapshot == "s" { "v@s" } else { "v@t" };
                let window = progress.during(what, || {
                    world
                        .store
                        .create_snapshot(&name("v"), &name(snapshot))
                        .unwrap();
                });
                assert_holds(world, &window);
                window
            })
        });
        let clones = ["c", "d"].map(|clone| {
            let progress = Arc::clone(&progress);
            world.spawn("clones", move |world| {
                progress.during(clone, || {
                    world.make(clone, Source::Clone(of("v"), None)).unwrap();
                })
            })
        });
        let settler = world.spawn("settler", |world| world.store.settle_all().unwrap());
        settler.join().unwrap();
        let made: Vec<Window> = snapshots
            .into_iter()
            .chain(clones)
            .map(|thread| thread.join().unwrap())
            .collect();
        made.iter().for_each(|window| assert_holds(&world, window));
        writing.join().unwrap();
        world.sim.power_cut();
        let world = world.reopened();
        made.iter().for_each(|window| assert_holds(&world, window));
    });
}

/// Snapshots of a group are of one instant: what was written to one volume before something else was to another is
/// there if that is. Others between the two, in the order in which they are locked, make room for what must not be.
#[test]
fn a_group_is_one_instant_across_volumes() {
    explore(240, || {
        let world = World::new(eager());
        for between in ["x", "y", "w"] {
            world.make(between, Source::Empty(1 << 20)).unwrap();
        }
        let writing = world.spawn("writer", |world| {
            let devices = [world.device("v"), world.device("w")];
            for number in 1..=4 * ROUNDS {
                for device in &devices {
                    put(&**device, 0, number).unwrap();
                }
            }
        });
        let other = world.spawn("snapshots", |world| {
            let refs = [of("w@t"), of("v@t")];
            world.store.create_group(&refs).unwrap();
        });
        let all = ["w@s", "y@s", "x@s", "v@s"].map(of);
        world.store.create_group(&all).unwrap();
        let assert_instants = |world: &World, names: &[&str]| {
            for snapshot in names {
                let number = |volume| {
                    let device = world.device(&format!("{volume}@{snapshot}"));
                    get(&*device, 0).unwrap()
                };
                let (first, second) = (number("v"), number("w"));
                let fits = first == second || first == second + 1;
                assert!(fits, "{snapshot}: {first} and then {second}");
            }
        };
        assert_instants(&world, &["s"]);
        for thread in [writing, other] {
            thread.join().unwrap();
        }
        world.sim.power_cut();
        let world = world.reopened();
        assert_instants(&world, &["s", "t"]);
    });
}

/// So are volumes that are opened to be read together, for as long as they are read.
#[test]
fn what_is_opened_together_is_one_instant() {
    explore(240, || {
        let world = World::new(eager());
        for between in ["x", "w"] {
            world.make(between, Source::Empty(1 << 20)).unwrap();
        }
        let writing = world.spawn("writer", |world| {
            let devices = [world.device("v"), world.device("w")];
            for number in 1..=4 * ROUNDS {
                for device in &devices {
                    put(&**device, 0, number).unwrap();
                }
            }
        });
        let opened = world
            .store
            .frozen_devices(&["w", "x", "v"].map(of))
            .unwrap();
        let read = |at: usize| get(&*opened[at], 0).unwrap();
        let (second, first) = (read(0), read(2));
        assert!(
            first == second || first == second + 1,
            "{first} and then {second}"
        );
        writing.join().unwrap();
        assert_eq!((read(0), read(2)), (second, first));
    });
}

/// After a rollback a volume holds the snapshot, and what was written since it was asked for.
#[test]
fn a_rollback_leaves_the_snapshot_and_later_writes() {
    explore(240, || {
        let world = World::new(eager());
        let device = world.device("v");
        (0..BLOCKS).for_each(|index| put(&*device, index, 1).unwrap());
        world.store.create_snapshot(&name("v"), &name("s")).unwrap();
        (0..BLOCKS).for_each(|index| put(&*device, index, 2).unwrap());
        let asked = Arc::new(AtomicU64::new(0));
        let threads = [
            world.spawn("flusher", |world| world.device("v").flush().unwrap()),
            world.spawn("snapshots", |world| {
                world.store.create_snapshot(&name("v"), &name("t")).unwrap();
            }),
            world.spawn("clones", |world| {
                // It says so if the volume was rolled back under it.
                drop(world.make("c", Source::Clone(of("v"), None)));
            }),
        ];
        let writer = world.spawn("writer", {
            let asked = Arc::clone(&asked);
            move |world| {
                let device = world.device("v");
                let mut first_after = u64::MAX;
                for number in 3..3 + ROUNDS {
                    if asked.load(SeqCst) == 2 {
                        first_after = first_after.min(number);
                    }
                    (0..BLOCKS).for_each(|index| put(&*device, index, number).unwrap());
                }
                device.flush().unwrap();
                first_after
            }
        });
        world.store.rollback(&name("v"), &name("s")).unwrap();
        asked.store(2, SeqCst);
        let after = writer.join().unwrap();
        for thread in threads {
            thread.join().unwrap();
        }
        let last = 2 + ROUNDS;
        let before = read(&*device, 0..BLOCKS).unwrap();
        for (index, &number) in before.iter().enumerate() {
            assert_ne!(number, 2, "block {index} was written before");
            assert!(
                after > last || number == last,
                "{before:?}: {after} came after"
            );
        }
        drop(device);
        world.sim.power_cut();
        let world = world.reopened();
        let now = read(&*world.device("v"), 0..BLOCKS).unwrap();
        assert_eq!(now, before, "what was flushed");
        let kept = read(&*world.device("v@s"), 0..BLOCKS).unwrap();
        assert_eq!(kept, [1; BLOCKS as usize], "the snapshot");
    });
}

/// Whatever was acknowledged as durable until the volume was gone is there when it is taken back.
#[test]
fn a_removal_keeps_what_was_flushed() {
    explore(240, || {
        let world = World::new(eager());
        let device = world.device("v");
        let writer = env::spawn("writer", move || {
            (1..=2 * ROUNDS)
                .take_while(|&number| {
                    let written = alive(put(&*device, 0, number));
                    written.and_then(|()| alive(device.flush())).is_some()
                })
                .last()
        });
        let others = [
            world.spawn("snapshots", |world| {
                drop(world.store.create_snapshot(&name("v"), &name("s")));
            }),
            world.spawn("second remover", |world| {
                drop(world.store.remove_volume(&name("v")));
            }),
        ];
        drop(world.store.remove_volume(&name("v")));
        let flushed = writer.unwrap().join().unwrap().unwrap_or(0);
        for other in others {
            other.join().unwrap();
        }
        let trash = world.store.trash().unwrap();
        assert_eq!(trash.len(), 1);
        world.store.restore_volume(trash[0].id, None).unwrap();
        let now = get(&*world.device("v"), 0).unwrap();
        assert!(now >= flushed, "{now}, but {flushed} was flushed");
        world.sim.power_cut();
        let world = world.reopened();
        let again = get(&*world.device("v"), 0).unwrap();
        assert_eq!(again, now, "what was destaged");
    });
}
