//! Histories on disks that fail, and on disks that lie about packs.

use crate::{
    DIR, Dice, Replay,
    machine::Machine,
    model::End,
    random::{any_op, any_request, config},
    range_from,
    verify::Damage,
};
use sim::{Fault, Injection};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// Lives of one machine.
const LIVES: usize = 5;
/// Operations of one life.
const OPS: usize = 30;

/// A disk that fails: what and where, and when it begins.
fn failure(dice: &mut Dice) -> Injection {
    let fault = match dice.roll(10) {
        0..3 => Fault::SyncError,
        3..5 => Fault::WriteError,
        5..7 => Fault::ReadError,
        7..9 => Fault::NoSpace,
        _ => Fault::Stall(Duration::from_secs(7200)),
    };
    let file = ["", "/brick", "/journal", "/catalog"][dice.roll(4) as usize];
    Injection {
        fault,
        file: file.to_owned(),
        skip: dice.roll(60),
        times: [1, 3, 1000][dice.roll(3) as usize],
    }
}

/// A disk that lies about packs.
fn lie(dice: &mut Dice) -> Injection {
    Injection {
        fault: [Fault::Misdirected, Fault::Lost, Fault::Flipped][dice.roll(3) as usize],
        file: "/brick".to_owned(),
        skip: dice.roll(20),
        times: 1 + dice.roll(3),
    }
}

/// One life: whether it can end in order. When the catalog is gone, clients go on with what they have open.
fn live(machine: &mut Machine, dice: &mut Dice) -> bool {
    let mut whole = true;
    for _ in 0..OPS {
        let op = match whole {
            true => any_op(&machine.model, dice),
            false => match any_request(&machine.model, &machine.connected(), dice) {
                Some(op) => op,
                None => break,
            },
        };
        let Err(e) = machine.apply(&op) else { continue };
        assert!(machine.sim.struck() > 0, "for no reason: {op:?}: {e:?}");
        machine.sim.heal();
        whole = machine.verify_living() && whole;
        if !whole && machine.damage == Damage::Packs {
            break;
        }
    }
    whole
}

/// Ends a life, and says how.
fn die(machine: &mut Machine, dice: &mut Dice, in_order: bool) -> End {
    let end = [End::Closed, End::Killed, End::PowerCut][dice.roll(3) as usize];
    if end == End::Closed {
        machine.sim.heal();
        if in_order && machine.close().is_ok() {
            if dice.roll(2) == 0 {
                machine.sim.power_cut();
            }
            return End::Closed;
        }
        machine.crash(End::Killed);
        return End::Killed;
    }
    machine.crash(end);
    end
}

/// A bit of some pack changes where it lies.
fn rot(machine: &Machine, dice: &mut Dice) {
    let files = machine.sim.env().files;
    let brick = Path::new(DIR).join("brick");
    let inside = |dir: &Path| -> Vec<PathBuf> {
        let names = files.list(dir).unwrap();
        names.iter().map(|name| dir.join(name)).collect()
    };
    let packs: Vec<PathBuf> = inside(&brick).iter().flat_map(|dir| inside(dir)).collect();
    if let Some(pack) = dice.pick(&packs) {
        let len = files.read_all(pack).unwrap().len() as u64;
        let _ = machine.sim.flip_bit(pack, dice.roll(len.max(1)));
    }
}

pub(crate) fn history(seed: u64, damage: Damage, imports: bool) {
    let mut machine = Machine::new(seed, config(seed));
    machine.damage = damage;
    machine.model.imports = imports;
    let mut dice = Dice::of_seed(seed);
    for _ in 0..LIVES {
        machine.sim.inject(match damage {
            Damage::None => failure(&mut dice),
            Damage::Packs => lie(&mut dice),
        });
        let in_order = live(&mut machine, &mut dice);
        let end = die(&mut machine, &mut dice, in_order);
        if damage == Damage::Packs && dice.roll(2) == 0 {
            rot(&machine, &mut dice);
        }
        if !machine.recover(end, &[]) {
            // Damage hides in which state a volume is.
            return;
        }
    }
}

fn histories(damage: Damage, test: &str) {
    for seed in range_from("HOLDFAST_SEEDS", 0..40) {
        let seeds = format!("{seed}..{}", seed + 1);
        let _replay = Replay::new("HOLDFAST_SEEDS", &seeds, test);
        history(seed, damage, false);
    }
}

/// An operation may fail, but nothing that was acknowledged is lost and nothing wrong is ever read. More with
/// `HOLDFAST_SEEDS=FIRST..LAST`.
#[test]
fn disks_that_fail_lose_nothing_that_was_acknowledged() {
    let test = "faults::disks_that_fail_lose_nothing_that_was_acknowledged";
    histories(Damage::None, test);
}

/// What is read is right or an error. More with `HOLDFAST_SEEDS=FIRST..LAST`.
#[test]
fn disks_that_lie_are_found_out() {
    histories(Damage::Packs, "faults::disks_that_lie_are_found_out");
}
