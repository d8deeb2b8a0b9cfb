//! A volume that is filled while it is used: against writes, zeroes, reads, freezes, snapshots, clones, collections and
//! the power.

use crate::{
    collecting::try_collect,
    world::{IMAGED, World, alive, eager, get, imaged, name, of, put},
};
use block::{BlockDevice, Durability};
use std::sync::Arc;
use sync::model::{explore, random};
use types::BLOCK_SIZE;
use volume::Source;

const BLOCK: u64 = BLOCK_SIZE as u64;
/// The block that is written, the one that is zeroed; the others are left alone.
const WRITTEN: u64 = 6;
const ZEROED: u64 = 7;
const ROUNDS: u64 = 3;

/// What it was at some moment: nothing is lost, comes back, or is of another block.
fn assert_sound(device: &dyn BlockDevice, least: u64) -> Option<()> {
    for index in 0..IMAGED {
        let number = alive(get(device, index))?;
        let known = match index {
            WRITTEN => {
                (number == imaged(index) && least == 0) || (least..=ROUNDS).contains(&number)
            }
            ZEROED => [0, imaged(index)].contains(&number),
            _ => number == imaged(index),
        };
        assert!(known, "block {index} is {number}, {least} was written");
    }
    Some(())
}

fn write(device: &dyn BlockDevice) -> Option<u64> {
    for number in 1..=ROUNDS {
        alive(put(device, WRITTEN, number))?;
        if random(2) == 0 {
            alive(device.flush())?;
        }
    }
    alive(device.flush())?;
    Some(ROUNDS)
}

/// Zeroes, and looks whether what the image has comes back.
fn zero(device: &dyn BlockDevice) -> Option<bool> {
    alive(device.discard(ZEROED * BLOCK, BLOCK, Durability::Volatile))?;
    for _ in 0..3 {
        assert_eq!(alive(get(device, ZEROED))?, 0, "what was zeroed came back");
    }
    alive(device.flush())?;
    Some(true)
}

#[test]
fn a_volume_is_its_image_below_what_was_written() {
    explore(240, || {
        let world = World::new(eager());
        world.import("i");
        let device = world.device("i");
        if random(2) == 0 {
            world.sim.crash_after(random(80));
        }
        let on = |body: fn(&dyn BlockDevice) -> Option<u64>| {
            let device = Arc::clone(&device);
            env::spawn("client", move || body(&*device)).unwrap()
        };
        let writer = on(write);
        let zeroer = on(|device| zero(device).map(u64::from));
        let reader = on(|device| assert_sound(device, 0).map(|()| 0));
        let filler = world.spawn("filler", |world| {
            while world.fill("i", 1 + random(4)).unwrap_or(false) {}
        });
        let others = [
            world.spawn("settler", |world| drop(world.store.settle_all())),
            world.spawn("snapshots", |world| {
                drop(world.store.create_snapshot(&name("i"), &name("s")));
                drop(world.make("c", Source::Clone(of("i@s"), None)));
                drop(world.make("d", Source::Clone(of("i"), None)));
            }),
            world.spawn("collector", |world| drop(try_collect(world))),
        ];
        others.into_iter().for_each(|other| other.join().unwrap());
        filler.join().unwrap();
        let told = [writer, zeroer, reader].map(|client| client.join().unwrap());
        // What is read now is in roots of now.
        drop(try_collect(&world));
        assert_sound(&*device, told[0].unwrap_or(0));
        drop(device);
        world.sim.power_cut();
        let world = world.reopened();
        let names: Vec<_> = world.store.catalog().volumes().unwrap();
        for volume in names
            .iter()
            .map(|v| v.name.as_str())
            .filter(|name| *name != "v")
        {
            while world.fill(volume, 2).unwrap() {}
            assert!(world.store.find(&name(volume)).unwrap().source.is_none());
        }
        let device = world.device("i");
        assert_sound(&*device, told[0].unwrap_or(0)).unwrap();
        if told[1].is_some() {
            assert_eq!(
                get(&*device, ZEROED).unwrap(),
                0,
                "what was zeroed came back"
            );
        }
        for other in ["i@s", "c", "d"] {
            if let Ok(device) = world.store.device(&of(other)) {
                assert_sound(&*device, 0).unwrap();
            }
        }
    });
}
