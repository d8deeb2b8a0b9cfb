//! Figures.

use crate::{disk::Answer, request::Kind};
use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

/// What a server did since it started: counts and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Guests that connected.
    pub connections: u64,
    /// Guests that were refused because another was there.
    pub connections_refused: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Zeroes written.
    pub write_zeroes: u64,
    /// Requests of other kinds.
    pub others: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
    /// Bytes asked for by reads.
    pub bytes_read: u64,
    /// Bytes brought by writes.
    pub bytes_written: u64,
    /// Requests of before a crash, or a restart, that were done again.
    pub resumed: u64,
    /// Times that a queue woke up for requests.
    pub wakeups: u64,
    /// Times that a guest was told of answers.
    pub calls: u64,
    /// Queues that were stopped because a guest broke them.
    pub broken_queues: u64,
}

impl Stats {
    /// Requests of all kinds.
    #[must_use]
    pub const fn requests(&self) -> u64 {
        self.reads + self.writes + self.flushes + self.discards + self.write_zeroes + self.others
    }
}

/// The guest that is connected, for people and for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestInfo {
    /// Its number, never used twice by this server.
    pub id: u64,
    /// The process at the other end: the guest's virtual machine monitor.
    pub pid: Option<u32>,
    /// When it connected, since the Unix epoch.
    pub since: Duration,
    /// Queues that run. None before its driver has started, and while it restarts.
    pub queues: usize,
}

/// What was done since it was counted last: by one thread, and so for nothing.
#[derive(Default)]
pub(crate) struct Tally(Stats);

impl Tally {
    pub(crate) fn count(&mut self, kind: Kind, bytes: u64, answer: Answer) {
        let stats = &mut self.0;
        let counter = match kind {
            Kind::Read => &mut stats.reads,
            Kind::Write => &mut stats.writes,
            Kind::Flush => &mut stats.flushes,
            Kind::Discard => &mut stats.discards,
            Kind::WriteZeroes => &mut stats.write_zeroes,
            Kind::Id | Kind::Other => &mut stats.others,
        };
        *counter += 1;
        match (kind, answer) {
            (Kind::Read, Answer::Done(_)) => stats.bytes_read += bytes,
            (Kind::Write, Answer::Done(_)) => stats.bytes_written += bytes,
            (_, Answer::Done(_)) => {}
            (_, Answer::Failed | Answer::Unsupported) => stats.errors += 1,
        }
    }

    pub(crate) fn resumed(&mut self, requests: usize) {
        self.0.resumed += requests as u64;
    }

    pub(crate) fn woke_up(&mut self) {
        self.0.wakeups += 1;
    }
}

macro_rules! counters {
    ($($name:ident),*) => {
        /// Figures of a server, of all threads.
        #[derive(Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        impl Counters {
            pub(crate) fn snapshot(&self) -> Stats {
                Stats { $($name: self.$name.load(Relaxed),)* }
            }

            /// Adds what was counted, and begins anew.
            pub(crate) fn add(&self, tally: &mut Tally) {
                let Tally(stats) = std::mem::take(tally);
                $(if stats.$name > 0 {
                    self.$name.fetch_add(stats.$name, Relaxed);
                })*
            }
        }

        impl Stats {
            /// Adds what another server did.
            pub fn add(&mut self, other: &Stats) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters!(
    connections,
    connections_refused,
    reads,
    writes,
    flushes,
    discards,
    write_zeroes,
    others,
    errors,
    bytes_read,
    bytes_written,
    resumed,
    wakeups,
    calls,
    broken_queues
);
