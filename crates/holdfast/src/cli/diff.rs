//! `holdfast diff`: lines are shown as they arrive.

use super::{client::Client, failure::Failure, output::Output};
use api_types::{DiffExtent, DiffLine};
use http_body_util::{BodyExt, Empty};
use hyper::{Method, body::Incoming};
use std::io::{self, BufWriter, ErrorKind, StdoutLock, Write};
use types::{VolumeRef, size::format_size};

/// Shows what differs.
pub(crate) async fn run(
    client: &Client,
    output: Output,
    from: &VolumeRef,
    to: &VolumeRef,
    summary: bool,
) -> Result<(), Failure> {
    let empty = Empty::new().map_err(|never| match never {}).boxed();
    let path = format!("/v1/diff?from={from}&to={to}");
    let response = client.send(Method::GET, &path, None, empty).await?;
    let mut lines = Lines {
        body: response.into_body(),
        buffer: Vec::new(),
        at: 0,
    };
    let mut printer = Printer {
        out: BufWriter::new(io::stdout().lock()),
        json: output.json,
        extents: !summary,
        quiet: output.quiet,
        shown: 0,
    };
    loop {
        let line = lines.next().await?;
        let end = matches!(line, DiffLine::End { .. });
        match printer.print(&line).and_then(|()| match end {
            true => printer.out.flush(),
            false => Ok(()),
        }) {
            // Who does not want to read on ends us quietly.
            Err(e) if e.kind() == ErrorKind::BrokenPipe => return Ok(()),
            printed => printed?,
        }
        if end {
            return Ok(());
        }
    }
}

/// The lines of a response.
struct Lines {
    body: Incoming,
    buffer: Vec<u8>,
    /// What of the buffer was taken.
    at: usize,
}

impl Lines {
    async fn next(&mut self) -> Result<DiffLine, Failure> {
        let mut looked = self.at;
        loop {
            let found = self.buffer[looked..].iter().position(|&byte| byte == b'\n');
            if let Some(len) = found {
                let line = &self.buffer[self.at..looked + len];
                let line = serde_json::from_slice(line);
                self.at = looked + len + 1;
                return line.map_err(|e| {
                    Failure::internal(format!("the daemon's answer makes no sense: {e}"))
                });
            }
            self.buffer.drain(..self.at);
            (self.at, looked) = (0, self.buffer.len());
            let broken = |why: String| Failure::internal(format!("the list broke off: {why}"));
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.into_data().unwrap_or_default();
                    self.buffer.extend_from_slice(&data);
                }
                Some(Err(e)) => return Err(broken(e.to_string())),
                None => return Err(broken("it has no end".to_owned())),
            }
        }
    }
}

struct Printer<'a> {
    out: BufWriter<StdoutLock<'a>>,
    json: bool,
    /// Whether extents are shown.
    extents: bool,
    quiet: bool,
    /// Extents so far.
    shown: u64,
}

impl Printer<'_> {
    fn print(&mut self, line: &DiffLine) -> io::Result<()> {
        match (line, self.json) {
            (DiffLine::Extent(_), _) if !self.extents => Ok(()),
            (line, true) => self.print_json(line),
            (line, false) => self.print_text(line),
        }
    }

    /// One document, whatever its length.
    fn print_json(&mut self, line: &DiffLine) -> io::Result<()> {
        let out = &mut self.out;
        match line {
            DiffLine::Begin {
                from,
                to,
                from_size,
                to_size,
                block_size,
            } => {
                write!(
                    out,
                    "{{\n  \"from\": \"{from}\",\n  \"to\": \"{to}\",\n  \"from_size\": {from_size},\n  \
                     \"to_size\": {to_size},\n  \"block_size\": {block_size},"
                )?;
                match self.extents {
                    true => write!(out, "\n  \"extents\": ["),
                    false => Ok(()),
                }
            }
            DiffLine::Extent(extent) => {
                let comma = if self.shown > 0 { "," } else { "" };
                self.shown += 1;
                write!(out, "{comma}\n    ")?;
                Ok(serde_json::to_writer(out, extent)?)
            }
            DiffLine::End {
                extents,
                data_bytes,
                zero_bytes,
            } => {
                if self.extents {
                    write!(out, "\n  ],")?;
                }
                writeln!(
                    out,
                    "\n  \"count\": {extents},\n  \"data_bytes\": {data_bytes},\n  \"zero_bytes\": {zero_bytes}\n}}"
                )
            }
        }
    }

    fn print_text(&mut self, line: &DiffLine) -> io::Result<()> {
        let out = &mut self.out;
        match line {
            DiffLine::Begin { .. } if !self.extents || self.quiet => Ok(()),
            DiffLine::Begin { .. } => writeln!(out, "{:>18} {:>14}  TYPE", "OFFSET", "LENGTH"),
            DiffLine::Extent(DiffExtent {
                offset,
                length,
                data,
            }) => {
                let kind = if *data { "data" } else { "zero" };
                writeln!(out, "{offset:>18} {length:>14}  {kind}")
            }
            DiffLine::End { .. } if self.extents => Ok(()),
            DiffLine::End {
                extents,
                data_bytes,
                zero_bytes,
            } => writeln!(
                out,
                "{extents} extents: {} of data, {} of zeroes",
                format_size(*data_bytes),
                format_size(*zero_bytes)
            ),
        }
    }
}
