//! QEMU's monitor.

use crate::stopwatch::Stopwatch;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);

/// A connection to it.
pub struct Qmp {
    reader: BufReader<UnixStream>,
    events: Vec<String>,
}

impl Qmp {
    /// Connects to the monitor that listens at `socket`.
    ///
    /// # Errors
    /// Nobody does, or it is none.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("connecting to QEMU's monitor")?;
        stream.set_read_timeout(Some(LIMIT))?;
        let mut qmp = Qmp {
            reader: BufReader::new(stream),
            events: Vec::new(),
        };
        qmp.receive()?;
        qmp.execute("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    /// Has a command executed.
    ///
    /// # Errors
    /// It fails: what QEMU says is in the error.
    pub fn execute(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.reader
            .get_mut()
            .write_all(request.to_string().as_bytes())?;
        loop {
            let answer = self.receive()?;
            if let Some(error) = answer.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
            if answer.get("return").is_some() {
                return Ok(());
            }
        }
    }

    /// Waits until something has happened, or had since this was connected.
    ///
    /// # Errors
    /// It does not.
    pub fn wait_for(&mut self, event: &str, limit: Duration) -> Result<()> {
        let watch = Stopwatch::start();
        while !self.events.iter().any(|past| past == event) {
            let left = watch.left(limit).max(Duration::from_millis(1));
            self.reader.get_ref().set_read_timeout(Some(left))?;
            self.receive()
                .with_context(|| format!("waiting for QEMU's {event}"))?;
        }
        Ok(())
    }

    fn receive(&mut self) -> Result<Value> {
        let mut line = String::new();
        let len = self.reader.read_line(&mut line);
        if len.context("QEMU's monitor does not answer")? == 0 {
            bail!("QEMU's monitor hung up");
        }
        let message: Value = serde_json::from_str(&line)?;
        if let Some(event) = message["event"].as_str() {
            self.events.push(event.to_owned());
        }
        Ok(message)
    }
}
