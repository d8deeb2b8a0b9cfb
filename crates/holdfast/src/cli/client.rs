//! The API's client: HTTP over the daemon's unix socket.

use super::failure::Failure;
use api_types::{ErrorBody, Job};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use std::{io, path::PathBuf};
use tokio::net::UnixStream;

/// A body that is sent.
pub(crate) type Body = BoxBody<Bytes, io::Error>;

/// Talks to one daemon; a connection for each request.
#[derive(Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Client { socket }
    }

    /// Sends a request and answers the response, if it is a success.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket)
            .await
            .map_err(|e| Failure::unreachable(&self.socket, &e))?;
        let broken = |e: hyper::Error| Failure::unreachable(&self.socket, &e);
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(broken)?;
        tokio::spawn(connection);
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "holdfast");
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type);
        }
        let request = request
            .body(body)
            .map_err(|e| Failure::internal(e.to_string()))?;
        let response = sender.send_request(request).await.map_err(broken)?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response
            .into_body()
            .collect()
            .await
            .map_err(broken)?
            .to_bytes();
        Err(error_of(status, &bytes))
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, Failure> {
        let content_type = body.is_some().then_some("application/json");
        let body = Full::new(Bytes::from(body.unwrap_or_default()));
        let body = body.map_err(|never| match never {}).boxed();
        let response = self.send(method, path, content_type, body).await?;
        let bytes = response.into_body().collect().await;
        let bytes = bytes
            .map_err(|e| Failure::unreachable(&self.socket, &e))?
            .to_bytes();
        let bytes = if bytes.is_empty() {
            Bytes::from_static(b"null")
        } else {
            bytes
        };
        serde_json::from_slice(&bytes)
            .map_err(|e| Failure::internal(format!("the daemon's answer makes no sense: {e}")))
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(Method::GET, path, None).await
    }

    pub(crate) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.json(Method::DELETE, path, None).await
    }

    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.json(Method::POST, path, Some(encode(body)?)).await
    }

    pub(crate) async fn put<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.json(Method::PUT, path, Some(encode(body)?)).await
    }

    pub(crate) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T, Failure> {
        self.json(Method::PATCH, path, Some(encode(body)?)).await
    }

    /// A job as it is, or once it changed, if that is within `wait` seconds.
    pub(crate) async fn job(&self, id: u64, wait: u64) -> Result<Job, Failure> {
        self.get(&format!("/v1/jobs/{id}?wait={wait}")).await
    }
}

fn encode(body: &impl Serialize) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(body).map_err(|e| Failure::internal(e.to_string()))
}

fn error_of(status: StatusCode, bytes: &[u8]) -> Failure {
    match serde_json::from_slice::<ErrorBody>(bytes) {
        Ok(body) => body.error.into(),
        Err(_) => Failure::internal(format!("the daemon answered {status}")),
    }
}
