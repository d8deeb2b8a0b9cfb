//! Snapshots that are taken of a volume by itself: what its administrator chose, and how far that is done.

use serde::{Deserialize, Serialize};

/// What is chosen about a volume's scheduled snapshots. What the texts mean is not this crate's business.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotPolicy {
    /// When they are taken; empty: never.
    pub schedule: String,
    /// Which of them are kept; empty: all.
    pub keep: String,
    /// What they are called; empty: as usual.
    pub pattern: String,
    /// All runs up to this moment are done; milliseconds since the Unix epoch.
    pub done_ms: u64,
    /// When the last one was taken.
    pub last_ms: Option<u64>,
    /// With whom they are taken, at one instant: all that have the same one, and the same schedule; empty: nobody.
    pub group: String,
}

/// A change of a policy; what is absent stays, an empty text is nothing chosen any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChange {
    /// See [`SnapshotPolicy::schedule`].
    pub schedule: Option<String>,
    /// See [`SnapshotPolicy::keep`].
    pub keep: Option<String>,
    /// See [`SnapshotPolicy::pattern`].
    pub pattern: Option<String>,
    /// See [`SnapshotPolicy::group`].
    pub group: Option<String>,
}

impl PolicyChange {
    /// Makes it of a volume's policy at a moment; a volume without anything chosen has none. A schedule that is new begins
    /// then, the same one again goes on.
    pub fn apply(&self, policy: &mut Option<Box<SnapshotPolicy>>, now_ms: u64) {
        let mut new = policy.as_deref().cloned().unwrap_or_default();
        if let Some(schedule) = self.schedule.as_ref().filter(|s| **s != new.schedule) {
            new.schedule.clone_from(schedule);
            new.done_ms = now_ms;
        }
        new.keep = self.keep.clone().unwrap_or(new.keep);
        new.pattern = self.pattern.clone().unwrap_or(new.pattern);
        new.group = self.group.clone().unwrap_or(new.group);
        let chosen = [&new.schedule, &new.keep, &new.pattern, &new.group];
        let any = chosen.iter().any(|text| !text.is_empty());
        *policy = any.then(|| Box::new(new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_new_schedule_begins_and_the_same_one_goes_on() {
        let mut policy = None;
        let daily = PolicyChange {
            schedule: text("@daily"),
            keep: text("daily:7"),
            ..PolicyChange::default()
        };
        daily.apply(&mut policy, 10);
        let set = policy.clone().unwrap();
        assert_eq!((set.schedule.as_str(), set.done_ms), ("@daily", 10));
        daily.apply(&mut policy, 20);
        assert_eq!(policy.as_ref(), Some(&set));
        let hourly = PolicyChange {
            schedule: text("@hourly"),
            ..PolicyChange::default()
        };
        hourly.apply(&mut policy, 30);
        let set = policy.clone().unwrap();
        assert_eq!((set.keep.as_str(), set.done_ms), ("daily:7", 30));
        let none = PolicyChange {
            schedule: text(""),
            ..PolicyChange::default()
        };
        none.apply(&mut policy, 40);
        assert_eq!(policy.as_ref().unwrap().keep, "daily:7");
        let no_more = PolicyChange {
            keep: text(""),
            pattern: text(""),
            ..PolicyChange::default()
        };
        no_more.apply(&mut policy, 50);
        assert_eq!(policy, None);
        PolicyChange::default().apply(&mut policy, 60);
        assert_eq!(policy, None);
    }
}
