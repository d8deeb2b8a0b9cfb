//! Errors on their way to a person: one line, and an exit code.

use api_types::{ApiError, ErrorCode};
use std::{fmt, path::Path};

/// Why a command failed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The process's exit code; see `holdfast --help`.
    pub(crate) code: u8,
    message: String,
}

/// The daemon cannot be reached.
const UNREACHABLE: u8 = 6;
/// The user ended it.
pub(crate) const INTERRUPTED: u8 = 130;
/// A name is taken, something is in use or has ended, or must be allowed explicitly.
pub(crate) const REFUSED: u8 = 4;
/// Stored data is damaged.
pub(crate) const DAMAGED: u8 = 5;

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
        }
    }

    pub(crate) fn internal(message: impl Into<String>) -> Self {
        Failure::new(1, message)
    }

    /// The command line is wrong in a way that the grammar cannot say.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Failure::new(2, message)
    }

    pub(crate) fn interrupted() -> Self {
        Failure::new(INTERRUPTED, "interrupted")
    }

    pub(crate) fn unreachable(socket: &Path, why: &dyn fmt::Display) -> Self {
        let socket = socket.display();
        let message = format!(
            "cannot reach the daemon at {socket} ({why}); start it with 'holdfast serve', or give its --socket"
        );
        Failure::new(UNREACHABLE, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ApiError> for Failure {
    fn from(e: ApiError) -> Self {
        let code = match e.code {
            ErrorCode::Invalid => 2,
            ErrorCode::NotFound => 3,
            ErrorCode::Conflict | ErrorCode::InUse | ErrorCode::Refused => REFUSED,
            ErrorCode::Damaged => DAMAGED,
            ErrorCode::Unavailable => UNREACHABLE,
            ErrorCode::NoSpace => 7,
            ErrorCode::Cancelled => INTERRUPTED,
            ErrorCode::Internal => 1,
        };
        let message = match e.hint {
            Some(hint) => format!("{}; {hint}", e.message),
            None => e.message,
        };
        Failure { code, message }
    }
}

impl From<std::io::Error> for Failure {
    fn from(e: std::io::Error) -> Self {
        Failure::internal(e.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_as_documented() {
        for (code, exit) in [
            (ErrorCode::Internal, 1),
            (ErrorCode::Invalid, 2),
            (ErrorCode::NotFound, 3),
            (ErrorCode::Conflict, 4),
            (ErrorCode::InUse, 4),
            (ErrorCode::Refused, 4),
            (ErrorCode::Damaged, 5),
            (ErrorCode::Unavailable, 6),
            (ErrorCode::NoSpace, 7),
            (ErrorCode::Cancelled, 130),
        ] {
            assert_eq!(
                Failure::from(ApiError::new(code, "")).code,
                exit,
                "{code:?}"
            );
        }
    }

    #[test]
    fn errors_are_one_line_with_what_to_do() {
        let e = ApiError::new(ErrorCode::InUse, "'web' is open").hint("disconnect its clients");
        let failure = Failure::from(e);
        assert_eq!(
            (failure.code, failure.to_string().as_str()),
            (4, "'web' is open; disconnect its clients")
        );
    }
}
