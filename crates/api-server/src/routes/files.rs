//! Volumes that are plain files.

use super::{Answer, accepted, to_value};
use crate::{
    error::{Errors, Failure},
    input::{Input, Path},
    shared::Shared,
};
use api_types::{Adopt, Convert, EventKind, Job, JobKind, Release, Released, VerifyReport, Volume};
use axum::{Json, extract::State, http::StatusCode, response::IntoResponse};
use std::sync::Arc;

/// Moves a volume's data into a plain file, or into the store, while no client has it open. The job's result is a Volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/convert", tag = "files", operation_id = "volume_convert",
    params(("name" = String, Path, description = "The volume's name")),
    request_body = Convert, responses((status = 202, body = Job), Errors))]
pub(crate) async fn convert(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Input(request): Input<Convert>,
) -> Result<impl IntoResponse, Failure> {
    let control = Arc::clone(&shared.control);
    let events = shared.events.clone();
    let subject = name.clone();
    let entry = shared.jobs.begin(JobKind::Convert, &subject, move |work| {
        let volume = control.convert_volume(&name, &request, work)?;
        let backend = if volume.file.is_some() {
            "file"
        } else {
            "store"
        };
        let message = format!("volume {name} was changed: backend={backend}");
        events.publish(EventKind::VolumeUpdated, &volume.name, message);
        to_value(&volume)
    })?;
    Ok(accepted(&entry))
}

/// Makes a volume of an image file, which moves to where the volume's name says.
#[utoipa::path(post, path = "/v1/adopt", tag = "files", operation_id = "volume_adopt",
    request_body = Adopt, responses((status = 201, body = Volume), Errors))]
pub(crate) async fn adopt(
    State(shared): State<Shared>,
    Input(request): Input<Adopt>,
) -> Result<(StatusCode, Json<Volume>), Failure> {
    let path = request.path.clone();
    let volume = shared
        .call(move |control| control.adopt_volume(&request))
        .await?;
    let message = format!("volume {} was adopted from {path}", volume.name);
    shared
        .events
        .publish(EventKind::VolumeCreated, &volume.name, message);
    Ok((StatusCode::CREATED, Json(volume)))
}

/// Moves a volume's file away and forgets the volume.
#[utoipa::path(post, path = "/v1/volumes/{name}/release", tag = "files", operation_id = "volume_release",
    params(("name" = String, Path, description = "The volume's name")),
    request_body = Release, responses((status = 200, body = Released), Errors))]
pub(crate) async fn release(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Input(request): Input<Release>,
) -> Answer<Released> {
    let released = shared
        .call(move |control| control.release_volume(&name, &request))
        .await?;
    Ok(Json(told(&shared, released)))
}

/// Removes a volume and leaves its file where it is.
#[utoipa::path(post, path = "/v1/volumes/{name}/forget", tag = "files", operation_id = "volume_forget",
    params(("name" = String, Path, description = "The volume's name"), super::volumes::RemoveParams),
    responses((status = 200, body = Released), Errors))]
pub(crate) async fn forget(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    crate::input::Query(params): crate::input::Query<super::volumes::RemoveParams>,
) -> Answer<Released> {
    let released = shared
        .call(move |control| control.forget_volume(&name, params.force))
        .await?;
    Ok(Json(told(&shared, released)))
}

fn told(shared: &Shared, released: Released) -> Released {
    let message = format!(
        "volume {} was released: its file is {}",
        released.name, released.path
    );
    shared
        .events
        .publish(EventKind::VolumeRemoved, &released.name, message);
    released
}

/// Compares the files of volumes with the catalog: presence, name, format, size.
#[utoipa::path(get, path = "/v1/verify", tag = "files", operation_id = "verify",
    responses((status = 200, body = VerifyReport), Errors))]
pub(crate) async fn verify(State(shared): State<Shared>) -> Answer<VerifyReport> {
    Ok(Json(shared.call(|control| control.verify()).await?))
}
