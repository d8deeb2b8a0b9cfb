//! Replies, read to their end: what is left of one would be taken for the next.

use crate::{connection::Failure, socket::Socket};
use image_formats::Run;
use nbd_proto::{
    Error, ErrorCode, STRING_LEN_MAX,
    meta::AllocationFlags,
    reply::{Chunk, ChunkType, EXTENTS_MAX, OFFSET_LEN, ReplyFlags, ReplyHeader},
};
use std::ops::Range;

/// Chunks of one reply: more are nonsense.
const CHUNKS_MAX: usize = 64 << 10;
/// Bytes of a chunk that says what failed.
const ERROR_LEN_MAX: u64 = STRING_LEN_MAX as u64 + 64;
const EXTENTS_LEN_MAX: u64 = 4 + 8 * EXTENTS_MAX as u64;

/// A chunk before its payload.
struct Head {
    last: bool,
    chunk: u16,
    length: u64,
}

/// The next head; or, of a reply that is not in chunks, its error.
enum Next {
    Chunk(Head),
    Simple(u32),
}

fn next(socket: &mut Socket, cookie: u64) -> Result<Next, Failure> {
    let magic: [u8; 4] = socket.array()?;
    let len = ReplyHeader::len_of(u32::from_be_bytes(magic))?;
    let mut bytes = vec![0; len];
    let (start, rest) = bytes.split_at_mut(magic.len());
    start.copy_from_slice(&magic);
    socket.read(rest)?;
    let (theirs, next) = match ReplyHeader::decode(&bytes)? {
        ReplyHeader::Simple { cookie, error } => (cookie, Next::Simple(error)),
        ReplyHeader::Chunk {
            flags,
            chunk,
            cookie,
            length,
        } => {
            let last = flags.contains(ReplyFlags::DONE);
            (
                cookie,
                Next::Chunk(Head {
                    last,
                    chunk,
                    length,
                }),
            )
        }
    };
    match theirs == cookie {
        true => Ok(next),
        false => Err(Error::Value("cookie").into()),
    }
}

fn failure(code: u32, message: &str) -> Failure {
    let what = match ErrorCode::from_wire(code) {
        Some(ErrorCode::Perm) => "not permitted",
        Some(ErrorCode::Io) => "input/output error",
        Some(ErrorCode::NoMem) => "out of memory",
        Some(ErrorCode::Shutdown) => "the server is ending",
        _ => "the server refuses the request",
    };
    let message: String = message
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect();
    match message.is_empty() {
        true => Failure::server(what),
        false => Failure::server(&format!("{what} ({message})")),
    }
}

/// The reply to READ of a server without chunks.
pub(crate) fn read_simple(socket: &mut Socket, cookie: u64, buf: &mut [u8]) -> Result<(), Failure> {
    match next(socket, cookie)? {
        Next::Simple(0) => Ok(socket.read(buf)?),
        Next::Simple(error) => Err(failure(error, "")),
        Next::Chunk(_) => Err(Error::Value("reply").into()),
    }
}

/// The reply to READ: chunks, in any order, that are all of `buf`, each byte once.
pub(crate) fn read_chunks(
    socket: &mut Socket,
    cookie: u64,
    offset: u64,
    buf: &mut [u8],
) -> Result<(), Failure> {
    let mut got: Vec<Range<usize>> = Vec::new();
    let mut failed = None;
    for_each_chunk(socket, cookie, |socket, head| {
        if head.chunk == ChunkType::OffsetData as u16 {
            let data_len = head.length.checked_sub(OFFSET_LEN as u64);
            let at = u64::from_be_bytes(socket.array()?);
            let range = within(at, data_len.unwrap_or(0), offset, buf.len())?;
            socket.read(buf.get_mut(range.clone()).unwrap_or_default())?;
            got.push(range);
            return Ok(());
        }
        let payload = payload(socket, &head, ERROR_LEN_MAX)?;
        match decode(&head, &payload)? {
            Chunk::Hole(at, len) => {
                let range = within(at, len.into(), offset, buf.len())?;
                buf.get_mut(range.clone()).unwrap_or_default().fill(0);
                got.push(range);
            }
            Chunk::Error { error, message, .. } => {
                failed.get_or_insert_with(|| failure(error as u32, message));
            }
            Chunk::None => {}
            Chunk::Data(..) | Chunk::Status(..) => return Err(Error::Value("chunk").into()),
        }
        Ok(())
    })?;
    if let Some(failed) = failed {
        return Err(failed);
    }
    got.sort_unstable_by_key(|range| range.start);
    let end = got
        .iter()
        .try_fold(0, |at, range| (range.start == at).then_some(range.end));
    match end == Some(buf.len()) {
        true => Ok(()),
        false => Err(Error::Length("what was read").into()),
    }
}

/// The reply to BLOCK_STATUS of `len` bytes: runs from the beginning on, of `len` bytes or less, at least one.
pub(crate) fn read_extents(
    socket: &mut Socket,
    cookie: u64,
    context: u32,
    len: u64,
) -> Result<Vec<Run>, Failure> {
    let mut runs: Vec<Run> = Vec::new();
    let mut failed = None;
    for_each_chunk(socket, cookie, |socket, head| {
        let payload = payload(socket, &head, EXTENTS_LEN_MAX)?;
        match decode(&head, &payload)? {
            Chunk::Status(id, extents) if id == context && runs.is_empty() => {
                let mut left = len;
                for (extent, status) in extents.iter() {
                    let run = extent.min(left);
                    let data = status & u64::from(AllocationFlags::ZERO.0) == 0;
                    left -= run;
                    match runs.last_mut() {
                        _ if run == 0 => {}
                        Some(last) if last.data == data => last.len += run,
                        _ => runs.push(Run { len: run, data }),
                    }
                }
            }
            Chunk::Error { error, message, .. } => {
                failed.get_or_insert_with(|| failure(error as u32, message));
            }
            Chunk::None => {}
            Chunk::Status(..) | Chunk::Data(..) | Chunk::Hole(..) => {
                return Err(Error::Value("chunk").into());
            }
        }
        Ok(())
    })?;
    match (failed, runs.is_empty()) {
        (Some(failed), _) => Err(failed),
        (None, true) => Err(Error::Length("extents").into()),
        (None, false) => Ok(runs),
    }
}

fn for_each_chunk(
    socket: &mut Socket,
    cookie: u64,
    mut take: impl FnMut(&mut Socket, Head) -> Result<(), Failure>,
) -> Result<(), Failure> {
    for _ in 0..CHUNKS_MAX {
        let head = match next(socket, cookie)? {
            Next::Chunk(head) => head,
            // Allowed for what is not READ; and only so can it be a success.
            Next::Simple(0) => return Err(Error::Value("reply").into()),
            Next::Simple(error) => return Err(failure(error, "")),
        };
        let last = head.last;
        take(socket, head)?;
        if last {
            return Ok(());
        }
    }
    Err(Error::Length("chunks").into())
}

fn payload(socket: &mut Socket, head: &Head, max: u64) -> Result<Vec<u8>, Failure> {
    if head.length > max {
        return Err(Error::Length("chunk").into());
    }
    let mut payload = vec![0; head.length as usize];
    socket.read(&mut payload)?;
    Ok(payload)
}

/// A chunk that has been read; one of an error that is not known here is an error all the same.
fn decode<'a>(head: &Head, payload: &'a [u8]) -> Result<Chunk<'a>, Failure> {
    const ERROR: u16 = 1 << 15;
    match Chunk::decode(head.chunk, payload) {
        Err(Error::Value("chunk type")) if head.chunk & ERROR != 0 => Ok(Chunk::Error {
            error: ErrorCode::Inval,
            message: "",
            offset: None,
        }),
        decoded => Ok(decoded?),
    }
}

/// Where `len` bytes at `at` are in a buffer of `room` bytes that begins at `offset`.
fn within(at: u64, len: u64, offset: u64, room: usize) -> Result<Range<usize>, Failure> {
    let start = at.checked_sub(offset);
    let end = start.and_then(|start| start.checked_add(len));
    match (start, end) {
        (Some(start), Some(end)) if end <= room as u64 && len > 0 => {
            Ok(start as usize..end as usize)
        }
        _ => Err(Error::Value("offset").into()),
    }
}
