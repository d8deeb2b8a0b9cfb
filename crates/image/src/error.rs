//! What goes wrong with images.

use std::{error::Error as StdError, fmt, io, sync::Arc};

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Name something that exists.
    NotFound,
    /// Choose another name, or allow replacing what is there.
    Exists,
    /// Correct the request, or the image.
    Invalid,
    /// Free space.
    NoSpace,
    /// Check the store: what is stored is damaged.
    Damaged,
    /// Try again later: the store is closing.
    Closed,
    /// It was cancelled on request.
    Cancelled,
    /// Look at the cause: reading or writing failed.
    Io,
}

/// An error of an import or an export: one line for people, its kind for programs, its cause for the log.
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

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Error::new(ErrorKind::Invalid, message)
    }

    /// An error of a file or a stream, and what could not be done with it.
    pub(crate) fn io(what: impl fmt::Display, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::AlreadyExists => ErrorKind::Exists,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory => ErrorKind::Invalid,
            _ => ErrorKind::Io,
        };
        Error::new(kind, format!("{what}: {error}")).with_source(error)
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

impl From<volume::Error> for Error {
    fn from(e: volume::Error) -> Self {
        use volume::ErrorKind as Theirs;
        let kind = match e.kind() {
            Theirs::NotFound => ErrorKind::NotFound,
            Theirs::Conflict => ErrorKind::Exists,
            Theirs::Invalid | Theirs::Refused | Theirs::InUse => ErrorKind::Invalid,
            Theirs::NoSpace => ErrorKind::NoSpace,
            Theirs::Damaged | Theirs::NewerFormat => ErrorKind::Damaged,
            Theirs::Closed => ErrorKind::Closed,
            Theirs::Io => ErrorKind::Io,
            Theirs::Cancelled => ErrorKind::Cancelled,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<block::Error> for Error {
    fn from(e: block::Error) -> Self {
        let kind = match e.kind() {
            block::ErrorKind::OutOfRange | block::ErrorKind::ReadOnly => ErrorKind::Invalid,
            block::ErrorKind::NoSpace => ErrorKind::NoSpace,
            block::ErrorKind::Io => ErrorKind::Damaged,
            block::ErrorKind::Gone => ErrorKind::Closed,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<image_formats::Error> for Error {
    fn from(e: image_formats::Error) -> Self {
        use image_formats::ErrorKind as Theirs;
        let of_device = e.source().and_then(|e| e.downcast_ref::<block::Error>());
        let kind = match (e.kind(), of_device) {
            (_, Some(device)) => Error::from(device.clone()).kind,
            (Theirs::NotFound, None) => ErrorKind::NotFound,
            (Theirs::Invalid, None) => ErrorKind::Invalid,
            (Theirs::Io, None) => ErrorKind::Io,
        };
        Error::new(kind, e.to_string()).with_source(e)
    }
}

impl From<types::Cancelled> for Error {
    fn from(e: types::Cancelled) -> Self {
        Error::new(ErrorKind::Cancelled, e.to_string())
    }
}
