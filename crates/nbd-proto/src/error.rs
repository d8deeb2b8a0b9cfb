//! What can be wrong with bytes, and what a server says is wrong with a request.

/// Why bytes are not what they should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end early, or lengths inside them disagree with their length.
    #[error("{0}: lengths disagree")]
    Length(&'static str),
    /// A magic number is another: the peer speaks something else, or is out of step.
    #[error("{0}: wrong magic number")]
    Magic(&'static str),
    /// A string is not UTF-8, holds a NUL, or is longer than [`STRING_LEN_MAX`](crate::STRING_LEN_MAX).
    #[error("{0}: not an acceptable string")]
    String(&'static str),
    /// A value that the protocol does not allow there.
    #[error("{0}: a value that is not allowed")]
    Value(&'static str),
}

/// Why a request failed ("Error values").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum ErrorCode {
    /// Operation not permitted: the export is read-only.
    Perm = 1,
    /// Input/output error.
    Io = 5,
    /// Cannot allocate memory.
    NoMem = 12,
    /// Invalid argument: out of range, an unknown command or flag.
    Inval = 22,
    /// No space left, or a write beyond the end.
    NoSpc = 28,
    /// The length is too large.
    Overflow = 75,
    /// Not supported: a fast zero that would not be fast.
    NotSup = 95,
    /// The server, or the export, is going away.
    Shutdown = 108,
}

impl ErrorCode {
    /// Every code that the protocol knows.
    pub const ALL: [ErrorCode; 8] = [
        ErrorCode::Perm,
        ErrorCode::Io,
        ErrorCode::NoMem,
        ErrorCode::Inval,
        ErrorCode::NoSpc,
        ErrorCode::Overflow,
        ErrorCode::NotSup,
        ErrorCode::Shutdown,
    ];

    /// From the wire; a client treats what it does not know as [`Inval`](Self::Inval). `None` is success.
    #[must_use]
    pub fn from_wire(code: u32) -> Option<Self> {
        (code != 0).then(|| {
            let known = Self::ALL.into_iter().find(|e| *e as u32 == code);
            known.unwrap_or(ErrorCode::Inval)
        })
    }
}
