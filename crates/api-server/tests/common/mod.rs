//! A server on a real socket, and a client that speaks plain HTTP to it.
#![allow(dead_code, reason = "each test file uses some of it")]

use api_server::{Events, serve, testing::FakeControl};
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::{path::PathBuf, sync::Arc};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::oneshot,
    task::JoinHandle,
};

pub(crate) struct Server {
    pub(crate) control: Arc<FakeControl>,
    pub(crate) events: Events,
    pub(crate) socket: PathBuf,
    pub(crate) task: JoinHandle<std::io::Result<()>>,
    stop: Option<oneshot::Sender<()>>,
    _dir: tempfile::TempDir,
}

impl Server {
    pub(crate) fn start() -> Server {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let control = Arc::new(FakeControl::new());
        let events = Events::new(Arc::new(env::RealClock::new()));
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(serve(listener, control.clone(), events.clone(), async {
            let _ = stopped.await;
        }));
        Server {
            control,
            events,
            socket,
            task,
            stop: Some(stop),
            _dir: dir,
        }
    }

    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
    }

    pub(crate) async fn connect<B>(&self) -> http1::SendRequest<B>
    where
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let stream = UnixStream::connect(&self.socket).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender
    }

    pub(crate) async fn raw(&self, method: &str, path: &str, body: &str) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        self.connect().await.send_request(request).await.unwrap()
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> (StatusCode, Value) {
        let response = self.raw(method, path, body).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        let value = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes).unwrap()
        };
        (status, value)
    }

    /// Calls, expects `status`, returns the body.
    pub(crate) async fn expect(&self, status: u16, method: &str, path: &str, body: &str) -> Value {
        let (got, value) = self.call(method, path, body).await;
        assert_eq!(got.as_u16(), status, "{method} {path}: {value}");
        if status >= 400 {
            assert!(
                value["error"]["message"].is_string(),
                "{method} {path}: {value}"
            );
            assert!(
                value["error"]["code"].is_string(),
                "{method} {path}: {value}"
            );
        }
        value
    }

    /// Waits for a job's end.
    pub(crate) async fn job_end(&self, id: &Value) -> Value {
        loop {
            let job = self
                .expect(200, "GET", &format!("/v1/jobs/{id}?wait=10"), "")
                .await;
            if job["state"] != "running" {
                return job;
            }
        }
    }
}
