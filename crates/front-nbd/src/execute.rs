//! Requests become calls of the device, and their outcomes replies.

use crate::{buffer::Buffer, stats::Counters};
use block::{Bitmap, BlockDevice, Durability, ErrorKind, ExtentKind, check_range};
use nbd_proto::{
    ErrorCode, PAYLOAD_LEN_MAX,
    meta::{AllocationFlags, BitmapFlags},
    reply::{ReplyFlags, Style, To},
    request::{Command, CommandFlags, Request},
};
use std::{io, ops::Range, sync::Arc};

/// What the handshake agreed on.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) device: Arc<dyn BlockDevice>,
    pub(crate) export: String,
    /// The same for all sessions of an export: those take turns with others'.
    pub(crate) owner: u64,
    pub(crate) style: Style,
    /// What BLOCK_STATUS tells, in the order in which it was selected.
    pub(crate) contexts: Vec<Context>,
}

/// What a range can be asked for.
#[derive(Clone)]
pub(crate) enum Context {
    /// Whether it is allocated.
    Allocation,
    /// Whether it has changed.
    Bitmap(Arc<dyn Bitmap>),
}

impl Context {
    /// The id of the one that was selected as the `index`-th.
    pub(crate) const fn id(index: usize) -> u32 {
        index as u32 + 1
    }

    /// Lengths and flags in a range that was asked for, at most `max`.
    fn status(
        &self,
        device: &dyn BlockDevice,
        request: &Request,
        max: usize,
    ) -> Result<Vec<(u64, u32)>, block::Error> {
        let (offset, length) = (request.offset, request.length);
        Ok(match self {
            Context::Allocation => {
                let hole = (AllocationFlags::HOLE | AllocationFlags::ZERO).0;
                let extents = device.extents(offset, length, max)?;
                let status = |e: &block::Extent| match e.kind {
                    ExtentKind::Hole => (e.len, hole),
                    ExtentKind::Data => (e.len, 0),
                };
                extents.iter().map(status).collect()
            }
            Context::Bitmap(bitmap) => {
                let runs = bitmap.changed(offset, length, max)?;
                let dirty = BitmapFlags::DIRTY.0;
                let status = |r: &block::Run| (r.len, if r.changed { dirty } else { 0 });
                runs.iter().map(status).collect()
            }
        })
    }
}

/// Reads that are longer are answered in parts of this size: each is sent while it is still in the processor's
/// cache, and the client takes it while the next one is read.
pub(crate) const READ_PART: u64 = 256 << 10;

/// Runs of zeroes that are shorter are sent as data.
const HOLE_LEN_MIN: usize = 64 << 10;
/// Extents in one answer, at most: clients ask again for the rest.
const EXTENTS_MAX: usize = 8192;

type Failure = (ErrorCode, String);

/// How a part of a READ went.
pub(crate) enum Part {
    /// The reply to it was appended.
    Read,
    /// An error was appended, and that ends the reply.
    Failed,
    /// It would wait; nothing was appended.
    WouldWait,
}

impl Session {
    pub(crate) const fn extended(&self) -> bool {
        matches!(self.style, Style::Extended)
    }

    const fn to(&self, request: &Request) -> To {
        To {
            style: self.style,
            cookie: request.cookie,
            offset: request.offset,
        }
    }

    /// Whether the request is one that can be done, apart from where its range lies.
    pub(crate) fn check(&self, request: &Request) -> Result<Command, ErrorCode> {
        let command = Command::from_wire(request.command).ok_or(ErrorCode::Inval)?;
        let mut allowed = command.flags_allowed();
        if command == Command::Write && self.extended() {
            allowed = allowed | CommandFlags::PAYLOAD_LEN;
        }
        let df = request.flags.contains(CommandFlags::DF);
        if !request.flags.within(allowed) || (df && self.style == Style::Simple) {
            return Err(ErrorCode::Inval);
        }
        let too_long = request.length > PAYLOAD_LEN_MAX.into();
        match command {
            Command::Read if too_long => Err(ErrorCode::Overflow),
            Command::Write if too_long => Err(ErrorCode::Inval),
            Command::BlockStatus if self.contexts.is_empty() || request.length == 0 => {
                Err(ErrorCode::Inval)
            }
            _ => Ok(command),
        }
    }

    /// Does a request of any kind but READ, waiting as long as it takes, and appends the reply.
    ///
    /// NO_HOLE is satisfied by the same verb as its absence: overwriting what was zeroed never needs
    /// space that was not there before, since nothing is ever written in place. Zeroing only notes a
    /// range, so that FAST_ZERO is always fast.
    pub(crate) fn execute(
        &self,
        command: Command,
        request: &Request,
        payload: &[u8],
        out: &mut Buffer,
        counters: &Counters,
    ) {
        let durability = if request.flags.contains(CommandFlags::FUA) {
            Durability::Durable
        } else {
            Durability::Volatile
        };
        let (offset, length, device) = (request.offset, request.length, &self.device);
        let outcome = match command {
            Command::Write => device.write(offset, payload, durability),
            Command::WriteZeroes => device.write_zeroes(offset, length, durability),
            Command::Trim => device.discard(offset, length, durability),
            Command::Flush => device.flush(),
            Command::Cache => device.prefetch(offset, length),
            Command::BlockStatus => return self.block_status(request, out, counters),
            Command::Read | Command::Disconnect => unreachable!("these are not executed"),
        };
        self.answer(command, request, outcome, out, counters);
    }

    /// Appends the reply to a request without data.
    pub(crate) fn answer(
        &self,
        command: Command,
        request: &Request,
        outcome: Result<(), block::Error>,
        out: &mut Buffer,
        counters: &Counters,
    ) {
        match outcome {
            Ok(()) => out.push(&self.to(request).success()),
            Err(error) => self.fail(request, failure(command, &error), out, counters),
        }
    }

    /// Appends an error.
    pub(crate) fn fail(
        &self,
        request: &Request,
        (code, message): Failure,
        out: &mut Buffer,
        counters: &Counters,
    ) {
        counters.error();
        let mut reply = Vec::new();
        self.to(request).put_error(&mut reply, code, &message);
        out.push(&reply);
    }

    /// Reads into the end of `out` and makes a reply of it. With `now`, `false` says that it would wait,
    /// and nothing was appended.
    pub(crate) fn read(
        &self,
        request: &Request,
        now: bool,
        out: &mut Buffer,
        counters: &Counters,
    ) -> bool {
        let to = self.to(request);
        // `check` saw to it that the length is one of a payload.
        let len = request.length as usize;
        if len == 0 {
            out.push(&to.nothing_read());
            return true;
        }
        // Before there is room for the answer.
        let size = self.device.info().size;
        if let Err(error) = check_range("read", request.offset, request.length, size) {
            self.fail(request, failure(Command::Read, &error), out, counters);
            return true;
        }
        let (start, head_len) = (out.len(), to.data_head_len());
        let reply = out.grow(head_len + len);
        let (head, data) = reply.split_at_mut(head_len);
        let outcome = if now {
            self.device.try_read(request.offset, data)
        } else {
            self.device.read(request.offset, data).map(|()| true)
        };
        match outcome {
            Ok(true) => {
                let whole = to.data_head(ReplyFlags::DONE, request.offset, len as u32);
                head.copy_from_slice(&whole);
                if self.is_divisible(request) && len >= HOLE_LEN_MIN {
                    leave_out_holes(to, ReplyFlags::DONE, start, out);
                }
                true
            }
            Ok(false) => {
                out.truncate(start);
                false
            }
            Err(error) => {
                out.truncate(start);
                self.fail(request, failure(Command::Read, &error), out, counters);
                true
            }
        }
    }

    /// Appends a part of the reply to a READ, the first one with what goes before it. With `now` only if that needs
    /// no waiting.
    ///
    /// # Errors
    /// It failed in the middle of a reply that cannot say so: the client can only be cut off ("Simple reply
    /// message", "Structured reply chunk message").
    pub(crate) fn read_part(
        &self,
        request: &Request,
        part: Range<u64>,
        now: bool,
        out: &mut Buffer,
        counters: &Counters,
    ) -> io::Result<Part> {
        let (mut to, len) = (self.to(request), part.end - part.start);
        let divisible = self.is_divisible(request);
        let flags = ReplyFlags(match divisible && part.end < request.length {
            true => 0,
            false => ReplyFlags::DONE.0,
        });
        let (start, mut outcome) = (out.len(), Ok(()));
        if part.start == 0 {
            let size = self.device.info().size;
            outcome = check_range("read", request.offset, request.length, size);
        }
        // What is beyond any device was refused with the first part.
        to.offset = request.offset.saturating_add(part.start);
        if divisible {
            out.push(&to.data_head(flags, to.offset, len as u32));
        } else if part.start == 0 {
            out.push(&to.data_head(flags, to.offset, request.length as u32));
        }
        let data = out.grow(len as usize);
        let read = outcome.and_then(|()| {
            if now {
                self.device.try_read(to.offset, data)
            } else {
                self.device.read(to.offset, data).map(|()| true)
            }
        });
        match read {
            Ok(true) => {
                if divisible && len >= HOLE_LEN_MIN as u64 {
                    leave_out_holes(to, flags, start, out);
                }
                Ok(Part::Read)
            }
            Ok(false) => {
                out.truncate(start);
                Ok(Part::WouldWait)
            }
            Err(error) if divisible || part.start == 0 => {
                out.truncate(start);
                self.fail(request, failure(Command::Read, &error), out, counters);
                Ok(Part::Failed)
            }
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Whether the reply to a READ may be of several chunks.
    pub(crate) fn is_divisible(&self, request: &Request) -> bool {
        self.style != Style::Simple && !request.flags.contains(CommandFlags::DF)
    }

    fn block_status(&self, request: &Request, out: &mut Buffer, counters: &Counters) {
        let one = request.flags.contains(CommandFlags::REQ_ONE);
        let max = if one { 1 } else { EXTENTS_MAX };
        let (to, mut reply) = (self.to(request), Vec::new());
        for (index, context) in self.contexts.iter().enumerate() {
            let extents = match context.status(&*self.device, request, max) {
                Ok(extents) => extents,
                Err(e) => {
                    return self.fail(request, failure(Command::BlockStatus, &e), out, counters);
                }
            };
            let last = index + 1 == self.contexts.len();
            let flags = if last {
                ReplyFlags::DONE
            } else {
                ReplyFlags(0)
            };
            to.put_extents(&mut reply, flags, Context::id(index), &extents);
        }
        out.push(&reply);
    }
}

/// The code that an error of the device has on the wire ("Error values").
fn failure(command: Command, error: &block::Error) -> Failure {
    let writes = matches!(command, Command::Write | Command::WriteZeroes);
    let code = match error.kind() {
        ErrorKind::OutOfRange if writes => ErrorCode::NoSpc,
        ErrorKind::OutOfRange => ErrorCode::Inval,
        ErrorKind::ReadOnly => ErrorCode::Perm,
        ErrorKind::NoSpace => ErrorCode::NoSpc,
        ErrorKind::Gone => ErrorCode::Shutdown,
        ErrorKind::Io => {
            tracing::warn!(?error, "an NBD request failed");
            ErrorCode::Io
        }
    };
    (code, error.to_string())
}

/// Makes several chunks of the one from `start` if it holds long runs of zeroes; the last one has `last_flags`.
///
/// The data are looked at rather than the extents: that never waits for the block map, finds zeroes
/// that are stored too, and costs one cache line a block where there are data.
fn leave_out_holes(to: To, last_flags: ReplyFlags, start: usize, out: &mut Buffer) {
    let data_at = start + to.data_head_len();
    let runs = runs(to.offset, &out.as_slice()[data_at..]);
    if !runs.iter().any(|run| run.hole) {
        return;
    }
    // In place: a hole is shorter than the zeroes that it stands for, and by more than the head that
    // comes before the data behind it.
    let (mut from, mut to_at, mut put) = (data_at, start, Vec::new());
    let end = out.len();
    for run in &runs {
        let last = from + run.len == end;
        let flags = if last { last_flags } else { ReplyFlags(0) };
        let offset = to.offset + (from - data_at) as u64;
        put.clear();
        if run.hole {
            to.put_hole(&mut put, flags, offset, run.len as u32);
        } else {
            put.extend_from_slice(&to.data_head(flags, offset, run.len as u32));
        }
        let bytes = out.as_mut_slice();
        if !run.hole {
            bytes.copy_within(from..from + run.len, to_at + put.len());
        }
        bytes[to_at..to_at + put.len()].copy_from_slice(&put);
        to_at += put.len() + if run.hole { 0 } else { run.len };
        from += run.len;
    }
    out.truncate(to_at);
}

struct Run {
    len: usize,
    hole: bool,
}

/// Runs of zeroes and of data in `data`, divided at blocks of the device; neighbours differ.
fn runs(offset: u64, data: &[u8]) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut add = |len: usize, hole: bool| match runs.last_mut() {
        _ if len == 0 => {}
        Some(last) if last.hole == hole => last.len += len,
        _ => runs.push(Run { len, hole }),
    };
    let (mut at, mut zeroes) = (0, 0);
    while at < data.len() {
        let in_block = (offset + at as u64) as usize % types::BLOCK_SIZE;
        let len = (types::BLOCK_SIZE - in_block).min(data.len() - at);
        if types::is_zero(&data[at..at + len]) {
            zeroes += len;
        } else {
            add(zeroes, zeroes >= HOLE_LEN_MIN);
            add(len, false);
            zeroes = 0;
        }
        at += len;
    }
    add(zeroes, zeroes >= HOLE_LEN_MIN);
    runs
}
