//! What differs between two states.

use crate::{
    error::{Errors, Failure},
    input::{Query, volume_ref},
    shared::Shared,
    stream::Outlet,
};
use api_types::{ApiError, DiffLine, ErrorCode};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use std::{io::Write as _, sync::Arc};
use tokio::sync::oneshot;
use utoipa::IntoParams;

/// Which states.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DiffParams {
    /// The earlier one: volume@snapshot, or volume as it is now.
    from: String,
    /// The later one.
    to: String,
}

/// What differs between two states of volumes, a JSON object a line. Of those that come from each other it takes time
/// in proportion to what changed.
#[utoipa::path(get, path = "/v1/diff", tag = "snapshots", operation_id = "diff", params(DiffParams),
    responses((status = 200, description = "Lines of DiffLine", body = DiffLine, content_type = "application/jsonl"), Errors))]
pub(crate) async fn diff(
    State(shared): State<Shared>,
    Query(params): Query<DiffParams>,
) -> Result<Response, Failure> {
    let (from, to) = (volume_ref(&params.from)?, volume_ref(&params.to)?);
    let (filler, mut content) = Outlet::new(None).split();
    let (control, closing) = (Arc::clone(&shared.control), shared.closing.clone());
    let (sender, outcome) = oneshot::channel();
    // Of its own: whoever reads slowly keeps no thread from others.
    let started = env::spawn("diff", move || {
        let mut writer = filler.writer(closing);
        let compared = control.diff(&from, &to, &mut |line| {
            serde_json::to_writer(&mut writer, &line)?;
            writer.write_all(b"\n")
        });
        let broken = |e: std::io::Error| ApiError::new(ErrorCode::Internal, e.to_string());
        let done = compared.and_then(|()| writer.finish().map_err(broken));
        // If the answer has begun, nobody waits for it.
        let _ = sender.send(done);
    });
    started.map_err(|e| Failure::internal(format!("no thread for a comparison: {e}")))?;
    if !content.begin().await {
        let fault = || Failure::internal("the daemon met a fault in itself");
        outcome.await.map_err(|_| fault())??;
    }
    let kind = HeaderValue::from_static("application/jsonl");
    Ok(([(header::CONTENT_TYPE, kind)], Body::new(content)).into_response())
}
