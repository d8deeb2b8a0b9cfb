//! Scrubbing finds damage and its owners, and takes no collection for damage.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use brick::Brick;
use common::Machine;
use gc::{ErrorKind, owners_of, scrub};
use types::{NoProgress, PackId};

fn machine() -> Machine {
    let machine = Machine::new();
    machine.fill("a", 0..1500, 0);
    machine.clone_root("a", "a@old");
    machine.fill("a", 0..600, 50_000);
    machine.fill("b", 0..1500, 100_000);
    machine
}

fn packs(machine: &Machine) -> Vec<PackId> {
    let stats = machine.brick.list().unwrap();
    stats.iter().map(|stat| stat.pack).collect()
}

#[test]
fn damage_is_found_and_its_owners_named() {
    let mut machine = machine();
    let pointer = machine.pointer("a", 1000);
    machine.brick.rot(pointer.pack(), 60_000);
    machine.reopen();
    let mut damaged = Vec::new();
    for pack in packs(&machine) {
        let found = scrub(&machine.store, pack).unwrap();
        assert!(found.bytes > 0);
        damaged.extend(found.damaged.map(|(blocks, why)| (pack, blocks, why)));
    }
    let [(pack, blocks, why)] = &damaged[..] else {
        panic!("{damaged:?}");
    };
    assert_eq!((*pack, blocks.count()), (pointer.pack(), 4));
    assert!(why.contains("checksum"), "{why}");
    let found = [(*pack, *blocks)];
    let owners = owners_of(&machine.store, &machine, &found, &NoProgress).unwrap();
    let report = machine.check();
    assert_eq!(owners, report.afflicted);
    assert!(!owners.is_empty());
    // It can be asked again while nothing else is under way, and only then.
    let _collection = machine.store.begin_collection().unwrap();
    let busy = owners_of(&machine.store, &machine, &found, &NoProgress).unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy);
    // Reading goes on all the same.
    assert!(scrub(&machine.store, *pack).unwrap().damaged.is_some());
}

#[test]
fn a_pack_that_is_gone_or_was_given_up_is_no_damage() {
    let machine = machine();
    machine.remove("a");
    let before = packs(&machine);
    machine.collect().unwrap();
    for pack in before {
        assert!(
            scrub(&machine.store, pack).unwrap().damaged.is_none(),
            "{pack}"
        );
    }
}

#[test]
fn what_was_found_is_not_referred_to_again_and_so_writing_it_again_heals() {
    let mut machine = machine();
    let pointer = machine.pointer("b", 7);
    machine.brick.rot(pointer.pack(), 60_000);
    machine.reopen();
    let damaged = scrub(&machine.store, pointer.pack()).unwrap().damaged;
    let (blocks, _) = damaged.unwrap();
    assert_eq!(machine.store.usage().damaged_packs, 1);
    let same = (0..1500).zip(100_000..).collect();
    machine.write("b", &[], &same);
    for at in 0..1500 {
        let now = machine.pointer("b", at);
        assert!(
            now.pack() != pointer.pack() || !blocks.get(now.ordinal()),
            "block {at}"
        );
    }
    machine.verify();
}

#[test]
fn the_medium_is_read_and_not_what_the_page_cache_has_of_it() {
    let mut machine = machine();
    let pointer = machine.pointer("b", 7);
    machine.brick.rot_below_the_cache(pointer.pack(), 60_000);
    machine.reopen();
    // Guests would not notice yet.
    machine.verify();
    let found = scrub(&machine.store, pointer.pack()).unwrap().damaged;
    let (blocks, why) = found.expect("the damage below the cache");
    assert!(blocks.count() > 0 && why.contains("checksum"), "{why}");
}
