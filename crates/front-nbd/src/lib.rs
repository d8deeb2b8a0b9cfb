//! The NBD server.
//!
//! ```text
//!  listener ── accept ──▶ connection thread: handshake, then the reader
//!                            │ parses all that one recv brought
//!                            ├─ in memory: done at once, replies gathered, one send a batch
//!                            └─ would wait ──▶ worker pool ──▶ outbox ──▶ socket
//!                                                               └─ full: the connection's writer waits
//! ```
//!
//! Plain threads: a connection is one thread (two once its socket was full, none while its client wants nothing), and
//! a request that is answered from memory costs a share of one `recv` and one `send`, no allocation and no hand-over.
//!
//! **Invariants:** nobody but a connection's own threads ever waits for its socket, so a client that
//! does not read harms only itself. Replies are held while there are more requests to parse, never while
//! waiting for them. Front ends know nothing of packs, journals or catalogs.

mod budget;
mod buffer;
mod connection;
mod execute;
mod handshake;
mod idle;
#[cfg(all(test, feature = "shuttle"))]
mod interleavings;
mod listener;
mod outbox;
mod reader;
mod receiver;
mod server;
mod socket;
mod stats;

pub use server::Server;
pub use stats::{ConnectionInfo, Stats};

use std::time::Duration;

/// How a [`Server`] behaves.
#[derive(Clone, Debug)]
pub struct Config {
    /// Threads for requests that wait, at most.
    pub workers: usize,
    /// Connections at a time, at most; others are closed at once, unless somebody makes room.
    pub connections_max: usize,
    /// The time a client has to get through the handshake.
    pub handshake_timeout: Duration,
    /// Where there is no room for another connection, one that has been in the handshake for so long makes it.
    pub handshake_grace: Duration,
    /// A client that takes no byte of its replies for so long is cut off.
    pub send_timeout: Duration,
    /// Bytes of requests handed to workers, and of their replies, for one connection.
    pub in_flight_bytes_per_connection: u64,
    /// What of that a connection has for itself, whatever others take.
    pub reserved_bytes_per_connection: u64,
    /// The same for all connections together, beside what they have for themselves.
    pub in_flight_bytes: u64,
    /// A thread that has answered a client that waits for each of its answers looks for its next request for so long, if that pays,
    /// before it sleeps.
    pub poll: Duration,
    /// A connection over which nothing has come for so long gives its thread up until something does.
    pub idle_after: Duration,
    /// What a client gets that names no export.
    pub default_export: Option<String>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            workers: 16,
            connections_max: 1024,
            handshake_timeout: Duration::from_secs(10),
            handshake_grace: Duration::from_secs(1),
            send_timeout: Duration::from_secs(30),
            in_flight_bytes_per_connection: 64 << 20,
            reserved_bytes_per_connection: 256 << 10,
            in_flight_bytes: 512 << 20,
            poll: env::Vigil::MAX,
            idle_after: Duration::from_secs(5),
            default_export: None,
        }
    }
}
