//! The ways in which disks fail and lie, at an I/O that the test chooses.

use std::{path::Path, time::Duration};

/// What goes wrong with an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A read fails with `EIO`.
    ReadError,
    /// A write fails with `EIO`, some first sectors of it done. A hole, a change of length or of names: not done.
    WriteError,
    /// A sync fails with `EIO`, some of what it was for durable. What a file has in the page cache counts as
    /// synced from then on, and may read as it was before (Rebello et al., ATC'20: by file system). What was
    /// written directly waits for the next sync, or is gone.
    SyncError,
    /// What needs space fails with `ENOSPC`, nothing done.
    NoSpace,
    /// A write is acknowledged and lands elsewhere: in the same file or in another one that
    /// [`Injection::file`] matches.
    Misdirected,
    /// A write is acknowledged, and synced, and never reaches the disk. Perhaps readers see it until the power goes.
    Lost,
    /// A write with one bit changed.
    Flipped,
    /// The I/O takes so long.
    Stall(Duration),
}

/// A fault that waits for its I/O.
#[derive(Clone, Debug)]
pub struct Injection {
    /// What goes wrong.
    pub fault: Fault,
    /// Only with files and directories whose path has this in it, at the time they were opened.
    pub file: String,
    /// So many I/Os that it could strike go well first.
    pub skip: u64,
    /// It strikes so often.
    pub times: u64,
}

/// Kinds of I/O, as faults tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    Read,
    Write,
    /// A hole or a change of length.
    Shape,
    SyncData,
    /// A new name.
    Create,
    Rename,
    Remove,
    SyncDir,
}

impl Fault {
    fn strikes(self, kind: Kind) -> bool {
        match self {
            Fault::ReadError => kind == Kind::Read,
            Fault::WriteError => !matches!(kind, Kind::Read | Kind::SyncData | Kind::SyncDir),
            Fault::SyncError => matches!(kind, Kind::SyncData | Kind::SyncDir),
            Fault::NoSpace => matches!(kind, Kind::Write | Kind::Create),
            Fault::Misdirected | Fault::Lost | Fault::Flipped => kind == Kind::Write,
            Fault::Stall(_) => true,
        }
    }
}

/// Faults that wait.
#[derive(Clone, Default)]
pub(crate) struct Faults {
    waiting: Vec<Injection>,
    pub(crate) struck: u64,
}

impl Faults {
    pub(crate) fn add(&mut self, injection: Injection) {
        self.waiting.push(injection);
    }

    pub(crate) fn clear(&mut self) {
        self.waiting.clear();
    }

    /// The fault that meets this I/O: the first one whose turn it is.
    pub(crate) fn meet(&mut self, kind: Kind, path: &Path) -> Option<Injection> {
        let path = path.to_str().unwrap_or_default();
        let mut met = None;
        for waiting in &mut self.waiting {
            if waiting.times == 0 || !waiting.fault.strikes(kind) || !path.contains(&*waiting.file)
            {
                continue;
            }
            if waiting.skip > 0 {
                waiting.skip -= 1;
            } else if met.is_none() {
                waiting.times -= 1;
                met = Some(waiting.clone());
            }
        }
        self.struck += u64::from(met.is_some());
        met
    }
}
