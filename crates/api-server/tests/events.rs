//! The event stream: told at once, resumed where it was.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

mod common;

use api_types::EventKind;
use common::Server;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request,
    body::{Bytes, Incoming},
};

/// Reads until `needle` has come.
async fn read_until(body: &mut Incoming, needle: &str) -> String {
    let mut text = String::new();
    while !text.contains(needle) {
        let frame = body.frame().await.expect("the stream goes on").unwrap();
        if let Ok(data) = frame.into_data() {
            text.push_str(&String::from_utf8_lossy(&data));
        }
    }
    text
}

#[tokio::test]
async fn what_happens_is_told() {
    let s = Server::start();
    let mut body = s.raw("GET", "/v1/events", "").await.into_body();
    s.expect(201, "POST", "/v1/volumes", r#"{"name":"a","size":1048576}"#)
        .await;
    s.expect(201, "POST", "/v1/volumes/a/snapshots", r#"{"name":"s"}"#)
        .await;
    s.expect(409, "POST", "/v1/volumes/a/snapshots", r#"{"name":"s"}"#)
        .await;
    s.expect(200, "DELETE", "/v1/volumes/a", "").await;
    let text = read_until(&mut body, "volume_removed").await;
    assert!(
        text.contains("id: 1\n") && text.contains("event: volume_created"),
        "{text}"
    );
    assert_eq!(text.matches("event: snapshot_created").count(), 1, "{text}");
    assert!(text.contains(r#""subject":"a@s""#), "{text}");
}

#[tokio::test]
async fn a_listener_resumes_where_it_was() {
    let s = Server::start();
    for i in 1..=5 {
        s.events.publish(EventKind::Space, format!("s{i}"), "");
    }
    let request = Request::get("/v1/events?follow=false")
        .header("last-event-id", "3")
        .body(Full::<Bytes>::default())
        .unwrap();
    let response = s.connect().await.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(
        !text.contains("s3") && text.contains("s4") && text.contains("s5"),
        "{text}"
    );
}

#[tokio::test]
async fn a_listener_that_was_away_too_long_is_told() {
    let s = Server::start();
    for _ in 0..1030 {
        s.events.publish(EventKind::Space, "x", "");
    }
    let response = s.raw("GET", "/v1/events?since=0&follow=false", "").await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(
        text.starts_with("event: lost\ndata: 6\n"),
        "{}",
        &text[..60]
    );
    assert!(text.contains("id: 1030\n"));
}
