//! Disks of NBD servers, to be read.
//!
//! ```text
//!  Uri ─▶ Connection: handshake, one request at a time, every byte within a time limit, and at once no more when cancelled
//!            └─ one or two of them ─▶ NbdDisk: image_formats::Disk
//! ```
//!
//! **Invariant:** a server is hostile: an error that names it, never a panic, an endless wait, or memory sized by the server alone.
//! What it does not answer whole is not taken for zeroes.
//!
//! **Invariant:** nothing is written.

mod connection;
mod disk;
mod handshake;
mod reply;
mod socket;
mod uri;

pub use disk::NbdDisk;
pub use uri::{Address, Uri};
