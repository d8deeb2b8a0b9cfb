//! What goes wrong while collecting or checking.

use std::{error::Error as StdError, fmt, sync::Arc};
use types::Cancelled;

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Return: whoever asked for the work does not want it any more.
    Cancelled,
    /// Try again when the other collection or check is over.
    Busy,
    /// Check the store: something that is needed is damaged or missing. Nothing was given up.
    Damaged,
    /// Free space.
    NoSpace,
    /// Stop: somebody newer owns the store.
    StaleEpoch,
    /// Treat the storage as failed. What was given up so far stays given up; the rest can be collected later.
    Io,
}

/// An error of a collection or a check.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    owner: Option<String>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of an operation.
    #[must_use]
    pub const fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Error {
            kind,
            operation,
            owner: None,
            source: None,
        }
    }

    /// About the root of this volume or snapshot.
    #[must_use]
    pub fn of(mut self, owner: &str) -> Self {
        self.owner = Some(owner.to_owned());
        self
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

    /// The volume or snapshot that it is about.
    #[must_use]
    pub fn owner(&self) -> Option<&str> {
        self.owner.as_deref()
    }

    pub(crate) fn pack(operation: &'static str, error: pack::Error) -> Self {
        use pack::ErrorKind as From;
        let kind = match error.kind() {
            From::Cancelled => ErrorKind::Cancelled,
            From::Busy => ErrorKind::Busy,
            From::NotFound | From::Damaged => ErrorKind::Damaged,
            From::NoSpace => ErrorKind::NoSpace,
            From::StaleEpoch => ErrorKind::StaleEpoch,
            From::Io => ErrorKind::Io,
        };
        Error::new(kind, operation).with_source(error)
    }
}

impl From<Cancelled> for Error {
    fn from(cancelled: Cancelled) -> Self {
        Error::new(ErrorKind::Cancelled, "collecting or checking").with_source(cancelled)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Busy => "a collection or a check is running",
            ErrorKind::Damaged => "something that is needed is damaged or missing",
            ErrorKind::NoSpace => "the brick is full",
            ErrorKind::StaleEpoch => "a newer writer owns the store",
            ErrorKind::Io => "input/output error",
        };
        write!(f, "{}", self.operation)?;
        if let Some(owner) = &self.owner {
            write!(f, " '{owner}'")?;
        }
        write!(f, ": {what}")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.source
            .as_ref()
            .map_or(Ok(()), |cause| write!(f, ": {cause:?}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
