//! Errors as responses: always an [`ErrorBody`], whoever found the fault.

use api_types::{ApiError, ErrorBody, ErrorCode};
use axum::{
    Json,
    extract::rejection::{BytesRejection, PathRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use utoipa::IntoResponses;

/// An error on its way to the client.
#[derive(Debug)]
pub(crate) struct Failure {
    status: StatusCode,
    error: ApiError,
}

impl Failure {
    /// An error with a status that its code alone does not give.
    pub(crate) fn with_status(status: StatusCode, error: ApiError) -> Self {
        Failure { status, error }
    }

    /// A request that cannot be understood.
    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        ApiError::new(ErrorCode::Invalid, message).into()
    }

    /// A fault of ours.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        ApiError::new(ErrorCode::Internal, message)
            .hint("look in the daemon's log")
            .into()
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Failure {
            status: status(error.code),
            error,
        }
    }
}

/// The HTTP status of an error, as [`ErrorCode`] documents it.
fn status(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict | ErrorCode::InUse | ErrorCode::Cancelled => StatusCode::CONFLICT,
        ErrorCode::Refused => StatusCode::FORBIDDEN,
        ErrorCode::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::Damaged | ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        if self.status.is_server_error() {
            tracing::warn!(status = self.status.as_u16(), error = %self.error, "request failed");
        }
        (self.status, Json(ErrorBody { error: self.error })).into_response()
    }
}

impl From<PathRejection> for Failure {
    fn from(rejection: PathRejection) -> Self {
        Failure::invalid(rejection.body_text())
    }
}

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Failure::invalid(rejection.body_text())
    }
}

impl From<BytesRejection> for Failure {
    fn from(rejection: BytesRejection) -> Self {
        let error = ApiError::new(ErrorCode::Invalid, rejection.body_text());
        Failure::with_status(rejection.status(), error)
    }
}

/// The errors that any request can meet, for the API's description.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it is never made, only described")]
pub(crate) enum Errors {
    /// The request is wrong.
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// It must be allowed explicitly.
    #[response(status = 403)]
    Refused(ErrorBody),
    /// There is no such thing.
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// A name is taken, something is in use, or the work was cancelled.
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The daemon failed, or stored data is damaged.
    #[response(status = 500)]
    Internal(ErrorBody),
    /// The daemon is ending, or has too much to do.
    #[response(status = 503)]
    Unavailable(ErrorBody),
    /// The store is full.
    #[response(status = 507)]
    NoSpace(ErrorBody),
}
