//! Images in and out: from and to files of the daemon's host, or through the connection.

use super::{Answer, accepted, to_value};
use crate::{
    error::{Errors, Failure},
    events::Events,
    input::{Input, Path, Query, volume_ref},
    jobs::Entry,
    shared::Shared,
    stream::{Inlet, Outlet},
};
use api_types::{
    ApiError, ErrorCode, EventKind, ExportRequest, ImportRequest, Imported, Job, JobKind, Volume,
};
use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::Value;
use std::sync::Arc;
use types::{Codec, ImageFormat};
use utoipa::IntoParams;

/// Makes a volume from an image that the daemon can read. The job's result is an Imported.
#[utoipa::path(post, path = "/v1/import", tag = "content", operation_id = "import",
    request_body = ImportRequest, responses((status = 202, body = Job), Errors))]
pub(crate) async fn import(
    State(shared): State<Shared>,
    Input(request): Input<ImportRequest>,
) -> Result<impl IntoResponse, Failure> {
    let control = Arc::clone(&shared.control);
    let events = shared.events.clone();
    let subject = request.name.clone();
    let entry = shared.jobs.begin(JobKind::Import, &subject, move |work| {
        imported(&events, control.import(&request, work)?, work)
    })?;
    Ok(accepted(&entry))
}

/// Has the import of a volume that is used meanwhile (`live`) wait: nothing more is brought into the store until it is resumed, over
/// restarts too.
#[utoipa::path(post, path = "/v1/volumes/{name}/import/pause", tag = "content", operation_id = "import_pause",
    params(("name" = String, Path, description = "The volume's name")),
    responses((status = 200, body = Volume), Errors))]
pub(crate) async fn pause(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Volume> {
    set_paused(&shared, name, true).await
}

/// Has it go on.
#[utoipa::path(post, path = "/v1/volumes/{name}/import/resume", tag = "content", operation_id = "import_resume",
    params(("name" = String, Path, description = "The volume's name")),
    responses((status = 200, body = Volume), Errors))]
pub(crate) async fn resume(
    State(shared): State<Shared>,
    Path(name): Path<String>,
) -> Answer<Volume> {
    set_paused(&shared, name, false).await
}

async fn set_paused(shared: &Shared, name: String, paused: bool) -> Answer<Volume> {
    let volume = shared
        .call(move |control| control.pause_import(&name, paused))
        .await?;
    let done = if paused { "is paused" } else { "goes on" };
    let message = format!("the import of volume {} {done}", volume.name);
    shared
        .events
        .publish(EventKind::VolumeUpdated, &volume.name, message);
    Ok(Json(volume))
}

fn imported(events: &Events, mut imported: Imported, work: &Entry) -> Result<Value, ApiError> {
    imported.saved = work.saved();
    let volume = &imported.volume;
    let done = match volume.importing {
        None => "was imported",
        Some(_) => "is there, and is being imported",
    };
    for volume in std::iter::once(volume).chain(&imported.others) {
        let message = format!("volume {} {done}", volume.name);
        events.publish(EventKind::VolumeCreated, &volume.name, message);
    }
    to_value(&imported)
}

/// Writes a volume or a snapshot into an image on the daemon's host.
#[utoipa::path(post, path = "/v1/export", tag = "content", operation_id = "export",
    request_body = ExportRequest, responses((status = 202, body = Job), Errors))]
pub(crate) async fn export(
    State(shared): State<Shared>,
    Input(request): Input<ExportRequest>,
) -> Result<impl IntoResponse, Failure> {
    let control = Arc::clone(&shared.control);
    let subject = request.source.clone();
    let entry = shared.jobs.begin(JobKind::Export, &subject, move |work| {
        control.export(&request, work).map(|()| Value::Null)
    })?;
    Ok(accepted(&entry))
}

/// The volume that the bytes become.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteParams {
    /// Virtual size, bytes, if larger than the content.
    #[serde(default)]
    size: Option<u64>,
    /// Default: the store's.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    codec: Option<Codec>,
    /// Default: the store's.
    #[serde(default)]
    dedup: Option<bool>,
    /// What the content is: an image that can be streamed. Default: what its first bytes say.
    #[serde(default)]
    #[param(value_type = Option<String>)]
    format: Option<ImageFormat>,
    /// Of an OVA only this disk, counted from 1.
    #[serde(default)]
    disk: Option<usize>,
}

/// Makes a volume from the body, an image that can be streamed. It is a job too: it can be watched and cancelled.
#[utoipa::path(put, path = "/v1/content/{name}", tag = "content", operation_id = "content_write",
    params(("name" = String, Path, description = "The volume's name"), WriteParams),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = Imported), Errors))]
pub(crate) async fn write(
    State(shared): State<Shared>,
    Path(name): Path<String>,
    Query(params): Query<WriteParams>,
    body: Body,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let request = ImportRequest {
        name: name.clone(),
        path: String::new(),
        size: params.size,
        dedup: params.dedup,
        codec: params.codec,
        format: params.format,
        disk: params.disk,
        ..ImportRequest::default()
    };
    let control = Arc::clone(&shared.control);
    let events = shared.events.clone();
    let inlet = Inlet::new(body);
    let entry = shared.jobs.begin(JobKind::Import, &name, move |work| {
        let mut reader = inlet.reader(work.cancelled().clone());
        let made = control.import_stream(&request, &mut reader, work)?;
        imported(&events, made, work)
    })?;
    Ok((StatusCode::CREATED, Json(entry.outcome().await?)))
}

/// All bytes of a volume (as it is now) or a snapshot, zeroes included. It is a job too.
#[utoipa::path(get, path = "/v1/content/{name}", tag = "content", operation_id = "content_read",
    params(("name" = String, Path, description = "volume or volume@snapshot")),
    responses((status = 200, description = "The content", body = Vec<u8>, content_type = "application/octet-stream"), Errors))]
pub(crate) async fn read(
    State(shared): State<Shared>,
    method: Method,
    Path(name): Path<String>,
) -> Result<Response, Failure> {
    let source = volume_ref(&name)?;
    let asked = source.clone();
    let len = shared
        .call(move |control| control.content_len(&asked))
        .await?;
    if method == Method::HEAD {
        return Ok(content_response(len, Body::empty()));
    }
    let control = Arc::clone(&shared.control);
    let (filler, mut content) = Outlet::new(Some(len)).split();
    let entry = shared.jobs.begin(JobKind::Export, &name, move |work| {
        let mut writer = filler.writer(work.cancelled().clone());
        control.export_stream(&source, &mut writer, work)?;
        let broken = |e: std::io::Error| ApiError::new(ErrorCode::Internal, e.to_string());
        writer.finish().map_err(broken).map(|()| Value::Null)
    })?;
    if !content.begin().await {
        entry.outcome().await?;
    }
    Ok(content_response(len, Body::new(content)))
}

fn content_response(len: u64, body: Body) -> Response {
    let kind = HeaderValue::from_static("application/octet-stream");
    let headers = [
        (header::CONTENT_LENGTH, HeaderValue::from(len)),
        (header::CONTENT_TYPE, kind),
    ];
    (headers, body).into_response()
}
