//! Long work: begun, watched, cancelled.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

mod common;

use common::Server;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, body::Bytes};
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn a_job_is_begun_watched_and_yields_its_report() {
    let s = Server::start();
    s.control.hold();
    let response = s
        .raw("POST", "/v1/store/collect", r#"{"dry_run":true}"#)
        .await;
    assert_eq!(response.status(), 202);
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(location, "/v1/jobs/1");
    let job = loop {
        let job = s.expect(200, "GET", "/v1/jobs/1?wait=5", "").await;
        if job["total"] == 2 {
            break job;
        }
    };
    assert_eq!(
        (&job["state"], &job["done"]),
        (&"running".into(), &1.into())
    );
    s.control.release();
    let job = s.job_end(&1.into()).await;
    assert_eq!(job["state"], "done");
    assert_eq!(job["result"]["plan"][0], "drop pack 1");
    assert_eq!(s.expect(200, "GET", "/v1/jobs", "").await[0]["id"], 1);
    s.expect(409, "DELETE", "/v1/jobs/1", "").await;
}

#[tokio::test]
async fn a_job_is_cancelled() {
    let s = Server::start();
    s.control.hold();
    s.expect(202, "POST", "/v1/store/check", "").await;
    s.expect(202, "DELETE", "/v1/jobs/1", "").await;
    let job = s.job_end(&1.into()).await;
    assert_eq!(job["state"], "cancelled");
    assert_eq!(job["error"]["code"], "cancelled");
}

#[tokio::test]
async fn too_many_jobs_are_turned_away() {
    let s = Server::start();
    s.control.hold();
    for _ in 0..8 {
        s.expect(202, "POST", "/v1/store/check", "").await;
    }
    let error = s.expect(503, "POST", "/v1/store/check", "").await;
    assert!(error["error"]["hint"].as_str().unwrap().contains("job ls"));
    s.control.release();
}

#[tokio::test]
async fn damage_is_an_event() {
    let s = Server::start();
    s.control.damage();
    s.expect(202, "POST", "/v1/store/check", "").await;
    assert_eq!(s.job_end(&1.into()).await["result"]["verdict"], "damaged");
    let response = s.raw("GET", "/v1/events?since=0&follow=false", "").await;
    let text = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("event: damage"), "{text}");
}

#[tokio::test]
async fn files_are_imported_and_exported() {
    let s = Server::start();
    let dir = tempfile::tempdir().unwrap();
    let (from, to) = (dir.path().join("from"), dir.path().join("to"));
    std::fs::write(&from, vec![7; 1 << 20]).unwrap();
    let body = format!(r#"{{"name":"a","path":"{}"}}"#, from.display());
    let job = s.expect(202, "POST", "/v1/import", &body).await;
    let job = s.job_end(&job["id"]).await;
    assert_eq!(job["result"]["name"], "a");
    let body = format!(r#"{{"source":"a","path":"{}"}}"#, to.display());
    let job = s.expect(202, "POST", "/v1/export", &body).await;
    assert_eq!(s.job_end(&job["id"]).await["state"], "done");
    assert_eq!(std::fs::read(&to).unwrap(), vec![7; 1 << 20]);
    let job = s.expect(202, "POST", "/v1/export", &body).await;
    assert_eq!(s.job_end(&job["id"]).await["error"]["code"], "refused");
}

#[tokio::test]
async fn the_end_comes_soon_whatever_clients_do() {
    let mut s = Server::start();
    s.control.hold();
    s.expect(202, "POST", "/v1/store/check", "").await;
    // One client listens for events, one waits for a job, one says nothing at all.
    let events = s.raw("GET", "/v1/events", "").await;
    let idle = s.connect::<Empty<Bytes>>().await;
    let mut waiting = s.connect::<Empty<Bytes>>().await;
    let request = Request::get("/v1/jobs/1?wait=60")
        .body(Empty::new())
        .unwrap();
    let waiting = tokio::spawn(async move { waiting.send_request(request).await });
    tokio::task::yield_now().await;
    s.stop();
    let ended = timeout(Duration::from_secs(30), &mut s.task).await;
    ended.expect("the server must end").unwrap().unwrap();
    drop((events, idle, waiting));
    assert!(tokio::net::UnixStream::connect(&s.socket).await.is_err());
}
