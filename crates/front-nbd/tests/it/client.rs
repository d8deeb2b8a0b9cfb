//! A small NBD client.

use front_nbd::Server;
use nbd_proto::{
    ErrorCode,
    handshake::{
        ClientFlags, GREETING_LEN, OPTION_REPLY_HEADER_LEN, OptionReply, OptionReplyHeader,
        OptionType, TransmissionFlags, decode_greeting, put_option,
    },
    option::{ExportQuery, Info, MetaQuery},
    reply::{Chunk, ReplyFlags, ReplyHeader, Style},
    request::{Command, CommandFlags, Request},
};
use std::{
    collections::HashMap,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

pub(crate) const NONE: CommandFlags = CommandFlags(0);

/// A connection to the server under test.
pub(crate) struct Client {
    pub(crate) stream: UnixStream,
    pub(crate) style: Style,
    pub(crate) size: u64,
    pub(crate) flags: TransmissionFlags,
    cookie: u64,
    reads: HashMap<u64, (u64, usize)>,
    /// What there is of answers that are not complete: parts of several may come in turn.
    parts: HashMap<u64, Answer>,
}

/// An answer to a request.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) cookie: u64,
    pub(crate) error: Option<ErrorCode>,
    pub(crate) data: Vec<(u64, Vec<u8>)>,
    pub(crate) holes: Vec<(u64, u32)>,
    pub(crate) extents: Vec<(u64, u64)>,
    /// Those of other contexts than the first that was selected.
    pub(crate) others: Vec<(u32, Vec<(u64, u64)>)>,
}

impl Client {
    /// Connected, with the greetings over.
    pub(crate) fn connect(server: &Server) -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        server.serve_stream(theirs.into()).unwrap();
        Self::greet(ours)
    }

    pub(crate) fn greet(mut stream: UnixStream) -> Self {
        // A test that would hang fails instead.
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut greeting = [0; GREETING_LEN];
        stream.read_exact(&mut greeting).unwrap();
        decode_greeting(&greeting).unwrap();
        let flags = ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES;
        stream.write_all(&flags.0.to_be_bytes()).unwrap();
        Client {
            stream,
            style: Style::Simple,
            size: 0,
            flags: TransmissionFlags::default(),
            cookie: 0,
            reads: HashMap::new(),
            parts: HashMap::new(),
        }
    }

    /// Ready to send requests to `export`, with `base:allocation` unless the style is simple.
    pub(crate) fn open(server: &Server, export: &str, style: Style) -> Self {
        let mut client = Client::connect(server);
        client.negotiate(style);
        if style != Style::Simple {
            client.select(export);
        }
        client.go(export);
        client
    }

    pub(crate) fn negotiate(&mut self, style: Style) {
        let option = match style {
            Style::Simple => return,
            Style::Structured => OptionType::StructuredReply,
            Style::Extended => OptionType::ExtendedHeaders,
        };
        assert_eq!(
            self.option(option, &[]),
            [(OptionReply::Ack as u32, vec![])]
        );
        self.style = style;
    }

    pub(crate) fn select(&mut self, export: &str) {
        let query = MetaQuery::encode(export, &["base:allocation"]);
        let replies = self.option(OptionType::SetMetaContext, &query);
        let mut context = vec![0, 0, 0, 1];
        context.extend_from_slice(b"base:allocation");
        let context = (OptionReply::MetaContext as u32, context);
        assert_eq!(replies, [context, (OptionReply::Ack as u32, vec![])]);
    }

    pub(crate) fn go(&mut self, export: &str) {
        let replies = self.option(OptionType::Go, &ExportQuery::encode(export, &[]));
        assert_eq!(replies.last().unwrap().0, OptionReply::Ack as u32);
        for (_, payload) in &replies[..replies.len() - 1] {
            if let Info::Export(size, flags) = Info::decode(payload).unwrap() {
                (self.size, self.flags) = (size, flags);
            }
        }
        assert!(self.flags.contains(TransmissionFlags::HAS_FLAGS));
    }

    pub(crate) fn option(&mut self, option: OptionType, payload: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.raw_option(option as u32, payload)
    }

    /// The replies to an option, the last of them an ACK or an error.
    pub(crate) fn raw_option(&mut self, option: u32, payload: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut wire = Vec::new();
        put_option(&mut wire, option, payload);
        self.stream.write_all(&wire).unwrap();
        let mut replies = Vec::new();
        loop {
            let mut head = [0; OPTION_REPLY_HEADER_LEN];
            self.stream.read_exact(&mut head).unwrap();
            let head = OptionReplyHeader::decode(&head).unwrap();
            assert_eq!(head.option, option);
            let mut payload = vec![0; head.length as usize];
            self.stream.read_exact(&mut payload).unwrap();
            replies.push((head.reply, payload));
            if head.reply == OptionReply::Ack as u32 || OptionReply::is_error(head.reply) {
                return replies;
            }
        }
    }

    /// Asks for something; the cookie of it.
    pub(crate) fn send(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> u64 {
        let wire = self.wire(command as u16, flags, offset, length, payload);
        self.stream.write_all(&wire).unwrap();
        self.cookie
    }

    pub(crate) fn wire(
        &mut self,
        command: u16,
        flags: CommandFlags,
        offset: u64,
        length: u64,
        payload: &[u8],
    ) -> Vec<u8> {
        self.cookie += 1;
        if command == Command::Read as u16 {
            self.reads.insert(self.cookie, (offset, length as usize));
        }
        let request = Request {
            flags,
            command,
            cookie: self.cookie,
            offset,
            length,
        };
        let mut wire = Vec::new();
        match self.style {
            Style::Extended => request.put_extended(&mut wire),
            _ => request.put_compact(&mut wire).unwrap(),
        }
        wire.extend_from_slice(payload);
        wire
    }

    /// The next answer, whatever it answers.
    pub(crate) fn answer(&mut self) -> Answer {
        self.try_answer().unwrap()
    }

    pub(crate) fn try_answer(&mut self) -> io::Result<Answer> {
        loop {
            let mut head = vec![0; 4];
            self.stream.read_exact(&mut head)?;
            let magic = u32::from_be_bytes(*head.first_chunk().unwrap());
            head.resize(ReplyHeader::len_of(magic).unwrap(), 0);
            self.stream.read_exact(&mut head[4..])?;
            match ReplyHeader::decode(&head).unwrap() {
                ReplyHeader::Simple { cookie, error } => {
                    assert_ne!(self.style, Style::Extended);
                    let mut answer = Answer {
                        cookie,
                        ..Answer::default()
                    };
                    answer.error = ErrorCode::from_wire(error);
                    let read = self.reads.remove(&cookie);
                    if let (Some((offset, len)), None) = (read, answer.error) {
                        assert_eq!(self.style, Style::Simple);
                        let mut data = vec![0; len];
                        self.stream.read_exact(&mut data)?;
                        answer.data.push((offset, data));
                    }
                    return Ok(answer);
                }
                ReplyHeader::Chunk {
                    flags,
                    chunk,
                    cookie,
                    length,
                } => {
                    let mut answer = self.parts.remove(&cookie).unwrap_or_default();
                    answer.cookie = cookie;
                    let mut payload = vec![0; length as usize];
                    self.stream.read_exact(&mut payload)?;
                    match Chunk::decode(chunk, &payload).unwrap() {
                        Chunk::None => {}
                        Chunk::Data(at, data) => answer.data.push((at, data.to_vec())),
                        Chunk::Hole(at, len) => answer.holes.push((at, len)),
                        Chunk::Status(1, extents) => answer.extents.extend(extents.iter()),
                        Chunk::Status(context, extents) => {
                            answer.others.push((context, extents.iter().collect()));
                        }
                        Chunk::Error { error, message, .. } => {
                            assert!(!message.is_empty());
                            answer.error = Some(error);
                        }
                    }
                    if flags.contains(ReplyFlags::DONE) {
                        return Ok(answer);
                    }
                    self.parts.insert(cookie, answer);
                }
            }
        }
    }

    /// Asks and waits for the answer.
    pub(crate) fn ask(
        &mut self,
        command: Command,
        flags: CommandFlags,
        offset: u64,
        length: u64,
    ) -> Answer {
        let cookie = self.send(command, flags, offset, length, &[]);
        let answer = self.answer();
        assert_eq!(answer.cookie, cookie);
        answer
    }

    pub(crate) fn read(&mut self, offset: u64, len: usize) -> Result<Vec<u8>, ErrorCode> {
        let answer = self.ask(Command::Read, NONE, offset, len as u64);
        answer
            .error
            .map_or_else(|| Ok(answer.bytes(offset, len)), Err)
    }

    pub(crate) fn write(
        &mut self,
        flags: CommandFlags,
        offset: u64,
        data: &[u8],
    ) -> Result<(), ErrorCode> {
        let cookie = self.send(Command::Write, flags, offset, data.len() as u64, data);
        let answer = self.answer();
        assert_eq!(answer.cookie, cookie);
        answer.error.map_or(Ok(()), Err)
    }

    /// Whether the server closed the connection, after whatever it still sends.
    pub(crate) fn was_closed(mut self) -> bool {
        match self.stream.read_to_end(&mut Vec::new()) {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

impl Answer {
    /// What was read, put together; every byte must have been sent once.
    pub(crate) fn bytes(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let mut covered = 0;
        for (at, data) in &self.data {
            let at = (at - offset) as usize;
            bytes[at..at + data.len()].copy_from_slice(data);
            covered += data.len();
        }
        covered += self.holes.iter().map(|h| h.1 as usize).sum::<usize>();
        assert_eq!(covered, len);
        bytes
    }
}
