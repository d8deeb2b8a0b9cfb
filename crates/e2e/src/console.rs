//! The serial console of a guest: waiting for text, running commands.

use crate::stopwatch::Stopwatch;
use anyhow::{Context, Result, bail, ensure};
use std::{
    io::{Read, Write},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::Duration,
};

/// Both directions of a console whose other end is `recipe::SHELL`.
pub struct Console {
    input: Box<dyn Write + Send>,
    output: Receiver<Vec<u8>>,
    /// What has come and has not been asked for.
    pending: String,
    /// All that has come.
    transcript: String,
    commands: u32,
}

/// What a command left behind.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its exit status.
    pub status: i32,
    /// What it printed, trimmed.
    pub text: String,
}

impl Console {
    /// Talks through `input` and `output`.
    ///
    /// # Errors
    /// The reading thread cannot be started.
    pub fn new(
        input: impl Write + Send + 'static,
        mut output: impl Read + Send + 'static,
    ) -> Result<Self> {
        let (send, receive) = channel();
        env::spawn("console", move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = output.read(&mut buffer) {
                if send.send(buffer[..length].to_vec()).is_err() {
                    break;
                }
            }
        })
        .context("starting the console's thread")?;
        Ok(Console {
            input: Box::new(input),
            output: receive,
            pending: String::new(),
            transcript: String::new(),
            commands: 0,
        })
    }

    /// Waits until `needle` and the end of its line have come; gives what came before it, and the
    /// rest of the line.
    ///
    /// # Errors
    /// It does not come within `limit`, or the other end is gone; the console's last lines are in
    /// the error.
    pub fn expect(&mut self, needle: &str, limit: Duration) -> Result<(String, String)> {
        let watch = Stopwatch::start();
        loop {
            if let Some(found) = take_line(&mut self.pending, needle) {
                return Ok(found);
            }
            match self.output.recv_timeout(watch.left(limit)) {
                Ok(bytes) => self.take(&bytes),
                Err(error) => {
                    let why = match error {
                        RecvTimeoutError::Timeout => format!("did not come within {limit:?}"),
                        RecvTimeoutError::Disconnected => "will not come: it is off".to_owned(),
                    };
                    let last = crate::process::tail(&self.transcript, 15);
                    bail!("waiting for the guest's `{needle}`: {why}. Its console:\n{last}");
                }
            }
        }
    }

    /// Sends a line.
    ///
    /// # Errors
    /// The other end is gone.
    pub fn send(&mut self, line: &str) -> Result<()> {
        ensure!(!line.contains('\n'), "more than one line: {line:?}");
        self.input
            .write_all(format!("{line}\n").as_bytes())
            .and_then(|()| self.input.flush())
            .context("sending to the guest")
    }

    /// Runs one line of shell in the guest.
    ///
    /// # Errors
    /// No answer within `limit`.
    pub fn run(&mut self, command: &str, limit: Duration) -> Result<Answer> {
        self.commands += 1;
        let mark = format!("holdfast-end:{}:", self.commands);
        self.send(command)?;
        self.send(&format!("echo \"{mark}$rc\""))?;
        let (text, status) = self.expect(&mark, limit)?;
        Ok(Answer {
            status: status.trim().parse().context("reading an exit status")?,
            text: text.trim().to_owned(),
        })
    }

    /// Runs one line of shell that must succeed, and gives what it printed.
    ///
    /// # Errors
    /// It fails, or as [`Console::run`].
    pub fn ok(&mut self, command: &str, limit: Duration) -> Result<String> {
        let answer = self.run(command, limit)?;
        ensure!(
            answer.status == 0,
            "in the guest, `{command}` failed with {}: {}",
            answer.status,
            answer.text
        );
        Ok(answer.text)
    }

    /// All that the console has shown so far.
    pub fn transcript(&mut self) -> &str {
        while let Ok(bytes) = self.output.try_recv() {
            self.take(&bytes);
        }
        &self.transcript
    }

    fn take(&mut self, bytes: &[u8]) {
        let text = String::from_utf8_lossy(bytes).replace('\r', "");
        self.pending += &text;
        self.transcript += &text;
    }
}

/// Takes everything up to the line with `needle` out of `pending`, once that line is whole.
fn take_line(pending: &mut String, needle: &str) -> Option<(String, String)> {
    let start = pending.find(needle)?;
    let rest = start + needle.len();
    let end = rest + pending[rest..].find('\n')?;
    let found = (pending[..start].to_owned(), pending[rest..end].to_owned());
    pending.drain(..=end);
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::{Answer, Console, take_line};
    use crate::process::{Process, command};
    use std::{process::Stdio, time::Duration};

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn a_line_is_taken_when_it_is_whole() {
        let mut text = "before\nmark:1".to_owned();
        assert_eq!(take_line(&mut text, "mark:"), None);
        text += "2\nafter";
        let found = take_line(&mut text, "mark:");
        assert_eq!(found, Some(("before\n".to_owned(), "12".to_owned())));
        assert_eq!(text, "after");
    }

    /// The guest's own script, without a guest.
    fn shell() -> (Process, Console) {
        let script = crate::recipe::SHELL.replace("stty -echo -onlcr", "");
        let mut sh = command("sh");
        sh.args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Process::start("sh", &mut sh).unwrap();
        let console = Console::new(process.stdin().unwrap(), process.stdout().unwrap()).unwrap();
        (process, console)
    }

    #[test]
    fn commands_are_run_and_their_status_told() {
        let (_process, mut console) = shell();
        console.expect(crate::recipe::READY, SOON).unwrap();
        assert_eq!(console.ok("echo one; echo two", SOON).unwrap(), "one\ntwo");
        let answer = console.run("echo no; (exit 7)", SOON).unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 7,
                text: "no".to_owned()
            }
        );
        assert!(
            console
                .ok("false", SOON)
                .unwrap_err()
                .to_string()
                .contains("failed with 1")
        );
        assert_eq!(
            console.ok("sleep 60 & echo started", SOON).unwrap(),
            "started"
        );
        assert!(
            console.ok("echo hi; cat", SOON).is_ok(),
            "commands have no input"
        );
    }

    #[test]
    fn silence_and_death_are_told_apart() {
        let (mut process, mut console) = shell();
        let error = console
            .expect("never", Duration::from_millis(200))
            .unwrap_err();
        assert!(error.to_string().contains("did not come"));
        process.kill();
        let error = console.expect("never", SOON).unwrap_err();
        assert!(error.to_string().contains("it is off"));
    }
}
