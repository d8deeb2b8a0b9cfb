//! Simulated files, clock and randomness for crash tests.
//!
//! A [`SimEnv`] is a machine in memory: its [`Env`] runs the very code that the daemon runs, and the
//! test takes its power away. Every file has two images, what readers see and what a power cut leaves:
//!
//! ```text
//!  write_at ──▶ live ──sync_data──▶ durable        create, rename, remove ──▶ live names
//!                 └── power cut: any subset of        └── sync_dir ──▶ durable names
//!                     unsynced sectors (512 B)            power cut: of each directory the first few
//! ```
//!
//! The model is stricter than a real disk in places, never kinder. Of several unsynced writes to a sector any one
//! may be what is kept, or none. A length may be kept without the data, one that the file had in passing, too; a
//! truncation in part. Names: ext4 and xfs keep a prefix of all changes of names on the file system, and a sync of
//! anything keeps all that went before it. Here each directory has a prefix of its own, the sync of a file does
//! nothing for its name, and that of a directory nothing for others. Only a rename between two directories is in both
//! or in neither.
//!
//! Beyond crashes there are [`Fault`]s: a disk that fails, and one that lies.
//!
//! The same seed and the same calls give the same run.

mod clock;
mod faults;
mod files;
mod image;
mod memory;
mod random;
mod tree;
mod world;

pub use faults::{Fault, Injection};
pub use files::SimFiles;

use clock::SimClock;
use env::Env;
use memory::SimMemory;
use parking_lot::Mutex;
use random::SimRandom;
use std::{io, path::Path, sync::Arc, time::Duration};
use world::World;

/// A simulated machine.
pub struct SimEnv {
    world: Arc<Mutex<World>>,
    clock: Arc<SimClock>,
    random: Arc<SimRandom>,
}

impl SimEnv {
    /// A machine with an empty disk; `seed` decides its randomness and its luck.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let clock = Arc::new(SimClock::default());
        SimEnv {
            world: Arc::new(Mutex::new(World::new(seed, Arc::clone(&clock)))),
            clock,
            random: Arc::new(SimRandom::new(seed)),
        }
    }

    /// The machine, as a program started now sees it.
    ///
    /// # Behavior
    /// It dies with [`power_cut`](Self::power_cut) and [`kill`](Self::kill): after those, ask again.
    /// What was opened through an old one fails from then on.
    #[must_use]
    pub fn env(&self) -> Env {
        Env {
            files: Arc::new(SimFiles {
                world: self.world.clone(),
                life: self.world.lock().life,
            }),
            clock: self.clock.clone(),
            random: self.random.clone(),
            memory: Arc::new(SimMemory(self.world.clone())),
        }
    }

    /// A second machine in the same state. They have nothing in common from then on.
    ///
    /// # Behavior
    /// What was opened on the first one does not work on the second: end its life there, as a crash does.
    #[must_use]
    pub fn fork(&self) -> Self {
        let clock = Arc::new(self.clock.fork());
        SimEnv {
            world: Arc::new(Mutex::new(self.world.lock().fork(Arc::clone(&clock)))),
            clock,
            random: Arc::new(self.random.fork()),
        }
    }

    /// The power goes and comes back: what was not durable is kept or lost by the seed, locks are
    /// released, faults not yet met are forgotten. Shared memory is gone.
    pub fn power_cut(&self) {
        self.world.lock().power_cut();
    }

    /// The process dies and the machine lives: all that was written is still to be read, in files and
    /// in shared memory, and as little of it durable as before. Locks are released, faults not yet met are forgotten.
    pub fn kill(&self) {
        self.world.lock().restart();
    }

    /// The machine dies in the `n`-th mutating I/O from now (1 is the next, 0 is at once): that one fails,
    /// done, not done or in part, and so does everything after it until [`power_cut`](Self::power_cut) or
    /// [`kill`](Self::kill).
    pub fn crash_after(&self, n: u64) {
        self.world.lock().crash_after(n);
    }

    /// Whether the machine has died in the I/O that [`crash_after`](Self::crash_after) chose: what a program did since
    /// was not done.
    #[must_use]
    pub fn has_died(&self) -> bool {
        self.world.lock().has_died()
    }

    /// Mutating I/Os so far: writes, changes of length, holes, changes of names, syncs.
    #[must_use]
    pub fn io_count(&self) -> u64 {
        self.world.lock().ios
    }

    /// The same calls have made the same I/Os, in the same order and with the same data, if this is the same.
    #[must_use]
    pub fn trace(&self) -> u64 {
        self.world.lock().trace()
    }

    /// A fault waits for its I/O; until the end of this life, or until it is [`heal`](Self::heal)ed.
    pub fn inject(&self, injection: Injection) {
        self.world.lock().faults.add(injection);
    }

    /// Faults that wait are forgotten. What they did stays.
    pub fn heal(&self) {
        self.world.lock().faults.clear();
    }

    /// How many I/Os were struck by faults so far, and how many bits were flipped.
    #[must_use]
    pub fn struck(&self) -> u64 {
        self.world.lock().faults.struck
    }

    /// The next sync of any file fails: [`Fault::SyncError`].
    pub fn fail_next_sync(&self) {
        self.inject(Injection {
            fault: Fault::SyncError,
            file: String::new(),
            skip: 0,
            times: 1,
        });
    }

    /// Damages the lowest bit of the byte at `offset`, for readers and on the disk.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `UnexpectedEof` if it ends before.
    pub fn flip_bit(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        let ino = world.tree.lookup(path)?;
        match world.tree.image(ino)?.flip_bit(offset) {
            true => {
                world.faults.struck += 1;
                Ok(())
            }
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// How many regions of shared memory there are.
    #[must_use]
    pub fn shared_memory(&self) -> usize {
        self.world.lock().memory.len()
    }

    /// The disk has `total` bytes; writes that need more fail with ENOSPC, having done what there was space for.
    pub fn set_space(&self, total: u64) {
        self.world.lock().space = Some(total);
    }

    /// Time passes.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }
}
