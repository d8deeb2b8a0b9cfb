//! From the engine's words to the API's.

use api_types::{ApiError, ErrorCode, Snapshot, TrashEntry, Volume};
use catalog::{SnapshotRecord, VolumeRecord};
use std::error::Error as _;
use types::{BLOCK_SIZE, Name, VolumeRef};

/// A volume's error as the API tells it, with what to do about it.
pub(crate) fn api_error(e: volume::Error) -> ApiError {
    use volume::ErrorKind as Kind;
    let code = match e.kind() {
        Kind::NotFound => ErrorCode::NotFound,
        Kind::Conflict => ErrorCode::Conflict,
        Kind::Invalid => ErrorCode::Invalid,
        Kind::InUse => ErrorCode::InUse,
        Kind::Refused => ErrorCode::Refused,
        Kind::NoSpace => ErrorCode::NoSpace,
        Kind::Damaged => ErrorCode::Damaged,
        Kind::Closed => ErrorCode::Unavailable,
        Kind::Cancelled => ErrorCode::Cancelled,
        Kind::NewerFormat | Kind::Io => ErrorCode::Internal,
    };
    if matches!(code, ErrorCode::Damaged | ErrorCode::Internal) {
        tracing::error!(error = ?e, "a request failed");
    }
    let mut message = e.to_string();
    if let Some(cause) = e
        .source()
        .filter(|cause| !message.contains(&cause.to_string()))
    {
        message = format!("{message}: {cause}");
    }
    let error = ApiError::new(code, message);
    match code {
        ErrorCode::Damaged => error.hint("run 'holdfast check' to see what is lost"),
        ErrorCode::Internal => error.hint("the daemon's log has the details"),
        _ => error,
    }
}

/// How full the file system is.
pub(crate) fn space(level: volume::SpaceLevel) -> api_types::SpaceLevel {
    match level {
        volume::SpaceLevel::Ample => api_types::SpaceLevel::Ample,
        volume::SpaceLevel::Filling => api_types::SpaceLevel::Filling,
        volume::SpaceLevel::Scarce => api_types::SpaceLevel::Scarce,
        volume::SpaceLevel::Full => api_types::SpaceLevel::Full,
    }
}

/// Parses a volume's or snapshot's name.
pub(crate) fn name(text: &str) -> Result<Name, ApiError> {
    text.parse()
        .map_err(|e: types::NameError| ApiError::new(ErrorCode::Invalid, e.to_string()))
}

/// Parses `volume` or `volume@snapshot`.
pub(crate) fn reference(text: &str) -> Result<VolumeRef, ApiError> {
    text.parse()
        .map_err(|e: types::NameError| ApiError::new(ErrorCode::Invalid, e.to_string()))
}

/// A volume's record; what only the running daemon knows is to be added.
pub(crate) fn volume(record: VolumeRecord) -> Volume {
    Volume {
        id: record.id.0,
        name: record.name.to_string(),
        size: record.size,
        used: record.mapped_blocks * BLOCK_SIZE as u64,
        dedup: record.properties.dedup,
        codec: record.properties.codec,
        read_only: record.properties.read_only,
        quota: record.quota,
        limits: record.limits.into(),
        origin: record.origin,
        snapshots: 0,
        created_ms: record.created_ms,
        connections: 0,
        vhost: None,
        dirty: 0,
        file: None,
        mode: record.mode,
        independent: record.independent,
        snapshot_policy: None,
        apart: None,
        importing: None,
    }
}

/// A snapshot's record.
pub(crate) fn snapshot(record: SnapshotRecord, volume: &Name, vhost: Option<String>) -> Snapshot {
    Snapshot {
        id: record.id.0,
        volume: volume.to_string(),
        name: record.name.to_string(),
        size: record.size,
        used: record.mapped_blocks * BLOCK_SIZE as u64,
        created_ms: record.created_ms,
        group: record.group.map(|first| first.0),
        scheduled: record.scheduled,
        vhost,
    }
}

/// A volume of the trash.
pub(crate) fn trash_entry(record: VolumeRecord, snapshots: u64) -> TrashEntry {
    let trashed = record.trashed;
    TrashEntry {
        id: record.id.0,
        name: record.name.to_string(),
        size: record.size,
        used: record.mapped_blocks * BLOCK_SIZE as u64,
        snapshots,
        removed_ms: trashed.map_or(0, |t| t.at_ms),
        until_ms: trashed.map_or(0, |t| t.until_ms),
    }
}
