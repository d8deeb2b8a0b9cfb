//! What is written to volumes and kept apart.

use super::Answer;
use crate::{
    error::Errors,
    input::{Input, Path},
    shared::Shared,
};
use api_types::{EventKind, PowerOff, Volume};
use axum::{Json, extract::State};

/// Keeps what was written to a volume of another mode than persistent. Clients go on.
#[utoipa::path(post, path = "/v1/volumes/{name}/commit", tag = "volumes", operation_id = "volume_commit",
    params(("name" = String, Path, description = "The volume's name")),
    responses((status = 200, body = Volume), Errors))]
pub(crate) async fn commit(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Volume> {
    let volume = shared
        .call(move |control| control.commit_volume(&name))
        .await?;
    let message = format!("what was written to volume {} was kept", volume.name);
    shared
        .events
        .publish(EventKind::VolumeCommitted, &volume.name, message);
    Ok(Json(volume))
}

/// Discards what was written to a volume of another mode than persistent, while no client has it open.
#[utoipa::path(post, path = "/v1/volumes/{name}/discard", tag = "volumes", operation_id = "volume_discard",
    params(("name" = String, Path, description = "The volume's name")),
    responses((status = 200, body = Volume), Errors))]
pub(crate) async fn discard(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Volume> {
    let volume = shared
        .call(move |control| control.discard_volume(&name))
        .await?;
    let message = format!("what was written to volume {} was discarded", volume.name);
    shared
        .events
        .publish(EventKind::VolumeDiscarded, &volume.name, message);
    Ok(Json(volume))
}

/// Says that the machine which has a volume is powered off: what it wrote vanishes, is kept apart or stays, as the mode says.
#[utoipa::path(post, path = "/v1/volumes/{name}/poweroff", tag = "volumes", operation_id = "volume_poweroff",
    params(("name" = String, Path, description = "The volume's name")),
    request_body = PowerOff, responses((status = 200, body = Volume), Errors))]
pub(crate) async fn power_off(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Input(request): Input<PowerOff>,
) -> Answer<Volume> {
    let volume = shared
        .call(move |control| control.power_off(&name, &request))
        .await?;
    let message = format!("the machine of volume {} is powered off", volume.name);
    shared
        .events
        .publish(EventKind::VolumePoweredOff, &volume.name, message);
    Ok(Json(volume))
}
