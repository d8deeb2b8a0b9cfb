//! Figures.

use nbd_proto::{PAYLOAD_LEN_MAX, request::Command};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What a server did since it started: counts and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections that were accepted.
    pub connections: u64,
    /// Connections that were refused because there were too many.
    pub connections_refused: u64,
    /// READ.
    pub reads: u64,
    /// WRITE.
    pub writes: u64,
    /// FLUSH.
    pub flushes: u64,
    /// TRIM.
    pub trims: u64,
    /// CACHE.
    pub caches: u64,
    /// WRITE_ZEROES.
    pub write_zeroes: u64,
    /// BLOCK_STATUS.
    pub block_statuses: u64,
    /// Requests that nobody knows.
    pub unknown: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Bytes asked for by READ.
    pub bytes_read: u64,
    /// Bytes brought by WRITE.
    pub bytes_written: u64,
}

impl Stats {
    /// Requests of all kinds.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.reads
            + self.writes
            + self.flushes
            + self.trims
            + self.caches
            + self.write_zeroes
            + self.block_statuses
            + self.unknown
    }

    pub(crate) fn add(&mut self, other: &Stats) {
        self.connections += other.connections;
        self.connections_refused += other.connections_refused;
        self.reads += other.reads;
        self.writes += other.writes;
        self.flushes += other.flushes;
        self.trims += other.trims;
        self.caches += other.caches;
        self.write_zeroes += other.write_zeroes;
        self.block_statuses += other.block_statuses;
        self.unknown += other.unknown;
        self.errors += other.errors;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

/// A connection, for people and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Its number, never used twice by this server.
    pub id: u64,
    /// Who is at the other end.
    pub peer: String,
    /// The export; `None` in the handshake.
    pub export: Option<String>,
    /// Whether the export is read-only.
    pub read_only: bool,
    /// When it was accepted, since the Unix epoch.
    pub since: Duration,
    /// Requests so far.
    pub requests: u64,
    /// Bytes asked for by READ.
    pub bytes_read: u64,
    /// Bytes brought by WRITE.
    pub bytes_written: u64,
}

/// Counters of one connection: shared with nobody that counts as often.
#[derive(Default)]
pub(crate) struct Counters {
    requests: [AtomicU64; Command::ALL.len()],
    unknown: AtomicU64,
    errors: AtomicU64,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
}

impl Counters {
    /// Of lengths only those count that a request can have: others are refused, and would wrap the sums.
    pub(crate) fn request(&self, command: u16, length: u64) {
        let length = if length > PAYLOAD_LEN_MAX.into() {
            0
        } else {
            length
        };
        let counter = self.requests.get(usize::from(command));
        counter.unwrap_or(&self.unknown).fetch_add(1, Relaxed);
        match Command::from_wire(command) {
            Some(Command::Read) => self.bytes_read.fetch_add(length, Relaxed),
            Some(Command::Write) => self.bytes_written.fetch_add(length, Relaxed),
            _ => 0,
        };
    }

    pub(crate) fn error(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Stats {
        let count = |command: Command| self.requests[command as usize].load(Relaxed);
        Stats {
            connections: 1,
            connections_refused: 0,
            reads: count(Command::Read),
            writes: count(Command::Write),
            flushes: count(Command::Flush),
            trims: count(Command::Trim),
            caches: count(Command::Cache),
            write_zeroes: count(Command::WriteZeroes),
            block_statuses: count(Command::BlockStatus),
            unknown: self.unknown.load(Relaxed),
            errors: self.errors.load(Relaxed),
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_written: self.bytes_written.load(Relaxed),
        }
    }
}
