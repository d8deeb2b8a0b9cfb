//! The daemon itself.

use super::Answer;
use crate::{
    error::{Errors, Failure},
    shared::Shared,
};
use api_types::NbdStatus;
use axum::{Json, extract::State, http::header, response::IntoResponse};
use serde::Serialize;
use utoipa::ToSchema;

/// The content type of metrics.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The NBD server and who is connected.
#[utoipa::path(get, path = "/v1/nbd", tag = "daemon", operation_id = "nbd_status",
    responses((status = 200, body = NbdStatus), Errors))]
pub(crate) async fn nbd(State(shared): State<Shared>) -> Answer<NbdStatus> {
    Ok(Json(shared.call(|control| control.nbd()).await?))
}

/// A daemon that answers.
#[derive(Serialize, ToSchema)]
pub(crate) struct Health {
    /// Always `ok`.
    #[schema(example = "ok")]
    status: &'static str,
    /// The daemon's version.
    version: String,
}

/// Whether the daemon is at work: it answers, and its store does.
#[utoipa::path(get, path = "/v1/health", tag = "daemon", operation_id = "health",
    responses((status = 200, body = Health), Errors))]
pub(crate) async fn health(State(shared): State<Shared>) -> Answer<Health> {
    let store = shared.call(|control| control.store()).await?;
    Ok(Json(Health {
        status: "ok",
        version: store.version,
    }))
}

/// Metrics in the OpenMetrics text format.
#[utoipa::path(get, path = "/metrics", tag = "daemon", operation_id = "metrics",
    responses((status = 200, description = "Metrics", body = String, content_type = "application/openmetrics-text"), Errors))]
pub(crate) async fn metrics(State(shared): State<Shared>) -> Result<impl IntoResponse, Failure> {
    let text = shared.call(|control| Ok(control.metrics())).await?;
    Ok(([(header::CONTENT_TYPE, OPEN_METRICS)], text))
}
