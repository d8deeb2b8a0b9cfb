//! The machine: a tree of files, its power, its faults.

use crate::{
    clock::SimClock,
    faults::{Fault, Faults, Injection, Kind},
    image::SECTOR,
    random::Dice,
    tree::Tree,
};
use env::Region;
use rustc_hash::FxHasher;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{Hash, Hasher},
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Regions of shared memory, by name.
type Memories = BTreeMap<String, Arc<dyn Region>>;

fn copies(memories: &Memories) -> Memories {
    let copy =
        |(name, region): (&String, &Arc<dyn Region>)| (name.clone(), env::heap_copy(&**region));
    memories.iter().map(copy).collect()
}

pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) dice: Dice,
    /// Bytes of the disk, if anybody has limited them.
    pub(crate) space: Option<u64>,
    pub(crate) locks: BTreeSet<PathBuf>,
    pub(crate) faults: Faults,
    /// Shared memory.
    pub(crate) memory: Memories,
    /// As it was in the I/O that the machine died in.
    memory_at_death: Option<Memories>,
    /// Grows when the process or the power dies: handles of a former life are refused.
    pub(crate) life: u64,
    /// Mutating I/Os so far.
    pub(crate) ios: u64,
    /// Of all I/Os so far.
    pub(crate) trace: FxHasher,
    /// The I/O, by that count, that the machine dies in.
    dies_at: Option<u64>,
    clock: Arc<SimClock>,
}

/// An I/O that somebody asks for.
pub(crate) struct Io<'a> {
    pub(crate) kind: Kind,
    pub(crate) path: &'a Path,
    pub(crate) offset: u64,
    pub(crate) data: &'a [u8],
}

/// What becomes of an I/O.
pub(crate) enum Fate {
    /// Do it and say so.
    Done,
    /// The machine dies in it: it may have been done, in part too, but nobody is told.
    Dying,
    /// The disk fails or lies.
    Struck(Injection),
}

impl World {
    pub(crate) fn new(seed: u64, clock: Arc<SimClock>) -> Self {
        World {
            tree: Tree::new(),
            dice: Dice::new(seed),
            space: None,
            locks: BTreeSet::new(),
            faults: Faults::default(),
            memory: BTreeMap::new(),
            memory_at_death: None,
            life: 0,
            ios: 0,
            trace: FxHasher::default(),
            dies_at: None,
            clock,
        }
    }

    /// Refuses everything of a former life, and of a machine that has died.
    pub(crate) fn alive(&self, life: u64) -> io::Result<()> {
        if life != self.life || self.has_died() {
            return Err(dead());
        }
        Ok(())
    }

    pub(crate) fn has_died(&self) -> bool {
        self.dies_at.is_some_and(|at| self.ios >= at)
    }

    /// Notes an I/O, and decides on its fate.
    pub(crate) fn begin(&mut self, life: u64, io: &Io<'_>) -> io::Result<Fate> {
        self.alive(life)?;
        (io.kind, io.path, io.offset, io.data).hash(&mut self.trace);
        if io.kind != Kind::Read {
            self.ios += 1;
            if self.has_died() {
                self.memory_at_death = Some(copies(&self.memory));
                return Ok(Fate::Dying);
            }
        }
        let Some(met) = self.faults.meet(io.kind, io.path) else {
            return Ok(Fate::Done);
        };
        if let Fault::Stall(time) = met.fault {
            self.clock.advance(time);
            return Ok(Fate::Done);
        }
        Ok(Fate::Struck(met))
    }

    /// How much of a write that is interrupted was done: nothing, all of it, or some first sectors.
    pub(crate) fn some_of<'a>(&mut self, data: &'a [u8]) -> &'a [u8] {
        let sectors = (data.len() / SECTOR) as u64;
        let done = match self.dice.below(3) {
            0 => 0,
            1 => data.len(),
            _ => self.dice.below(sectors + 1) as usize * SECTOR,
        };
        &data[..done]
    }

    /// The same on another machine.
    pub(crate) fn fork(&self, clock: Arc<SimClock>) -> Self {
        World {
            tree: self.tree.clone(),
            dice: self.dice.clone(),
            space: self.space,
            locks: self.locks.clone(),
            faults: self.faults.clone(),
            memory: copies(&self.memory),
            memory_at_death: self.memory_at_death.as_ref().map(copies),
            life: self.life,
            ios: self.ios,
            trace: self.trace.clone(),
            dies_at: self.dies_at,
            clock,
        }
    }

    pub(crate) fn crash_after(&mut self, n: u64) {
        self.dies_at = Some(self.ios + n);
    }

    /// Bytes that are left.
    pub(crate) fn free(&self) -> u64 {
        self.space
            .map_or(u64::MAX, |space| space.saturating_sub(self.tree.used()))
    }

    /// A new life on the same files.
    pub(crate) fn restart(&mut self) {
        self.life += 1;
        // Who still has the regions of the former life changes them in vain.
        let memory = self.memory_at_death.take();
        self.memory = memory.unwrap_or_else(|| copies(&self.memory));
        self.locks.clear();
        self.dies_at = None;
        self.faults.clear();
    }

    pub(crate) fn power_cut(&mut self) {
        self.restart();
        self.memory.clear();
        self.tree.power_cut(&mut self.dice);
    }

    pub(crate) fn trace(&self) -> u64 {
        self.trace.finish()
    }
}

pub(crate) fn dead() -> io::Error {
    io::Error::other("simulated: this machine has lost its power")
}
