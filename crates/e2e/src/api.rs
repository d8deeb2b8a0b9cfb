//! A request to the REST API without a program around it, so that what is timed is the call.

use anyhow::{Context, Result, ensure};
use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(300);

/// What is at `path`.
///
/// # Errors
/// As [`request`].
pub fn get(socket: &Path, path: &str) -> Result<String> {
    request(socket, "GET", path, "")
}

/// Sends a request with a JSON body, or none, and gives the body of the answer.
///
/// # Errors
/// The daemon cannot be reached, or answers an error.
pub fn request(socket: &Path, method: &str, path: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket).context("connecting to the API")?;
    stream.set_read_timeout(Some(LIMIT))?;
    // Of this version, because it has no chunks: the answer ends with the connection.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .context("reading from the API")?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .context("the API's answer has no end of its head")?;
    let status = head.split(' ').nth(1).unwrap_or_default();
    ensure!(status.starts_with('2'), "{method} {path}: {status} {body}");
    Ok(body.to_owned())
}
