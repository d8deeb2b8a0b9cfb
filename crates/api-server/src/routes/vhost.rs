//! Volumes and snapshots as vhost-user-blk devices.

use super::Answer;
use crate::{
    error::{Errors, Failure},
    input::{Input, Path, Query, volume_ref},
    shared::Shared,
};
use api_types::{EventKind, ServeVhost, VhostDevice, VhostStatus};
use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

/// What is served over vhost-user-blk, and to whom.
#[utoipa::path(get, path = "/v1/vhost", tag = "daemon", operation_id = "vhost_status",
    responses((status = 200, body = VhostStatus), Errors))]
pub(crate) async fn status(State(shared): State<Shared>) -> Answer<VhostStatus> {
    Ok(Json(shared.call(|control| control.vhost()).await?))
}

/// Serves a volume or a snapshot over vhost-user-blk, from now on and after every start of the daemon.
#[utoipa::path(put, path = "/v1/vhost/{ref}", tag = "daemon", operation_id = "vhost_on",
    params(("ref" = String, Path, description = "volume or volume@snapshot")),
    request_body = ServeVhost, responses((status = 200, body = VhostDevice), Errors))]
pub(crate) async fn on(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Input(request): Input<ServeVhost>,
) -> Answer<VhostDevice> {
    let name = volume_ref(&name)?;
    let device = shared
        .call(move |control| control.serve_vhost(&name, &request))
        .await?;
    let message = format!(
        "{} is served over vhost-user-blk, queues={}",
        device.name, device.queues
    );
    shared
        .events
        .publish(EventKind::VhostOn, &device.name, message);
    Ok(Json(device))
}

/// Whether the guest is cut off.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct StopParams {
    /// Also when a guest is connected: it is cut off.
    #[serde(default)]
    force: bool,
}

/// Serves it over vhost-user-blk no more.
#[utoipa::path(delete, path = "/v1/vhost/{ref}", tag = "daemon", operation_id = "vhost_off",
    params(("ref" = String, Path, description = "volume or volume@snapshot"), StopParams),
    responses((status = 204, description = "It is not served"), Errors))]
pub(crate) async fn off(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(params): Query<StopParams>,
) -> Result<StatusCode, Failure> {
    let name = volume_ref(&name)?;
    let subject = name.to_string();
    shared
        .call(move |control| control.stop_vhost(&name, params.force))
        .await?;
    let message = format!("{subject} is no longer served over vhost-user-blk");
    shared.events.publish(EventKind::VhostOff, subject, message);
    Ok(StatusCode::NO_CONTENT)
}
