//! Handlers, by what they are about.

pub(crate) mod content;
pub(crate) mod daemon;
pub(crate) mod diff;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod groups;
pub(crate) mod jobs;
pub(crate) mod modes;
pub(crate) mod snapshots;
pub(crate) mod store;
pub(crate) mod trash;
pub(crate) mod vhost;
pub(crate) mod volumes;

use crate::{error::Failure, jobs::Entry};
use api_types::{ApiError, ErrorCode, Job};
use axum::{
    Json,
    http::{StatusCode, header},
    response::{AppendHeaders, IntoResponse},
};
use serde::Serialize;
use serde_json::Value;

type Answer<T> = Result<Json<T>, Failure>;

/// The answer to a request that began a job.
fn accepted(entry: &Entry) -> impl IntoResponse + use<> {
    let location = format!("/v1/jobs/{}", entry.id());
    (
        StatusCode::ACCEPTED,
        AppendHeaders([(header::LOCATION, location)]),
        Json::<Job>(entry.job()),
    )
}

/// A report as a job's result.
fn to_value(report: &impl Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(report).map_err(|e| {
        ApiError::new(
            ErrorCode::Internal,
            format!("a result cannot be written: {e}"),
        )
    })
}
