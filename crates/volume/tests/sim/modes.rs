//! Disk modes in random histories: what is kept apart is kept or discarded as a whole, whatever dies when.

use crate::{
    Dice, Replay,
    machine::Machine,
    model::{End, Model},
    ops::{Choice, Op},
    random::{any_op, config},
    range_from,
};

/// Lives of one machine.
const LIVES: usize = 5;
/// Operations of one life.
const OPS: usize = 40;

/// Often something about modes; no other size for what goes back.
fn maybe_op(model: &Model, dice: &mut Dice) -> Option<Op> {
    if dice.roll(4) > 0 {
        let op = any_op(model, dice);
        let resized = matches!(&op, Op::Resize(volume, _) if model.volumes[volume].base.is_some());
        return (!resized).then_some(op);
    }
    let names: Vec<&String> = model.volumes.keys().collect();
    let volume = (*dice.pick(&names)?).clone();
    let choice = match (model.volumes[&volume].base.is_some(), dice.roll(6)) {
        (false, _) => Choice::Begin,
        (true, 0..2) => Choice::Commit,
        (true, 2..5) => Choice::Discard,
        (true, _) => Choice::End,
    };
    Some(Op::Mode(volume, choice))
}

fn history(seed: u64) {
    let mut dice = Dice::of_seed(seed);
    let mut machine = Machine::new(seed, config(seed));
    for _ in 0..LIVES {
        let end = [End::Closed, End::Killed, End::PowerCut][dice.roll(3) as usize];
        let dies = end != End::Closed && dice.roll(2) == 0;
        if dies {
            machine.sim.crash_after(1 + dice.roll(150));
        }
        for _ in 0..OPS {
            let Some(op) = maybe_op(&machine.model, &mut dice) else {
                continue;
            };
            if let Err(e) = machine.apply(&op) {
                assert!(dies, "{op:?}: {e:?}");
                break;
            }
        }
        match end {
            End::Closed => machine.close().unwrap(),
            end => machine.crash(end),
        }
        let again = [(dice.roll(40), End::PowerCut)];
        let again = if dice.roll(3) == 0 { &again[..] } else { &[] };
        machine.recover(end, again);
    }
}

/// More with `HOLDFAST_SEEDS=FIRST..LAST`.
#[test]
fn what_is_kept_apart_is_kept_or_discarded_as_a_whole() {
    for seed in range_from("HOLDFAST_SEEDS", 0..40) {
        let _replay = Replay::new(
            "HOLDFAST_SEEDS",
            &format!("{seed}..{}", seed + 1),
            "modes::what_is_kept_apart_is_kept_or_discarded_as_a_whole",
        );
        history(seed);
    }
}
