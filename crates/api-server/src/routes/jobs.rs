//! Jobs.

use super::Answer;
use crate::{
    error::Errors,
    input::{Path, Query},
    shared::Shared,
};
use api_types::{Job, JobState};
use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use std::time::Duration;
use tokio::time::sleep;
use utoipa::IntoParams;

/// The longest that a request waits, seconds.
const WAIT_MAX_S: u64 = 60;

/// Jobs at work, and those that ended lately; oldest first.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "job_list",
    responses((status = 200, body = Vec<Job>), Errors))]
pub(crate) async fn list(State(shared): State<Shared>) -> Answer<Vec<Job>> {
    Ok(Json(shared.jobs.list()))
}

/// Whether to wait for news.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WaitParams {
    /// Seconds to wait for progress or the end, at most 60. Progress is told about ten times a second.
    #[serde(default)]
    wait: u64,
}

/// One job, at once or when there is news of it.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "job_info",
    params(("id" = u64, Path, description = "The job's number"), WaitParams),
    responses((status = 200, body = Job), Errors))]
pub(crate) async fn info(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
    Query(params): Query<WaitParams>,
) -> Answer<Job> {
    let entry = shared.jobs.get(id)?;
    let mut changes = entry.changes();
    if params.wait > 0 && entry.job().state == JobState::Running {
        tokio::select! {
            _ = changes.changed() => {}
            () = shared.closing.cancelled() => {}
            () = sleep(Duration::from_secs(params.wait.min(WAIT_MAX_S))) => {}
        }
    }
    Ok(Json(entry.job()))
}

/// Asks a job to stop. It ends soon, not at once.
#[utoipa::path(delete, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "job_cancel",
    params(("id" = u64, Path, description = "The job's number")),
    responses((status = 202, body = Job), Errors))]
pub(crate) async fn cancel(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
) -> Result<(StatusCode, Json<Job>), crate::error::Failure> {
    let entry = shared.jobs.get(id)?;
    entry.cancel()?;
    Ok((StatusCode::ACCEPTED, Json(entry.job())))
}
