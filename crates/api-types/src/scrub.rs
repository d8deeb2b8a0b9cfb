//! Scrubbing: the slow verification of all packs in the background.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How scrubbing stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ScrubStatus {
    /// A round is under way.
    pub running: bool,
    /// Bytes that a second may take, at most.
    pub rate: u64,
    /// A round begins so long after the one before, seconds; none by itself if 0.
    pub every_s: u64,
    /// The last pack that was looked at in this round, as its file is named; empty if none was.
    pub position: String,
    /// Packs looked at in this round, and all that there are.
    pub packs_done: u64,
    /// See `packs_done`.
    pub packs_total: u64,
    /// Bytes read in this round.
    pub bytes: u64,
    /// Damaged packs found in this round, or in the last one if none is under way.
    pub damaged: u64,
    /// When this round, or the last, began; it may go on over restarts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When the last round ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_ms: Option<u64>,
    /// Bytes read by all rounds since the daemon started.
    pub bytes_total: u64,
    /// Damaged packs found since the daemon started, each time that one was met.
    pub damaged_total: u64,
}
