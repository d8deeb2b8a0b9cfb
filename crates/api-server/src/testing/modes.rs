//! Disk modes and policies of the daemon in memory: what is written is kept apart for ever, and nothing is ever due.

use super::FakeControl;
use api_types::{ApiError, ErrorCode, ModeControl, PolicyChange, PowerOff, SnapshotPolicy, Volume};
use types::DiskMode;

/// Takes any schedule but `never`.
pub(super) fn set_policy(volume: &mut Volume, change: &PolicyChange) -> Result<(), ApiError> {
    if change.schedule.as_deref() == Some("never") {
        return Err(ApiError::new(ErrorCode::Invalid, "'never' is no schedule"));
    }
    let mut policy = volume.snapshot_policy.take().unwrap_or(SnapshotPolicy {
        time_zone: "UTC".to_owned(),
        ..SnapshotPolicy::default()
    });
    let said = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    if change.schedule.is_some() {
        policy.schedule = said(&change.schedule);
    }
    if change.keep.is_some() {
        policy.keep = said(&change.keep);
    }
    if let Some(pattern) = &change.pattern {
        policy.pattern.clone_from(pattern);
    }
    policy.next_ms = policy.schedule.as_ref().map(|_| 1_700_003_600_000);
    let any = policy.schedule.is_some() || policy.keep.is_some() || !policy.pattern.is_empty();
    volume.snapshot_policy = Some(policy).filter(|_| any);
    Ok(())
}

impl FakeControl {
    fn with_mode(&self, name: &str) -> Result<Volume, ApiError> {
        self.with(name, |held| match held.volume.mode {
            DiskMode::Persistent => {
                let message = format!("'{name}' is persistent: nothing is kept apart");
                Err(ApiError::new(ErrorCode::Invalid, message))
            }
            _ => Ok(held.volume.clone()),
        })
    }
}

impl ModeControl for FakeControl {
    fn commit_volume(&self, name: &str) -> Result<Volume, ApiError> {
        self.with_mode(name)
    }

    fn discard_volume(&self, name: &str) -> Result<Volume, ApiError> {
        self.with_mode(name)
    }

    fn power_off(&self, name: &str, request: &PowerOff) -> Result<Volume, ApiError> {
        match request.decision {
            Some(_) => self.with_mode(name),
            None => self.with(name, |held| Ok(held.volume.clone())),
        }
    }
}
