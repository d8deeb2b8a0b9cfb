//! Other programs that work for us, and end with us.

#![expect(
    unsafe_code,
    reason = "what a child does before it is another program has no safe interface"
)]

use crate::spawn;
use parking_lot::{Condvar, Mutex};
use rustix::{
    io::Errno,
    process::{
        Pid, PidfdFlags, Signal, getpid, getppid, pidfd_open, pidfd_send_signal,
        set_parent_process_death_signal,
    },
};
use std::{
    io::{self, PipeReader, Read},
    os::{fd::OwnedFd, unix::process::CommandExt},
    process::{self, Command, ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

/// What is kept of a line, bytes.
const LINE_MAX: usize = 1024;

/// A program that was started. Dropped, it is killed.
///
/// # Behavior
/// It dies with our process, however that dies.
pub struct Child {
    handle: OwnedFd,
    end: Arc<End>,
}

#[derive(Default)]
struct End {
    status: Mutex<Option<ExitStatus>>,
    changed: Condvar,
}

impl Child {
    /// Starts `command`, with `input` as its standard input if it gets any. What it prints, and complains of, goes to `line`, line by line: one ends with a line feed or
    /// a carriage return, has no more than 1 KiB, and is not empty.
    ///
    /// # Errors
    /// `NotFound` if there is no such program.
    pub fn start(
        mut command: Command,
        input: Option<OwnedFd>,
        line: impl FnMut(&str) + Send + 'static,
    ) -> io::Result<Self> {
        let (output, ours) = io::pipe()?;
        command
            .stdin(input.map_or_else(Stdio::null, Stdio::from))
            .stdout(ours.try_clone()?)
            .stderr(ours)
            // Who interrupts us from a terminal means us: we end it.
            .process_group(0);
        let parent = getpid();
        // SAFETY: between fork and exec it makes two system calls, and allocates nothing.
        unsafe {
            command.pre_exec(move || {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                match getppid() == Some(parent) {
                    true => Ok(()),
                    false => Err(Errno::SRCH.into()),
                }
            });
        }
        let end = Arc::new(End::default());
        let (started, answer) = std::sync::mpsc::sync_channel(1);
        let shared = Arc::clone(&end);
        // The signal comes when the thread that forked ends, so that one stays as long as the child.
        spawn("child", move || {
            let begun = begin(command);
            let (handle, child) = match begun {
                Ok((handle, child)) => (Ok(handle), Some(child)),
                Err(error) => (Err(error), None),
            };
            if started.send(handle).is_ok()
                && let Some(child) = child
            {
                keep(child, output, line, &shared);
            }
        })?;
        let handle = answer.recv().map_err(io::Error::other)??;
        Ok(Child { handle, end })
    }

    /// How it ended, if it did within `patience`.
    #[must_use]
    pub fn wait(&self, patience: Duration) -> Option<ExitStatus> {
        let mut status = self.end.status.lock();
        if status.is_none() {
            self.end.changed.wait_for(&mut status, patience);
        }
        *status
    }

    /// Ends it at once, if it has not ended.
    pub fn kill(&self) {
        // Who has ended need not be killed.
        let _ = pidfd_send_signal(&self.handle, Signal::KILL);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
        let mut status = self.end.status.lock();
        while status.is_none() {
            self.end.changed.wait(&mut status);
        }
    }
}

fn begin(mut command: Command) -> io::Result<(OwnedFd, process::Child)> {
    let mut child = command.spawn()?;
    match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
        Ok(handle) => Ok((handle, child)),
        Err(error) => {
            child.kill()?;
            child.wait()?;
            Err(error.into())
        }
    }
}

/// Reads what it says to the end, and waits for its own.
fn keep(mut child: process::Child, mut output: PipeReader, line: impl FnMut(&str), end: &End) {
    let mut lines = Lines {
        partial: Vec::new(),
        line,
    };
    let mut buffer = [0; 4096];
    loop {
        match output.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => lines.take(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                tracing::warn!(%error, "what another program says cannot be read");
                break;
            }
        }
    }
    lines.end();
    let status = child.wait();
    let status = status.expect("a child of this process can be waited for");
    *end.status.lock() = Some(status);
    end.changed.notify_all();
}

struct Lines<F> {
    partial: Vec<u8>,
    line: F,
}

impl<F: FnMut(&str)> Lines<F> {
    fn take(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            match byte {
                b'\n' | b'\r' => self.end(),
                _ if self.partial.len() < LINE_MAX => self.partial.push(byte),
                _ => {}
            }
        }
    }

    fn end(&mut self) {
        let text = String::from_utf8_lossy(&self.partial);
        if !text.trim().is_empty() {
            (self.line)(text.trim());
        }
        self.partial.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn shell(script: &str) -> (Child, Arc<Mutex<Vec<String>>>) {
        let said = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&said);
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]);
        let child = Child::start(command, None, move |line| {
            heard.lock().push(line.to_owned())
        });
        (child.unwrap(), said)
    }

    #[test]
    fn what_it_says_and_how_it_ends_is_told() {
        let (child, said) = shell("printf '1%%\\r2%%\\r\\n'; printf ' oh no' >&2; exit 3");
        let status = child.wait(LONG).unwrap();
        assert_eq!(status.code(), Some(3));
        assert_eq!(*said.lock(), ["1%", "2%", "oh no"]);
        assert_eq!(child.wait(Duration::ZERO), Some(status));
    }

    #[test]
    fn dropped_it_is_dead_and_a_missing_one_is_not_found() {
        let (child, said) = shell("echo $$; exec sleep 1000");
        while said.lock().is_empty() {
            std::thread::yield_now();
        }
        let process = format!("/proc/{}", said.lock()[0]);
        assert!(std::path::Path::new(&process).exists());
        drop(child);
        assert!(!std::path::Path::new(&process).exists());
        let missing = Child::start(Command::new("/no/such/program"), None, |_| {});
        assert_eq!(
            missing.err().map(|e| e.kind()),
            Some(io::ErrorKind::NotFound)
        );
    }

    #[test]
    fn long_lines_are_cut() {
        let (child, said) = shell("head -c 100000 /dev/zero | tr '\\0' x");
        assert!(child.wait(LONG).unwrap().success());
        assert_eq!(said.lock()[0].len(), LINE_MAX);
    }
}
