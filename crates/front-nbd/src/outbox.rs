//! Replies on their way to the client.
//!
//! Whoever has a reply while nobody sends becomes the sender, for its own and those that come meanwhile:
//!
//! | who | when the socket is full |
//! | --- | --- |
//! | the reader | waits: the client must read before it may ask for more |
//! | a worker | leaves it to the connection's writer, a thread that is started then |
//! | the writer | waits |
//!
//! A client that takes nothing for longer than the send timeout is cut off.

use crate::{
    budget::Budget,
    buffer::{Buffer, Recycler},
    socket::Socket,
};
use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::Arc,
    time::Duration,
};
use sync::{Condvar, Mutex, MutexGuard, thread::JoinHandle};

/// Buffers given to one `sendmsg`.
const PARTS: usize = 16;
/// The reader gathers no more while so much waits to be sent, bytes.
const QUEUED_MAX: usize = 1 << 20;
/// Requests of one connection handed to workers, at most.
const JOBS_MAX: usize = 128;

/// What all connections share.
pub(crate) struct Commons {
    pub(crate) budget: Budget,
    pub(crate) recycler: Recycler,
}

/// The sending side of a connection, and its account of what is in flight.
pub(crate) struct Outbox {
    pub(crate) socket: Socket,
    commons: Arc<Commons>,
    patience: Duration,
    bytes_max: u64,
    reserve: u64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Reply>,
    queued_bytes: usize,
    sending: bool,
    writer: Option<JoinHandle<()>>,
    writer_wanted: bool,
    jobs: usize,
    job_bytes: u64,
    reserved_bytes: u64,
    broken: bool,
    /// It is the client that hung up.
    hung_up: bool,
    ended: bool,
}

struct Reply {
    buffer: Buffer,
    sent: usize,
    /// The job that it answers, if it was one.
    job: Option<JobCost>,
}

/// What a job in flight takes of the budgets. Given back by [`Outbox`] when its reply was sent.
#[derive(Debug)]
pub(crate) struct JobCost {
    bytes: u64,
    /// Of the connection's reserve; else of the common budget.
    reserved: bool,
}

impl JobCost {
    /// Of its data, and a little more.
    pub(crate) const fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Outbox {
    pub(crate) fn new(
        socket: Socket,
        commons: Arc<Commons>,
        patience: Duration,
        bytes_max: u64,
        reserve: u64,
    ) -> Self {
        Outbox {
            socket,
            commons,
            patience,
            bytes_max,
            reserve,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Whether a worker has something to do for this connection, or its reply waits.
    pub(crate) fn has_jobs(&self) -> bool {
        self.state.lock().jobs > 0
    }

    pub(crate) fn budget(&self) -> &Budget {
        &self.commons.budget
    }

    pub(crate) fn recycler(&self) -> &Recycler {
        &self.commons.recycler
    }

    #[cfg(all(test, feature = "shuttle"))]
    pub(crate) fn commons(&self) -> &Commons {
        &self.commons
    }

    /// Room for a job of `bytes`, if there is some now.
    pub(crate) fn try_admit(&self, bytes: u64) -> Option<JobCost> {
        let mut state = self.state.lock();
        if state.broken || self.is_full(&state, bytes) {
            return None;
        }
        self.book(&mut state, bytes)
    }

    /// Waits until a job of `bytes` may be handed to a worker. `None`: other connections have all there is, and
    /// nothing of this one is in flight.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn admit(&self, bytes: u64) -> io::Result<Option<JobCost>> {
        let mut state = self.state.lock();
        loop {
            if state.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            if !self.is_full(&state, bytes)
                && let Some(cost) = self.book(&mut state, bytes)
            {
                return Ok(Some(cost));
            }
            if state.jobs == 0 {
                return Ok(None);
            }
            self.changed.wait(&mut state);
        }
    }

    /// Takes from the connection's reserve what fits there, else from the common budget.
    fn book(&self, state: &mut State, bytes: u64) -> Option<JobCost> {
        let reserved = state.reserved_bytes + bytes <= self.reserve;
        if reserved {
            state.reserved_bytes += bytes;
        } else if !self.commons.budget.try_take(bytes) {
            return None;
        }
        state.jobs += 1;
        state.job_bytes += bytes;
        Some(JobCost { bytes, reserved })
    }

    fn is_full(&self, state: &State, bytes: u64) -> bool {
        let too_much = state.job_bytes + bytes > self.bytes_max;
        state.jobs > 0 && (state.jobs >= JOBS_MAX || too_much)
    }

    /// Sends what the reader gathered and empties it. Waits while the client is slow.
    ///
    /// # Errors
    /// The connection is broken.
    pub(crate) fn send_gathered(&self, gathered: &mut Buffer) -> io::Result<()> {
        if gathered.len() == 0 {
            return Ok(());
        }
        let mut state = self.state.lock();
        if !state.broken && !state.sending {
            state.sending = true;
            drop(state);
            let outcome = self.socket.send_all(gathered.as_slice(), self.patience);
            gathered.truncate(0);
            state = self.state.lock();
            match outcome {
                Ok(()) if state.queue.is_empty() => state.sending = false,
                Ok(()) => state = self.drain(state, true).0,
                Err(error) => self.break_off(&mut state, &error),
            }
        } else if !state.broken {
            let buffer = std::mem::replace(gathered, self.recycler().take());
            Self::push(&mut state, buffer, None);
            while !state.broken && state.queued_bytes > QUEUED_MAX {
                self.changed.wait(&mut state);
            }
        }
        if state.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    }

    /// Queues the reply to a job, or a part of one and then without its cost, and sends what can be sent without
    /// waiting.
    pub(crate) fn send_reply(self: &Arc<Self>, buffer: Buffer, cost: Option<JobCost>) {
        let mut state = self.state.lock();
        Self::push(&mut state, buffer, cost);
        if state.broken {
            self.drop_queue(&mut state);
        } else if !state.sending {
            state.sending = true;
            let (mut state, blocked) = self.drain(state, false);
            if blocked {
                self.leave_to_writer(&mut state);
            }
        }
    }

    /// Ends the connection because of `error`.
    pub(crate) fn fail(&self, error: &io::Error) {
        self.break_off(&mut self.state.lock(), error);
    }

    /// Room of a job that will not be done.
    pub(crate) fn give_back(&self, cost: JobCost) {
        self.release(&mut self.state.lock(), &cost);
        self.changed.notify_all();
    }

    /// Whether this side ended the connection.
    pub(crate) fn was_cut(&self) -> bool {
        let state = self.state.lock();
        state.broken && !state.hung_up
    }

    /// Waits until every job was done and answered, then ends the writer. Of a broken connection `abandon` gives back
    /// what was not begun.
    pub(crate) fn finish(&self, abandon: impl Fn()) {
        let mut state = self.state.lock();
        let mut abandoned = false;
        while state.jobs > 0 || (state.sending && !state.broken) {
            if state.broken && !abandoned {
                abandoned = true;
                MutexGuard::unlocked(&mut state, &abandon);
            } else {
                self.changed.wait(&mut state);
            }
        }
        state.ended = true;
        let writer = state.writer.take();
        drop(state);
        self.changed.notify_all();
        if let Some(writer) = writer {
            // It does not panic.
            let _ = writer.join();
        }
        self.socket.cut();
    }

    fn push(state: &mut State, buffer: Buffer, job: Option<JobCost>) {
        state.queued_bytes += buffer.len();
        let sent = 0;
        state.queue.push_back(Reply { buffer, sent, job });
    }

    /// As the sender: sends the queue. `true` if that is not all of it because the socket is full, and
    /// then the caller still is the sender.
    fn drain<'a>(
        &'a self,
        mut state: MutexGuard<'a, State>,
        patient: bool,
    ) -> (MutexGuard<'a, State>, bool) {
        let mut batch: Vec<Reply> = Vec::new();
        loop {
            if state.broken {
                self.drop_queue(&mut state);
                return (state, false);
            }
            if state.queue.is_empty() {
                state.sending = false;
                self.changed.notify_all();
                return (state, false);
            }
            let count = state.queue.len().min(PARTS);
            batch.extend(state.queue.drain(..count));
            drop(state);
            let outcome = self.send_some(&mut batch, patient);
            state = self.state.lock();
            let sent = batch
                .iter()
                .take_while(|r| r.sent == r.buffer.len())
                .count();
            for reply in batch.drain(..sent) {
                self.settle(&mut state, reply);
            }
            while let Some(reply) = batch.pop() {
                state.queue.push_front(reply);
            }
            self.changed.notify_all();
            match outcome {
                Ok(true) => {}
                Ok(false) => return (state, true),
                Err(error) => self.break_off(&mut state, &error),
            }
        }
    }

    /// Sends some of `batch`; `false` if nothing could be.
    fn send_some(&self, batch: &mut [Reply], patient: bool) -> io::Result<bool> {
        let mut parts = [IoSlice::new(&[]); PARTS];
        for (part, reply) in parts.iter_mut().zip(batch.iter()) {
            *part = IoSlice::new(&reply.buffer.as_slice()[reply.sent..]);
        }
        let mut n = match self.socket.try_send(&parts[..batch.len()])? {
            Some(n) => n,
            None if patient => {
                self.socket.wait_writable(self.patience)?;
                0
            }
            None => return Ok(false),
        };
        for reply in batch {
            let part = n.min(reply.buffer.len() - reply.sent);
            reply.sent += part;
            n -= part;
        }
        Ok(true)
    }

    /// Books a reply that is sent, or never will be.
    fn settle(&self, state: &mut State, reply: Reply) {
        state.queued_bytes -= reply.buffer.len();
        if let Some(cost) = &reply.job {
            self.release(state, cost);
        }
        self.commons.recycler.give(reply.buffer);
    }

    fn release(&self, state: &mut State, cost: &JobCost) {
        state.jobs -= 1;
        state.job_bytes -= cost.bytes;
        if cost.reserved {
            state.reserved_bytes -= cost.bytes;
        } else {
            self.commons.budget.give(cost.bytes);
        }
    }

    fn break_off(&self, state: &mut State, error: &io::Error) {
        if !state.broken {
            tracing::debug!(%error, "an NBD connection ends");
            state.broken = true;
            use io::ErrorKind::{BrokenPipe, ConnectionReset};
            state.hung_up = matches!(error.kind(), BrokenPipe | ConnectionReset);
            self.socket.cut();
        }
        self.drop_queue(state);
    }

    fn drop_queue(&self, state: &mut State) {
        while let Some(reply) = state.queue.pop_front() {
            self.settle(state, reply);
        }
        self.changed.notify_all();
    }

    /// The writer is the sender from now on.
    fn leave_to_writer(self: &Arc<Self>, state: &mut State) {
        state.writer_wanted = true;
        if state.writer.is_none() {
            let outbox = self.clone();
            match env::spawn("nbd-writer", move || outbox.write()) {
                Ok(writer) => state.writer = Some(writer),
                Err(error) => self.break_off(state, &error),
            }
        }
        self.changed.notify_all();
    }

    fn write(&self) {
        let mut state = self.state.lock();
        while !state.ended {
            if state.writer_wanted {
                state.writer_wanted = false;
                state = self.drain(state, true).0;
            } else {
                self.changed.wait(&mut state);
            }
        }
    }
}
