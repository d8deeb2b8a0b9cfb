//! What can go wrong with packs.

use std::{error::Error as StdError, fmt, sync::Arc};
use types::{PackId, Pointer};

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// There is no such pack.
    NotFound,
    /// Answer an input/output error: what was written is not there any more, or not as it was written.
    Damaged,
    /// Free space.
    NoSpace,
    /// Stop writing: somebody newer owns the store.
    StaleEpoch,
    /// Try again when the other collection is over.
    Busy,
    /// Return: whoever asked for it does not want it any more.
    Cancelled,
    /// Treat the storage as failed; what was not synced may be gone.
    Io,
}

/// An error of the pack store.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    operation: &'static str,
    pack: Option<PackId>,
    ordinal: Option<u16>,
    why: Option<&'static str>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `operation`.
    #[must_use]
    pub const fn new(kind: ErrorKind, operation: &'static str) -> Self {
        Error {
            kind,
            operation,
            pack: None,
            ordinal: None,
            why: None,
            source: None,
        }
    }

    /// On this pack.
    #[must_use]
    pub const fn of_pack(mut self, pack: PackId) -> Self {
        self.pack = Some(pack);
        self
    }

    /// On this block.
    #[must_use]
    pub const fn at(mut self, pointer: Pointer) -> Self {
        self.ordinal = Some(pointer.ordinal());
        self.of_pack(pointer.pack())
    }

    /// In a few words more.
    #[must_use]
    pub const fn because(mut self, why: &'static str) -> Self {
        self.why = Some(why);
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

    /// The pack it is about.
    #[must_use]
    pub const fn pack(&self) -> Option<PackId> {
        self.pack
    }

    pub(crate) fn brick(operation: &'static str, error: brick::Error) -> Self {
        let kind = match error.kind() {
            brick::ErrorKind::NotFound => ErrorKind::NotFound,
            brick::ErrorKind::NoSpace => ErrorKind::NoSpace,
            brick::ErrorKind::StaleEpoch => ErrorKind::StaleEpoch,
            brick::ErrorKind::Io => ErrorKind::Io,
        };
        Error::new(kind, operation).with_source(error)
    }

    pub(crate) fn damaged(operation: &'static str, why: &'static str) -> Self {
        Error::new(ErrorKind::Damaged, operation).because(why)
    }

    /// Somebody holds a pointer there, so that something must be there.
    pub(crate) fn missing_is_damage(mut self) -> Self {
        if self.kind == ErrorKind::NotFound {
            self.kind = ErrorKind::Damaged;
            self.why = self.why.or(Some("the pack is missing or cut short"));
        }
        self
    }
}

impl From<types::Cancelled> for Error {
    fn from(cancelled: types::Cancelled) -> Self {
        Error::new(ErrorKind::Cancelled, "work on packs").with_source(cancelled)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.operation)?;
        match (self.pack, self.ordinal) {
            (Some(pack), Some(ordinal)) => write!(f, " of block {ordinal} of pack {pack}")?,
            (Some(pack), None) => write!(f, " of pack {pack}")?,
            _ => {}
        }
        let what = match self.kind {
            ErrorKind::NotFound => "no such pack",
            ErrorKind::Damaged => "damaged",
            ErrorKind::NoSpace => "the brick is full",
            ErrorKind::StaleEpoch => "a newer writer owns the store",
            ErrorKind::Busy => "a collection is running",
            ErrorKind::Cancelled => "cancelled",
            ErrorKind::Io => "input/output error",
        };
        write!(f, ": {what}")?;
        self.why.map_or(Ok(()), |why| write!(f, ": {why}"))
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
