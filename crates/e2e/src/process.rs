//! Child processes that never outlive their owner.
//!
//! Each is the leader of a process group of its own, and asks the kernel (`setpriv --pdeathsig`)
//! to be killed when the thread that started it ends, so not even SIGKILL leaves one behind.

use crate::{cleanup, stopwatch::poll};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::{
    ffi::OsStr,
    io::Read,
    os::unix::process::CommandExt,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
    time::Duration,
};

/// A command to run `program` that ends with the thread that starts it.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .stdin(Stdio::null())
        .process_group(0);
    command
}

/// As [`command`], in a session of its own: the kernel shares the processors equally between sessions, as a host does
/// between its machines, however many threads each has.
pub fn session(program: impl AsRef<OsStr>) -> Command {
    // Not the leader of a group yet, so that it becomes one, and of a session, without a process between.
    let mut command = Command::new("setsid");
    command
        .args(["setpriv", "--pdeathsig", "KILL", "--"])
        .arg(program)
        .stdin(Stdio::null());
    command
}

/// A running program.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts what [`command`] made; `name` is for messages.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(name: &str, command: &mut Command) -> Result<Self> {
        cleanup::hold_if_interrupted();
        let child = command
            .spawn()
            .with_context(|| format!("starting {name}"))?;
        let process = Process {
            child,
            name: name.to_owned(),
        };
        cleanup::add_group(process.pid());
        Ok(process)
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Takes the end of the pipe to its standard input.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// Takes the end of the pipe from its standard output.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.child.stdout.take()
    }

    /// Takes the end of the pipe from its standard error.
    pub fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The system cannot tell.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child
            .try_wait()
            .with_context(|| format!("waiting for {}", self.name))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It has not ended within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let mut status = None;
        poll(limit, || {
            status = self.ended()?;
            anyhow::Ok(status.is_some())
        })?;
        status.with_context(|| format!("{} has not ended after {limit:?}", self.name))
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        // It fails if the process has ended, and then there is nobody to tell.
        let _ = kill_process(self.pid(), signal);
    }

    /// Kills it and its group with SIGKILL and waits until it is gone.
    pub fn kill(&mut self) {
        if !matches!(self.child.try_wait(), Ok(Some(_))) {
            let _ = kill_process_group(self.pid(), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        cleanup::drop_group(self.pid());
    }
}

/// Processes of `program`, anybody's, that have `word` in their command lines. Those that have ended and were not waited for have none.
///
/// # Errors
/// The system does not tell of processes.
pub fn find(program: &str, word: &str) -> Result<Vec<Pid>> {
    let mut found = Vec::new();
    for process in std::fs::read_dir("/proc")? {
        let process = process?.path();
        // It may have ended since; and not all that is there is a process.
        let Ok(line) = std::fs::read(process.join("cmdline")) else {
            continue;
        };
        let line = String::from_utf8_lossy(&line);
        let name = process.file_name().and_then(OsStr::to_str);
        let pid = name.and_then(|name| name.parse().ok());
        if let Some(pid) = pid.and_then(Pid::from_raw)
            && line.starts_with(program)
            && line.contains(word)
        {
            found.push(pid);
        }
    }
    Ok(found)
}

/// What a program left behind.
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs what [`command`] made to its end, whatever that is.
///
/// # Errors
/// It cannot be started, or takes longer than `limit` (and is killed).
pub fn finish(name: &str, command: &mut Command, limit: Duration) -> Result<Finished> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process::start(name, command)?;
    let stdout = drain(process.stdout())?;
    let stderr = drain(process.stderr())?;
    let status = process.wait(limit)?;
    let text = |thread: std::thread::JoinHandle<Vec<u8>>| {
        String::from_utf8_lossy(&thread.join().unwrap_or_default()).into_owned()
    };
    Ok(Finished {
        status,
        stdout: text(stdout),
        stderr: text(stderr),
    })
}

/// Runs what [`command`] made and gives its standard output.
///
/// # Errors
/// As [`finish`], and when it fails; the end of what it printed is in the error.
pub fn run(name: &str, command: &mut Command, limit: Duration) -> Result<String> {
    let done = finish(name, command, limit)?;
    if !done.status.success() {
        let all = format!("{}\n{}", done.stdout.trim_end(), done.stderr.trim_end());
        bail!("{name} failed ({}):\n{}", done.status, tail(all.trim(), 15));
    }
    Ok(done.stdout)
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> Result<std::thread::JoinHandle<Vec<u8>>> {
    env::spawn("drain", move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth having.
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
    .context("starting a thread")
}

/// The last `lines` lines of `text`.
#[must_use]
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::{Process, command, finish, run, tail};
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn output_is_collected_and_failure_is_told() {
        assert_eq!(
            run("echo", command("echo").arg("hi"), SOON).unwrap(),
            "hi\n"
        );
        let error = run(
            "sh",
            command("sh").args(["-c", "echo why >&2; exit 3"]),
            SOON,
        );
        let text = error.unwrap_err().to_string();
        assert!(text.contains("why") && text.contains('3'), "{text}");
    }

    #[test]
    fn what_takes_too_long_is_killed() {
        let error = finish(
            "sleep",
            command("sleep").arg("60"),
            Duration::from_millis(50),
        );
        assert!(error.err().unwrap().to_string().contains("not ended"));
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let process = Process::start("sleep", command("sleep").arg("60")).unwrap();
        let pid = process.pid();
        drop(process);
        assert!(rustix::process::test_kill_process(pid).is_err());
    }

    #[test]
    fn tail_takes_the_last_lines() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
    }
}
