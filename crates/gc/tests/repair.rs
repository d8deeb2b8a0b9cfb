//! What damage has hidden is put back, what it made useless is removed, and nothing is invented.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use brick::Brick;
use common::Machine;
use gc::{Mend, Mended, Verdict, repair};
use types::{NoProgress, PackId};

fn machine() -> Machine {
    let machine = Machine::new();
    machine.fill("a", 0..1500, 0);
    machine.fill("b", 0..1500, 100_000);
    machine.fill("c", 0..300, 200_000);
    machine
}

fn mend(machine: &Machine, dry_run: bool) -> Vec<Mended> {
    repair(&machine.store, machine, dry_run, &NoProgress).unwrap()
}

fn pack_of(machine: &Machine, volume: &str) -> PackId {
    machine.pointer(volume, 0).pack()
}

/// As after a restart: nothing is in memory.
fn damaged(mut machine: Machine, damage: impl FnOnce(&Machine)) -> Machine {
    damage(&machine);
    machine.brick.sync().unwrap();
    machine.reopen();
    machine
}

#[test]
fn swapped_packs_are_put_back() {
    let machine = damaged(machine(), |machine| {
        let brick = &machine.brick;
        brick.swap(pack_of(machine, "a"), pack_of(machine, "b"));
    });
    let (a, b) = (pack_of(&machine, "a"), pack_of(&machine, "b"));
    assert_eq!(machine.check().verdict(), Verdict::Damaged);
    let plan = mend(&machine, true);
    let expected = [(a, Mend::Misplaced(b)), (b, Mend::Misplaced(a))];
    for (pack, what) in expected {
        let mended = Mended {
            pack,
            what,
            outcome: None,
        };
        assert!(plan.contains(&mended), "{plan:?}");
    }
    assert_eq!(
        machine.check().verdict(),
        Verdict::Damaged,
        "a dry run changed it"
    );
    let done = mend(&machine, false);
    assert_eq!(done.len(), 2);
    assert!(
        done.iter().all(|mended| mended.outcome == Some(Ok(()))),
        "{done:?}"
    );
    machine.verify();
    assert_eq!(machine.check().verdict(), Verdict::Healthy);
    assert_eq!(mend(&machine, false), []);
}

#[test]
fn three_packs_in_a_circle_are_put_back() {
    let machine = damaged(machine(), |machine| {
        let [a, b, c] = ["a", "b", "c"].map(|volume| pack_of(machine, volume));
        machine.brick.swap(a, b);
        machine.brick.swap(b, c);
    });
    mend(&machine, false);
    machine.verify();
    assert_eq!(machine.check().verdict(), Verdict::Healthy);
}

#[test]
fn a_pack_of_which_only_a_copy_under_another_name_is_left_comes_back_and_the_copy_goes() {
    let machine = damaged(machine(), |machine| {
        machine.brick.copy(pack_of(machine, "a"), PackId(1 << 40));
        machine.brick.lose(pack_of(machine, "a"));
    });
    // Not ours to consider while it may be a writer's: ids only grow, so this one is of the future.
    assert_eq!(mend(&machine, false), []);
    let machine = damaged(common_copy(), |_| {});
    let done = mend(&machine, false);
    assert!(
        done.iter().all(|mended| mended.outcome == Some(Ok(()))),
        "{done:?}"
    );
    assert!(
        done.iter()
            .any(|mended| matches!(mended.what, Mend::Misplaced(_))),
        "{done:?}"
    );
    assert!(
        done.iter()
            .any(|mended| matches!(mended.what, Mend::Orphan(_))),
        "{done:?}"
    );
    machine.verify();
    assert_eq!(machine.check().verdict(), Verdict::Healthy);
}

/// Where a pack of `a` is stored as one that nobody needs.
fn common_copy() -> Machine {
    let machine = machine();
    machine.fill("garbage", 0..100, 900_000);
    let (a, garbage) = (pack_of(&machine, "a"), pack_of(&machine, "garbage"));
    machine.remove("garbage");
    machine.brick.copy(a, garbage);
    machine.brick.lose(a);
    machine
}

#[test]
fn what_is_overwritten_by_another_pack_stays_lost() {
    let machine = damaged(machine(), |machine| {
        let brick = &machine.brick;
        brick.copy(pack_of(machine, "a"), pack_of(machine, "b"));
    });
    assert_eq!(mend(&machine, false), []);
    let report = machine.check();
    let owners: Vec<_> = report.afflicted.iter().map(|hit| &hit.owner[..]).collect();
    assert_eq!(owners, ["b"], "{report}");
}

#[test]
fn orphans_go_only_if_every_map_can_be_read() {
    let machine = damaged(machine(), |machine| {
        machine.fill("garbage", 0..100, 900_000);
        let orphan = pack_of(machine, "garbage");
        machine.remove("garbage");
        machine.brick.rot(orphan, 20);
    });
    let [orphan] = &mend(&machine, true)[..] else {
        panic!("one orphan");
    };
    let orphan = orphan.pack;
    // Then a node of "a" is lost: who knows what was below it.
    let node = machine.roots.lock()["a"].0.pointer.pack();
    let machine = damaged(machine, |machine| machine.brick.cut(node, 512));
    assert_eq!(mend(&machine, false), []);
    machine.remove("a");
    let done = mend(&machine, false);
    assert!(done.iter().any(|mended| mended.pack == orphan), "{done:?}");
    let left = machine.brick.list().unwrap();
    assert!(left.iter().all(|stat| stat.pack != orphan));
    machine.verify();
}

#[test]
fn dying_anywhere_in_a_repair_loses_nothing_and_the_next_finishes_it() {
    for seed in 0..2 {
        for die_after in 0.. {
            let mut machine = damaged(machine(), |machine| {
                let [a, b, c] = ["a", "b", "c"].map(|volume| pack_of(machine, volume));
                machine.brick.swap(a, b);
                machine.brick.swap(b, c);
            });
            machine.brick.die_after(die_after);
            let done = mend(&machine, false);
            let finished = done.iter().all(|mended| mended.outcome == Some(Ok(())));
            machine.crash(seed);
            mend(&machine, false);
            machine.verify();
            let verdict = machine.check().verdict();
            assert_ne!(verdict, Verdict::Damaged, "after {die_after}");
            if finished {
                assert!(die_after > 6, "{die_after}");
                break;
            }
        }
    }
}
