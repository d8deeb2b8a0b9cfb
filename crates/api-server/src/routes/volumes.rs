//! Volumes.

use super::Answer;
use crate::{
    error::{Errors, Failure},
    input::{Input, Path, Query, volume_ref},
    shared::Shared,
};
use api_types::{
    Connect, CreateVolume, EventKind, Rollback, TrashEntry, UpdateVolume, Volume, VolumeUsage,
};
use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use utoipa::IntoParams;

/// Volumes by name, the trash left out.
#[utoipa::path(get, path = "/v1/volumes", tag = "volumes", operation_id = "volume_list",
    responses((status = 200, body = Vec<Volume>), Errors))]
pub(crate) async fn list(State(shared): State<Shared>) -> Answer<Vec<Volume>> {
    Ok(Json(shared.call(|control| control.volumes()).await?))
}

/// Makes a volume, empty or as a clone.
#[utoipa::path(post, path = "/v1/volumes", tag = "volumes", operation_id = "volume_create",
    request_body = CreateVolume, responses((status = 201, body = Volume), Errors))]
pub(crate) async fn create(
    State(shared): State<Shared>,
    Input(request): Input<CreateVolume>,
) -> Result<(StatusCode, Json<Volume>), Failure> {
    let from = request.from.clone();
    let volume = shared
        .call(move |control| control.create_volume(&request))
        .await?;
    let message = match from {
        Some(from) => format!("volume {} was cloned from {from}", volume.name),
        None => format!("volume {} was created", volume.name),
    };
    shared
        .events
        .publish(EventKind::VolumeCreated, &volume.name, message);
    Ok((StatusCode::CREATED, Json(volume)))
}

/// One volume.
#[utoipa::path(get, path = "/v1/volumes/{name}", tag = "volumes", operation_id = "volume_info",
    params(("name" = String, Path, description = "The volume's name")),
    responses((status = 200, body = Volume), Errors))]
pub(crate) async fn info(State(shared): State<Shared>, Path(name): Path<String>) -> Answer<Volume> {
    Ok(Json(
        shared.call(move |control| control.volume(&name)).await?,
    ))
}

/// Renames, resizes, changes properties: all of it or nothing.
#[utoipa::path(patch, path = "/v1/volumes/{name}", tag = "volumes", operation_id = "volume_update",
    params(("name" = String, Path, description = "The volume's name")),
    request_body = UpdateVolume, responses((status = 200, body = Volume), Errors))]
pub(crate) async fn update(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Input(request): Input<UpdateVolume>,
) -> Answer<Volume> {
    let message = changes(&name, &request);
    let volume = shared
        .call(move |control| control.update_volume(&name, &request))
        .await?;
    shared
        .events
        .publish(EventKind::VolumeUpdated, &volume.name, message);
    Ok(Json(volume))
}

fn changes(name: &str, request: &UpdateVolume) -> String {
    let parts = [
        request.name.as_ref().map(|new| format!("name={new}")),
        request.size.map(|size| format!("size={size}")),
        request.dedup.map(|dedup| format!("dedup={dedup}")),
        request.codec.map(|codec| format!("codec={codec}")),
        request
            .read_only
            .map(|read_only| format!("read_only={read_only}")),
        request.quota.map(|quota| format!("quota={quota}")),
        request.mode.map(|mode| format!("mode={mode}")),
        request
            .independent
            .map(|independent| format!("independent={independent}")),
    ];
    let limits = request.limits.list().into_iter().flat_map(|(kind, limit)| {
        let name = kind.name();
        [
            limit.rate.map(|rate| format!("{name}={rate}")),
            limit.burst.map(|burst| format!("{name}-burst={burst}")),
            limit
                .burst_seconds
                .map(|seconds| format!("{name}-burst-seconds={seconds}")),
        ]
    });
    let policy = request.snapshot_policy.list().into_iter();
    let policy = policy.map(|(name, value)| Some(format!("{name}={value}")));
    let parts = parts.into_iter().chain(limits).chain(policy);
    let parts: Vec<_> = parts.flatten().collect();
    format!("volume {name} was changed: {}", parts.join(" "))
}

/// Whether clients are cut off.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RemoveParams {
    /// Also when clients have it open: they are cut off.
    #[serde(default)]
    pub(crate) force: bool,
}

/// Moves a volume to the trash; one that is a plain file is removed with the file.
#[utoipa::path(delete, path = "/v1/volumes/{name}", tag = "volumes", operation_id = "volume_remove",
    params(("name" = String, Path, description = "The volume's name"), RemoveParams),
    responses((status = 200, body = TrashEntry), Errors))]
pub(crate) async fn remove(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(params): Query<RemoveParams>,
) -> Answer<TrashEntry> {
    let removed = shared
        .call(move |control| control.remove_volume(&name, params.force))
        .await?;
    let message = match removed.until_ms > removed.removed_ms {
        true => format!("volume {} was put into the trash", removed.name),
        false => format!("volume {} was removed with its file", removed.name),
    };
    shared
        .events
        .publish(EventKind::VolumeRemoved, &removed.name, message);
    Ok(Json(removed))
}

/// Sets a volume back to a snapshot, in place. What was written since is lost; later snapshots stay.
#[utoipa::path(post, path = "/v1/volumes/{name}/rollback", tag = "volumes", operation_id = "volume_rollback",
    params(("name" = String, Path, description = "The volume's name")),
    request_body = Rollback, responses((status = 200, body = Volume), Errors))]
pub(crate) async fn rollback(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Input(request): Input<Rollback>,
) -> Answer<Volume> {
    let message = format!("volume {name} was set back to {}", request.snapshot);
    let volume = shared
        .call(move |control| control.rollback(&name, &request.snapshot))
        .await?;
    shared
        .events
        .publish(EventKind::VolumeRolledBack, &volume.name, message);
    Ok(Json(volume))
}

/// What a volume or a snapshot takes.
#[utoipa::path(get, path = "/v1/usage/{ref}", tag = "volumes", operation_id = "volume_usage",
    params(("ref" = String, Path, description = "volume or volume@snapshot")),
    responses((status = 200, body = VolumeUsage), Errors))]
pub(crate) async fn usage(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<VolumeUsage> {
    let name = volume_ref(&name)?;
    Ok(Json(
        shared
            .call(move |control| control.volume_usage(&name))
            .await?,
    ))
}

/// How clients reach a volume or a snapshot.
#[utoipa::path(get, path = "/v1/connect/{ref}", tag = "volumes", operation_id = "volume_connect",
    params(("ref" = String, Path, description = "volume or volume@snapshot")),
    responses((status = 200, body = Connect), Errors))]
pub(crate) async fn connect(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Connect> {
    let name = volume_ref(&name)?;
    Ok(Json(
        shared.call(move |control| control.connect(&name)).await?,
    ))
}
