//! What goes wrong with stores and volumes.

use std::{error::Error as StdError, fmt, sync::Arc};

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Name something that exists.
    NotFound,
    /// Choose another name, or try again: somebody was faster.
    Conflict,
    /// Correct the request.
    Invalid,
    /// End its use first.
    InUse,
    /// Allow it explicitly.
    Refused,
    /// Free space.
    NoSpace,
    /// Check the store: what is stored is damaged.
    Damaged,
    /// Update the program: the format is newer.
    NewerFormat,
    /// Try again later: the store is closing.
    Closed,
    /// Look at the cause: reading or writing failed.
    Io,
    /// It was cancelled on request.
    Cancelled,
}

/// An error of a store: one line for people, its kind for programs, its cause for the log.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error and what it is about.
    #[must_use]
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Error {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// With its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same, for a block of a volume; says where it is.
    #[must_use]
    pub(crate) fn at_block(self, index: u64) -> Self {
        let block = types::BLOCK_SIZE as u64;
        let (start, end) = (index * block, (index + 1) * block);
        Error::new(self.kind, format!("bytes {start}..{end} cannot be read")).with_source(self)
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// As an error of a block device, which has fewer kinds; this one is its cause.
    #[must_use]
    pub fn into_block(self, operation: &'static str) -> block::Error {
        let kind = match self.kind {
            ErrorKind::NoSpace => block::ErrorKind::NoSpace,
            ErrorKind::Invalid => block::ErrorKind::OutOfRange,
            ErrorKind::Closed | ErrorKind::NotFound => block::ErrorKind::Gone,
            _ => block::ErrorKind::Io,
        };
        block::Error::new(kind, operation).with_source(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = self.source();
        while let Some(cause) = source {
            write!(f, ": {cause}")?;
            source = cause.source();
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<catalog::Error> for Error {
    fn from(e: catalog::Error) -> Self {
        let kind = match e.kind() {
            catalog::ErrorKind::Conflict | catalog::ErrorKind::Exists => ErrorKind::Conflict,
            catalog::ErrorKind::Invalid => ErrorKind::Invalid,
            catalog::ErrorKind::NoSpace => ErrorKind::NoSpace,
            catalog::ErrorKind::Corrupt => ErrorKind::Damaged,
            catalog::ErrorKind::NewerFormat => ErrorKind::NewerFormat,
            catalog::ErrorKind::StaleEpoch => ErrorKind::Closed,
            catalog::ErrorKind::Io => ErrorKind::Io,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<brick::Error> for Error {
    fn from(e: brick::Error) -> Self {
        let kind = match e.kind() {
            brick::ErrorKind::NotFound => ErrorKind::Damaged,
            brick::ErrorKind::NoSpace => ErrorKind::NoSpace,
            brick::ErrorKind::StaleEpoch => ErrorKind::Closed,
            brick::ErrorKind::Io => ErrorKind::Io,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<pack::Error> for Error {
    fn from(e: pack::Error) -> Self {
        let kind = match e.kind() {
            pack::ErrorKind::Damaged => ErrorKind::Damaged,
            pack::ErrorKind::NoSpace => ErrorKind::NoSpace,
            pack::ErrorKind::StaleEpoch => ErrorKind::Closed,
            pack::ErrorKind::Busy => ErrorKind::InUse,
            _ => ErrorKind::Io,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<blockmap::Error<pack::Error>> for Error {
    fn from(e: blockmap::Error<pack::Error>) -> Self {
        match e {
            blockmap::Error::Read { pointer, source } => {
                let inner = Error::from(source.clone());
                Error::new(
                    inner.kind,
                    format!("block map node {pointer:?} cannot be read"),
                )
                .with_source(source)
            }
            blockmap::Error::Write(source) => source.into(),
            other => Error::new(ErrorKind::Damaged, other.to_string()),
        }
    }
}

impl From<journal::Error> for Error {
    fn from(e: journal::Error) -> Self {
        let kind = match e.kind() {
            journal::ErrorKind::Corrupt => ErrorKind::Damaged,
            journal::ErrorKind::NewerFormat => ErrorKind::NewerFormat,
            journal::ErrorKind::NoSpace | journal::ErrorKind::Full => ErrorKind::NoSpace,
            journal::ErrorKind::StaleEpoch => ErrorKind::Closed,
            _ => ErrorKind::Io,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<write_buffer::Error> for Error {
    fn from(e: write_buffer::Error) -> Self {
        let kind = match e {
            write_buffer::Error::Memory(_) => ErrorKind::Io,
            write_buffer::Error::Closed => ErrorKind::Closed,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<types::Cancelled> for Error {
    fn from(e: types::Cancelled) -> Self {
        Error::new(ErrorKind::Cancelled, e.to_string())
    }
}
