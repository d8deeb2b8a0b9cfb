//! The reader of a connection: parses requests, does what can be done at once, hands the rest over.

use crate::{
    buffer::Buffer,
    connection::{Connection, Job, Work, Workers},
    execute::{Part, READ_PART, Session},
    outbox::JobCost,
    receiver::Receiver,
};
use block::{Access, Demand, Durability, Lines, check_range};
use env::{Clock, Vigil};
use nbd_proto::{
    ErrorCode, PAYLOAD_LEN_MAX,
    request::{Command, CommandFlags, EXTENDED_REQUEST_LEN, REQUEST_LEN, Request},
};
use std::{io, ops::ControlFlow, sync::Arc};

/// Replies are sent when so much was gathered, bytes, even if there are more requests to parse.
const GATHER_MAX: usize = 256 << 10;
/// Longer reads whose reply is one piece are left to workers: it must not grow the reader's buffer.
const WHOLE_READ_MAX: u64 = 1 << 20;
/// Payloads up to this are parsed where they were received.
const INLINE_PAYLOAD_MAX: u64 = 128 << 10;
/// Longer ones are written in pieces of this size, as they come.
const PIECE: u64 = 1 << 20;
/// But of this size while others have all the memory that there is.
const PIECE_MIN: u64 = 128 << 10;
/// After so many requests, each alone in flight, the client is taken to wait for each of its answers,
/// and a hand-over would only cost time.
const SOLITARY: u32 = 8;
/// What a job costs besides its data, bytes.
const JOB_OVERHEAD: u64 = 512;
/// Reads that would wait are handed over together, at most so many …
const TOGETHER_MAX: usize = 4;
/// … and so many bytes of them: the disk has begun with all, so that who waits for the first finds the others done.
const TOGETHER_BYTES: u64 = 32 << 10;

/// The state of the reading thread.
pub(crate) struct Reader<'a> {
    connection: &'a Arc<Connection>,
    session: &'a Session,
    workers: &'a Workers,
    lines: &'a Arc<Lines<Job>>,
    clock: &'a dyn Clock,
    receiver: Receiver,
    gathered: Buffer,
    piece: Buffer,
    /// Short reads that would wait, to be handed over together.
    missed: Vec<Request>,
    /// Requests parsed since bytes were last waited for.
    batch: u32,
    /// How many batches in a row were of one request, with nothing else in flight.
    solitary: u32,
    vigil: Vigil,
    /// The client said that there will be no more, and waits for its answers.
    disconnected: bool,
}

/// Why a reader is done.
pub(crate) enum Done {
    /// The client wants nothing at the moment, and nothing of it is in flight.
    Idle,
    /// It took its leave.
    Disconnected,
    /// It is gone, or the server ends.
    Gone,
}

/// Whether there will be more.
#[derive(PartialEq, Eq)]
enum Next {
    More,
    End,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(
        connection: &'a Arc<Connection>,
        session: &'a Session,
        workers: &'a Workers,
        lines: &'a Arc<Lines<Job>>,
        clock: &'a dyn Clock,
        vigil: Vigil,
    ) -> Self {
        Reader {
            connection,
            session,
            workers,
            lines,
            clock,
            receiver: Receiver::new(),
            gathered: Buffer::default(),
            piece: Buffer::default(),
            missed: Vec::new(),
            batch: 0,
            solitary: 0,
            vigil,
            disconnected: false,
        }
    }

    /// Serves until the client leaves, or does nothing for a while, or the server ends.
    ///
    /// # Errors
    /// The connection broke, or the client is out of step.
    pub(crate) fn run(&mut self) -> io::Result<Done> {
        loop {
            let request = match self.next_request()? {
                ControlFlow::Continue(request) => request,
                ControlFlow::Break(Done::Idle) => return Ok(Done::Idle),
                ControlFlow::Break(_) => break,
            };
            self.batch += 1;
            let counters = &self.connection.counters;
            counters.request(request.command, request.length);
            if self.serve(&request)? == Next::End {
                break;
            }
            if self.gathered.len() >= GATHER_MAX {
                self.send()?;
            }
        }
        self.send()?;
        Ok(match self.disconnected {
            true => Done::Disconnected,
            false => Done::Gone,
        })
    }

    fn next_request(&mut self) -> io::Result<ControlFlow<Done, Request>> {
        loop {
            let bytes = self.receiver.available();
            let parsed = if self.session.extended() {
                bytes.split_first_chunk().map(|(head, _)| {
                    Request::decode_extended(head).map(|r| (r, EXTENDED_REQUEST_LEN))
                })
            } else {
                bytes
                    .split_first_chunk()
                    .map(|(head, _)| Request::decode_compact(head).map(|r| (r, REQUEST_LEN)))
            };
            if let Some(parsed) = parsed {
                let (request, len) = parsed.map_err(invalid)?;
                self.receiver.consume(len);
                return Ok(ControlFlow::Continue(request));
            }
            self.send()?;
            if self.connection.is_draining() {
                return Ok(ControlFlow::Break(Done::Gone));
            }
            self.receiver.make_room(Receiver::CAPACITY);
            match self.receive()? {
                Some(true) => self.note_batch(),
                Some(false) => return Ok(ControlFlow::Break(Done::Gone)),
                None if self.is_idle() => return Ok(ControlFlow::Break(Done::Idle)),
                None => {}
            }
        }
    }

    /// Nothing is begun.
    fn is_idle(&self) -> bool {
        self.receiver.available().is_empty() && !self.connection.outbox.has_jobs()
    }

    /// Waits for more bytes, awake for a while if the client is likely to send some soon; `false` is the end, `None` that
    /// nothing came for long.
    fn receive(&mut self) -> io::Result<Option<bool>> {
        let socket = &self.connection.outbox.socket;
        if self.solitary < SOLITARY || sync::IS_MODEL {
            return self.receiver.fill_soon(socket);
        }
        let receiver = &mut self.receiver;
        self.vigil
            .wait(self.clock, self.batch, |sleeps| match sleeps {
                true => receiver.fill_soon(socket).map(Some),
                false => Ok(receiver.try_fill(socket)?.map(Some)),
            })
    }

    /// More requests have come: a client that waits for its answers has had all by now, also those of workers.
    fn note_batch(&mut self) {
        let alone = self.batch <= 1 && !self.connection.outbox.has_jobs();
        self.solitary = if alone {
            self.solitary.saturating_add(self.batch)
        } else {
            0
        };
        self.batch = 0;
    }

    /// Whether waiting on this thread keeps nobody else waiting.
    fn may_wait(&self) -> bool {
        self.solitary >= SOLITARY
            && self.batch <= 1
            && self.receiver.available().is_empty()
            && !self.connection.outbox.has_jobs()
    }

    /// Lets go of all that was kept to be done together.
    fn send(&mut self) -> io::Result<()> {
        self.hand_over_missed()?;
        self.connection.outbox.send_gathered(&mut self.gathered)
    }

    fn serve(&mut self, request: &Request) -> io::Result<Next> {
        let payload_len = request.payload_len(self.session.extended());
        let command = match self.session.check(request) {
            Ok(command) => command,
            Err(code) => return self.refuse(request, payload_len, code),
        };
        if let Some(demand) = demand(command, request)
            && !self.lines.may_pass(demand)
        {
            return self.wait_in_line(command, request, demand);
        }
        self.begin(command, request)
    }

    fn begin(&mut self, command: Command, request: &Request) -> io::Result<Next> {
        let fua = request.flags.contains(CommandFlags::FUA);
        match command {
            Command::Disconnect => {
                self.disconnected = true;
                return Ok(Next::End);
            }
            Command::Write => return self.write(request, fua),
            Command::Read => self.read(request)?,
            Command::Trim | Command::WriteZeroes if !fua => self.execute(command, request),
            _ if self.may_wait() => self.execute(command, request),
            _ => self.hand_over(request, Work::Whole(command), 0)?,
        }
        Ok(Next::More)
    }

    fn execute(&mut self, command: Command, request: &Request) {
        let (out, counters) = (&mut self.gathered, &self.connection.counters);
        self.session.execute(command, request, &[], out, counters);
    }

    /// Answers with an error, after the payload that nobody wants.
    fn refuse(&mut self, request: &Request, len: u64, code: ErrorCode) -> io::Result<Next> {
        if len > 2 * u64::from(PAYLOAD_LEN_MAX) {
            return Err(invalid("a payload of a size that nobody sends"));
        }
        if self.skip(len)? == Next::End {
            return Ok(Next::End);
        }
        let message = match code {
            ErrorCode::Overflow => "the length is over 32 MiB",
            _ => "not a request that this export takes",
        };
        let (out, counters) = (&mut self.gathered, &self.connection.counters);
        self.session
            .fail(request, (code, message.to_owned()), out, counters);
        Ok(Next::More)
    }

    fn skip(&mut self, mut len: u64) -> io::Result<Next> {
        while len > 0 {
            if self.receiver.available().is_empty() {
                self.send()?;
                if !self.receiver.fill(&self.connection.outbox.socket)? {
                    return Ok(Next::End);
                }
            }
            let part = (self.receiver.available().len() as u64).min(len);
            self.receiver.consume(part as usize);
            len -= part;
        }
        Ok(Next::More)
    }

    fn read(&mut self, request: &Request) -> io::Result<()> {
        let (session, counters) = (self.session, &self.connection.counters);
        let long = request.length > READ_PART;
        if long && session.is_divisible(request) {
            return self.read_long(request);
        }
        if !long && session.read(request, true, &mut self.gathered, counters) {
            return Ok(());
        }
        if request.length <= WHOLE_READ_MAX && self.may_wait() {
            session.read(request, false, &mut self.gathered, counters);
            return Ok(());
        }
        if long {
            return self.hand_over(request, Work::Read(0), request.length);
        }
        self.missed.push(*request);
        let bytes: u64 = self.missed.iter().map(|request| request.length).sum();
        if self.missed.len() >= TOGETHER_MAX || bytes >= TOGETHER_BYTES {
            self.hand_over_missed()?;
        }
        Ok(())
    }

    fn hand_over_missed(&mut self) -> io::Result<()> {
        let mut missed = self.missed.drain(..);
        let Some(first) = missed.next() else {
            return Ok(());
        };
        let more: Vec<Request> = missed.collect();
        let bytes = first.length + more.iter().map(|request| request.length).sum::<u64>();
        self.hand_over(&first, Work::Reads(more), bytes)
    }

    /// What is in memory is sent part by part, and the rest left to a worker.
    fn read_long(&mut self, request: &Request) -> io::Result<()> {
        let now = !self.may_wait();
        let counters = &self.connection.counters;
        let mut done = 0;
        while done < request.length {
            let part = done..request.length.min(done + READ_PART);
            let (end, out) = (part.end, &mut self.gathered);
            match self.session.read_part(request, part, now, out, counters)? {
                Part::Read => done = end,
                Part::Failed => return Ok(()),
                Part::WouldWait => {
                    let rest = request.length - done;
                    return self.hand_over(request, Work::Read(done), rest);
                }
            }
            self.send()?;
        }
        Ok(())
    }

    fn hand_over(&mut self, request: &Request, work: Work, len: u64) -> io::Result<()> {
        match self.room_for(len)? {
            Some(cost) => self.workers.submit(self.job(request, work, cost)),
            None => return self.do_alone(request, work),
        }
        Ok(())
    }

    /// Leaves a request that the device's limits hold back until its turn has come; others go on meanwhile.
    fn wait_in_line(
        &mut self,
        command: Command,
        request: &Request,
        demand: Demand,
    ) -> io::Result<Next> {
        let Some(cost) = self.room_for(demand.bytes)? else {
            self.lines.owe(demand);
            return self.begin(command, request);
        };
        let work = match command {
            Command::Read => Work::Read(0),
            Command::Write => match self.receive_payload(request.length as usize) {
                Ok(Some(payload)) => Work::Write(payload),
                gone => {
                    self.connection.outbox.give_back(cost);
                    return gone.map(|_| Next::End);
                }
            },
            other => Work::Whole(other),
        };
        self.lines.join(demand, self.job(request, work, cost));
        Ok(Next::More)
    }

    fn receive_payload(&mut self, len: usize) -> io::Result<Option<Buffer>> {
        // Before the client has time to send all of a long one.
        self.send()?;
        let mut payload = self.connection.outbox.recycler().take();
        let room = payload.grow(len);
        let had = self.receiver.take(room);
        let rest = &mut room[had..];
        let whole = self.connection.outbox.socket.recv_all(rest)? == rest.len();
        Ok(whole.then_some(payload))
    }

    fn job(&self, request: &Request, work: Work, cost: JobCost) -> Job {
        Job {
            connection: self.connection.clone(),
            request: *request,
            work,
            cost,
        }
    }

    /// Room for a job with so many bytes of data, waiting for some of the connection's own to end. `None`: others have
    /// all there is.
    fn room_for(&mut self, len: u64) -> io::Result<Option<JobCost>> {
        let (connection, bytes) = (self.connection, len + JOB_OVERHEAD);
        if let Some(cost) = connection.outbox.try_admit(bytes) {
            return Ok(Some(cost));
        }
        // What is gathered must not wait for room in the budgets.
        self.send()?;
        connection.outbox.admit(bytes)
    }

    /// Does a job on this thread, with the memory that it has anyway. Nothing else of the connection is in
    /// flight, so that nobody sends anything between the parts of an answer.
    fn do_alone(&mut self, request: &Request, work: Work) -> io::Result<()> {
        match work {
            Work::Read(from) => self.read_alone(request, from),
            Work::Reads(more) => std::iter::once(request)
                .chain(&more)
                .try_for_each(|request| self.read_alone(request, 0)),
            work => {
                work.run(self.connection, request, &mut self.gathered);
                Ok(())
            }
        }
    }

    fn read_alone(&mut self, request: &Request, from: u64) -> io::Result<()> {
        let counters = &self.connection.counters;
        let mut done = from;
        while done < request.length {
            let part = done..request.length.min(done + PIECE_MIN);
            done = part.end;
            let out = &mut self.gathered;
            let read = self
                .session
                .read_part(request, part, false, out, counters)?;
            if matches!(read, Part::Failed) {
                break;
            }
            self.send()?;
        }
        Ok(())
    }

    fn write(&mut self, request: &Request, fua: bool) -> io::Result<Next> {
        if request.length > INLINE_PAYLOAD_MAX {
            return self.write_in_pieces(request, fua);
        }
        let len = request.length as usize;
        self.receiver.make_room(len);
        while self.receiver.available().len() < len {
            self.send()?;
            if !self.receiver.fill(&self.connection.outbox.socket)? {
                return Ok(Next::End);
            }
        }
        if fua && !(self.receiver.available().len() == len && self.may_wait_after_payload()) {
            let mut payload = self.connection.outbox.recycler().take();
            payload.push(&self.receiver.available()[..len]);
            self.receiver.consume(len);
            self.hand_over(request, Work::Write(payload), request.length)?;
            return Ok(Next::More);
        }
        let payload = &self.receiver.available()[..len];
        let (out, counters) = (&mut self.gathered, &self.connection.counters);
        self.session
            .execute(Command::Write, request, payload, out, counters);
        self.receiver.consume(len);
        Ok(Next::More)
    }

    fn may_wait_after_payload(&self) -> bool {
        self.solitary >= SOLITARY && self.batch <= 1 && !self.connection.outbox.has_jobs()
    }

    /// Writes a long payload as it comes. The pieces are whole blocks of the device, and no promise
    /// about a write as a whole is broken: until it is answered, any part of it may have happened.
    fn write_in_pieces(&mut self, request: &Request, fua: bool) -> io::Result<Next> {
        let device = &self.session.device;
        let mut outcome = check_range("write", request.offset, request.length, device.info().size);
        self.send()?;
        let room = Room::take(self.connection, request.length.min(PIECE));
        self.piece = self.connection.outbox.recycler().take();
        let mut done = 0;
        while done < request.length {
            let at = request.offset.wrapping_add(done);
            let to_boundary = room.piece() - at % types::BLOCK_SIZE as u64;
            let len = to_boundary.min(request.length - done) as usize;
            if !self.receive_piece(len)? {
                return Ok(Next::End);
            }
            if outcome.is_ok() {
                outcome = device.write(at, self.piece.as_slice(), Durability::Volatile);
            }
            done += len as u64;
        }
        let piece = std::mem::take(&mut self.piece);
        self.connection.outbox.recycler().give(piece);
        drop(room);
        if fua && outcome.is_ok() {
            self.hand_over(request, Work::Sync, 0)?;
            return Ok(Next::More);
        }
        let (out, counters) = (&mut self.gathered, &self.connection.counters);
        self.session
            .answer(Command::Write, request, outcome, out, counters);
        Ok(Next::More)
    }

    fn receive_piece(&mut self, len: usize) -> io::Result<bool> {
        self.piece.truncate(0);
        self.piece.grow(len);
        let room = self.piece.as_mut_slice();
        let had = self.receiver.take(room);
        let rest = &mut room[had..];
        Ok(self.connection.outbox.socket.recv_all(rest)? == rest.len())
    }
}

/// What the pieces of a long write take of the common budget.
struct Room<'a> {
    connection: &'a Connection,
    bytes: u64,
}

impl<'a> Room<'a> {
    /// `bytes`, or none if there are not so many.
    fn take(connection: &'a Connection, bytes: u64) -> Self {
        let had = connection.outbox.budget().try_take(bytes);
        Room {
            connection,
            bytes: if had { bytes } else { 0 },
        }
    }

    const fn piece(&self) -> u64 {
        if self.bytes > 0 { PIECE } else { PIECE_MIN }
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.connection.outbox.budget().give(self.bytes);
    }
}

/// What limits count of a request, if anything.
fn demand(command: Command, request: &Request) -> Option<Demand> {
    let (access, bytes) = match command {
        Command::Read => (Access::Read, request.length),
        Command::Write => (Access::Write, request.length),
        Command::WriteZeroes | Command::Trim => (Access::Write, 0),
        _ => return None,
    };
    Some(Demand { access, bytes })
}

fn invalid(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
