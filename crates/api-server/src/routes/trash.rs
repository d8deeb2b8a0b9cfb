//! Removed volumes.

use super::Answer;
use crate::{
    error::{Errors, Failure},
    input::{Input, Path},
    shared::Shared,
};
use api_types::{EventKind, Restore, TrashEntry, Volume};
use axum::{Json, extract::State};

/// What was removed and can still be restored.
#[utoipa::path(get, path = "/v1/trash", tag = "trash", operation_id = "trash_list",
    responses((status = 200, body = Vec<TrashEntry>), Errors))]
pub(crate) async fn list(State(shared): State<Shared>) -> Answer<Vec<TrashEntry>> {
    Ok(Json(shared.call(|control| control.trash()).await?))
}

/// Removes everything in the trash for good. Returns what it was.
#[utoipa::path(delete, path = "/v1/trash", tag = "trash", operation_id = "trash_empty",
    responses((status = 200, body = Vec<TrashEntry>), Errors))]
pub(crate) async fn empty(State(shared): State<Shared>) -> Answer<Vec<TrashEntry>> {
    purge(&shared, None).await
}

/// Removes one volume in the trash for good.
#[utoipa::path(delete, path = "/v1/trash/{id}", tag = "trash", operation_id = "trash_remove",
    params(("id" = u64, Path, description = "The entry's number")),
    responses((status = 200, body = Vec<TrashEntry>), Errors))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
) -> Answer<Vec<TrashEntry>> {
    purge(&shared, Some(id)).await
}

async fn purge(shared: &Shared, id: Option<u64>) -> Result<Json<Vec<TrashEntry>>, Failure> {
    let purged = shared.call(move |control| control.purge(id)).await?;
    for entry in &purged {
        let message = format!("volume {} ({}) was removed for good", entry.name, entry.id);
        shared
            .events
            .publish(EventKind::VolumePurged, &entry.name, message);
    }
    Ok(Json(purged))
}

/// Brings a volume back.
#[utoipa::path(post, path = "/v1/trash/{id}/restore", tag = "trash", operation_id = "trash_restore",
    params(("id" = u64, Path, description = "The entry's number")),
    request_body = Restore, responses((status = 200, body = Volume), Errors))]
pub(crate) async fn restore(
    State(shared): State<Shared>,
    Path(id): Path<u64>,
    Input(request): Input<Restore>,
) -> Answer<Volume> {
    let volume = shared
        .call(move |control| control.restore(id, &request))
        .await?;
    let message = format!("volume {} was restored", volume.name);
    shared
        .events
        .publish(EventKind::VolumeRestored, &volume.name, message);
    Ok(Json(volume))
}
