//! Scheduled snapshots.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// When snapshots of a volume are taken by themselves, which of them are kept, and how that goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotPolicy {
    /// When: `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`, `@every 15m`, or cron's five fields; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Which are kept, as `hourly:24,daily:7`: the newest of so many hours and days; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
    /// What they are called.
    pub pattern: String,
    /// With whom they are taken, at one instant: all volumes that have the same group and the same schedule, but independent ones; absent:
    /// alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The time zone of all of these: that of the daemon's host.
    pub time_zone: String,
    /// When the next one is due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_ms: Option<u64>,
    /// When the last one was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_ms: Option<u64>,
    /// What went wrong last, if it was not done since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// When that was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_ms: Option<u64>,
}

/// Changes what is chosen; what is absent stays, an empty text is nothing chosen any more. See [`SnapshotPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyChange {
    /// When. A new one begins now: the first snapshot is taken when it says so next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Which are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<String>,
    /// What they are called: `strftime`'s `%Y %m %d %H %M %S %j %G %V %s %a %b %F %T` among letters, digits and `.`, `_`, `-`, `:`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pattern: Option<String>,
    /// With whom they are taken; a name, as of volumes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
}

impl PolicyChange {
    /// Each property that is named, as `volume set` has them, and what it is to be.
    #[must_use]
    pub fn list(&self) -> Vec<(&'static str, &str)> {
        let all = [
            ("snapshots.schedule", &self.schedule),
            ("snapshots.keep", &self.keep),
            ("snapshots.pattern", &self.pattern),
            ("snapshots.group", &self.group),
        ];
        let said = all
            .into_iter()
            .filter_map(|(name, value)| Some((name, value.as_deref()?)));
        said.collect()
    }

    /// Whether anything is chosen.
    #[must_use]
    pub fn chooses(&self) -> bool {
        self.list().iter().any(|(_, value)| !value.is_empty())
    }
}
