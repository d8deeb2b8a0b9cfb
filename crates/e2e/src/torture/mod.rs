//! The daemon killed at random moments, under load, again and again; and every block compared afterwards.
//!
//! ```text
//!  writers: volumes × connections ─ NBD ─▶ ┌────────┐ ◀─ CLI ─ director: snapshots, clones, rollbacks,
//!     │ every write, answer and flush      │ daemon │          removals, collections, checks
//!     ▼ is noted here                      └────────┘             │
//!  history, one a volume                    SIGKILL               ▼ what there must be
//!     └──────────── after the restart: read everything, compare ──┘
//! ```
//!
//! A seed gives the choices: which blocks, which requests, which operations, how long until the kill. How
//! threads interleave is not repeated, so a failure may take some runs of the same seed to come again.

mod ballast;
pub mod content;
mod director;
pub mod history;
pub mod nbd;
pub mod tally;
mod world;
pub mod writer;

use crate::{cleanup::Scratch, daemon::Daemon, process::tail, stopwatch::Stopwatch};
use anyhow::{Context, Result, ensure};
use content::Content;
use director::Director;
use fastrand::Rng;
use history::History;
use rustix::process::Signal;
use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tally::Tally;
use world::{Lately, Looker, Place, Volume, World};
use writer::{Disk, Writer};

/// What outlives a kill of the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// What was flushed: there is no write buffer in shared memory.
    Flushed,
    /// Nothing that was answered is lost, but for power cuts and daemons that are told not to share memory.
    Answered,
}

/// What is to be done.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Of all random choices.
    pub seed: u64,
    /// How often the daemon is killed.
    pub kills: u32,
    /// Volumes that are written to all the time.
    pub volumes: u32,
    /// Connections to each.
    pub connections: u32,
    /// Blocks of each.
    pub blocks: u32,
    /// What a kill may take.
    pub survives: Survives,
    /// The longest time between two kills.
    pub round: Duration,
    /// The store is on a file system of so many MiB, which is soon full. Needs root.
    pub space_mib: Option<u32>,
}

/// What a thread of a round needs.
struct Stage<'a> {
    daemon: &'a Daemon,
    dying: AtomicBool,
    may_be_full: bool,
    tally: &'a Tally,
}

impl Stage<'_> {
    fn dying(&self) -> bool {
        self.dying.load(SeqCst)
    }

    /// Whether `error` says no more than that the daemon is gone, and it should be.
    fn is_echo(&self, error: &anyhow::Error) -> bool {
        let hung = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
        let cause = error.downcast_ref::<io::Error>();
        self.dying() && cause.is_some_and(|cause| !hung.contains(&cause.kind()))
    }

    fn looker(&self) -> Looker<'_> {
        Looker {
            daemon: self.daemon,
            tally: self.tally,
        }
    }

    fn writer<'b>(&'b self, disk: &'b Disk, rng: Rng) -> Result<Writer<'b>> {
        Writer::new(
            disk,
            &self.daemon.nbd_socket(),
            rng,
            self.may_be_full,
            self.tally,
        )
    }

    /// Goes on until the connection breaks: nothing else may happen to it, also when the daemon ends in order.
    fn write(&self, disk: &Disk, rng: Rng) -> Result<()> {
        let mut writer = self.writer(disk, rng)?;
        loop {
            writer.batch()?;
        }
    }
}

/// Does what `plan` says; `say` is told how it goes.
///
/// # Errors
/// A promise was broken, or the machine is not fit for this. The store is left where it is, and where that
/// is, is in the error.
pub fn run(plan: &Plan, say: &dyn Fn(&str)) -> Result<Tally> {
    let mut run = Run::new(plan)?;
    match run.play(say) {
        Ok(()) => Ok(run.tally),
        Err(error) => {
            let log = tail(&run.daemon.log(), 10);
            let left = run.daemon.leave();
            Err(error.context(format!(
                "seed {}, kill {}: {plan:?}; left in {}, and its write buffer in /dev/shm; the daemon's last words:\n{log}\n",
                plan.seed,
                run.tally.kills.get(),
                left.display()
            )))
        }
    }
}

struct Run<'a> {
    plan: &'a Plan,
    rng: Rng,
    daemon: Daemon,
    world: World,
    next: u32,
    /// Whether the daemon has its write buffer in shared memory.
    shared: bool,
    tally: Tally,
}

impl<'a> Run<'a> {
    fn new(plan: &'a Plan) -> Result<Self> {
        crate::cleanup::on_signals()?;
        let scratch = Scratch::temporary()?;
        let config = scratch.path().join("holdfast.toml");
        let mut rng = Rng::with_seed(plan.seed);
        let shared = configure(&config, &mut rng, plan)?;
        let arguments = [
            "--config",
            config.to_str().context("a path that is no text")?,
        ];
        let mut daemon = match plan.space_mib {
            None => Daemon::in_directory(scratch, &arguments)?,
            Some(mib) => Daemon::on_a_disk_of(scratch, mib, &arguments)?,
        };
        let mut world = World {
            volumes: Vec::new(),
        };
        for number in 1..=plan.volumes {
            let name = format!("v{number}");
            let size = plan.blocks as usize * content::BLOCK;
            daemon.ok(&["volume", "create", &name, &size.to_string()])?;
            let state = vec![Content::Zero; plan.blocks as usize];
            let disk = Disk::new(name, number, History::new(&state, 0));
            world.volumes.push(Volume::new(disk, Place::Listed));
        }
        let tally = Tally::default();
        if let Some(mib) = plan.space_mib {
            let ballast = ballast::fill(&mut daemon, mib, &tally)?;
            world.volumes.push(Volume::new(ballast, Place::Listed));
        }
        Ok(Run {
            plan,
            rng,
            daemon,
            world,
            next: plan.volumes,
            shared,
            tally,
        })
    }

    fn play(&mut self, say: &dyn Fn(&str)) -> Result<()> {
        for kill in 1..=self.plan.kills {
            self.round()?;
            self.restart()?;
            let rng = &mut self.rng;
            let looker = looker(&self.daemon, &self.tally);
            self.world.reconcile(&looker)?;
            let new = |shot: &world::Shot| matches!(shot.image, world::Image::Within(..));
            self.world
                .verify(&looker, |shot| new(shot) || rng.u32(0..8) == 0)?;
            if kill % 50 == 0 {
                say(&format!("{} so far", self.tally));
            }
        }
        let looker = looker(&self.daemon, &self.tally);
        self.world.verify(&looker, |_| true)?;
        self.daemon.ok(&["check"])?;
        self.daemon.ok(&["store", "collect"])?;
        self.daemon.ok(&["check"])?;
        self.world.verify(&looker, |_| true)?;
        self.daemon.stop()
    }

    /// Load, until the daemon is ended.
    fn round(&mut self) -> Result<()> {
        let stop = self.rng.u32(0..8) == 0;
        let time = duration(&mut self.rng, self.plan.round);
        let stage = Stage {
            daemon: &self.daemon,
            dying: AtomicBool::new(false),
            may_be_full: self.plan.space_mib.is_some(),
            tally: &self.tally,
        };
        let bases = self.world.volumes.iter().take(self.plan.volumes as usize);
        let disks: Vec<Arc<Disk>> = bases.map(|volume| Arc::clone(&volume.disk)).collect();
        let mut director = Director {
            stage: &stage,
            world: &mut self.world,
            rng: self.rng.fork(),
            next: &mut self.next,
        };
        env::scope(|scope| {
            let mut threads = Vec::new();
            for disk in &disks {
                for _ in 0..self.plan.connections {
                    let (rng, stage) = (self.rng.fork(), &stage);
                    threads.push(scope.spawn("writer", move || stage.write(disk, rng))?);
                }
            }
            threads.push(scope.spawn("director", || director.run())?);
            let watch = Stopwatch::start();
            while !watch.left(time).is_zero() && threads.iter().all(|thread| !thread.is_finished())
            {
                std::thread::sleep(watch.left(time).min(Duration::from_millis(5)));
            }
            stage.dying.store(true, SeqCst);
            self.daemon
                .signal(if stop { Signal::TERM } else { Signal::KILL });
            let mut outcome = Ok(());
            for thread in threads {
                let ended = thread
                    .join()
                    .unwrap_or_else(|_| Err(anyhow::anyhow!("a panic")));
                if let Err(error) = ended
                    && !stage.is_echo(&error)
                {
                    outcome = Err(error);
                }
            }
            outcome
        })?;
        let status = self.daemon.wait()?;
        if stop {
            ensure!(status.success(), "the daemon ended with {status}");
            self.tally.stops.add(1);
            self.world.ended(Lately::Stopped);
        } else {
            self.killed();
            if !self.shared {
                self.world.buffer_lost(Lately::PowerCut);
            }
        }
        Ok(())
    }

    /// The daemon was killed; now and then that was because the power went.
    fn killed(&mut self) {
        self.tally.kills.add(1);
        self.world.ended(Lately::Killed);
        if self.rng.u32(0..4) == 0 {
            self.daemon.cut_power();
            self.tally.power_cuts.add(1);
            self.world.buffer_lost(Lately::PowerCut);
        }
    }

    /// Starts the daemon; now and then it is killed while it is starting.
    fn restart(&mut self) -> Result<()> {
        self.configure()?;
        while self.rng.u32(0..5) == 0 {
            if !self.shared {
                // It makes a buffer void at some moment of its start.
                self.world.buffer_lost(Lately::Unsure);
            }
            self.daemon.spawn()?;
            std::thread::sleep(duration(&mut self.rng, Duration::from_millis(500)));
            self.daemon.kill();
            self.tally.kills_at_start.add(1);
            self.killed();
            self.configure()?;
        }
        if !self.shared {
            self.world.buffer_lost(Lately::PowerCut);
        }
        let watch = Stopwatch::start();
        self.daemon.start()?;
        let took = watch.elapsed().as_millis() as u64;
        self.tally.restart_ms_max.max(took);
        Ok(())
    }

    fn configure(&mut self) -> Result<()> {
        let path = self.daemon.directory().join("holdfast.toml");
        self.shared = configure(&path, &mut self.rng, self.plan)?;
        Ok(())
    }
}

fn looker<'a>(daemon: &'a Daemon, tally: &'a Tally) -> Looker<'a> {
    Looker { daemon, tally }
}

/// Short times are as likely as long ones: in a decade as in the next.
fn duration(rng: &mut Rng, longest: Duration) -> Duration {
    longest.mul_f64(10_f64.powf(-2.5 * rng.f64()))
}

/// Budgets so small that destaging, recycled journals and slowed writers are everyday, another time ample. Says
/// whether memory is shared.
fn configure(path: &Path, rng: &mut Rng, plan: &Plan) -> Result<bool> {
    let one = |rng: &mut Rng, all: &[&'static str]| all[rng.usize(0..all.len())];
    let dirty = one(rng, &["16M", "16M", "64M"]);
    let journal = one(rng, &["16M", "64M", "256M"]);
    let (dirty, journal, reserve) = match plan.space_mib {
        None => (dirty, journal, dirty),
        Some(_) => ("16M", "16M", "8M"),
    };
    let cache = one(rng, &["32M", "128M"]);
    let shared = plan.survives == Survives::Answered && rng.u32(0..6) > 0;
    let text = format!(
        "[memory]\ndirty = '{dirty}'\ncache = '{cache}'\nindex = '16M'\nshared = {shared}\n\
         [disk]\njournal = '{journal}'\nreserve = '{reserve}'\n"
    );
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(shared)
}
