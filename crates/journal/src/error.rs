//! What goes wrong with a journal.

use std::{
    error::Error as StdError,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Destage (see [`Journal::oldest`](crate::Journal::oldest)), then submit again, or destage instead.
    Full,
    /// Stop writing: somebody newer owns the volume.
    StaleEpoch,
    /// Nothing: acknowledged data is damaged, and a person must decide.
    Corrupt,
    /// Use a newer program.
    NewerFormat,
    /// Free space on the journal's file system, then wait for the same ticket again.
    NoSpace,
    /// An I/O failed that spoiled nothing; trying again may help.
    Io,
    /// Open the journal anew: a write or a sync failed, and nobody knows what is durable.
    Failed,
}

/// An error of the journal.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    place: Option<(PathBuf, Option<u64>)>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `operation`, which reads as "journal: {operation}: ...".
    #[must_use]
    pub const fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Error {
            kind,
            operation,
            place: None,
            source: None,
        }
    }

    /// An I/O that failed and spoiled nothing.
    pub(crate) fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::NoSpace,
            _ => ErrorKind::Io,
        };
        Error::new(kind, operation)
            .at(path, None)
            .with_source(source)
    }

    /// Damage, at a byte of a segment.
    pub(crate) fn corrupt(what: &'static str, path: &Path, offset: u64) -> Self {
        Error::new(ErrorKind::Corrupt, what).at(path, Some(offset))
    }

    /// In that file, at that byte.
    pub(crate) fn at(mut self, path: &Path, offset: Option<u64>) -> Self {
        self.place = Some((path.to_owned(), offset));
        self
    }

    /// With its cause.
    #[must_use]
    pub fn with_source(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(source));
        self
    }

    /// The same, as the end of this journal.
    pub(crate) fn into_failed(mut self) -> Self {
        self.kind = ErrorKind::Failed;
        self
    }

    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::Full => "the journal is full",
            ErrorKind::StaleEpoch => "a newer writer owns the volume",
            ErrorKind::Corrupt => "damaged",
            ErrorKind::NewerFormat => "written by a newer version",
            ErrorKind::NoSpace => "no space left for segments",
            ErrorKind::Io => "input/output error",
            ErrorKind::Failed => "the journal has failed and must be opened anew",
        };
        write!(f, "journal: {}: {what}", self.operation)?;
        match &self.place {
            Some((path, Some(offset))) => write!(f, " ({} at byte {offset})", path.display()),
            Some((path, None)) => write!(f, " ({})", path.display()),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        self.source
            .as_ref()
            .map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
