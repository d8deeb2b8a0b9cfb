//! Disk modes of the daemon in memory: what is written is kept apart for ever.

use super::FakeControl;
use api_types::{ApiError, ErrorCode, ModeControl, PowerOff, Volume};
use types::DiskMode;

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
