//! The vhost-user-blk device: a guest's disk, by way of memory that we share with it.
//!
//! ```text
//!  guest ─ virtio-blk driver ─┐ rings and buffers are the guest's own memory
//!  QEMU ── unix socket ──▶ session: memory, rings, eventfds            (one thread a server)
//!                            └─▶ queue threads: take what is available
//!                                 ├─ in memory: done at once, answers shown together, one call for many
//!                                 └─ would wait, or is long ──▶ worker pool ──▶ answers
//! ```
//!
//! Data are read straight into the guest's memory, and written from it once. A request that is answered from memory
//! costs a share of one wake-up and of one call, no allocation and no hand-over.
//!
//! **Invariants:** a guest harms only itself: whatever it says in rings, descriptors and requests is checked each
//! time, and a queue that cannot be understood is stopped while everything else goes on. A request is answered once, and
//! what was taken and not answered when this process dies is done again by the next one (see `inflight`). A server has
//! one guest at a time, and the next one begins when everything of the last one has ended.

mod channel;
mod config;
mod disk;
mod inflight;
mod memory;
mod queue;
mod request;
mod ring;
mod server;
mod session;
mod stats;
#[cfg(feature = "testing")]
pub mod testing;
mod wakeup;

pub use server::{Server, Workers};
pub use stats::{GuestInfo, Stats};

use std::time::Duration;

/// How a device is shown to its guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Queues that a guest may have, at most.
    pub queues: u16,
    /// Entries of each that its monitor is told to give it: what says how many parts a request may have.
    pub queue_size: u16,
    /// Whether writes are refused even if the device takes them.
    pub read_only: bool,
    /// What the guest sees as the disk's serial number: 20 bytes, at most.
    pub serial: String,
    /// A queue's thread that has answered looks for the next request for so long, if that pays, before it sleeps.
    pub poll: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            queues: 4,
            queue_size: 256,
            read_only: false,
            serial: String::new(),
            poll: env::Vigil::MAX,
        }
    }
}
