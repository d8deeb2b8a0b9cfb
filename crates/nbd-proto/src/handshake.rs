//! The handshake: greeting, options and the replies to them ("Newstyle negotiation").
//!
//! ```text
//! server: NBDMAGIC  IHAVEOPT  HandshakeFlags(16)
//! client: ClientFlags(32)
//! client: IHAVEOPT  option(32)  length(32)  payload        repeated
//! server: REPLYMAGIC  option(32)  reply(32)  length(32)  payload    one or more for each
//! ```
//! until GO is acknowledged, or EXPORT_NAME is answered with [`export_name_reply`].

use crate::{Error, flags, input::Input, input::put_string};

/// The first eight bytes that a server sends: `NBDMAGIC`.
pub const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// `IHAVEOPT`: the second eight, and the first of each option.
pub const OPTION_MAGIC: u64 = 0x4948_4156_454f_5054;
/// The first eight bytes of each reply to an option.
pub const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
/// Bytes of a server's greeting.
pub const GREETING_LEN: usize = 18;
/// Bytes of an option before its payload.
pub const OPTION_HEADER_LEN: usize = 16;
/// Bytes of an option reply before its payload.
pub const OPTION_REPLY_HEADER_LEN: usize = 20;
/// Zeroes after the reply to EXPORT_NAME, unless both sides said NO_ZEROES.
pub const EXPORT_NAME_PADDING: usize = 124;

flags! {
    /// What a server can do in the handshake ("Handshake flags").
    HandshakeFlags: u16 {
        /// Options are answered.
        FIXED_NEWSTYLE = 1;
        /// EXPORT_NAME can do without its zeroes.
        NO_ZEROES = 1 << 1;
    }
}

flags! {
    /// What a client makes of them ("Client flags").
    ClientFlags: u32 {
        /// Options are answered.
        FIXED_NEWSTYLE = 1;
        /// EXPORT_NAME is to do without its zeroes.
        NO_ZEROES = 1 << 1;
    }
}

flags! {
    /// What an export can do ("Transmission flags").
    TransmissionFlags: u16 {
        /// Always.
        HAS_FLAGS = 1;
        /// Mutations are refused.
        READ_ONLY = 1 << 1;
        /// FLUSH.
        SEND_FLUSH = 1 << 2;
        /// The FUA flag.
        SEND_FUA = 1 << 3;
        /// Seeks are dear.
        ROTATIONAL = 1 << 4;
        /// TRIM.
        SEND_TRIM = 1 << 5;
        /// WRITE_ZEROES and the NO_HOLE flag.
        SEND_WRITE_ZEROES = 1 << 6;
        /// The DF flag; only with structured replies.
        SEND_DF = 1 << 7;
        /// A flush covers all connections.
        CAN_MULTI_CONN = 1 << 8;
        /// RESIZE (experimental).
        SEND_RESIZE = 1 << 9;
        /// CACHE.
        SEND_CACHE = 1 << 10;
        /// The FAST_ZERO flag.
        SEND_FAST_ZERO = 1 << 11;
        /// BLOCK_STATUS may carry a payload; only with extended headers.
        BLOCK_STATUS_PAYLOAD = 1 << 12;
    }
}

/// What a client asks in the handshake ("Option types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum OptionType {
    /// Enter transmission; no errors can be told.
    ExportName = 1,
    /// Give up.
    Abort = 2,
    /// The names of the exports.
    List = 3,
    /// Upgrade to TLS.
    StartTls = 5,
    /// Describe an export.
    Info = 6,
    /// Describe an export and enter transmission.
    Go = 7,
    /// Answer with chunks.
    StructuredReply = 8,
    /// Which metadata contexts there are.
    ListMetaContext = 9,
    /// Choose metadata contexts.
    SetMetaContext = 10,
    /// 64-bit lengths.
    ExtendedHeaders = 11,
}

impl OptionType {
    /// Every option that is known here.
    pub const ALL: [OptionType; 10] = [
        OptionType::ExportName,
        OptionType::Abort,
        OptionType::List,
        OptionType::StartTls,
        OptionType::Info,
        OptionType::Go,
        OptionType::StructuredReply,
        OptionType::ListMetaContext,
        OptionType::SetMetaContext,
        OptionType::ExtendedHeaders,
    ];

    /// From the wire; `None` for one that is not known, to be answered with [`OptionReply::ErrUnsup`].
    #[must_use]
    pub fn from_wire(option: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|o| *o as u32 == option)
    }
}

/// What a server answers to an option ("Option reply types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum OptionReply {
    /// Done.
    Ack = 1,
    /// An export.
    Server = 2,
    /// Something about an export.
    Info = 3,
    /// A metadata context.
    MetaContext = 4,
    /// The option is not known.
    ErrUnsup = ERROR | 1,
    /// The option is not wanted.
    ErrPolicy = ERROR | 2,
    /// The option is malformed, or out of place.
    ErrInvalid = ERROR | 3,
    /// The option cannot be had on this machine.
    ErrPlatform = ERROR | 4,
    /// TLS first.
    ErrTlsReqd = ERROR | 5,
    /// No such export.
    ErrUnknown = ERROR | 6,
    /// The server is ending.
    ErrShutdown = ERROR | 7,
    /// The client must ask for block sizes.
    ErrBlockSizeReqd = ERROR | 8,
    /// Too large.
    ErrTooBig = ERROR | 9,
    /// Extended headers first.
    ErrExtHeaderReqd = ERROR | 10,
}

const ERROR: u32 = 1 << 31;

impl OptionReply {
    /// Whether a reply of this type, known or not, says that the option failed.
    #[must_use]
    pub const fn is_error(reply: u32) -> bool {
        reply & ERROR != 0
    }
}

/// The greeting of a fixed newstyle server.
#[must_use]
pub fn greeting(flags: HandshakeFlags) -> [u8; GREETING_LEN] {
    let mut out = [0; GREETING_LEN];
    let parts = MAGIC.to_be_bytes().into_iter();
    let parts = parts.chain(OPTION_MAGIC.to_be_bytes());
    for (to, from) in out.iter_mut().zip(parts.chain(flags.0.to_be_bytes())) {
        *to = from;
    }
    out
}

/// What a client reads first.
///
/// # Errors
/// It is no newstyle server.
pub fn decode_greeting(bytes: &[u8; GREETING_LEN]) -> Result<HandshakeFlags, Error> {
    let mut input = Input::new(bytes, "greeting");
    if input.u64()? != MAGIC || input.u64()? != OPTION_MAGIC {
        return Err(Error::Magic("greeting"));
    }
    input.u16().map(HandshakeFlags)
}

/// An option's head; `length` bytes of payload follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionHeader {
    /// An [`OptionType`], if known.
    pub option: u32,
    /// Bytes of payload: not to be trusted.
    pub length: u32,
}

impl OptionHeader {
    /// From the wire.
    ///
    /// # Errors
    /// The magic number is another.
    pub fn decode(bytes: &[u8; OPTION_HEADER_LEN]) -> Result<Self, Error> {
        let mut input = Input::new(bytes, "option");
        if input.u64()? != OPTION_MAGIC {
            return Err(Error::Magic("option"));
        }
        Ok(OptionHeader {
            option: input.u32()?,
            length: input.u32()?,
        })
    }
}

/// Appends an option with its payload, as a client sends it.
pub fn put_option(out: &mut Vec<u8>, option: u32, payload: &[u8]) {
    out.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
}

/// The head of a reply to an option; `length` bytes of payload follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OptionReplyHeader {
    /// The option that is answered.
    pub option: u32,
    /// An [`OptionReply`], if known.
    pub reply: u32,
    /// Bytes of payload: not to be trusted.
    pub length: u32,
}

impl OptionReplyHeader {
    /// From the wire.
    ///
    /// # Errors
    /// The magic number is another.
    pub fn decode(bytes: &[u8; OPTION_REPLY_HEADER_LEN]) -> Result<Self, Error> {
        let mut input = Input::new(bytes, "option reply");
        if input.u64()? != OPTION_REPLY_MAGIC {
            return Err(Error::Magic("option reply"));
        }
        Ok(OptionReplyHeader {
            option: input.u32()?,
            reply: input.u32()?,
            length: input.u32()?,
        })
    }
}

/// Appends a reply to `option` with its payload (for errors: text for people).
pub fn put_option_reply(out: &mut Vec<u8>, option: u32, reply: OptionReply, payload: &[u8]) {
    out.extend_from_slice(&OPTION_REPLY_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&(reply as u32).to_be_bytes());
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes());
    out.extend_from_slice(payload);
}

/// The payload of [`OptionReply::Server`]: an export's name.
#[must_use]
pub fn server_payload(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(4 + name.len());
    put_string(&mut out, name);
    out
}

/// The answer to EXPORT_NAME: size, flags, and zeroes if the client wants them.
#[must_use]
pub fn export_name_reply(size: u64, flags: TransmissionFlags, no_zeroes: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(10 + EXPORT_NAME_PADDING);
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(&flags.0.to_be_bytes());
    if !no_zeroes {
        out.resize(out.len() + EXPORT_NAME_PADDING, 0);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_are_the_protocols() {
        assert_eq!(&MAGIC.to_be_bytes(), b"NBDMAGIC");
        assert_eq!(&OPTION_MAGIC.to_be_bytes(), b"IHAVEOPT");
        assert_eq!(OptionReply::ErrExtHeaderReqd as u32, (1 << 31) + 10);
        assert_eq!(OptionType::from_wire(4), None);
        assert_eq!(OptionType::from_wire(11), Some(OptionType::ExtendedHeaders));
        assert!(OptionReply::is_error(OptionReply::ErrUnsup as u32));
    }

    #[test]
    fn greeting_comes_back() {
        let flags = HandshakeFlags::FIXED_NEWSTYLE | HandshakeFlags::NO_ZEROES;
        assert_eq!(decode_greeting(&greeting(flags)), Ok(flags));
        let mut bad = greeting(flags);
        bad[9] ^= 1;
        assert_eq!(decode_greeting(&bad), Err(Error::Magic("greeting")));
    }

    #[test]
    fn zeroes_only_for_those_who_want_them() {
        let flags = TransmissionFlags::HAS_FLAGS;
        assert_eq!(export_name_reply(7, flags, true).len(), 10);
        assert_eq!(export_name_reply(7, flags, false).len(), 134);
    }

    proptest! {
        #[test]
        fn options_come_back(option: u32, payload: Vec<u8>) {
            let mut wire = Vec::new();
            put_option(&mut wire, option, &payload);
            let header = OptionHeader::decode(wire.first_chunk().unwrap()).unwrap();
            prop_assert_eq!(header, OptionHeader { option, length: payload.len() as u32 });
            wire.clear();
            put_option_reply(&mut wire, option, OptionReply::Info, &payload);
            let header = OptionReplyHeader::decode(wire.first_chunk().unwrap()).unwrap();
            prop_assert_eq!((header.option, header.reply), (option, OptionReply::Info as u32));
            prop_assert_eq!(&wire[OPTION_REPLY_HEADER_LEN..], &payload[..]);
        }

        #[test]
        fn garbage_never_panics(a: [u8; GREETING_LEN], b: [u8; 16], c: [u8; 20]) {
            let _ = (decode_greeting(&a), OptionHeader::decode(&b), OptionReplyHeader::decode(&c));
        }
    }
}
