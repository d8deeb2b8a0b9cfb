//! Scheduled snapshots, as they are chosen and shown.

use super::output::time;
use api_types::{PolicyChange, SnapshotPolicy, Volume};

/// Sets what `key` names; `false` if that is nothing of a policy.
pub(super) fn set(change: &mut PolicyChange, key: &str, value: &str) -> bool {
    let text = match key {
        "snapshots.schedule" => &mut change.schedule,
        "snapshots.keep" => &mut change.keep,
        "snapshots.pattern" => &mut change.pattern,
        "snapshots.group" => &mut change.group,
        _ => return false,
    };
    *text = Some(value.to_owned());
    true
}

/// The lines of `volume info` about it.
pub(super) fn lines(v: &Volume) -> Vec<(&'static str, String)> {
    let Some(policy) = &v.snapshot_policy else {
        return Vec::new();
    };
    let or = |text: &Option<String>, none: &str| text.clone().unwrap_or_else(|| none.to_owned());
    let schedule = match &policy.schedule {
        Some(schedule) => format!("{schedule} ({})", policy.time_zone),
        None => "none".to_owned(),
    };
    let mut lines = vec![
        ("snapshots.schedule", schedule),
        ("snapshots.keep", or(&policy.keep, "all")),
        ("snapshots.pattern", policy.pattern.clone()),
    ];
    if let Some(group) = &policy.group {
        let left_out = if v.independent {
            " (left out: independent)"
        } else {
            ""
        };
        lines.push(("snapshots.group", format!("{group}{left_out}")));
    }
    let when = |ms: Option<u64>, none: &str| ms.map_or_else(|| none.to_owned(), time);
    if policy.schedule.is_some() {
        lines.push(("next snapshot", when(policy.next_ms, "never")));
    }
    lines.push(("last snapshot", when(policy.last_ms, "none yet")));
    lines.extend(failure(policy).map(|line| ("snapshot error", line)));
    lines
}

fn failure(policy: &SnapshotPolicy) -> Option<String> {
    let error = policy.last_error.as_ref()?;
    Some(match policy.failed_ms {
        Some(at) => format!("{error} ({})", time(at)),
        None => error.clone(),
    })
}
