//! Disks that are plain files.

use crate::shorten;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// What is in the file of a disk that is a plain file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormat {
    /// The bytes of the disk and nothing else.
    #[default]
    Raw,
    /// QEMU's.
    Qcow2,
}

/// How the bytes of such a file are read and written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileDriver {
    /// A system call each, by the threads that serve.
    #[default]
    Threads,
    /// Through io_uring.
    IoUring,
}

impl fmt::Display for FileFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileFormat::Raw => "raw",
            FileFormat::Qcow2 => "qcow2",
        })
    }
}

impl FromStr for FileFormat {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "raw" => Ok(FileFormat::Raw),
            "qcow2" => Ok(FileFormat::Qcow2),
            _ => Err(format!(
                "'{}' is no format of a file volume: raw or qcow2",
                shorten(s)
            )),
        }
    }
}

impl fmt::Display for FileDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FileDriver::Threads => "threads",
            FileDriver::IoUring => "io_uring",
        })
    }
}

impl FromStr for FileDriver {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "threads" => Ok(FileDriver::Threads),
            "io_uring" => Ok(FileDriver::IoUring),
            _ => Err(format!(
                "'{}' is no driver: threads or io_uring",
                shorten(s)
            )),
        }
    }
}
