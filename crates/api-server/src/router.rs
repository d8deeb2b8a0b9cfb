//! All routes, and what is the same for each.

use crate::{error::Failure, routes, shared::Shared};
use api_types::{ApiError, CheckReport, CollectReport, ErrorBody, ErrorCode, Event};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, Request},
    http::{Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::Poll,
};
use utoipa::OpenApi;
use utoipa_axum::{router::OpenApiRouter, routes};

/// The largest JSON body, bytes.
const BODY_MAX: usize = 1 << 20;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "Virtual disks: volumes, snapshots, clones, and the store they live in. Sizes are bytes, times are milliseconds since the Unix epoch. Every error has a body of the same shape.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    servers((url = "http://localhost", description = "Over the daemon's unix socket; the host does not matter")),
    tags(
        (name = "store", description = "The store, its space and its upkeep"),
        (name = "volumes", description = "Virtual disks"),
        (name = "files", description = "Volumes that are plain files"),
        (name = "snapshots", description = "Points in a volume's history"),
        (name = "trash", description = "Removed volumes that can be restored"),
        (name = "content", description = "Images in and out"),
        (name = "jobs", description = "Work that takes long"),
        (name = "daemon", description = "The daemon itself"),
    ),
    components(schemas(ErrorBody, Event, CheckReport, CollectReport)),
)]
struct Description;

fn routes() -> OpenApiRouter<Shared> {
    OpenApiRouter::with_openapi(Description::openapi())
        .routes(routes!(routes::store::info))
        .routes(routes!(routes::store::usage))
        .routes(routes!(routes::store::collect))
        .routes(routes!(routes::store::check))
        .routes(routes!(
            routes::store::scrub_status,
            routes::store::scrub_start,
            routes::store::scrub_stop
        ))
        .routes(routes!(routes::volumes::list, routes::volumes::create))
        .routes(routes!(
            routes::volumes::info,
            routes::volumes::update,
            routes::volumes::remove
        ))
        .routes(routes!(routes::volumes::rollback))
        .routes(routes!(routes::modes::commit))
        .routes(routes!(routes::modes::discard))
        .routes(routes!(routes::modes::power_off))
        .routes(routes!(routes::volumes::usage))
        .routes(routes!(routes::volumes::connect))
        .routes(routes!(routes::files::convert))
        .routes(routes!(routes::files::adopt))
        .routes(routes!(routes::files::release))
        .routes(routes!(routes::files::forget))
        .routes(routes!(routes::files::verify))
        .routes(routes!(routes::snapshots::list, routes::snapshots::create))
        .routes(routes!(routes::snapshots::remove))
        .routes(routes!(routes::diff::diff))
        .routes(routes!(routes::groups::snapshot))
        .routes(routes!(routes::groups::rollback))
        .routes(routes!(routes::groups::clone))
        .routes(routes!(routes::trash::list, routes::trash::empty))
        .routes(routes!(routes::trash::remove))
        .routes(routes!(routes::trash::restore))
        .routes(routes!(routes::content::import))
        .routes(routes!(routes::content::pause))
        .routes(routes!(routes::content::resume))
        .routes(routes!(routes::content::export))
        .routes(routes!(routes::content::read))
        .routes(routes!(routes::content::write))
        .routes(routes!(routes::jobs::list))
        .routes(routes!(routes::jobs::info, routes::jobs::cancel))
        .routes(routes!(routes::events::stream))
        .routes(routes!(routes::daemon::nbd))
        .routes(routes!(routes::vhost::status))
        .routes(routes!(routes::vhost::on, routes::vhost::off))
        .routes(routes!(routes::daemon::health))
        .routes(routes!(routes::daemon::metrics))
}

/// The API's description, made from its routes.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// What answers requests, once it is told [who](Shared) does what they ask.
pub(crate) fn router() -> Router<Shared> {
    let (router, description) = routes().split_for_parts();
    router
        .route("/openapi.json", get(|| async move { Json(description) }))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn(survive_panics))
}

async fn unknown_path(uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(100).collect();
    ApiError::new(
        ErrorCode::NotFound,
        format!("there is no {path} in this API"),
    )
    .hint("GET /openapi.json lists what there is")
    .into()
}

async fn unknown_method(method: Method, uri: Uri) -> Failure {
    let path: String = uri.path().chars().take(100).collect();
    let error = ApiError::new(ErrorCode::Invalid, format!("{path} knows no {method}"))
        .hint("GET /openapi.json lists what there is");
    Failure::with_status(StatusCode::METHOD_NOT_ALLOWED, error)
}

/// A handler that panics costs its client an error, not the connection.
async fn survive_panics(request: Request, next: Next) -> Response {
    let mut response = pin!(next.run(request));
    std::future::poll_fn(|cx| {
        let polled = catch_unwind(AssertUnwindSafe(|| response.as_mut().poll(cx)));
        polled.unwrap_or_else(|_| {
            let failure = Failure::internal("the daemon met a fault in itself");
            Poll::Ready(failure.into_response())
        })
    })
    .await
}
