//! What the daemon in memory answers.

use super::Held;
use api_types::{ApiError, ErrorCode, Importing, TrashEntry, VhostDevice};
use std::io;
use types::ImageFormat;

pub(super) fn missing(what: &str) -> ApiError {
    ApiError::new(ErrorCode::NotFound, format!("{what} does not exist"))
        .hint("list what there is: holdfast volume ls")
}

pub(super) fn vhost_device(name: &str, socket: String, queues: u16) -> VhostDevice {
    VhostDevice {
        name: name.to_owned(),
        socket,
        queues,
        error: None,
        guest: None,
        requests: 0,
        errors: 0,
        resumed: 0,
        bytes_read: 0,
        bytes_written: 0,
    }
}

pub(super) fn broken(e: io::Error) -> ApiError {
    ApiError::new(ErrorCode::Internal, e.to_string())
}

pub(super) fn entry(held: &Held) -> TrashEntry {
    TrashEntry {
        id: held.volume.id,
        name: held.volume.name.clone(),
        size: held.volume.size,
        used: held.volume.used,
        snapshots: held.volume.snapshots,
        removed_ms: 1_700_000_000_000,
        until_ms: 1_700_086_400_000,
    }
}

/// An import that has just begun.
pub(super) fn importing() -> Importing {
    Importing {
        path: "/image".to_owned(),
        format: ImageFormat::Raw,
        done: 0,
        total: 1 << 20,
        saved: 0,
        rate: 0,
        left_s: None,
        paused: false,
        error: None,
    }
}
