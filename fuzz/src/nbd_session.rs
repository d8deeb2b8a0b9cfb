//! A whole NBD session: the handshake and the requests of a client, against the server on a socket.
//!
//! The connection must end, what the server says must be well-formed, and a request must be answered
//! once at most.

use crate::alloc::bounded;
use block::{Bitmap, BlockDevice, Departure, Error, ErrorKind, Exports, MemoryDevice};
use front_nbd::{Config, Server};
use nbd_proto::{
    handshake::{
        EXPORT_NAME_PADDING, GREETING_LEN, OPTION_REPLY_HEADER_LEN, OptionReplyHeader, OptionType,
        put_option,
    },
    meta::BASE_ALLOCATION,
    option::{ExportQuery, InfoType, MetaQuery},
    reply::{Chunk, ReplyFlags, ReplyHeader, Style},
    request::{Command, CommandFlags, EXTENDED_REQUEST_LEN, REQUEST_LEN, Request},
};
use std::{
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{Arc, LazyLock},
};

/// Bytes of the disk: enough for holes in replies.
const SIZE: usize = 256 << 10;
/// More would not fit into the socket's buffer, and we write before we read.
const INPUT_MAX: usize = 64 << 10;
/// What one session may take: its buffers, and a piece of a large write.
const MEMORY_MAX: usize = 24 << 20;
const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];

struct Disk(Arc<MemoryDevice>);

impl Exports for Disk {
    fn list(&self) -> Vec<String> {
        vec!["disk".to_owned()]
    }

    fn open(&self, name: &str) -> Result<Arc<dyn BlockDevice>, Error> {
        match name {
            "disk" => Ok(self.0.clone()),
            _ => Err(Error::new(ErrorKind::Gone, "open")),
        }
    }

    fn bitmaps(&self, _: &str) -> Vec<String> {
        Vec::new()
    }

    fn bitmap(&self, _: &str, _: &str) -> Result<Arc<dyn Bitmap>, Error> {
        Err(Error::new(ErrorKind::Gone, "bitmap"))
    }

    fn left(&self, _: &str, _: Departure) {}
}

static SERVER: LazyLock<Server> = LazyLock::new(|| {
    let disk = Disk(Arc::new(MemoryDevice::new(SIZE)));
    Server::start(Arc::new(disk), env::Env::real(), Config::default()).expect("a server")
});

/// Of a handshake, and how many bytes it is answered with.
static HANDSHAKES: LazyLock<[(Vec<u8>, usize); 3]> = LazyLock::new(|| {
    STYLES.map(|style| {
        let client = handshake(style);
        let answered = talk(&client).len();
        (client, answered)
    })
});

/// The first byte says which handshake comes before the rest; from 3 on the rest begins with its own.
pub fn run(data: &[u8]) {
    let Some((&kind, rest)) = data.split_first() else {
        return;
    };
    let rest = &rest[..rest.len().min(INPUT_MAX)];
    LazyLock::force(&HANDSHAKES);
    bounded(MEMORY_MAX, || match HANDSHAKES.get(usize::from(kind)) {
        Some((client, answered)) => {
            let style = STYLES[usize::from(kind)];
            let mut said = rest.to_vec();
            number_requests(style, &mut said);
            let heard = talk(&[client, &said[..]].concat());
            transmission(style, &said, &heard[*answered..]);
        }
        None => negotiation(&talk(rest)),
    });
}

/// Says everything, hangs up, and hears the answers to their end.
fn talk(bytes: &[u8]) -> Vec<u8> {
    let (mut ours, theirs) = UnixStream::pair().expect("sockets");
    SERVER.serve_stream(theirs.into()).expect("a connection");
    // The server may have hung up already.
    let _ = ours.write_all(bytes);
    let _ = ours.shutdown(Shutdown::Write);
    let mut heard = Vec::new();
    let _ = ours.read_to_end(&mut heard);
    heard
}

/// The greeting and answers to options; what follows the last of them is transmission.
fn negotiation(heard: &[u8]) {
    assert!(heard.starts_with(b"NBDMAGICIHAVEOPT"), "{heard:?}");
    let mut rest = &heard[GREETING_LEN..];
    while let Some(Ok(header)) = rest.first_chunk().map(OptionReplyHeader::decode) {
        rest = &rest[OPTION_REPLY_HEADER_LEN..];
        rest = rest.get(header.length as usize..).expect("a whole answer");
        if header.option == OptionType::Go as u32 && header.reply == 1 {
            return;
        }
    }
    let name = [10, 10 + EXPORT_NAME_PADDING]
        .iter()
        .any(|&len| rest.len() >= len);
    assert!(
        rest.is_empty() || name,
        "neither an answer to an option nor an export"
    );
}

/// Every answer is to a request that was sent and not answered before. Where the server broke off, the
/// last one may be cut short.
fn transmission(style: Style, said: &[u8], mut heard: &[u8]) {
    let mut asked = requests(style, said);
    while let Some(magic) = heard.first_chunk().map(|magic| u32::from_be_bytes(*magic)) {
        let len = ReplyHeader::len_of(magic).expect("a reply");
        let Some((head, rest)) = heard.split_at_checked(len) else {
            return;
        };
        let (cookie, last, payload) = match ReplyHeader::decode(head).expect("a reply") {
            ReplyHeader::Simple { cookie, error } => {
                assert_ne!(style, Style::Extended);
                let reads = |r: &&Request| r.cookie == cookie && r.command == Command::Read as u16;
                let read = asked.iter().find(reads).filter(|_| error == 0);
                (cookie, true, read.map_or(0, |read| read.length))
            }
            ReplyHeader::Chunk {
                flags,
                cookie,
                length,
                ..
            } => {
                assert_ne!(style, Style::Simple);
                (cookie, flags.contains(ReplyFlags::DONE), length)
            }
        };
        let Some((payload, rest)) = rest.split_at_checked(payload as usize) else {
            return;
        };
        if let Ok(ReplyHeader::Chunk { chunk, .. }) = ReplyHeader::decode(head) {
            Chunk::decode(chunk, payload).expect("a chunk");
        }
        heard = rest;
        let found = asked.iter().position(|request| request.cookie == cookie);
        let found = found.expect("an answer to what was asked");
        if last {
            asked.remove(found);
        }
    }
}

/// The requests in `said`, the last one's payload perhaps cut short.
fn requests(style: Style, mut said: &[u8]) -> Vec<Request> {
    let mut requests: Vec<Request> = Vec::new();
    while let Some((request, rest)) = request(style, said) {
        requests.push(request);
        let payload = request.payload_len(style == Style::Extended);
        let Some(rest) = usize::try_from(payload)
            .ok()
            .and_then(|len| rest.get(len..))
        else {
            break;
        };
        said = rest;
    }
    requests
}

fn request(style: Style, bytes: &[u8]) -> Option<(Request, &[u8])> {
    if style == Style::Extended {
        let (head, rest) = bytes.split_first_chunk()?;
        return Some((Request::decode_extended(head).ok()?, rest));
    }
    let (head, rest) = bytes.split_first_chunk()?;
    Some((Request::decode_compact(head).ok()?, rest))
}

/// Gives every request in `said` a cookie of its own, so that answers can be told apart.
fn number_requests(style: Style, said: &mut [u8]) {
    let mut at = 0;
    for cookie in 0u64.. {
        let Some((request, _)) = request(style, &said[at..]) else {
            return;
        };
        said[at + 8..at + 16].copy_from_slice(&cookie.to_be_bytes());
        let head = if style == Style::Extended {
            EXTENDED_REQUEST_LEN
        } else {
            REQUEST_LEN
        };
        let payload = request.payload_len(style == Style::Extended);
        let end = usize::try_from(payload)
            .ok()
            .and_then(|len| (at + head).checked_add(len));
        at = match end.filter(|&end| end <= said.len()) {
            Some(end) => end,
            None => return,
        };
    }
}

fn handshake(style: Style) -> Vec<u8> {
    let mut wire = 3u32.to_be_bytes().to_vec();
    match style {
        Style::Simple => {}
        Style::Structured => put_option(&mut wire, OptionType::StructuredReply as u32, &[]),
        Style::Extended => put_option(&mut wire, OptionType::ExtendedHeaders as u32, &[]),
    }
    if style != Style::Simple {
        let contexts = MetaQuery::encode("disk", &[BASE_ALLOCATION]);
        put_option(&mut wire, OptionType::SetMetaContext as u32, &contexts);
    }
    let export = ExportQuery::encode("disk", &[InfoType::BlockSize]);
    put_option(&mut wire, OptionType::Go as u32, &export);
    wire
}

/// Sessions with every command, and handshakes with every option.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (kind, style) in (0u8..).zip(STYLES) {
        let mut session = vec![kind];
        for (cookie, command) in (1..).zip(
            Command::ALL
                .into_iter()
                .filter(|c| *c != Command::Disconnect),
        ) {
            let request = Request {
                flags: CommandFlags(u16::from(command == Command::Write)),
                command: command as u16,
                cookie,
                offset: 8192,
                length: if command == Command::Flush { 0 } else { 5000 },
            };
            put(&mut session, style, &request);
            if command == Command::Write {
                session.extend_from_slice(&[0x5a; 5000]);
            }
            seeds.push(session.clone());
        }
        let goodbye = Request {
            flags: CommandFlags(0),
            command: Command::Disconnect as u16,
            cookie: 99,
            offset: 0,
            length: 0,
        };
        put(&mut session, style, &goodbye);
        seeds.push(session);
        seeds.push([vec![9], handshake(style)].concat());
    }
    for option in OptionType::ALL {
        let mut wire = vec![9, 0, 0, 0, 1];
        put_option(&mut wire, option as u32, b"disk");
        put_option(&mut wire, OptionType::List as u32, &[]);
        put_option(&mut wire, OptionType::Abort as u32, &[]);
        seeds.push(wire);
    }
    seeds
}

fn put(out: &mut Vec<u8>, style: Style, request: &Request) {
    match style {
        Style::Extended => request.put_extended(out),
        _ => request.put_compact(out).unwrap_or_default(),
    }
}
