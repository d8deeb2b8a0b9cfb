//! Random histories by seed.

use crate::{
    DIR, Dice,
    model::{Kept, Model},
    steps::step,
};
use sim::SimEnv;
use std::path::Path;
use volume::{Config, InitOptions, Store};

fn config(seed: u64, shared_memory: bool) -> Config {
    let config = match seed % 3 {
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
    };
    Config {
        shared_memory,
        ..config
    }
}

/// Says which seed it was, whatever panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("HOLDFAST_SEEDS={}..{} does it again", self.0, self.0 + 1);
        }
    }
}

fn history(seed: u64) {
    let _named = Seed(seed);
    let sim = SimEnv::new(seed);
    let dir = Path::new(DIR);
    Store::init(&sim.env(), dir, &InitOptions::default()).unwrap();
    let mut shared = true;
    let mut store = Store::open(&sim.env(), dir, config(seed, shared)).unwrap();
    let mut model = Model::default();
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    for _round in 0..6 {
        let crash = dice.roll(4);
        if crash == 3 {
            sim.crash_after(1 + dice.roll(150));
        }
        for _ in 0..40 {
            if let Err(e) = step(&store, &mut model, &mut dice) {
                assert!(crash == 3, "seed {seed}: {e:?}");
                break;
            }
        }
        match crash {
            0 => store.close().unwrap(),
            1 => sim.kill(),
            _ => sim.power_cut(),
        }
        drop(store);
        let again = dice.roll(3) == 0;
        if again {
            // A second crash, during recovery, changes nothing.
            sim.crash_after(dice.roll(40));
            drop(Store::open(&sim.env(), dir, config(seed, shared)));
            sim.power_cut();
        }
        let was_shared = std::mem::replace(&mut shared, dice.roll(5) != 0);
        store = Store::open(&sim.env(), dir, config(seed, shared))
            .unwrap_or_else(|e| panic!("seed {seed}: {e:?}"));
        if crash == 0 {
            for history in model.volumes.values_mut() {
                history.flushed();
            }
        }
        let kept = if crash == 1 && !again && was_shared && shared {
            Kept::Answered
        } else {
            Kept::Flushed
        };
        crate::model::verify(&store, &mut model, kept, seed);
    }
}

/// More with `HOLDFAST_SEEDS=FIRST..LAST`; one that fails names its seed.
#[test]
fn random_histories_survive_restarts_kills_and_power_cuts() {
    let range = std::env::var("HOLDFAST_SEEDS").unwrap_or_else(|_| "0..80".to_owned());
    let (first, last) = range.split_once("..").expect("FIRST..LAST");
    for seed in first.parse().expect("a number")..last.parse().expect("a number") {
        history(seed);
    }
}
