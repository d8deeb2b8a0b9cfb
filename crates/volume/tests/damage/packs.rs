//! Packs.

use crate::machine::{ALL, BLOCKS, Blocks, DIR, Damage, Machine, damage, files_of, name};
use std::path::{Path, PathBuf};
use types::{BLOCK_SIZE, NoProgress};
use volume::Source;

/// Volumes that share blocks, nodes and packs, and one that shares nothing.
fn machine() -> Machine {
    let mut machine = Machine::new(7);
    let size = BLOCKS * BLOCK_SIZE as u64;
    machine.create("web", Source::Empty(size));
    machine.write("web", 0, 1..41);
    machine.write("web", 600, 101..131);
    machine.snapshot("web", "old");
    machine.store.settle_all().unwrap();
    machine.write("web", 10, 201..216);
    machine.store.settle_all().unwrap();
    let old = "web@old".parse().unwrap();
    machine.create("copy", Source::Clone(old, None));
    machine.write("copy", 5, 301..304);
    machine.create("db", Source::Empty(size));
    machine.write("db", 0, 1001..1041);
    machine.write("db", 700, 1101..1111);
    machine.restart();
    machine
}

fn packs(machine: &Machine) -> Vec<PathBuf> {
    files_of(&*machine.files(), &Path::new(DIR).join("brick"), ".pack")
}

/// Damages the pack number `n` of a new machine and starts it again.
fn damaged(n: usize, how: Damage) -> Option<Machine> {
    let mut machine = machine();
    let packs = packs(&machine);
    let path = packs.get(n)?;
    let other = &packs[(n + 1) % packs.len()];
    let spare = Path::new(DIR).join("brick/fe/000000000000fe01.pack");
    machine
        .files()
        .create_dir_all(spare.parent().unwrap())
        .unwrap();
    damage(&*machine.files(), how, path, other, &spare);
    machine.crash();
    Some(machine)
}

fn for_all(attack: impl Fn(&mut Machine, &str)) {
    let mut cases = 0;
    for how in ALL {
        for n in 0.. {
            let Some(mut machine) = damaged(n, how) else {
                break;
            };
            attack(&mut machine, &format!("pack {n}, {how:?}"));
            cases += 1;
        }
    }
    assert!(cases >= ALL.len() * 4, "{cases} cases");
}

/// What reads find lost, by owner; those without loss are left out.
fn lost(machine: &Machine) -> Vec<(String, Blocks)> {
    let all = machine
        .contents
        .keys()
        .map(|of| (of.clone(), machine.lost(of)));
    all.filter(|(_, lost)| !lost.0.is_empty()).collect()
}

#[test]
fn what_cannot_be_read_is_exactly_what_a_check_lists_and_the_rest_is_right() {
    let mut hit = 0;
    let hits = std::cell::Cell::new(0);
    for_all(|machine, case| {
        let lost: Vec<_> = lost(machine);
        // Where a node is damaged, holes below it cannot be told from data: neither can do it.
        let listed: Vec<_> = machine.checked().into_iter().collect();
        assert_eq!(lost, listed, "{case}");
        hits.set(hits.get() + usize::from(!lost.is_empty()));
    });
    hit += hits.get();
    assert!(hit > 50, "only {hit} of the cases did any harm");
}

#[test]
fn everything_else_goes_on() {
    for_all(|machine, case| {
        let before = lost(machine);
        for (volume, tags) in [("web", 5000), ("copy", 6000), ("db", 7000)] {
            // Beside what is there, below every leaf of the map.
            machine.write(volume, 100, tags..tags + 9);
            machine.write(volume, 800, tags + 50..tags + 59);
            machine.device(volume).flush().unwrap();
        }
        machine
            .store
            .settle_all()
            .unwrap_or_else(|e| panic!("{case}: {e:?}"));
        machine.snapshot("web", "new");
        machine.write("web", 105, 8000..8003);
        machine.restart();
        let after: Vec<_> = lost(machine);
        for (owner, now) in &after {
            let source = if owner == "web@new" { "web" } else { owner };
            let then = before.iter().find(|(of, _)| of == source);
            let then = &then.unwrap_or_else(|| panic!("{case}: {owner}")).1;
            assert!(now.0.is_subset(&then.0), "{case}: {owner} lost more");
            let fresh = |block: &u64| (100..109).contains(block) || (800..809).contains(block);
            let old = owner.ends_with("old");
            assert!(
                old || !now.0.iter().any(fresh),
                "{case}: {owner} lost what is new"
            );
        }
        // The damaged can be removed, and the sound have lost nothing by it.
        for volume in ["web", "copy"] {
            let id = machine.store.remove_volume(&name(volume)).unwrap().id;
            machine.store.purge_volume(id).unwrap();
        }
        machine.contents.retain(|of, _| of == "db");
        assert_eq!(
            lost(machine),
            after
                .into_iter()
                .filter(|(of, _)| of == "db")
                .collect::<Vec<_>>()
        );
    });
}

#[test]
fn writing_the_same_again_heals() {
    for_all(|machine, case| {
        let lost_before = lost(machine);
        for (owner, blocks) in &lost_before {
            if owner.contains('@') {
                continue;
            }
            for &block in &blocks.0 {
                let tag = machine.contents[owner][block as usize];
                machine.write(owner, block, [tag]);
            }
        }
        machine.store.settle_all().unwrap();
        machine.restart();
        let left: Vec<_> = lost(machine).into_iter().map(|(owner, _)| owner).collect();
        assert!(
            left.iter().all(|owner| owner.contains('@')),
            "{case}: {left:?}"
        );
        // With its snapshot gone nothing is damaged, and collection works again.
        machine
            .store
            .remove_snapshot(&name("web"), &name("old"))
            .unwrap();
        machine.contents.remove("web@old");
        assert_eq!(machine.checked(), Default::default(), "{case}");
        let collect = gc::Options::default();
        gc::collect(machine.store.packs(), &machine.store, &collect, &NoProgress)
            .unwrap_or_else(|e| panic!("{case}: {e:?}"));
        assert_eq!(lost(machine), [], "{case}");
    });
}

#[test]
fn a_repair_makes_nothing_worse_and_mends_what_can_be() {
    for_all(|machine, case| {
        let before = lost(machine);
        let plan = gc::repair(machine.store.packs(), &machine.store, true, &NoProgress).unwrap();
        assert_eq!(lost(machine), before, "{case}: a dry run changed it");
        let done = gc::repair(machine.store.packs(), &machine.store, false, &NoProgress).unwrap();
        for mended in &plan {
            let same = |other: &&gc::Mended| other.pack == mended.pack && other.what == mended.what;
            assert!(
                done.iter().find(same).is_some(),
                "{case}: {plan:?} {done:?}"
            );
        }
        assert!(
            done.iter().all(|mended| mended.outcome == Some(Ok(()))),
            "{case}: {done:?}"
        );
        machine.restart();
        let after = lost(machine);
        if case.contains("Swap") {
            assert_eq!(after, [], "{case}");
        } else {
            assert_eq!(after, before, "{case}");
        }
        assert_eq!(
            after,
            machine.checked().into_iter().collect::<Vec<_>>(),
            "{case}"
        );
    });
}
