//! Writes, flushes, freezes and destages against each other, and against the power.

use crate::world::{World, alive, assert_prefix, eager, name, put, read};
use block::{BlockDevice, Durability};
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::SeqCst},
};
use sync::model::{explore, random};

/// A writer's blocks are written one after the other with a number, then with the next number.
const BLOCKS: u64 = 3;
const ROUNDS: u64 = 3;

/// What a writer was told, read when the power goes.
#[derive(Default)]
struct Told {
    started: AtomicU64,
    flushed: AtomicU64,
}

/// Writes until the machine is gone; its blocks begin at `first`.
fn write(device: &dyn BlockDevice, first: u64, told: &Told) -> Option<()> {
    for number in 1..=ROUNDS {
        told.started.store(number, SeqCst);
        for index in first..first + BLOCKS {
            alive(put(device, index, number))?;
        }
        if random(2) == 0 {
            alive(device.flush())?;
            told.flushed.store(number, SeqCst);
        }
    }
    Some(())
}

/// The writer's blocks, in its order.
fn blocks(writer: usize) -> std::ops::Range<u64> {
    let first = writer as u64 * BLOCKS;
    first..first + BLOCKS
}

/// Two writers, a snapshot, destages: the power goes, and what was flushed is there, and nothing out of order.
#[test]
fn what_was_flushed_is_there_after_a_power_cut_at_any_moment() {
    explore(240, || {
        let world = World::new(eager());
        let device = world.device("v");
        let told: [Arc<Told>; 2] = Default::default();
        if random(2) == 0 {
            world.sim.crash_after(random(60));
        }
        let writers = [0, 1].map(|writer| {
            let (device, told) = (Arc::clone(&device), Arc::clone(&told[writer as usize]));
            env::spawn("writer", move || write(&*device, writer * BLOCKS, &told)).unwrap()
        });
        let others = [
            world.spawn("settler", |world| drop(world.store.settle_all())),
            world.spawn("snapshots", |world| {
                drop(world.store.create_snapshot(&name("v"), &name("s")));
            }),
        ];
        for other in others {
            other.join().unwrap();
        }
        let flushed = [0, 1].map(|writer| told[writer].flushed.load(SeqCst));
        world.sim.power_cut();
        for writer in writers {
            writer.join().unwrap();
        }
        drop(device);
        let world = world.reopened();
        let device = world.device("v");
        for writer in [0, 1] {
            let most = told[writer].started.load(SeqCst);
            let numbers = read(&*device, blocks(writer)).unwrap();
            assert_prefix(&numbers, flushed[writer], most, "after the power cut");
        }
        if world.store.snapshots(&name("v")).unwrap().len() == 1 {
            let snapshot = world.device("v@s");
            for writer in [0, 1] {
                let most = told[writer].started.load(SeqCst);
                let numbers = read(&*snapshot, blocks(writer)).unwrap();
                assert_prefix(&numbers, 0, most, "in the snapshot");
            }
        }
    });
}

/// A reader goes through the writer's blocks against the writer's order: it must never see a later block newer than
/// an earlier one, wherever the blocks are by now.
#[test]
fn reads_see_writes_in_order_while_generations_move_into_packs() {
    explore(240, || {
        let world = World::new(eager());
        let device = world.device("v");
        let writer = world.spawn("writer", |world| {
            let device = world.device("v");
            for number in 1..=ROUNDS {
                blocks(0).for_each(|index| put(&*device, index, number).unwrap());
            }
        });
        let settler = world.spawn("settler", |world| world.store.settle_all().unwrap());
        for _ in 0..2 {
            let mut numbers = read(&*device, blocks(0).rev()).unwrap();
            numbers.reverse();
            assert!(
                numbers.is_sorted_by(|a, b| a >= b),
                "{numbers:?} never were"
            );
        }
        writer.join().unwrap();
        settler.join().unwrap();
        assert_eq!(
            read(&*device, blocks(0)).unwrap(),
            [ROUNDS; BLOCKS as usize]
        );
        world.store.close().unwrap();
    });
}

/// Two writers write to the two halves of each block: neither undoes what the other wrote, whatever the block
/// was made of meanwhile.
#[test]
fn writes_to_parts_of_a_block_do_not_undo_each_other() {
    const HALF: usize = 2048;
    explore(240, || {
        let world = World::new(eager());
        let writers = [0, 1].map(|writer| {
            world.spawn("writer", move |world| {
                let device = world.device("v");
                for number in 1..=2 * ROUNDS {
                    let at = number % 2 * 4096 + writer * HALF as u64;
                    let half = [number as u8; HALF];
                    device.write(at, &half, Durability::Volatile).unwrap();
                }
            })
        });
        let settler = world.spawn("settler", |world| world.store.settle_all().unwrap());
        for thread in writers.into_iter().chain([settler]) {
            thread.join().unwrap();
        }
        let mut now = [0; 4 * HALF];
        world.device("v").read(0, &mut now).unwrap();
        let (last, before) = (2 * ROUNDS as u8, 2 * ROUNDS as u8 - 1);
        assert!(now[..2 * HALF] == [last; 2 * HALF] && now[2 * HALF..] == [before; 2 * HALF]);
        world.store.close().unwrap();
    });
}
