//! Disk modes.

use crate::shorten;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What becomes of what a machine wrote to a disk when it is powered off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskMode {
    /// It stays.
    #[default]
    Persistent,
    /// It vanishes.
    Nonpersistent,
    /// It is kept apart until somebody decides.
    Undoable,
}

impl DiskMode {
    /// All of them.
    pub const ALL: [DiskMode; 3] = [
        DiskMode::Persistent,
        DiskMode::Nonpersistent,
        DiskMode::Undoable,
    ];

    /// What it is called.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DiskMode::Persistent => "persistent",
            DiskMode::Nonpersistent => "nonpersistent",
            DiskMode::Undoable => "undoable",
        }
    }
}

impl fmt::Display for DiskMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DiskMode {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let found = DiskMode::ALL.into_iter().find(|mode| mode.name() == s);
        found.ok_or_else(|| {
            format!(
                "'{}' is no disk mode: persistent, nonpersistent or undoable",
                shorten(s)
            )
        })
    }
}
