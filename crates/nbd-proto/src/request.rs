//! What a client asks in the transmission phase ("Request message").
//!
//! ```text
//! compact   0x25609513  flags(16)  command(16)  cookie(64)  offset(64)  length(32)     28 bytes
//! extended  0x21e41c71  flags(16)  command(16)  cookie(64)  offset(64)  length(64)     32 bytes
//! ```

use crate::{Error, flags, input::Input};

/// Begins a compact request.
pub const REQUEST_MAGIC: u32 = 0x2560_9513;
/// Begins an extended request.
pub const EXTENDED_REQUEST_MAGIC: u32 = 0x21e4_1c71;
/// Bytes of a compact request.
pub const REQUEST_LEN: usize = 28;
/// Bytes of an extended request.
pub const EXTENDED_REQUEST_LEN: usize = 32;

flags! {
    /// How a request is to be done ("Command flags").
    CommandFlags: u16 {
        /// Durable before the reply; allowed with every command.
        FUA = 1;
        /// WRITE_ZEROES: do not make a hole.
        NO_HOLE = 1 << 1;
        /// READ: one content chunk only.
        DF = 1 << 2;
        /// BLOCK_STATUS: one extent only.
        REQ_ONE = 1 << 3;
        /// WRITE_ZEROES: fail if it is no faster than writing.
        FAST_ZERO = 1 << 4;
        /// The length is that of a payload which follows; only with extended headers.
        PAYLOAD_LEN = 1 << 5;
    }
}

/// What is asked ("Request types").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u16)]
pub enum Command {
    /// Bytes, please.
    Read = 0,
    /// Take these.
    Write = 1,
    /// Good bye; no reply.
    Disconnect = 2,
    /// Make durable what was written.
    Flush = 3,
    /// Not needed any more.
    Trim = 4,
    /// Bring into memory.
    Cache = 5,
    /// Zeroes without sending them.
    WriteZeroes = 6,
    /// Metadata of the selected contexts.
    BlockStatus = 7,
}

impl Command {
    /// Every command that is known here.
    pub const ALL: [Command; 8] = [
        Command::Read,
        Command::Write,
        Command::Disconnect,
        Command::Flush,
        Command::Trim,
        Command::Cache,
        Command::WriteZeroes,
        Command::BlockStatus,
    ];

    /// From the wire; `None` if it is not known.
    #[must_use]
    pub fn from_wire(command: u16) -> Option<Self> {
        Self::ALL.get(usize::from(command)).copied()
    }

    /// The flags that are documented for it, without [`PAYLOAD_LEN`](CommandFlags::PAYLOAD_LEN).
    #[must_use]
    pub const fn flags_allowed(self) -> CommandFlags {
        let own = match self {
            Command::Read => CommandFlags::DF.0,
            Command::WriteZeroes => CommandFlags::NO_HOLE.0 | CommandFlags::FAST_ZERO.0,
            Command::BlockStatus => CommandFlags::REQ_ONE.0,
            _ => 0,
        };
        CommandFlags(own | CommandFlags::FUA.0)
    }
}

/// A request, without the payload that may follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// How.
    pub flags: CommandFlags,
    /// A [`Command`], if known.
    pub command: u16,
    /// What the client knows it by; the reply bears it.
    pub cookie: u64,
    /// Where, bytes.
    pub offset: u64,
    /// How much, bytes: not to be trusted.
    pub length: u64,
}

impl Request {
    /// From the wire, compact.
    ///
    /// # Errors
    /// The magic number is another: the connection is out of step.
    pub fn decode_compact(bytes: &[u8; REQUEST_LEN]) -> Result<Self, Error> {
        let mut input = Input::new(bytes, "request");
        if input.u32()? != REQUEST_MAGIC {
            return Err(Error::Magic("request"));
        }
        Ok(Request {
            flags: CommandFlags(input.u16()?),
            command: input.u16()?,
            cookie: input.u64()?,
            offset: input.u64()?,
            length: input.u32()?.into(),
        })
    }

    /// From the wire, extended.
    ///
    /// # Errors
    /// The magic number is another: the connection is out of step.
    pub fn decode_extended(bytes: &[u8; EXTENDED_REQUEST_LEN]) -> Result<Self, Error> {
        let mut input = Input::new(bytes, "extended request");
        if input.u32()? != EXTENDED_REQUEST_MAGIC {
            return Err(Error::Magic("extended request"));
        }
        Ok(Request {
            flags: CommandFlags(input.u16()?),
            command: input.u16()?,
            cookie: input.u64()?,
            offset: input.u64()?,
            length: input.u64()?,
        })
    }

    /// Appends it to what goes to the wire, compact.
    ///
    /// # Errors
    /// The length takes more than 32 bits.
    pub fn put_compact(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let length = u32::try_from(self.length).map_err(|_| Error::Value("request length"))?;
        out.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        self.put_middle(out);
        out.extend_from_slice(&length.to_be_bytes());
        Ok(())
    }

    /// Appends it to what goes to the wire, extended.
    pub fn put_extended(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&EXTENDED_REQUEST_MAGIC.to_be_bytes());
        self.put_middle(out);
        out.extend_from_slice(&self.length.to_be_bytes());
    }

    fn put_middle(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.flags.0.to_be_bytes());
        out.extend_from_slice(&self.command.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        out.extend_from_slice(&self.offset.to_be_bytes());
    }

    /// Bytes of payload that follow the request on the wire. Every WRITE has one: clients are known to
    /// forget [`PAYLOAD_LEN`](CommandFlags::PAYLOAD_LEN) with extended headers.
    #[must_use]
    pub const fn payload_len(&self, extended: bool) -> u64 {
        let says_so = extended && self.flags.contains(CommandFlags::PAYLOAD_LEN);
        if self.command == Command::Write as u16 || says_so {
            self.length
        } else {
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn commands_are_numbered_as_on_the_wire() {
        for command in Command::ALL {
            assert_eq!(Command::from_wire(command as u16), Some(command));
        }
        assert_eq!(Command::from_wire(8), None);
    }

    proptest! {
        #[test]
        fn requests_come_back(flags: u16, command: u16, cookie: u64, offset: u64, length: u64) {
            let request = Request { flags: CommandFlags(flags), command, cookie, offset, length };
            let mut wire = Vec::new();
            request.put_extended(&mut wire);
            prop_assert_eq!(wire.len(), EXTENDED_REQUEST_LEN);
            prop_assert_eq!(Request::decode_extended(wire.first_chunk().unwrap()), Ok(request));
            wire.clear();
            let short = Request { length: u64::from(length as u32), ..request };
            short.put_compact(&mut wire).unwrap();
            prop_assert_eq!(wire.len(), REQUEST_LEN);
            prop_assert_eq!(Request::decode_compact(wire.first_chunk().unwrap()), Ok(short));
            prop_assert_eq!(request.put_compact(&mut wire).is_ok(), length <= u32::MAX.into());
        }

        #[test]
        fn garbage_never_panics(a: [u8; REQUEST_LEN], b: [u8; EXTENDED_REQUEST_LEN]) {
            let _ = (Request::decode_compact(&a), Request::decode_extended(&b));
        }
    }

    #[test]
    fn who_has_a_payload() {
        let mut request = Request {
            flags: CommandFlags::PAYLOAD_LEN,
            command: Command::BlockStatus as u16,
            cookie: 1,
            offset: 0,
            length: 9,
        };
        assert_eq!(
            (request.payload_len(false), request.payload_len(true)),
            (0, 9)
        );
        request.command = Command::Write as u16;
        request.flags = CommandFlags(0);
        assert_eq!(
            (request.payload_len(false), request.payload_len(true)),
            (9, 9)
        );
    }
}
