//! Disk modes: what becomes of what a machine wrote when it is powered off.

use crate::{ApiError, Volume};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What is written to a volume and kept apart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Apart {
    /// The snapshot that discarding goes back to.
    pub base: String,
    /// When that was taken.
    pub since_ms: u64,
    /// Whether anything was written since.
    pub changed: bool,
    /// What is known of the machine.
    pub power: Power,
    /// When it counts as powered off if no client comes until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub off_at_ms: Option<u64>,
}

/// What is known of the machine that has a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Power {
    /// A client has the volume open.
    On,
    /// Who wrote has left, and may come again.
    Leaving,
    /// It is powered off.
    Off,
    /// No client has left since the daemon started: the machine may run and wait for it.
    Unknown,
}

/// What is to become of what was written to an undoable volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decision {
    /// It stays.
    Commit,
    /// It vanishes.
    Discard,
    /// Somebody decides later.
    Keep,
}

/// The machine that has a volume is powered off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PowerOff {
    /// Of an undoable volume; default: keep.
    #[serde(default)]
    pub decision: Option<Decision>,
}

/// What the daemon does with what is kept apart.
#[expect(
    clippy::missing_errors_doc,
    reason = "every verb fails with an ApiError whose code says what to do"
)]
pub trait ModeControl: Send + Sync {
    /// Keeps what was written; clients go on.
    fn commit_volume(&self, name: &str) -> Result<Volume, ApiError>;
    /// Discards it, while no client has the volume open.
    fn discard_volume(&self, name: &str) -> Result<Volume, ApiError>;
    /// Does what the mode says, once the last client has left, which is waited for a little.
    fn power_off(&self, name: &str, request: &PowerOff) -> Result<Volume, ApiError>;
}
