//! Who reads snapshots.

use super::control::{Daemon, LEAVING};
use api_types::{ApiError, ErrorCode};
use types::VolumeRef;

impl Daemon {
    /// Clients of one snapshot over NBD.
    pub(crate) fn connections_of_snapshot(&self, r: &VolumeRef) -> u64 {
        let (name, open) = (r.to_string(), self.nbd.connections());
        open.iter()
            .filter(|c| c.export.as_deref() == Some(name.as_str()))
            .count() as u64
    }

    fn is_read(&self, r: &VolumeRef) -> bool {
        let served = self.vhost.device(r);
        self.connections_of_snapshot(r) > 0 || served.is_some_and(|device| device.guest.is_some())
    }

    /// Refuses to go on while a client reads a snapshot; answers whether it is served over vhost-user-blk.
    pub(crate) fn refuse_read(&self, r: &VolumeRef) -> Result<bool, ApiError> {
        self.wait_while(LEAVING, || self.is_read(r));
        if self.is_read(r) {
            let error = ApiError::new(ErrorCode::InUse, format!("'{r}' is being read by a client"));
            return Err(error.hint("disconnect it first; 'holdfast nbd status' and 'holdfast vhost status' list clients"));
        }
        Ok(self.vhost.device(r).is_some())
    }
}
