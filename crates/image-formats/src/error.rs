//! What goes wrong with an image file.

use std::{error::Error as StdError, fmt, io, sync::Arc};

/// What the caller must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// Name a file that exists.
    NotFound,
    /// Correct the image or the request: the image is damaged, not of the format, or asks for what is not allowed.
    Invalid,
    /// Look at the cause: reading failed.
    Io,
}

/// An error of an image: one line that names the file, and the offset where there is one.
#[derive(Clone)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

impl Error {
    /// What to do about it.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// The image cannot be read as it is.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Self {
        Error {
            kind: ErrorKind::Invalid,
            message: message.into(),
            source: None,
        }
    }

    /// An error of something else that a disk is read from.
    #[must_use]
    pub fn device(what: impl fmt::Display, error: impl StdError + Send + Sync + 'static) -> Self {
        Error {
            kind: ErrorKind::Io,
            message: format!("{what}: {error}"),
            source: Some(Arc::new(error)),
        }
    }

    /// An error of a file, and what could not be done with it.
    #[must_use]
    pub fn io(what: impl fmt::Display, error: io::Error) -> Self {
        let kind = match error.kind() {
            io::ErrorKind::NotFound => ErrorKind::NotFound,
            io::ErrorKind::PermissionDenied
            | io::ErrorKind::InvalidData
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::UnexpectedEof
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::NotADirectory => ErrorKind::Invalid,
            _ => ErrorKind::Io,
        };
        Error {
            kind,
            message: format!("{what}: {error}"),
            source: Some(Arc::new(error)),
        }
    }
}

/// Hostile texts are quoted short and on one line.
pub(crate) fn shorten(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    format!("{short:?}")
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}
