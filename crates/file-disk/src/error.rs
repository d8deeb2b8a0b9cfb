//! What goes wrong with image files.

use crate::Place;
use std::{error::Error as StdError, fmt, io, sync::Arc};

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Name a file that exists.
    NotFound,
    /// Name one that does not exist.
    Exists,
    /// Correct the request, or the file's name.
    Invalid,
    /// End its use by another program first.
    InUse,
    /// Allow it in the configuration: it is outside of what was allowed, or a symbolic link.
    Refused,
    /// Free space.
    NoSpace,
    /// Repair the image: what is in it makes no sense.
    Damaged,
    /// Look at the cause: reading or writing failed.
    Io,
}

/// An error about an image file: one line that names it.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<io::Error>>,
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

    /// `what` failed with the file at `place`.
    #[must_use]
    pub fn io(place: &Place, what: &str, e: io::Error) -> Self {
        use io::ErrorKind as Io;
        let kind = match e.kind() {
            Io::NotFound | Io::NotADirectory => ErrorKind::NotFound,
            Io::AlreadyExists => ErrorKind::Exists,
            Io::PermissionDenied => ErrorKind::Refused,
            Io::ResourceBusy => ErrorKind::InUse,
            Io::StorageFull | Io::QuotaExceeded => ErrorKind::NoSpace,
            Io::InvalidData => ErrorKind::Damaged,
            Io::InvalidInput | Io::Unsupported | Io::IsADirectory => ErrorKind::Invalid,
            _ => ErrorKind::Io,
        };
        Error {
            kind,
            message: format!("{place} {what}: {e}"),
            source: Some(Arc::new(e)),
        }
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
            ErrorKind::NotFound => block::ErrorKind::Gone,
            ErrorKind::NoSpace => block::ErrorKind::NoSpace,
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

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

/// An input or output error as a device tells it.
pub(crate) fn of_device(operation: &'static str, e: io::Error) -> block::Error {
    let kind = match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => block::ErrorKind::NoSpace,
        _ => block::ErrorKind::Io,
    };
    block::Error::new(kind, operation).with_source(e)
}
