//! Long work and what happens meanwhile.

use crate::ApiError;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A piece of long work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Job {
    /// Its number since the daemon started.
    pub id: u64,
    /// What it does.
    pub kind: JobKind,
    /// To what: a volume's name, or empty.
    pub subject: String,
    /// How it is.
    pub state: JobState,
    /// Units (bytes) finished.
    pub done: u64,
    /// Units in all; 0 if not known.
    pub total: u64,
    /// Of the finished bytes of an import or an export those that took no storage, so far: zeroes, duplicates, and what compression took off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<u64>,
    /// When it began.
    pub started_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ApiError>,
    /// What it yielded: a [`Volume`](crate::Volume), [`CollectReport`](crate::CollectReport) or
    /// [`CheckReport`](crate::CheckReport), as its kind says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub result: Option<serde_json::Value>,
}

/// What a job does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobKind {
    /// Image into volume.
    Import,
    /// Volume into image.
    Export,
    /// Garbage collection.
    Collect,
    /// Verification.
    Check,
    /// Verification in the background.
    Scrub,
    /// A volume's data between the store and a plain file.
    Convert,
}

/// How a job is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// At work.
    Running,
    /// Finished.
    Done,
    /// Ended by an error.
    Failed,
    /// Ended on request.
    Cancelled,
}

/// Something that happened, as the event stream tells it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    /// Grows by one with each event since the daemon started.
    pub seq: u64,
    /// When.
    pub at_ms: u64,
    /// What.
    pub kind: EventKind,
    /// To what: a volume, `volume@snapshot`, or a job's number.
    pub subject: String,
    /// One line for people.
    pub message: String,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A volume was made.
    VolumeCreated,
    /// A volume was renamed, resized or given other properties.
    VolumeUpdated,
    /// A volume was put into the trash.
    VolumeRemoved,
    /// A volume was brought back.
    VolumeRestored,
    /// A volume left the trash for good.
    VolumePurged,
    /// A volume was set back to a snapshot.
    VolumeRolledBack,
    /// What was written to a volume, and kept apart, was kept.
    VolumeCommitted,
    /// It was discarded.
    VolumeDiscarded,
    /// The machine that had a volume was powered off.
    VolumePoweredOff,
    /// A snapshot was taken.
    SnapshotCreated,
    /// A snapshot was removed.
    SnapshotRemoved,
    /// A scheduled snapshot could not be taken, or not be removed when it had expired.
    SnapshotFailed,
    /// A volume or a snapshot is served over vhost-user-blk.
    VhostOn,
    /// It is so no longer.
    VhostOff,
    /// A job began.
    JobStarted,
    /// A job ended, well or not.
    JobEnded,
    /// Space became scarce, or is no longer.
    Space,
    /// Something began to fail or to stall, or works again.
    Health,
    /// Damage was met.
    Damage,
}
