//! Images through pipes.

use super::{
    args::{HowToImport, Properties},
    client::Client,
    failure::Failure,
    jobs,
    output::Output,
};
use api_types::Imported;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::{
    Method,
    body::{Bytes, Frame},
};
use std::{
    fs::File,
    io::{ErrorKind, Read, Write},
    os::fd::AsFd,
};
use tokio::sync::mpsc;
use types::{Name, VolumeRef};

/// What is read or written at once, bytes.
const PIECE: usize = 1 << 20;
/// Pieces that wait for the other side.
const AHEAD: usize = 4;

/// Makes a volume from standard input.
pub(crate) async fn upload(
    client: &Client,
    output: Output,
    name: &Name,
    how: &HowToImport,
    properties: Properties,
) -> Result<Imported, Failure> {
    let mut query: Vec<String> = Vec::new();
    query.extend(how.size.map(|size| format!("size={size}")));
    query.extend(how.format.map(|format| format!("format={format}")));
    query.extend(how.disk.map(|disk| format!("disk={disk}")));
    query.extend(properties.codec.map(|codec| format!("codec={codec}")));
    query.extend(properties.dedup().map(|dedup| format!("dedup={dedup}")));
    let path = format!("/v1/content/{name}?{}", query.join("&"));
    let (sender, receiver) = mpsc::channel(AHEAD);
    let bar = jobs::bar(output, "import");
    let shown = bar.clone();
    // Not joined: it may wait for input that never comes after the daemon refused.
    std::mem::drop(tokio::task::spawn_blocking(move || {
        read_input(&sender, |n| shown.inc(n))
    }));
    let stream = futures_of(receiver);
    let response = client
        .send(
            Method::PUT,
            &path,
            Some("application/octet-stream"),
            BodyExt::boxed(StreamBody::new(stream)),
        )
        .await?;
    bar.finish_and_clear();
    let bytes = response.into_body().collect().await;
    let bytes = bytes
        .map_err(|e| Failure::internal(e.to_string()))?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(|e| Failure::internal(e.to_string()))
}

type Piece = std::io::Result<Frame<Bytes>>;

fn futures_of(receiver: mpsc::Receiver<Piece>) -> tokio_stream::wrappers::ReceiverStream<Piece> {
    tokio_stream::wrappers::ReceiverStream::new(receiver)
}

fn read_input(sender: &mpsc::Sender<Piece>, done: impl Fn(u64)) {
    let mut input = std::io::stdin().lock();
    loop {
        let mut piece = Vec::with_capacity(PIECE);
        let read = input.by_ref().take(PIECE as u64).read_to_end(&mut piece);
        let (len, end) = (piece.len() as u64, piece.is_empty());
        let message = read.map(|_| Frame::data(Bytes::from(piece)));
        if end && message.is_ok() || sender.blocking_send(message).is_err() {
            return;
        }
        done(len);
    }
}

/// Writes a volume or snapshot to standard output.
pub(crate) async fn download(
    client: &Client,
    output: Output,
    source: &VolumeRef,
) -> Result<(), Failure> {
    let empty = Empty::new().map_err(|never| match never {}).boxed();
    let response = client
        .send(Method::GET, &format!("/v1/content/{source}"), None, empty)
        .await?;
    let bar = jobs::bar(output, "export");
    if let Some(len) = hyper::body::Body::size_hint(response.body()).exact() {
        bar.set_length(len);
    }
    let mut body = response.into_body();
    // Around the buffer that standard output has, which looks for line ends.
    let mut out = File::from(std::io::stdout().as_fd().try_clone_to_owned()?);
    while let Some(frame) = body.frame().await {
        let broken = |e: hyper::Error| Failure::internal(format!("the export broke off: {e}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else {
            continue;
        };
        match out.write_all(&data) {
            // Who does not want to read on ends us quietly; the daemon notices.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            written => written?,
        }
        bar.inc(data.len() as u64);
    }
    bar.finish_and_clear();
    Ok(())
}
