//! The machine: a tree of files, its power, its faults.

use crate::{random::Dice, tree::Tree};
use std::{collections::BTreeSet, io, path::PathBuf};

/// Space of a disk that nobody has limited.
const SPACE_DEFAULT: u64 = 1 << 40;

pub(crate) struct World {
    pub(crate) tree: Tree,
    pub(crate) dice: Dice,
    pub(crate) space: u64,
    pub(crate) locks: BTreeSet<PathBuf>,
    pub(crate) fail_next_sync: bool,
    /// Grows when the process or the power dies: handles of a former life are refused.
    pub(crate) life: u64,
    /// Mutating I/Os so far.
    pub(crate) ios: u64,
    /// The I/O, by that count, that the machine dies in.
    dies_at: Option<u64>,
}

/// Whether an I/O is done for the one who asked, or only perhaps.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Do it and say so.
    Done,
    /// The machine dies in it: it may have been done, but nobody is told.
    Dying,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        World {
            tree: Tree::new(),
            dice: Dice::new(seed),
            space: SPACE_DEFAULT,
            locks: BTreeSet::new(),
            fail_next_sync: false,
            life: 0,
            ios: 0,
            dies_at: None,
        }
    }

    /// Refuses everything of a former life, and of a machine that has died.
    pub(crate) fn alive(&self, life: u64) -> io::Result<()> {
        if life != self.life || self.dies_at.is_some_and(|at| self.ios >= at) {
            return Err(dead());
        }
        Ok(())
    }

    /// Counts a mutating I/O.
    pub(crate) fn mutate(&mut self, life: u64) -> io::Result<Fate> {
        self.alive(life)?;
        self.ios += 1;
        Ok(match self.dies_at {
            Some(at) if self.ios >= at => Fate::Dying,
            _ => Fate::Done,
        })
    }

    pub(crate) fn crash_after(&mut self, n: u64) {
        self.dies_at = Some(self.ios + n);
    }

    /// A new life on the same files.
    pub(crate) fn restart(&mut self) {
        self.life += 1;
        self.locks.clear();
        self.dies_at = None;
        self.fail_next_sync = false;
    }

    pub(crate) fn power_cut(&mut self) {
        self.restart();
        self.tree.power_cut(&mut self.dice);
    }
}

impl Fate {
    /// What the one who asked is told of an I/O that was done.
    pub(crate) fn told<T>(self, value: T) -> io::Result<T> {
        match self {
            Fate::Done => Ok(value),
            Fate::Dying => Err(dead()),
        }
    }
}

fn dead() -> io::Error {
    io::Error::other("simulated: this machine has lost its power")
}
