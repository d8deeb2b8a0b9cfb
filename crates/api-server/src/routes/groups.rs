//! Several volumes at one instant.

use super::Answer;
use crate::{
    error::{Errors, Failure},
    input::Input,
    shared::Shared,
};
use api_types::{CloneGroup, EventKind, Group, Snapshot, Volume};
use axum::{Json, extract::State, http::StatusCode};

/// Takes snapshots of several volumes at one instant, crash-consistent across them: all of them, or none.
#[utoipa::path(post, path = "/v1/groups/snapshot", tag = "snapshots", operation_id = "group_snapshot",
    request_body = Group, responses((status = 201, body = Vec<Snapshot>), Errors))]
pub(crate) async fn snapshot(
    State(shared): State<Shared>,
    Input(request): Input<Group>,
) -> Result<(StatusCode, Json<Vec<Snapshot>>), Failure> {
    let snapshots = shared
        .call(move |control| control.create_group(&request))
        .await?;
    for one in &snapshots {
        let subject = format!("{}@{}", one.volume, one.name);
        let message = format!(
            "snapshot {subject} was taken, one of {} at one instant",
            snapshots.len()
        );
        shared
            .events
            .publish(EventKind::SnapshotCreated, subject, message);
    }
    Ok((StatusCode::CREATED, Json(snapshots)))
}

/// Sets several volumes back to snapshots that were taken at one instant: all of them, or none.
#[utoipa::path(post, path = "/v1/groups/rollback", tag = "snapshots", operation_id = "group_rollback",
    request_body = Group, responses((status = 200, body = Vec<Volume>), Errors))]
pub(crate) async fn rollback(
    State(shared): State<Shared>,
    Input(request): Input<Group>,
) -> Answer<Vec<Volume>> {
    let to = request.snapshots.join(", ");
    let volumes = shared
        .call(move |control| control.rollback_group(&request))
        .await?;
    for volume in &volumes {
        let message = format!("volume {} was set back with its group: {to}", volume.name);
        shared
            .events
            .publish(EventKind::VolumeRolledBack, &volume.name, message);
    }
    Ok(Json(volumes))
}

/// Makes volumes that begin as snapshots: all of them, or none.
#[utoipa::path(post, path = "/v1/groups/clone", tag = "snapshots", operation_id = "group_clone",
    request_body = CloneGroup, responses((status = 201, body = Vec<Volume>), Errors))]
pub(crate) async fn clone(
    State(shared): State<Shared>,
    Input(request): Input<CloneGroup>,
) -> Result<(StatusCode, Json<Vec<Volume>>), Failure> {
    let volumes = shared
        .call(move |control| control.clone_group(&request))
        .await?;
    for volume in &volumes {
        let from = volume.origin.as_deref().unwrap_or_default();
        let message = format!("volume {} was cloned from {from}", volume.name);
        shared
            .events
            .publish(EventKind::VolumeCreated, &volume.name, message);
    }
    Ok((StatusCode::CREATED, Json(volumes)))
}
