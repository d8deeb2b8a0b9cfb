//! What goes wrong, in one shape for the API and for people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What the caller can do about an error. The command line's exit codes follow from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// Correct the request. HTTP 400.
    Invalid,
    /// Name something that exists. HTTP 404.
    NotFound,
    /// Choose another name, or wait. HTTP 409.
    Conflict,
    /// End its use first. HTTP 409.
    InUse,
    /// Allow it explicitly. HTTP 403.
    Refused,
    /// Free space. HTTP 507.
    NoSpace,
    /// Look at `holdfast check`: stored data is damaged. HTTP 500.
    Damaged,
    /// It was cancelled on request. HTTP 409.
    Cancelled,
    /// Try again: the daemon is ending or not ready. HTTP 503.
    Unavailable,
    /// Look in the daemon's log. HTTP 500.
    Internal,
}

/// The body of every response that is not a success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ApiError,
}

/// An error: one line that says what and why, and one that says what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// Its kind.
    pub code: ErrorCode,
    /// What and why.
    pub message: String,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl ApiError {
    /// An error without a hint.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ApiError {
            code,
            message: message.into(),
            hint: None,
        }
    }

    /// With what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<types::Cancelled> for ApiError {
    fn from(_: types::Cancelled) -> Self {
        ApiError::new(ErrorCode::Cancelled, "cancelled")
    }
}
