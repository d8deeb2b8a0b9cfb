//! Random histories by seed.

use crate::{
    BLOCKS, Dice, Replay,
    blocks::TAGS,
    machine::Machine,
    model::{End, Model},
    ops::Op,
    range_from,
};
use volume::Config;

/// Lives of one machine.
const LIVES: usize = 6;
/// Operations of one life.
const OPS: usize = 40;

/// Something that can be done now.
pub(crate) fn any_op(model: &Model, dice: &mut Dice) -> Op {
    loop {
        if model.imports
            && dice.roll(4) == 0
            && let Some(op) = importing(model, dice)
        {
            return op;
        }
        if let Some(op) = maybe_op(model, dice) {
            return op;
        }
    }
}

/// Something that is done to import a volume.
fn importing(model: &Model, dice: &mut Dice) -> Option<Op> {
    let names: Vec<&String> = model.volumes.keys().collect();
    if names.len() < 3 && dice.roll(4) == 0 {
        let name = format!("i{}", dice.roll(1000));
        return (!model.volumes.contains_key(&name)).then(|| Op::Import(name, dice.roll(9) as u32));
    }
    let most = [1, 16, 64][dice.roll(3) as usize];
    Some(Op::Fill((*dice.pick(&names)?).clone(), 1 + dice.roll(most)))
}

fn maybe_op(model: &Model, dice: &mut Dice) -> Option<Op> {
    let names: Vec<&String> = model.volumes.keys().collect();
    let new = |prefix, dice: &mut Dice| {
        let name = format!("{prefix}{}", dice.roll(1000));
        (!model.volumes.contains_key(&name)).then_some(name)
    };
    let Some(volume) = dice.pick(&names).map(|name| (*name).clone()) else {
        return new("v", dice).map(Op::Make);
    };
    let history = &model.volumes[&volume];
    let snapshots: Vec<&String> = history.snapshots.keys().collect();
    let snap = dice.pick(&snapshots).map(|name| (*name).clone());
    Some(match dice.roll(100) {
        0..42 => {
            let (at, count) = some_range(dice, history.blocks());
            let tags = (0..count).map(|_| dice.roll(TAGS) as u32).collect();
            Op::Write(volume, at, tags, dice.roll(8) == 0)
        }
        42..45 => Op::Collect,
        45..55 => {
            let (at, count) = some_range(dice, history.blocks());
            match dice.roll(2) {
                0 => Op::Zero(volume, at, count),
                _ => Op::Discard(volume, at, count),
            }
        }
        55..67 => Op::Flush(volume),
        67..76 => {
            let snap = format!("s{}", dice.roll(10_000));
            (!history.snapshots.contains_key(&snap)).then_some(Op::Snapshot(volume, snap))?
        }
        76..82 => Op::RemoveSnapshot(volume, snap?),
        82..87 => Op::Rollback(volume, snap?),
        87..91 if names.len() < 4 => Op::Clone(volume, snap, new("c", dice)?),
        91..93 if names.len() < 4 => Op::Make(new("v", dice)?),
        93..94 if names.len() > 1 => Op::Remove(volume),
        94..96 => from_trash(model, dice)?,
        96..97 => match dice.roll(2) {
            0 => Op::Settle,
            _ => Op::Hold(volume, snap),
        },
        97..99 => {
            let blocks = BLOCKS + dice.roll(BLOCKS as u64 / 2) as usize;
            // What is imported cannot be made smaller meanwhile.
            let blocks = match model.imports {
                true => blocks.max(history.blocks()),
                false => blocks,
            };
            (blocks != history.blocks()).then_some(Op::Resize(volume, blocks))?
        }
        _ => Op::Collect,
    })
}

/// Something that clients of these volumes can do, if there are any.
pub(crate) fn any_request(model: &Model, volumes: &[String], dice: &mut Dice) -> Option<Op> {
    let volume = dice.pick(volumes)?.clone();
    let (at, count) = some_range(dice, model.volumes[&volume].blocks());
    Some(match dice.roll(3) {
        0 => Op::Flush(volume),
        1 => Op::Zero(volume, at, count),
        _ => {
            let tags = (0..count).map(|_| dice.roll(TAGS) as u32).collect();
            Op::Write(volume, at, tags, dice.roll(4) == 0)
        }
    })
}

fn from_trash(model: &Model, dice: &mut Dice) -> Option<Op> {
    let names: Vec<&String> = model.trash.values().map(|(name, _)| name).collect();
    let volume = (*dice.pick(&names)?).clone();
    Some(match dice.roll(6) {
        0 => Op::Expire,
        1 => Op::Purge(volume),
        _ if model.volumes.contains_key(&volume) => Op::Purge(volume),
        _ => Op::Restore(volume),
    })
}

fn some_range(dice: &mut Dice, blocks: usize) -> (usize, usize) {
    let start = dice.roll(blocks as u64) as usize;
    let most = [1, 8, 64][dice.roll(3) as usize];
    let count = 1 + dice.roll(most) as usize;
    (start, count.min(blocks - start))
}

/// Budgets by seed: where things are destaged early, late, and by large flushes.
pub(crate) fn config(seed: u64) -> Config {
    match seed % 3 {
        0 => Config::small(),
        1 => Config {
            destage_bytes: 64 << 10,
            ..Config::small()
        },
        _ => Config {
            destage_bytes: 256 << 10,
            flush_destage_bytes: 128 << 10,
            ..Config::small()
        },
    }
}

/// A history, with imports or without; a hash of all its I/Os.
pub(crate) fn history(seed: u64, imports: bool) -> u64 {
    let mut dice = Dice::of_seed(seed);
    let mut config = config(seed);
    if dice.roll(4) == 0 {
        // Two segments: what is dirty at an orderly end does not always fit.
        config.journal_bytes = 0;
    }
    let mut machine = Machine::new(seed, config);
    machine.model.imports = imports;
    for _ in 0..LIVES {
        let end = [End::Closed, End::Killed, End::PowerCut][dice.roll(3) as usize];
        let dies = end != End::Closed && dice.roll(2) == 0;
        if dies {
            machine.sim.crash_after(1 + dice.roll(150));
        }
        for _ in 0..OPS {
            let op = any_op(&machine.model, &mut dice);
            if let Err(e) = machine.apply(&op) {
                assert!(dies, "{op:?}: {e:?}");
                break;
            }
        }
        match end {
            End::Closed => {
                machine.close().unwrap();
                // The host is shut down then, or the store moved to another: its memory is gone.
                if dice.roll(2) == 0 {
                    machine.sim.power_cut();
                }
            }
            end => machine.crash(end),
        }
        // Lives whose memory does not outlive them are not many.
        machine.config.shared_memory = dice.roll(5) != 0;
        // A second crash, during recovery, changes nothing.
        let second = [End::Killed, End::PowerCut][dice.roll(2) as usize];
        let again = [(dice.roll(40), second)];
        let again = if dice.roll(3) == 0 { &again[..] } else { &[] };
        machine.recover(end, again);
    }
    machine.sim.trace()
}

/// More with `HOLDFAST_SEEDS=FIRST..LAST`.
#[test]
fn histories_survive_restarts_kills_and_power_cuts() {
    for seed in range_from("HOLDFAST_SEEDS", 0..60) {
        let _replay = Replay::new(
            "HOLDFAST_SEEDS",
            &format!("{seed}..{}", seed + 1),
            "random::histories_survive_restarts_kills_and_power_cuts",
        );
        history(seed, false);
    }
}

#[test]
fn one_seed_is_one_run() {
    for seed in [1, 2, 3] {
        assert_eq!(history(seed, true), history(seed, true), "seed {seed}");
    }
    assert_ne!(history(1, false), history(2, false));
}
