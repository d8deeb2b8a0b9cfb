//! A connection, as its threads and the server see it.

use crate::{
    buffer::Buffer,
    execute::Session,
    outbox::{JobCost, Outbox},
    stats::{ConnectionInfo, Counters},
};
use env::{Pool, Task};
use nbd_proto::request::{Command, Request};
use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

/// A connection.
pub(crate) struct Connection {
    pub(crate) id: u64,
    pub(crate) peer: String,
    pub(crate) since: Duration,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) counters: Counters,
    /// Set once the handshake is over.
    pub(crate) session: OnceLock<Session>,
    /// No more requests are to be taken.
    pub(crate) draining: AtomicBool,
}

impl Connection {
    /// Requests that were received are finished, no others are taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        if self.session.get().is_some() {
            self.outbox.socket.stop_receiving();
        } else {
            self.outbox.socket.cut();
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    pub(crate) fn info(&self) -> ConnectionInfo {
        let session = self.session.get();
        let stats = self.counters.snapshot();
        ConnectionInfo {
            id: self.id,
            peer: self.peer.clone(),
            export: session.map(|s| s.export.clone()),
            read_only: session.is_some_and(|s| s.device.info().read_only),
            since: self.since,
            requests: stats.requests(),
            bytes_read: stats.bytes_read,
            bytes_written: stats.bytes_written,
        }
    }
}

/// A request that may wait.
pub(crate) struct Job {
    pub(crate) connection: Arc<Connection>,
    pub(crate) request: Request,
    pub(crate) work: Work,
    pub(crate) cost: JobCost,
}

/// What is left to do for it.
pub(crate) enum Work {
    /// All, without a payload.
    Whole(Command),
    /// Writing this.
    Write(Buffer),
    /// Making durable what was written already.
    Sync,
}

pub(crate) type Workers = Pool<Job>;

impl Task for Job {
    fn run(self) {
        let Job {
            connection,
            request,
            work,
            cost,
        } = self;
        let outbox = &connection.outbox;
        let mut out = outbox.recycler().take();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            work.run(&connection, &request, &mut out);
        }));
        if outcome.is_err() {
            out.truncate(0);
            outbox.fail(&io::Error::other("a request panicked"));
        }
        outbox.send_reply(out, cost);
    }
}

impl Work {
    /// Does it and appends the reply, waiting as long as that takes.
    pub(crate) fn run(self, connection: &Connection, request: &Request, out: &mut Buffer) {
        let Some(session) = connection.session.get() else {
            unreachable!("requests come after the handshake")
        };
        let counters = &connection.counters;
        match self {
            Work::Whole(Command::Read) => {
                session.read(request, false, out, counters);
            }
            Work::Whole(command) => session.execute(command, request, &[], out, counters),
            Work::Write(payload) => {
                session.execute(Command::Write, request, payload.as_slice(), out, counters);
                connection.outbox.recycler().give(payload);
            }
            Work::Sync => {
                let outcome = session.device.flush();
                session.answer(Command::Write, request, outcome, out, counters);
            }
        }
    }
}
