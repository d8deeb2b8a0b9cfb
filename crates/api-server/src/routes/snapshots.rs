//! Snapshots.

use super::Answer;
use crate::{
    error::{Errors, Failure},
    input::{Input, Path},
    shared::Shared,
};
use api_types::{CreateSnapshot, EventKind, Snapshot};
use axum::{Json, extract::State, http::StatusCode};

/// A volume's snapshots, oldest first.
#[utoipa::path(get, path = "/v1/volumes/{name}/snapshots", tag = "snapshots", operation_id = "snapshot_list",
    params(("name" = String, Path, description = "The volume's name")),
    responses((status = 200, body = Vec<Snapshot>), Errors))]
pub(crate) async fn list(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Vec<Snapshot>> {
    Ok(Json(
        shared.call(move |control| control.snapshots(&name)).await?,
    ))
}

/// Takes a snapshot.
#[utoipa::path(post, path = "/v1/volumes/{name}/snapshots", tag = "snapshots", operation_id = "snapshot_create",
    params(("name" = String, Path, description = "The volume's name")),
    request_body = CreateSnapshot, responses((status = 201, body = Snapshot), Errors))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Input(request): Input<CreateSnapshot>,
) -> Result<(StatusCode, Json<Snapshot>), Failure> {
    let snapshot = shared
        .call(move |control| control.create_snapshot(&name, &request))
        .await?;
    let subject = format!("{}@{}", snapshot.volume, snapshot.name);
    let message = format!("snapshot {subject} was taken");
    shared
        .events
        .publish(EventKind::SnapshotCreated, subject, message);
    Ok((StatusCode::CREATED, Json(snapshot)))
}

/// Removes a snapshot.
#[utoipa::path(delete, path = "/v1/volumes/{name}/snapshots/{snapshot}", tag = "snapshots", operation_id = "snapshot_remove",
    params(("name" = String, Path, description = "The volume's name"),
           ("snapshot" = String, Path, description = "The snapshot's name")),
    responses((status = 204, description = "It is gone"), Errors))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    Path((name, snapshot)): Path<(String, String)>,
) -> Result<StatusCode, Failure> {
    let subject = format!("{name}@{snapshot}");
    shared
        .call(move |control| control.remove_snapshot(&name, &snapshot))
        .await?;
    let message = format!("snapshot {subject} was removed");
    shared
        .events
        .publish(EventKind::SnapshotRemoved, subject, message);
    Ok(StatusCode::NO_CONTENT)
}
