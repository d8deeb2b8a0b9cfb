//! The handshake, from the client's side: chunked replies and extents if the server has them, and the export.

use crate::{connection::Failure, socket::Socket};
use nbd_proto::{
    Error, PAYLOAD_LEN_MAX,
    handshake::{
        ClientFlags, HandshakeFlags, OptionReply, OptionReplyHeader, OptionType, TransmissionFlags,
        decode_greeting, put_option,
    },
    meta::BASE_ALLOCATION,
    option::{ExportQuery, Info, InfoType, MetaQuery},
};

/// Replies to one option: more is nonsense.
const REPLIES_MAX: usize = 64;
/// Bytes of a reply to an option: a name, a text, or little else.
const REPLY_LEN_MAX: u32 = 16 << 10;

/// What was agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    /// Bytes.
    pub(crate) size: u64,
    pub(crate) flags: TransmissionFlags,
    /// Whether replies come in chunks.
    pub(crate) structured: bool,
    /// The number of `base:allocation`.
    pub(crate) context: Option<u32>,
    /// Offsets and lengths are multiples of this.
    pub(crate) align: u32,
    /// Bytes that may be asked for at once.
    pub(crate) read_max: u32,
}

/// A reply to an option.
type Reply = (u32, Vec<u8>);

pub(crate) fn negotiate(socket: &mut Socket, export: &str) -> Result<Agreed, Failure> {
    let greeting = decode_greeting(&socket.array()?)?;
    if !greeting.contains(HandshakeFlags::FIXED_NEWSTYLE) {
        return Err(Failure::server(
            "the server is too old: it has no fixed newstyle handshake",
        ));
    }
    let ours = match greeting.contains(HandshakeFlags::NO_ZEROES) {
        true => ClientFlags::FIXED_NEWSTYLE | ClientFlags::NO_ZEROES,
        false => ClientFlags::FIXED_NEWSTYLE,
    };
    socket.write(&ours.0.to_be_bytes())?;
    let replies = ask(socket, OptionType::StructuredReply, &[])?;
    let structured = matches!(last(&replies), Some((ACK, _)));
    let context = match structured {
        true => context(&ask(
            socket,
            OptionType::SetMetaContext,
            &MetaQuery::encode(export, &[BASE_ALLOCATION]),
        )?),
        false => None,
    };
    let query = ExportQuery::encode(export, &[InfoType::BlockSize]);
    let replies = ask(socket, OptionType::Go, &query)?;
    match last(&replies) {
        Some((ACK, _)) => {}
        Some((reply, text)) => return Err(refused(*reply, export, text)),
        None => return Err(Error::Length("option reply").into()),
    }
    describe(&replies, structured, context)
}

const ACK: u32 = OptionReply::Ack as u32;

fn describe(replies: &[Reply], structured: bool, context: Option<u32>) -> Result<Agreed, Failure> {
    let mut agreed = Agreed {
        size: 0,
        flags: TransmissionFlags::default(),
        structured,
        context,
        align: 1,
        read_max: PAYLOAD_LEN_MAX,
    };
    let mut known = false;
    for (_, payload) in replies
        .iter()
        .filter(|(reply, _)| *reply == OptionReply::Info as u32)
    {
        match Info::decode(payload)? {
            Info::Export(size, flags) => {
                (agreed.size, agreed.flags, known) = (size, flags, true);
            }
            Info::BlockSize(sizes) => {
                let aligns = sizes.minimum.is_power_of_two() && sizes.minimum <= 64 << 10;
                if !aligns || sizes.maximum_payload < sizes.minimum {
                    return Err(Failure::server("the server's block sizes make no sense"));
                }
                agreed.align = sizes.minimum;
                agreed.read_max =
                    sizes.maximum_payload.min(PAYLOAD_LEN_MAX) / sizes.minimum * sizes.minimum;
            }
            Info::Name(_) | Info::Description(_) | Info::Other(_) => {}
        }
    }
    match known {
        true => Ok(agreed),
        false => Err(Failure::server(
            "the server does not tell the size of the export",
        )),
    }
}

fn last(replies: &[Reply]) -> Option<&Reply> {
    replies.last()
}

/// The number that `base:allocation` got, if it got one.
fn context(replies: &[Reply]) -> Option<u32> {
    if last(replies).is_none_or(|(reply, _)| *reply != ACK) {
        return None;
    }
    replies.iter().find_map(|(reply, payload)| {
        let (id, name) = payload.split_first_chunk::<4>()?;
        let ours = *reply == OptionReply::MetaContext as u32 && name == BASE_ALLOCATION.as_bytes();
        ours.then(|| u32::from_be_bytes(*id))
    })
}

/// Asks, and reads all replies, the last of which ends it.
fn ask(socket: &mut Socket, option: OptionType, payload: &[u8]) -> Result<Vec<Reply>, Failure> {
    let mut bytes = Vec::new();
    put_option(&mut bytes, option as u32, payload);
    socket.write(&bytes)?;
    let mut replies = Vec::new();
    while replies.len() < REPLIES_MAX {
        let header = OptionReplyHeader::decode(&socket.array()?)?;
        if header.option != option as u32 || header.length > REPLY_LEN_MAX {
            return Err(Error::Value("option reply").into());
        }
        let mut payload = vec![0; header.length as usize];
        socket.read(&mut payload)?;
        replies.push((header.reply, payload));
        if header.reply == ACK || OptionReply::is_error(header.reply) {
            return Ok(replies);
        }
    }
    Err(Failure::server("the server does not come to an end"))
}

fn refused(reply: u32, export: &str, text: &[u8]) -> Failure {
    const TLS: u32 = OptionReply::ErrTlsReqd as u32;
    const UNKNOWN: u32 = OptionReply::ErrUnknown as u32;
    const UNSUPPORTED: u32 = OptionReply::ErrUnsup as u32;
    let why = match reply {
        TLS => "the server wants TLS, which is not spoken here; forward the port through ssh"
            .to_owned(),
        UNKNOWN => format!("the server has no export '{export}'"),
        UNSUPPORTED => "the server is too old: it does not know NBD_OPT_GO".to_owned(),
        _ => format!("the server refuses the export '{export}'"),
    };
    let text = String::from_utf8_lossy(text);
    let text = text.lines().next().unwrap_or_default();
    let text: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
    match text.is_empty() {
        true => Failure::server(&why),
        false => Failure::server(&format!("{why} ({text})")),
    }
}
