//! Everything that goes on beside the writers: snapshots, clones, rollbacks, removals, collections, checks.

mod make;

use super::{
    Stage, ballast,
    history::{Cut, Tick},
    world::{Image, Place, Shot, Volume, World},
    writer::Disk,
};
use anyhow::{Context, Result, bail};
use fastrand::Rng;
use std::{sync::Arc, time::Duration};

/// Snapshots of a volume, at most.
const SHOTS: usize = 5;
/// Who removes waits so long for those who have just let go.
const LET_GO: Duration = Duration::from_secs(10);

const REFUSED: i32 = 4;
const NO_SPACE: i32 = 7;

/// What became of a command.
#[derive(PartialEq)]
enum Outcome {
    Done,
    /// The daemon died, or there was no space: it may have been done or not.
    Unknown,
}

/// Does one thing after the other, at random.
pub(super) struct Director<'a> {
    pub(super) stage: &'a Stage<'a>,
    pub(super) world: &'a mut World,
    pub(super) rng: Rng,
    /// Number of the next volume and the next snapshot.
    pub(super) next: &'a mut u32,
}

impl Director<'_> {
    /// Goes on until the daemon is to die.
    pub(super) fn run(&mut self) -> Result<()> {
        while !self.stage.dying() {
            match self.step() {
                Err(error) if !self.stage.is_echo(&error) => return Err(error),
                _ => {}
            }
            // For want of space: the daemon lives and can be asked. Else it is asked when it is up again.
            if self.world.is_unsure() && !self.stage.dying() {
                let seen = self.world.reconcile(&self.stage.looker());
                if !self.stage.dying() {
                    seen?;
                }
            }
        }
        Ok(())
    }

    fn step(&mut self) -> Result<()> {
        match self.rng.u32(0..21) {
            0..4 => self.snapshot(),
            4..6 => self.look_at_snapshot(),
            6..8 => self.remove_snapshot(),
            8..10 => self.clone(),
            10..13 => self.scribble(),
            13 => self.rollback(),
            14..16 => self.remove(),
            16 => self.restore(),
            17 => self.empty_trash(),
            18 => self.collect(),
            19 => self.import(),
            _ => self.check(),
        }
    }

    /// Runs a command. Refusals are waited for: a client that has left may not be noticed yet.
    fn call(&self, arguments: &[&str]) -> Result<Outcome> {
        let watch = crate::stopwatch::Stopwatch::start();
        loop {
            let done = self.stage.daemon.cli(arguments)?;
            match done.status.code() {
                Some(0) => return Ok(Outcome::Done),
                _ if self.stage.dying() => {
                    self.stage.tally.cut_off.add(1);
                    return Ok(Outcome::Unknown);
                }
                Some(NO_SPACE) if self.stage.may_be_full => {
                    self.stage.tally.full.add(1);
                    return Ok(Outcome::Unknown);
                }
                Some(REFUSED) if !watch.left(LET_GO).is_zero() => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                code => {
                    let line = arguments.join(" ");
                    bail!(
                        "`holdfast {line}` failed with {code:?}: {}",
                        done.stderr.trim()
                    )
                }
            }
        }
    }

    /// Index of a volume that is certainly there and of which `wanted` is true; never the ballast.
    fn pick(&mut self, wanted: impl Fn(&Volume) -> bool) -> Option<usize> {
        let all = self.world.volumes.iter().enumerate();
        let fits: Vec<usize> = all
            .filter(|(_, v)| v.name() != ballast::NAME && v.is_certain() && wanted(v))
            .map(|(i, _)| i)
            .collect();
        self.rng.choice(fits)
    }

    /// The same among clones: nobody else uses them.
    fn pick_clone(&mut self) -> Option<usize> {
        self.pick(|volume| volume.disk.name.starts_with('c'))
    }

    fn pick_shot(&mut self) -> Option<(usize, String)> {
        let certain = |volume: &Volume| volume.shots.values().any(|shot| !shot.maybe);
        let at = self.pick(certain)?;
        let shots = self.world.volumes[at].shots.iter();
        let names: Vec<String> = shots
            .filter(|(_, shot)| !shot.maybe)
            .map(|(name, _)| name.clone())
            .collect();
        Some((at, self.rng.choice(names)?))
    }

    fn number(&mut self) -> u32 {
        *self.next += 1;
        *self.next
    }

    fn snapshot(&mut self) -> Result<()> {
        let Some(at) = self.pick(|volume| volume.shots.len() < SHOTS) else {
            return Ok(());
        };
        let shot = format!("s{}", self.number());
        let disk = Arc::clone(&self.world.volumes[at].disk);
        let from = disk.history().tick();
        let outcome = self.call(&["snapshot", "create", &format!("{}@{shot}", disk.name)])?;
        let done = outcome == Outcome::Done;
        let state = Shot {
            image: within(&disk, from, done),
            maybe: !done,
        };
        let volume = &mut self.world.volumes[at];
        volume.shots.insert(shot.clone(), state);
        if done {
            self.stage.tally.snapshots.add(1);
            volume.verify_shot(&self.stage.looker(), &shot)?;
        }
        Ok(())
    }

    fn look_at_snapshot(&mut self) -> Result<()> {
        let Some((at, shot)) = self.pick_shot() else {
            return Ok(());
        };
        self.world.volumes[at].verify_shot(&self.stage.looker(), &shot)
    }

    fn remove_snapshot(&mut self) -> Result<()> {
        let Some((at, shot)) = self.pick_shot() else {
            return Ok(());
        };
        let name = format!("{}@{shot}", self.world.volumes[at].name());
        let outcome = self.call(&["snapshot", "rm", &name])?;
        let shots = &mut self.world.volumes[at].shots;
        match outcome {
            Outcome::Done => {
                shots.remove(&shot);
                self.stage.tally.removals.add(1);
            }
            Outcome::Unknown => shots.get_mut(&shot).context("no snapshot")?.maybe = true,
        }
        Ok(())
    }

    /// A few writes to a clone, flushed or not, and all of it read.
    fn scribble(&mut self) -> Result<()> {
        let Some(at) = self.pick_clone() else {
            return Ok(());
        };
        let disk = Arc::clone(&self.world.volumes[at].disk);
        let batches = self.rng.u32(1..20);
        let mut writer = self.stage.writer(&disk, self.rng.fork())?;
        for _ in 0..batches {
            writer.batch()?;
        }
        drop(writer);
        if self.rng.bool() {
            return self.world.volumes[at].verify(&self.stage.looker());
        }
        Ok(())
    }

    fn rollback(&mut self) -> Result<()> {
        let wanted =
            |v: &Volume| v.disk.name.starts_with('c') && v.shots.values().any(|s| !s.maybe);
        let Some(at) = self.pick(wanted) else {
            return Ok(());
        };
        let shots = self.world.volumes[at].shots.iter();
        let names: Vec<String> = shots
            .filter(|(_, s)| !s.maybe)
            .map(|(n, _)| n.clone())
            .collect();
        let Some(shot) = self.rng.choice(names) else {
            return Ok(());
        };
        let image = self.exact(at, &shot)?;
        let name = format!("{}@{shot}", self.world.volumes[at].name());
        let outcome = self.call(&["snapshot", "rollback", &name])?;
        let volume = &mut self.world.volumes[at];
        match (outcome, image) {
            (Outcome::Done, Image::Exact(state)) => {
                volume.disk.settle(&state);
                self.stage.tally.rollbacks.add(1);
            }
            (_, image) => volume.instead = Some(image),
        }
        Ok(())
    }

    fn remove(&mut self) -> Result<()> {
        let Some(at) = self.pick_clone() else {
            return Ok(());
        };
        let name = self.world.volumes[at].name().to_owned();
        self.move_to(at, Place::Trash, &["volume", "rm", &name])
    }

    fn restore(&mut self) -> Result<()> {
        let Some(at) = self.in_trash() else {
            return Ok(());
        };
        let name = self.world.volumes[at].name().to_owned();
        self.move_to(at, Place::Listed, &["trash", "restore", &name])?;
        match self.world.volumes[at].is_certain() {
            true => self.world.volumes[at].verify(&self.stage.looker()),
            false => Ok(()),
        }
    }

    fn in_trash(&mut self) -> Option<usize> {
        let all = self.world.volumes.iter().enumerate();
        let fits = all.filter(|(_, v)| v.place == Place::Trash && v.maybe.is_none());
        let fits: Vec<usize> = fits.map(|(i, _)| i).collect();
        self.rng.choice(fits)
    }

    fn move_to(&mut self, at: usize, place: Place, arguments: &[&str]) -> Result<()> {
        let outcome = self.call(arguments)?;
        let volume = &mut self.world.volumes[at];
        match outcome {
            Outcome::Done => {
                volume.place = place;
                self.stage.tally.removals.add(1);
            }
            Outcome::Unknown => volume.maybe = Some(place),
        }
        Ok(())
    }

    /// Removes what is in the trash, all or one.
    fn empty_trash(&mut self) -> Result<()> {
        if self.rng.bool() {
            let Some(at) = self.in_trash() else {
                return Ok(());
            };
            let name = self.world.volumes[at].name().to_owned();
            self.move_to(at, Place::Gone, &["trash", "rm", &name])?;
        } else {
            let done = self.call(&["trash", "empty"])? == Outcome::Done;
            for volume in &mut self.world.volumes {
                match (volume.place, done) {
                    (Place::Trash, true) => volume.place = Place::Gone,
                    (Place::Trash, false) => volume.maybe = Some(Place::Gone),
                    // It may have been on its way to the trash or from there.
                    _ => {}
                }
            }
        }
        self.world
            .volumes
            .retain(|v| v.place != Place::Gone || v.maybe.is_some());
        Ok(())
    }

    fn collect(&mut self) -> Result<()> {
        if self.call(&["store", "collect"])? == Outcome::Done {
            self.stage.tally.collections.add(1);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        let quick = self.rng.bool();
        let arguments: &[&str] = if quick {
            &["check", "--quick"]
        } else {
            &["check"]
        };
        if self.call(arguments)? == Outcome::Done {
            self.stage.tally.checks.add(1);
        }
        Ok(())
    }
}

/// The state that `disk` had at some moment of a call that began at `from` and has just ended. A snapshot
/// that was taken counts as a flush.
fn within(disk: &Disk, from: Tick, durable: bool) -> Image {
    let mut history = disk.history();
    if durable {
        history.flushed(from);
    }
    let cut = Cut {
        from,
        until: history.tick(),
        durable: false,
    };
    Image::Within(Box::new(history.clone()), cut)
}
