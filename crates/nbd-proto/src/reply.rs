//! What a server answers in the transmission phase.
//!
//! ```text
//! simple      0x67446698  error(32)  cookie(64)                                         16 bytes
//! structured  0x668e33ef  flags(16)  type(16)  cookie(64)  length(32)                   20 bytes
//! extended    0x6e8a278c  flags(16)  type(16)  cookie(64)  offset(64)  length(64)       32 bytes
//! ```
//! A simple reply to READ is followed by the data; `length` bytes of payload follow the others.

use crate::{Error, ErrorCode, STRING_LEN_MAX, flags, input::Input, input::text};

/// Begins a simple reply.
pub const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
/// Begins a chunk of a structured reply.
pub const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
/// Begins a chunk of an extended reply.
pub const EXTENDED_REPLY_MAGIC: u32 = 0x6e8a_278c;
/// Bytes of a simple reply.
pub const SIMPLE_REPLY_LEN: usize = 16;
/// Bytes of a structured chunk before its payload.
pub const STRUCTURED_REPLY_LEN: usize = 20;
/// Bytes of an extended chunk before its payload.
pub const EXTENDED_REPLY_LEN: usize = 32;
/// Bytes before the data in the payload of [`ChunkType::OffsetData`].
pub const OFFSET_LEN: usize = 8;
/// A server sends no more extents in one chunk.
pub const EXTENTS_MAX: usize = 1 << 20;

flags! {
    /// About a chunk ("Structured reply flags").
    ReplyFlags: u16 {
        /// The last of its reply.
        DONE = 1;
    }
}

/// What a chunk is ("Structured reply types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum ChunkType {
    /// Nothing: done.
    None = 0,
    /// Bytes of the export.
    OffsetData = 1,
    /// Zeroes of the export.
    OffsetHole = 2,
    /// Extents of a context, 32 bits.
    BlockStatus = 5,
    /// Extents of a context, 64 bits.
    BlockStatusExt = 6,
    /// It failed.
    Error = (1 << 15) | 1,
    /// It failed at an offset.
    ErrorOffset = (1 << 15) | 2,
}

impl ChunkType {
    /// Every type that is known here.
    pub const ALL: [ChunkType; 7] = [
        ChunkType::None,
        ChunkType::OffsetData,
        ChunkType::OffsetHole,
        ChunkType::BlockStatus,
        ChunkType::BlockStatusExt,
        ChunkType::Error,
        ChunkType::ErrorOffset,
    ];
}

/// What was agreed on in the handshake.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// Simple replies.
    #[default]
    Simple,
    /// Chunks of structured replies.
    Structured,
    /// Extended requests, chunks of extended replies.
    Extended,
}

/// Bytes to put before a payload: at most 40.
#[derive(Clone, Copy, Debug)]
pub struct Head {
    bytes: [u8; EXTENDED_REPLY_LEN + OFFSET_LEN],
    len: usize,
}

impl Head {
    const fn new() -> Self {
        Head {
            bytes: [0; EXTENDED_REPLY_LEN + OFFSET_LEN],
            len: 0,
        }
    }

    fn put(mut self, part: &[u8]) -> Self {
        let end = self.len + part.len();
        let room = self.bytes.get_mut(self.len..end);
        room.expect("heads are sized for their longest form")
            .copy_from_slice(part);
        self.len = end;
        self
    }
}

impl std::ops::Deref for Head {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// A simple reply; `None` is success.
#[must_use]
pub fn simple(cookie: u64, error: Option<ErrorCode>) -> Head {
    Head::new()
        .put(&SIMPLE_REPLY_MAGIC.to_be_bytes())
        .put(&error.map_or(0, |e| e as u32).to_be_bytes())
        .put(&cookie.to_be_bytes())
}

/// Which request a reply is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct To {
    /// The form to answer in.
    pub style: Style,
    /// The request's cookie.
    pub cookie: u64,
    /// The request's offset: extended replies bear it.
    pub offset: u64,
}

impl To {
    /// Bytes before the data of a [`data_head`](Self::data_head).
    #[must_use]
    pub const fn data_head_len(&self) -> usize {
        match self.style {
            Style::Simple => SIMPLE_REPLY_LEN,
            Style::Structured => STRUCTURED_REPLY_LEN + OFFSET_LEN,
            Style::Extended => EXTENDED_REPLY_LEN + OFFSET_LEN,
        }
    }

    /// The head of a chunk with `length` bytes of payload. Never in the simple style.
    #[must_use]
    pub fn chunk(&self, flags: ReplyFlags, chunk: ChunkType, length: u32) -> Head {
        let extended = self.style == Style::Extended;
        let magic = if extended {
            EXTENDED_REPLY_MAGIC
        } else {
            STRUCTURED_REPLY_MAGIC
        };
        let head = Head::new()
            .put(&magic.to_be_bytes())
            .put(&flags.0.to_be_bytes())
            .put(&(chunk as u16).to_be_bytes())
            .put(&self.cookie.to_be_bytes());
        if extended {
            head.put(&self.offset.to_be_bytes())
                .put(&u64::from(length).to_be_bytes())
        } else {
            head.put(&length.to_be_bytes())
        }
    }

    /// Success without a payload (not for READ in the chunked styles unless it asked for no bytes, nor for BLOCK_STATUS).
    #[must_use]
    pub fn success(&self) -> Head {
        match self.style {
            Style::Extended => self.chunk(ReplyFlags::DONE, ChunkType::None, 0),
            Style::Simple | Style::Structured => simple(self.cookie, None),
        }
    }

    /// Success of a READ that asked for no bytes.
    #[must_use]
    pub fn nothing_read(&self) -> Head {
        match self.style {
            Style::Simple => simple(self.cookie, None),
            _ => self.chunk(ReplyFlags::DONE, ChunkType::None, 0),
        }
    }

    /// What goes before `len` bytes read at `at`; in the simple style they are all that was asked for.
    #[must_use]
    pub fn data_head(&self, flags: ReplyFlags, at: u64, len: u32) -> Head {
        if self.style == Style::Simple {
            return simple(self.cookie, None);
        }
        self.chunk(flags, ChunkType::OffsetData, len + OFFSET_LEN as u32)
            .put(&at.to_be_bytes())
    }

    /// Appends a chunk that says that `len` bytes at `at` are zeroes. Never in the simple style.
    pub fn put_hole(&self, out: &mut Vec<u8>, flags: ReplyFlags, at: u64, len: u32) {
        out.extend_from_slice(&self.chunk(flags, ChunkType::OffsetHole, 12));
        out.extend_from_slice(&at.to_be_bytes());
        out.extend_from_slice(&len.to_be_bytes());
    }

    /// Appends the reply to a request that failed. `message` is for people; it is cut where it is too
    /// long, and left out in the simple style.
    pub fn put_error(&self, out: &mut Vec<u8>, error: ErrorCode, message: &str) {
        if self.style == Style::Simple {
            out.extend_from_slice(&simple(self.cookie, Some(error)));
            return;
        }
        let message = cut(message);
        let length = 6 + message.len() as u32;
        out.extend_from_slice(&self.chunk(ReplyFlags::DONE, ChunkType::Error, length));
        out.extend_from_slice(&(error as u32).to_be_bytes());
        out.extend_from_slice(&(message.len() as u16).to_be_bytes());
        out.extend_from_slice(message.as_bytes());
    }

    /// Appends a chunk that says that reading failed at `at`; others may follow.
    pub fn put_error_offset(
        &self,
        out: &mut Vec<u8>,
        flags: ReplyFlags,
        error: ErrorCode,
        at: u64,
    ) {
        out.extend_from_slice(&self.chunk(flags, ChunkType::ErrorOffset, 14));
        out.extend_from_slice(&(error as u32).to_be_bytes());
        out.extend_from_slice(&0u16.to_be_bytes());
        out.extend_from_slice(&at.to_be_bytes());
    }

    /// Appends the extents (bytes, status) of a context. In the structured style lengths have 32 bits:
    /// the list ends with the first that does not fit, cut to the largest multiple of 64 KiB that does.
    pub fn put_extents(
        &self,
        out: &mut Vec<u8>,
        flags: ReplyFlags,
        context: u32,
        extents: &[(u64, u32)],
    ) {
        if self.style == Style::Extended {
            let length = 8 + 16 * extents.len() as u32;
            out.extend_from_slice(&self.chunk(flags, ChunkType::BlockStatusExt, length));
            out.extend_from_slice(&context.to_be_bytes());
            out.extend_from_slice(&(extents.len() as u32).to_be_bytes());
            for (len, status) in extents {
                out.extend_from_slice(&len.to_be_bytes());
                out.extend_from_slice(&u64::from(*status).to_be_bytes());
            }
            return;
        }
        let fitting = extents.iter().position(|e| e.0 > u32::MAX.into());
        let extents = fitting.map_or(extents, |at| extents.get(..=at).unwrap_or(extents));
        let length = 4 + 8 * extents.len() as u32;
        out.extend_from_slice(&self.chunk(flags, ChunkType::BlockStatus, length));
        out.extend_from_slice(&context.to_be_bytes());
        for (len, status) in extents {
            let len = u32::try_from(*len).unwrap_or(!0xffff);
            out.extend_from_slice(&len.to_be_bytes());
            out.extend_from_slice(&status.to_be_bytes());
        }
    }
}

fn cut(message: &str) -> &str {
    let end = message.floor_char_boundary(STRING_LEN_MAX);
    message.get(..end).unwrap_or_default()
}

/// What a client reads first of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyHeader {
    /// A simple reply; data follow if it is a READ and there is no error.
    Simple {
        /// The request's cookie.
        cookie: u64,
        /// Zero for success.
        error: u32,
    },
    /// A chunk; `length` bytes of payload follow.
    Chunk {
        /// About the chunk.
        flags: ReplyFlags,
        /// A [`ChunkType`], if known.
        chunk: u16,
        /// The request's cookie.
        cookie: u64,
        /// Bytes of payload: not to be trusted.
        length: u64,
    },
}

impl ReplyHeader {
    /// How many bytes the header that begins with `magic` has.
    ///
    /// # Errors
    /// No reply begins so.
    pub const fn len_of(magic: u32) -> Result<usize, Error> {
        match magic {
            SIMPLE_REPLY_MAGIC => Ok(SIMPLE_REPLY_LEN),
            STRUCTURED_REPLY_MAGIC => Ok(STRUCTURED_REPLY_LEN),
            EXTENDED_REPLY_MAGIC => Ok(EXTENDED_REPLY_LEN),
            _ => Err(Error::Magic("reply")),
        }
    }

    /// From the wire; `bytes` are as many as [`len_of`](Self::len_of) says.
    ///
    /// # Errors
    /// No reply begins so, or the bytes are more or fewer.
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let mut input = Input::new(bytes, "reply");
        let magic = input.u32()?;
        Self::len_of(magic)?;
        let header = if magic == SIMPLE_REPLY_MAGIC {
            let error = input.u32()?;
            let cookie = input.u64()?;
            ReplyHeader::Simple { cookie, error }
        } else {
            let flags = ReplyFlags(input.u16()?);
            let chunk = input.u16()?;
            let cookie = input.u64()?;
            let length = if magic == EXTENDED_REPLY_MAGIC {
                input.u64()?;
                input.u64()?
            } else {
                input.u32()?.into()
            };
            ReplyHeader::Chunk {
                flags,
                chunk,
                cookie,
                length,
            }
        };
        input.end()?;
        Ok(header)
    }
}

/// The payload of a chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chunk<'a> {
    /// Nothing.
    None,
    /// Bytes at an offset.
    Data(u64, &'a [u8]),
    /// Zeroes at an offset.
    Hole(u64, u32),
    /// Extents of a context; see [`Extents`].
    Status(u32, Extents<'a>),
    /// It failed, and where if that is known.
    Error {
        /// Why.
        error: ErrorCode,
        /// For people.
        message: &'a str,
        /// Where.
        offset: Option<u64>,
    },
}

impl<'a> Chunk<'a> {
    /// From the wire, as a client reads it.
    ///
    /// # Errors
    /// The type is not known, or lengths disagree.
    pub fn decode(chunk: u16, payload: &'a [u8]) -> Result<Self, Error> {
        let mut input = Input::new(payload, "chunk");
        let known = ChunkType::ALL.into_iter().find(|c| *c as u16 == chunk);
        let decoded = match known.ok_or(Error::Value("chunk type"))? {
            ChunkType::None => Chunk::None,
            ChunkType::OffsetData => {
                let at = input.u64()?;
                return match input.rest() {
                    [] => Err(Error::Length("chunk")),
                    data => Ok(Chunk::Data(at, data)),
                };
            }
            ChunkType::OffsetHole => Chunk::Hole(input.u64()?, input.u32()?),
            ChunkType::BlockStatus => {
                let context = input.u32()?;
                return Extents::decode(input.rest(), false).map(|e| Chunk::Status(context, e));
            }
            ChunkType::BlockStatusExt => {
                let (context, count) = (input.u32()?, input.u32()?);
                let extents = Extents::decode(input.rest(), true)?;
                if extents.len() != count as usize {
                    return Err(Error::Length("extents"));
                }
                return Ok(Chunk::Status(context, extents));
            }
            kind @ (ChunkType::Error | ChunkType::ErrorOffset) => {
                let error = ErrorCode::from_wire(input.u32()?).ok_or(Error::Value("error"))?;
                let len = input.u16()?;
                let message = text(input.bytes(len.into())?, "message")?;
                let offset = (kind == ChunkType::ErrorOffset).then(|| input.u64());
                Chunk::Error {
                    error,
                    message,
                    offset: offset.transpose()?,
                }
            }
        };
        input.end()?;
        Ok(decoded)
    }
}

/// Extents of a context, still on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extents<'a> {
    bytes: &'a [u8],
    wide: bool,
}

impl<'a> Extents<'a> {
    fn decode(bytes: &'a [u8], wide: bool) -> Result<Self, Error> {
        let extents = Extents { bytes, wide };
        let whole = bytes.len().is_multiple_of(extents.item_len());
        if bytes.is_empty() || !whole || extents.iter().any(|(len, _)| len == 0) {
            return Err(Error::Length("extents"));
        }
        Ok(extents)
    }

    const fn item_len(&self) -> usize {
        if self.wide { 16 } else { 8 }
    }

    /// How many.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.bytes.len() / self.item_len()
    }

    /// Never.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Length in bytes and status of each, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + 'a {
        let wide = self.wide;
        self.bytes
            .chunks_exact(self.item_len())
            .map_while(move |item| {
                let mut input = Input::new(item, "extent");
                if wide {
                    Some((input.u64().ok()?, input.u64().ok()?))
                } else {
                    Some((input.u32().ok()?.into(), input.u32().ok()?.into()))
                }
            })
    }
}

#[cfg(test)]
mod tests;
