//! Volumes and snapshots as vhost-user-blk devices.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Serves a volume or a snapshot over vhost-user-blk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ServeVhost {
    /// Queues that its guest may have, 1 to 256. Default: what it has, or the daemon's configuration.
    #[serde(default)]
    pub queues: Option<u16>,
}

/// The devices that the daemon serves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VhostStatus {
    /// Where the sockets are.
    pub directory: String,
    /// All of them, by name.
    pub devices: Vec<VhostDevice>,
}

/// A volume or a snapshot that is served, also after the daemon's next start, until it is told not to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VhostDevice {
    /// `volume` or `volume@snapshot`.
    pub name: String,
    /// Its unix socket.
    pub socket: String,
    /// Queues that a guest may have.
    pub queues: u16,
    /// Why it is not served although it should be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Who is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<VhostGuest>,
    /// Requests answered since it is served.
    pub requests: u64,
    /// Of these, with an error.
    pub errors: u64,
    /// Requests of a guest that were in flight when a daemon ended, and were done again.
    pub resumed: u64,
    /// Bytes read.
    pub bytes_read: u64,
    /// Bytes written.
    pub bytes_written: u64,
}

/// A guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VhostGuest {
    /// Its virtual machine monitor's process, as far as known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Since when.
    pub since_ms: u64,
    /// Queues that run; none before its driver has started.
    pub queues: u64,
}
