//! The handshake with a client, until it has chosen an export.

use crate::{
    Config,
    execute::{Context, Session},
    socket::Socket,
};
use block::{BlockDevice, DeviceInfo, Exports};
use env::Clock;
use nbd_proto::{
    Error, PAYLOAD_LEN_MAX,
    handshake::{
        ClientFlags, GREETING_LEN, HandshakeFlags, OPTION_HEADER_LEN, OptionHeader, OptionReply,
        OptionType, TransmissionFlags, export_name_reply, greeting, put_option_reply,
        server_payload,
    },
    meta::{BASE_ALLOCATION, DIRTY_BITMAP, context_payload, lists},
    option::{BlockSizes, ExportQuery, Info, InfoType, MetaQuery, decode_export_name},
    reply::Style,
};
use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    sync::Arc,
    time::Duration,
};

/// Longer payloads of options are not looked at …
const PAYLOAD_MAX: u32 = 64 << 10;
/// … and from this length on not even skipped.
const SKIP_MAX: u32 = 16 << 20;
/// Contexts that a client may select: a request is answered for all of them.
const CONTEXTS_MAX: usize = 16;

/// Comes to an agreement with a client. `None` if it leaves without one.
///
/// # Errors
/// The connection broke, or the client broke the protocol, or took too long.
pub(crate) fn negotiate(
    socket: &Socket,
    exports: &dyn Exports,
    config: &Config,
    clock: &dyn Clock,
) -> io::Result<Option<Session>> {
    let mut handshake = Handshake {
        socket,
        exports,
        config,
        clock,
        deadline: clock.monotonic() + config.handshake_timeout,
        style: Style::Simple,
        selected: Default::default(),
        no_zeroes: false,
        out: Vec::with_capacity(512),
    };
    handshake.greet()?;
    loop {
        match handshake.option()? {
            Outcome::More => {}
            Outcome::Left => return Ok(None),
            Outcome::Agreed(session) => return Ok(Some(session)),
        }
    }
}

struct Handshake<'a> {
    socket: &'a Socket,
    exports: &'a dyn Exports,
    config: &'a Config,
    clock: &'a dyn Clock,
    deadline: Duration,
    style: Style,
    /// The export that metadata contexts were last selected for, and which.
    selected: (String, Vec<Context>),
    no_zeroes: bool,
    out: Vec<u8>,
}

enum Outcome {
    More,
    Left,
    Agreed(Session),
}

/// Why an option is refused, and how that is put to people.
type Refusal = (OptionReply, &'static str);

const NO_SUCH_EXPORT: Refusal = (OptionReply::ErrUnknown, "no such export");

impl Handshake<'_> {
    fn greet(&mut self) -> io::Result<()> {
        const { assert!(GREETING_LEN == 18) };
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        self.out.extend_from_slice(&greeting(flags));
        self.send()?;
        let mut bytes = [0; 4];
        self.recv(&mut bytes)?;
        let flags = ClientFlags(u32::from_be_bytes(bytes));
        if !flags.within(ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES) {
            return Err(broken("client flags that were not offered"));
        }
        self.no_zeroes = flags.contains(ClientFlags::NO_ZEROES);
        Ok(())
    }

    fn option(&mut self) -> io::Result<Outcome> {
        let mut head = [0; OPTION_HEADER_LEN];
        self.recv(&mut head)?;
        let head = OptionHeader::decode(&head).map_err(broken)?;
        if head.length > PAYLOAD_MAX {
            self.skip(head.length)?;
            return self.refuse(head.option, (OptionReply::ErrTooBig, "too long"));
        }
        let mut payload = vec![0; head.length as usize];
        self.recv(&mut payload)?;
        let Some(option) = OptionType::from_wire(head.option) else {
            return self.refuse(head.option, (OptionReply::ErrUnsup, "not known here"));
        };
        let outcome = match option {
            OptionType::ExportName => return self.export_name(&payload),
            OptionType::Abort => {
                self.reply(option, OptionReply::Ack, &[]);
                // The client may have closed already.
                let _ = self.send();
                return Ok(Outcome::Left);
            }
            OptionType::Info | OptionType::Go => self.info(option, &payload),
            OptionType::ListMetaContext | OptionType::SetMetaContext => self.meta(option, &payload),
            _ if !payload.is_empty() => Err((OptionReply::ErrInvalid, "no data expected")),
            OptionType::List => self.list(),
            OptionType::StartTls => Err((OptionReply::ErrUnsup, "no TLS here")),
            OptionType::StructuredReply => self.upgrade(option, Style::Structured),
            OptionType::ExtendedHeaders => self.upgrade(option, Style::Extended),
        };
        match outcome {
            Ok(session) => {
                self.reply(option, OptionReply::Ack, &[]);
                self.send()?;
                Ok(session.map_or(Outcome::More, Outcome::Agreed))
            }
            Err(refusal) => self.refuse(head.option, refusal),
        }
    }

    /// The old way in: no errors can be told, so the connection is closed instead.
    fn export_name(&mut self, payload: &[u8]) -> io::Result<Outcome> {
        if self.style == Style::Extended {
            return Err(broken("EXPORT_NAME after extended headers"));
        }
        let name = decode_export_name(payload).map_err(broken)?;
        let (name, device) = self.open(name).map_err(|(_, why)| broken(why))?;
        let info = device.info();
        let reply = export_name_reply(info.size, self.flags(info), self.no_zeroes);
        self.out.extend_from_slice(&reply);
        self.send()?;
        Ok(Outcome::Agreed(self.session(name, device)))
    }

    fn list(&mut self) -> Result<Option<Session>, Refusal> {
        for name in self.exports.list() {
            self.reply(
                OptionType::List,
                OptionReply::Server,
                &server_payload(&name),
            );
        }
        Ok(None)
    }

    fn upgrade(&mut self, option: OptionType, style: Style) -> Result<Option<Session>, Refusal> {
        if self.style == Style::Extended {
            let reply = match option {
                OptionType::StructuredReply => OptionReply::ErrExtHeaderReqd,
                _ => OptionReply::ErrInvalid,
            };
            return Err((reply, "extended headers are agreed on already"));
        }
        if self.style == style {
            return Err((OptionReply::ErrInvalid, "agreed on already"));
        }
        self.style = style;
        Ok(None)
    }

    fn info(&mut self, option: OptionType, payload: &[u8]) -> Result<Option<Session>, Refusal> {
        let query = ExportQuery::decode(payload).map_err(malformed)?;
        let (name, device) = self.open(query.name)?;
        let info = device.info();
        let export = Info::Export(info.size, self.flags(info));
        self.reply(option, OptionReply::Info, &export.encode());
        if query.wants(InfoType::Name) {
            self.reply(option, OptionReply::Info, &Info::Name(&name).encode());
        }
        let sizes = BlockSizes {
            minimum: 1,
            preferred: info.block_size,
            maximum_payload: PAYLOAD_LEN_MAX,
        };
        self.reply(option, OptionReply::Info, &Info::BlockSize(sizes).encode());
        Ok((option == OptionType::Go).then(|| self.session(name, device)))
    }

    fn meta(&mut self, option: OptionType, payload: &[u8]) -> Result<Option<Session>, Refusal> {
        let select = option == OptionType::SetMetaContext;
        if select {
            // What was selected before is forgotten, even if this fails.
            self.selected = Default::default();
        }
        if self.style == Style::Simple {
            return Err((OptionReply::ErrInvalid, "structured replies first"));
        }
        let query = MetaQuery::decode(payload).map_err(malformed)?;
        let (export, _) = self.open(query.export)?;
        match select {
            true => self.select(export, &query)?,
            false => self.list_contexts(&export, &query),
        }
        Ok(None)
    }

    fn list_contexts(&mut self, export: &str, query: &MetaQuery<'_>) {
        let queries: HashSet<&str> = query.queries().collect();
        let bitmaps = self.exports.bitmaps(export).into_iter();
        let bitmaps = bitmaps.map(|name| format!("{DIRTY_BITMAP}{name}"));
        for context in [BASE_ALLOCATION.to_owned()].into_iter().chain(bitmaps) {
            if query.count == 0 || lists(&queries, &context) {
                let payload = context_payload(0, &context);
                let option = OptionType::ListMetaContext;
                self.reply(option, OptionReply::MetaContext, &payload);
            }
        }
    }

    fn select(&mut self, export: String, query: &MetaQuery<'_>) -> Result<(), Refusal> {
        let (mut asked, mut contexts) = (HashSet::new(), Vec::new());
        for name in query.queries().filter(|name| asked.insert(*name)) {
            let Some(context) = self.context(&export, name) else {
                continue;
            };
            if contexts.len() == CONTEXTS_MAX {
                return Err((OptionReply::ErrTooBig, "too many contexts"));
            }
            let payload = context_payload(Context::id(contexts.len()), name);
            let option = OptionType::SetMetaContext;
            self.reply(option, OptionReply::MetaContext, &payload);
            contexts.push(context);
        }
        self.selected = (export, contexts);
        Ok(())
    }

    /// A context by its full name.
    fn context(&self, export: &str, name: &str) -> Option<Context> {
        if name == BASE_ALLOCATION {
            return Some(Context::Allocation);
        }
        let point = name.strip_prefix(DIRTY_BITMAP)?;
        match self.exports.bitmap(export, point) {
            Ok(bitmap) => Some(Context::Bitmap(bitmap)),
            Err(error) => {
                tracing::debug!(export, name, ?error, "a bitmap cannot be opened");
                None
            }
        }
    }

    /// Opens an export; with its canonical name.
    fn open(&self, name: &str) -> Result<(String, Arc<dyn BlockDevice>), Refusal> {
        let name = match &self.config.default_export {
            Some(default) if name.is_empty() => default,
            _ => name,
        };
        match self.exports.open(name) {
            Ok(device) => Ok((name.to_owned(), device)),
            Err(error) => {
                tracing::debug!(name, ?error, "an NBD export cannot be opened");
                Err(NO_SUCH_EXPORT)
            }
        }
    }

    fn session(&self, export: String, device: Arc<dyn BlockDevice>) -> Session {
        let (of, contexts) = &self.selected;
        let contexts = if *of == export {
            contexts.clone()
        } else {
            Vec::new()
        };
        Session {
            device,
            owner: owner(&export),
            export,
            style: self.style,
            contexts,
        }
    }

    fn flags(&self, info: DeviceInfo) -> TransmissionFlags {
        let mut flags = TransmissionFlags::HAS_FLAGS
            | TransmissionFlags::SEND_FLUSH
            | TransmissionFlags::SEND_FUA
            | TransmissionFlags::SEND_CACHE
            | TransmissionFlags::CAN_MULTI_CONN;
        flags = if info.read_only {
            flags | TransmissionFlags::READ_ONLY
        } else {
            flags
                | TransmissionFlags::SEND_TRIM
                | TransmissionFlags::SEND_WRITE_ZEROES
                | TransmissionFlags::SEND_FAST_ZERO
        };
        match self.style {
            Style::Simple => flags,
            Style::Structured | Style::Extended => flags | TransmissionFlags::SEND_DF,
        }
    }

    fn refuse(&mut self, option: u32, (reply, why): Refusal) -> io::Result<Outcome> {
        // Replies gathered before the refusal have not been sent: the refusal stands alone.
        self.out.clear();
        put_option_reply(&mut self.out, option, reply, why.as_bytes());
        self.send()?;
        Ok(Outcome::More)
    }

    fn reply(&mut self, option: OptionType, reply: OptionReply, payload: &[u8]) {
        put_option_reply(&mut self.out, option as u32, reply, payload);
    }

    fn send(&mut self) -> io::Result<()> {
        let left = self.deadline.saturating_sub(self.clock.monotonic());
        self.socket.send_all(&self.out, left)?;
        self.out.clear();
        Ok(())
    }

    fn recv(&self, buf: &mut [u8]) -> io::Result<()> {
        self.socket.recv_until(buf, self.clock, self.deadline)
    }

    fn skip(&self, len: u32) -> io::Result<()> {
        if len > SKIP_MAX {
            return Err(broken("an option of a size that nobody sends"));
        }
        let mut left = len as usize;
        let mut part = [0; 4096];
        while left > 0 {
            let n = left.min(part.len());
            self.recv(&mut part[..n])?;
            left -= n;
        }
        Ok(())
    }
}

/// A number for an export; that two have the same is rare, and makes them share a turn.
fn owner(export: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    export.hash(&mut hasher);
    hasher.finish()
}

const fn malformed(_: Error) -> Refusal {
    (OptionReply::ErrInvalid, "malformed")
}

fn broken(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
