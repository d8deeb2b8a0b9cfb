//! The store and its upkeep.

use super::{Answer, accepted, to_value};
use crate::{
    error::{Errors, Failure},
    input::Input,
    shared::Shared,
};
use api_types::{
    CheckReport, CheckRequest, CollectRequest, EventKind, Job, JobKind, ScrubStatus, StoreInfo,
    StoreUsage, Verdict,
};
use axum::{Json, extract::State, response::IntoResponse};
use std::sync::Arc;

/// The store, its budgets and its defaults.
#[utoipa::path(get, path = "/v1/store", tag = "store", operation_id = "store_info",
    responses((status = 200, body = StoreInfo), Errors))]
pub(crate) async fn info(State(shared): State<Shared>) -> Answer<StoreInfo> {
    Ok(Json(shared.call(|control| control.store()).await?))
}

/// What the store holds and takes.
#[utoipa::path(get, path = "/v1/store/usage", tag = "store", operation_id = "store_usage",
    responses((status = 200, body = StoreUsage), Errors))]
pub(crate) async fn usage(State(shared): State<Shared>) -> Answer<StoreUsage> {
    Ok(Json(shared.call(|control| control.usage()).await?))
}

/// Collects garbage. The job's result is a CollectReport.
#[utoipa::path(post, path = "/v1/store/collect", tag = "store", operation_id = "store_collect",
    request_body = CollectRequest, responses((status = 202, body = Job), Errors))]
pub(crate) async fn collect(
    State(shared): State<Shared>,
    Input(request): Input<CollectRequest>,
) -> Result<impl IntoResponse, Failure> {
    let control = Arc::clone(&shared.control);
    let entry = shared.jobs.begin(JobKind::Collect, "store", move |work| {
        to_value(&control.collect(&request, work)?)
    })?;
    Ok(accepted(&entry))
}

/// Verifies the store, and repairs what can be repaired if asked to. The job's result is a CheckReport.
#[utoipa::path(post, path = "/v1/store/check", tag = "store", operation_id = "store_check",
    request_body = CheckRequest, responses((status = 202, body = Job), Errors))]
pub(crate) async fn check(
    State(shared): State<Shared>,
    Input(request): Input<CheckRequest>,
) -> Result<impl IntoResponse, Failure> {
    let control = Arc::clone(&shared.control);
    let events = shared.events.clone();
    let entry = shared.jobs.begin(JobKind::Check, "store", move |work| {
        let report = control.check(&request, work)?;
        if report.verdict == Verdict::Damaged {
            events.publish(EventKind::Damage, "store", damage(&report));
        }
        to_value(&report)
    })?;
    Ok(accepted(&entry))
}

/// How scrubbing stands.
#[utoipa::path(get, path = "/v1/store/scrub", tag = "store", operation_id = "scrub_status",
    responses((status = 200, body = ScrubStatus), Errors))]
pub(crate) async fn scrub_status(State(shared): State<Shared>) -> Answer<ScrubStatus> {
    Ok(Json(
        shared.call(|control| Ok(control.scrub_status())).await?,
    ))
}

/// Begins a round of scrubbing, or goes on with one that was stopped. The job ends with the round; its result is a
/// ScrubStatus.
#[utoipa::path(post, path = "/v1/store/scrub", tag = "store", operation_id = "scrub_start",
    responses((status = 202, body = Job), Errors))]
pub(crate) async fn scrub_start(
    State(shared): State<Shared>,
) -> Result<impl IntoResponse, Failure> {
    let control = Arc::clone(&shared.control);
    let entry = shared.jobs.begin(JobKind::Scrub, "store", move |work| {
        to_value(&control.scrub(work)?)
    })?;
    Ok(accepted(&entry))
}

/// Stops the round that is under way; the next goes on from there.
#[utoipa::path(delete, path = "/v1/store/scrub", tag = "store", operation_id = "scrub_stop",
    responses((status = 200, body = ScrubStatus), Errors))]
pub(crate) async fn scrub_stop(State(shared): State<Shared>) -> Answer<ScrubStatus> {
    Ok(Json(shared.call(|control| Ok(control.stop_scrub())).await?))
}

fn damage(report: &CheckReport) -> String {
    let (packs, hit) = (report.damaged_packs.len(), report.lost.len());
    format!("a check found {packs} damaged packs, which hit {hit} volumes and snapshots")
}
