//! redb's errors and panics become a [`catalog::Error`].

use catalog::{Error, ErrorKind};
use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
};

/// Why something could not be done.
#[derive(Debug)]
pub(crate) enum Cause {
    /// The caller asked for what cannot be; nothing is wrong with the catalog.
    Refused(ErrorKind),
    /// The file holds what we did not write.
    Damaged(&'static str),
    /// A newer program wrote it.
    Newer(&'static str),
    /// redb says so.
    Redb(redb::Error),
    /// redb panicked, as it does in places over a damaged file.
    Panicked(String),
}

impl Cause {
    pub(crate) const fn damaged(what: &'static str) -> Self {
        Cause::Damaged(what)
    }

    /// What the caller must do.
    pub(crate) fn kind(&self) -> ErrorKind {
        use redb::Error as E;
        match self {
            Cause::Refused(kind) => *kind,
            Cause::Damaged(_) | Cause::Panicked(_) => ErrorKind::Corrupt,
            Cause::Newer(_) => ErrorKind::NewerFormat,
            Cause::Redb(E::Io(error)) => match error.kind() {
                // redb's word for a wrong magic number, and ours for a page beyond the end.
                io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => ErrorKind::Corrupt,
                _ => ErrorKind::Io,
            },
            Cause::Redb(E::PreviousIo | E::DatabaseClosed | E::LockPoisoned(_)) => ErrorKind::Io,
            // No table, a table of other types, an older redb's file: not what we wrote.
            Cause::Redb(_) => ErrorKind::Corrupt,
        }
    }

    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        let error = Error::new(self.kind(), operation);
        match self {
            Cause::Refused(_) => error,
            Cause::Redb(source) => error.with_source(source),
            Cause::Damaged(_) | Cause::Newer(_) | Cause::Panicked(_) => error.with_source(self),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Refused(kind) => write!(f, "{kind:?}"),
            Cause::Damaged(what) | Cause::Newer(what) => f.write_str(what),
            Cause::Redb(error) => error.fmt(f),
            Cause::Panicked(what) => write!(f, "the database gave up: {what}"),
        }
    }
}

impl std::error::Error for Cause {}

macro_rules! from_redb {
    ($($error:ident)*) => {
        $(impl From<redb::$error> for Cause {
            fn from(error: redb::$error) -> Self {
                Cause::Redb(error.into())
            }
        })*
    };
}
from_redb!(StorageError DatabaseError TransactionError TableError CommitError);

/// Runs `body`; its panic is an error. Whoever gets one must not use the database again.
pub(crate) fn guarded<T>(body: impl FnOnce() -> Result<T, Cause>) -> Result<T, Cause> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Cause::Panicked(
            text.unwrap_or("no reason given").to_owned(),
        ))
    })
}
