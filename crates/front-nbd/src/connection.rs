//! A connection, as its threads and the server see it.

use crate::{
    buffer::Buffer,
    execute::{Part, READ_PART, Session},
    outbox::{JobCost, Outbox},
    stats::{ConnectionInfo, Counters},
};
use block::Lines;
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
    /// Requests that limits of the device hold back. Set after the session.
    pub(crate) lines: OnceLock<Arc<Lines<Job>>>,
    /// No more requests are to be taken.
    pub(crate) draining: AtomicBool,
}

impl Connection {
    /// Requests that were received are finished, no others are taken.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Release);
        // There is no time for limits. Before the reader takes the end for that of the client.
        if let Some(lines) = self.lines.get() {
            lines.release();
        }
        if self.session.get().is_some() {
            self.outbox.socket.stop_receiving();
        } else {
            self.outbox.socket.cut();
        }
    }

    /// Forgets requests that were not begun: nobody waits for their answers.
    pub(crate) fn abandon(&self) {
        for job in self
            .lines
            .get()
            .into_iter()
            .flat_map(|lines| lines.abandon())
        {
            self.outbox.give_back(job.cost);
        }
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Reads from `from` on, waiting as long as that takes. Parts are sent as they come, the last one is left in `out`.
    fn read(&self, request: &Request, from: u64, out: &mut Buffer) {
        let Some(session) = self.session.get() else {
            unreachable!("requests come after the handshake")
        };
        let counters = &self.counters;
        if !session.is_divisible(request) {
            session.read(request, false, out, counters);
            return;
        }
        let mut done = from;
        loop {
            let part = done..request.length.min(done + READ_PART);
            done = part.end;
            match session.read_part(request, part, false, out, counters) {
                Ok(Part::Read) if done < request.length => {
                    let next = self.outbox.recycler().take();
                    self.outbox.send_reply(std::mem::replace(out, next), None);
                }
                Ok(_) => return,
                Err(error) => return self.outbox.fail(&error),
            }
        }
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
    /// Reading from here on, after the parts that were answered already.
    Read(u64),
    /// Reading, and then these: short ones, all answered at once.
    Reads(Vec<Request>),
    /// Writing this.
    Write(Buffer),
    /// Making durable what was written already.
    Sync,
}

pub(crate) type Workers = Pool<Job>;

impl Task for Job {
    fn owner(&self) -> u64 {
        let session = self.connection.session.get();
        session.map_or(0, |session| session.owner)
    }

    fn cost(&self) -> u64 {
        self.cost.bytes()
    }

    fn run(self) {
        let Job {
            connection,
            request,
            work,
            cost,
        } = self;
        let outbox = &connection.outbox;
        let mut out = outbox.recycler().take();
        let outcome = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Read(from) => connection.read(&request, from, &mut out),
            Work::Reads(more) => std::iter::once(&request)
                .chain(&more)
                .for_each(|request| connection.read(request, 0, &mut out)),
            work => work.run(&connection, &request, &mut out),
        }));
        if outcome.is_err() {
            out.truncate(0);
            outbox.fail(&io::Error::other("a request panicked"));
        }
        outbox.send_reply(out, Some(cost));
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
            Work::Read(_) | Work::Reads(_) => unreachable!("reads are not executed"),
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
