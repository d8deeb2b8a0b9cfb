//! The event stream.

use crate::{
    error::{Errors, Failure},
    events::Events,
    input::Query,
    shared::Shared,
};
use api_types::Event;
use axum::{
    extract::State,
    http::HeaderMap,
    response::sse::{self, KeepAlive, Sse},
};
use serde::Deserialize;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

/// Events between the log and a connection.
const AHEAD: usize = 32;
/// A silent stream shows that it is alive this often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Which events.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct EventParams {
    /// Begin after this event; 0 for the oldest that is kept. Default: after the newest. The header
    /// Last-Event-ID goes before it.
    #[serde(default)]
    since: Option<u64>,
    /// Whether to wait for more. Default: true.
    #[serde(default)]
    follow: Option<bool>,
}

/// What happens, as server-sent events: `id` is the number, `event` the kind, `data` an Event.
/// An event `lost` tells how many were no longer kept.
#[utoipa::path(get, path = "/v1/events", tag = "daemon", operation_id = "events",
    params(EventParams, ("Last-Event-ID" = Option<u64>, Header, description = "Resume after this event")),
    responses((status = 200, description = "A stream of Event", body = Event, content_type = "text/event-stream"), Errors))]
pub(crate) async fn stream(
    State(shared): State<Shared>,
    Query(params): Query<EventParams>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, axum::Error>>>, Failure> {
    let since = match headers.get("last-event-id") {
        Some(id) => {
            let id = id.to_str().ok().and_then(|id| id.parse().ok());
            Some(id.ok_or_else(|| Failure::invalid("Last-Event-ID is not a number"))?)
        }
        None => params.since,
    };
    let since = since.unwrap_or_else(|| *shared.events.newest().borrow());
    let (sender, receiver) = mpsc::channel(AHEAD);
    let listener = Listener {
        events: shared.events.clone(),
        closing: shared.closing.clone(),
        follow: params.follow.unwrap_or(true),
        sender,
    };
    tokio::spawn(listener.run(since));
    let keep_alive = KeepAlive::new().interval(KEEP_ALIVE);
    Ok(Sse::new(ReceiverStream::new(receiver)).keep_alive(keep_alive))
}

struct Listener {
    events: Events,
    closing: CancellationToken,
    follow: bool,
    sender: mpsc::Sender<Result<sse::Event, axum::Error>>,
}

impl Listener {
    async fn run(self, mut since: u64) {
        let mut newest = self.events.newest();
        loop {
            newest.borrow_and_update();
            let batch = self.events.after(since);
            if batch.missed > 0 {
                let lost = sse::Event::default()
                    .event("lost")
                    .data(batch.missed.to_string());
                if self.sender.send(Ok(lost)).await.is_err() {
                    return;
                }
            }
            for event in &batch.events {
                since = event.seq;
                if self.sender.send(to_sse(event)).await.is_err() {
                    return;
                }
            }
            if !self.follow {
                return;
            }
            tokio::select! {
                _ = newest.changed() => {}
                () = self.sender.closed() => return,
                () = self.closing.cancelled() => return,
            }
        }
    }
}

fn to_sse(event: &Event) -> Result<sse::Event, axum::Error> {
    let kind = serde_json::to_value(event.kind).unwrap_or_default();
    sse::Event::default()
        .id(event.seq.to_string())
        .event(kind.as_str().unwrap_or_default())
        .json_data(event)
}
