//! Bytes through the connection, both ways, with bounded memory.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should end")]

mod common;

use common::Server;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    Request,
    body::{Bytes, Frame},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio_stream::StreamExt as _;

type Pieces = StreamBody<
    std::pin::Pin<
        Box<dyn tokio_stream::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send>,
    >,
>;

fn put(path: &str, body: Pieces) -> Request<Pieces> {
    Request::put(path).body(body).unwrap()
}

/// `count` pieces of a mebibyte; counts those that were taken.
fn pieces(count: usize, taken: Arc<AtomicUsize>) -> Pieces {
    let piece = Bytes::from(vec![5; 1 << 20]);
    let stream = tokio_stream::iter(0..count).map(move |_| {
        taken.fetch_add(1, Ordering::Relaxed);
        Ok(Frame::data(piece.clone()))
    });
    StreamBody::new(Box::pin(stream))
}

#[tokio::test]
async fn bytes_come_back_as_they_went() {
    let s = Server::start();
    let data: Vec<u8> = (0..3_000_000u32)
        .flat_map(|i| (i as u16).to_le_bytes())
        .collect();
    let request = Request::put("/v1/content/a?size=8388608&codec=zstd")
        .body(Full::new(Bytes::from(data.clone())))
        .unwrap();
    let response = s.connect().await.send_request(request).await.unwrap();
    assert_eq!(response.status(), 201);
    assert_eq!(s.control.data("a").unwrap(), data);

    let response = s.raw("GET", "/v1/content/a", "").await;
    assert_eq!(response.headers()["content-length"], "8388608");
    let back = response.into_body().collect().await.unwrap().to_bytes();
    assert!(back[..data.len()] == data[..] && back[data.len()..].iter().all(|&b| b == 0));
    assert_eq!(back.len(), 8 << 20);

    let jobs = s.expect(200, "GET", "/v1/jobs", "").await;
    assert_eq!(
        (&jobs[0]["kind"], &jobs[1]["kind"]),
        (&"import".into(), &"export".into())
    );
    let head = s.raw("HEAD", "/v1/content/a", "").await;
    assert_eq!(head.headers()["content-length"], "8388608");
    s.expect(404, "GET", "/v1/content/nope", "").await;
    s.expect(400, "PUT", "/v1/content/b?codec=gzip", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_import_holds_its_sender_back() {
    let s = Server::start();
    s.control.hold();
    let taken = Arc::new(AtomicUsize::new(0));
    let body = pieces(256, taken.clone());
    let mut sender = s.connect().await;
    let answer =
        tokio::spawn(async move { sender.send_request(put("/v1/content/sink", body)).await });
    // Until nothing moves any more.
    let mut before = usize::MAX;
    while before != taken.load(Ordering::Relaxed) || before == 0 {
        before = taken.load(Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(before < 64, "{before} MiB are on the way");
    s.control.release();
    assert_eq!(answer.await.unwrap().unwrap().status(), 201);
    assert_eq!(taken.load(Ordering::Relaxed), 256);
    assert_eq!(
        s.expect(200, "GET", "/v1/volumes/sink", "").await["size"],
        256 << 20
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_waits_for_its_reader_and_can_be_cancelled() {
    let s = Server::start();
    s.expect(
        201,
        "POST",
        "/v1/volumes",
        r#"{"name":"big","size":1099511627776}"#,
    )
    .await;
    let mut response = s.raw("GET", "/v1/content/big", "").await;
    assert!(response.body_mut().frame().await.is_some());
    let mut before = u64::MAX;
    loop {
        let job = s.expect(200, "GET", "/v1/jobs/1", "").await;
        let done = job["done"].as_u64().unwrap();
        if done == before {
            break;
        }
        before = done;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(before < 64 << 20, "{before} bytes are on the way");
    s.expect(202, "DELETE", "/v1/jobs/1", "").await;
    assert_eq!(s.job_end(&1.into()).await["state"], "cancelled");
    // The body is shorter than announced: that must not look like success.
    assert!(response.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_client_that_goes_away_ends_its_job() {
    let s = Server::start();
    s.expect(
        201,
        "POST",
        "/v1/volumes",
        r#"{"name":"big","size":1099511627776}"#,
    )
    .await;
    drop(s.raw("GET", "/v1/content/big", "").await);
    assert_eq!(s.job_end(&1.into()).await["state"], "failed");

    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body: Pieces = StreamBody::new(Box::pin(stream));
    let mut client = s.connect().await;
    sender
        .send(Ok(Frame::data(Bytes::from_static(b"half"))))
        .await
        .unwrap();
    let answer = tokio::spawn(async move { client.send_request(put("/v1/content/a", body)).await });
    sender
        .send(Err(std::io::Error::other("the client died")))
        .await
        .unwrap();
    assert!(answer.await.unwrap().is_err());
    assert_eq!(s.job_end(&2.into()).await["state"], "failed");
    s.expect(404, "GET", "/v1/volumes/a", "").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_waiting_import_can_be_cancelled() {
    let s = Server::start();
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let body: Pieces = StreamBody::new(Box::pin(stream));
    let mut client = s.connect().await;
    let answer = tokio::spawn(async move { client.send_request(put("/v1/content/a", body)).await });
    while s
        .expect(200, "GET", "/v1/jobs", "")
        .await
        .as_array()
        .unwrap()
        .is_empty()
    {}
    s.expect(202, "DELETE", "/v1/jobs/1", "").await;
    assert_eq!(answer.await.unwrap().unwrap().status(), 409);
    assert_eq!(s.job_end(&1.into()).await["state"], "cancelled");
    drop(sender);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_is_refused_early_sees_why() {
    let s = Server::start();
    s.expect(201, "POST", "/v1/volumes", r#"{"name":"a","size":1048576}"#)
        .await;
    let taken = Arc::new(AtomicUsize::new(0));
    let mut sender = s.connect().await;
    let response = sender
        .send_request(put("/v1/content/a", pieces(64, taken)))
        .await
        .unwrap();
    assert_eq!(response.status(), 409);
}
