//! A daemon on a store of its own.

use crate::{
    cleanup::{Leftover, Scratch},
    paths,
    process::{Finished, Process, command, finish, tail},
    stopwatch::poll,
    tools,
};
use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use std::{
    io::Read,
    os::{
        fd::OwnedFd,
        unix::net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::Duration,
};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const CLI_LIMIT: Duration = Duration::from_secs(300);

/// What systemd says to who gets sockets from it.
const ACTIVATE: &str = "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=api:nbd; \
    exec \"$@\" 3<&0 4<&1 0</dev/null 1>&2";

/// Sockets that outlive the daemon, as systemd's do: clients that connect while it restarts wait.
struct Activated {
    api: UnixListener,
    nbd: UnixListener,
}

/// A store, its sockets, and the daemon that serves it when it runs. Dropped, all are gone.
pub struct Daemon {
    program: PathBuf,
    arguments: Vec<String>,
    /// What the program is started by, if not by itself.
    wrapper: Vec<String>,
    activated: Option<Activated>,
    // Before the directory: the process must be gone when its directory goes.
    process: Option<Process>,
    /// What is written and not yet in packs: it outlives the process, as it should.
    buffer: Option<Leftover>,
    scratch: Scratch,
}

impl Daemon {
    /// A new store in a temporary directory, served.
    ///
    /// # Errors
    /// It does not come up; its log is in the error.
    pub fn new() -> Result<Self> {
        Self::with_arguments(&[])
    }

    /// As [`Daemon::new`], with more arguments for `holdfast serve`.
    ///
    /// # Errors
    /// As [`Daemon::new`].
    pub fn with_arguments(arguments: &[&str]) -> Result<Self> {
        crate::cleanup::on_signals()?;
        Self::in_directory(Scratch::temporary()?, arguments)
    }

    /// A new store in `scratch`, served.
    ///
    /// # Errors
    /// As [`Daemon::new`].
    pub fn in_directory(scratch: Scratch, arguments: &[&str]) -> Result<Self> {
        Self::wrapped(scratch, Vec::new(), arguments)
    }

    /// Ends the daemon in order, and starts it with sockets that outlive it from now on, as under systemd.
    ///
    /// # Errors
    /// It does not end well, or does not come up.
    pub fn activate(&mut self) -> Result<()> {
        self.stop()?;
        self.activated = Some(Activated {
            api: UnixListener::bind(self.socket())?,
            nbd: UnixListener::bind(self.nbd_socket())?,
        });
        self.start()
    }

    /// A new store in `scratch` that has a file system of its own, ext4, of `mib` MiB. It is mounted where only
    /// the daemon sees it and goes with it, however it ends. Needs root.
    ///
    /// # Errors
    /// As [`Daemon::new`], and if file systems cannot be made and mounted here.
    pub fn on_a_disk_of(scratch: Scratch, mib: u32, arguments: &[&str]) -> Result<Self> {
        let disk = scratch.path().join("disk.raw");
        std::fs::File::create(&disk)?.set_len(u64::from(mib) << 20)?;
        let store = scratch.path().join("store");
        std::fs::create_dir(&store)?;
        let mut mke2fs = command(tools::find("mke2fs").context("mke2fs is missing")?);
        mke2fs.args(["-q", "-t", "ext4", "-F"]).arg(&disk);
        crate::process::run("mke2fs", &mut mke2fs, CLI_LIMIT)?;
        // `init` wants an empty directory.
        let script = r#"mount -o loop "$0" "$1" && rm -rf "$1/lost+found" && shift && exec "$@""#;
        let mut wrapper: Vec<String> = ["unshare", "--mount", "sh", "-c", script]
            .map(str::to_owned)
            .into();
        for path in [&disk, &store] {
            wrapper.push(path.to_str().context("a path that is no text")?.to_owned());
        }
        Self::wrapped(scratch, wrapper, arguments)
    }

    fn wrapped(scratch: Scratch, wrapper: Vec<String>, arguments: &[&str]) -> Result<Self> {
        let mut daemon = Daemon {
            program: paths::holdfast()?,
            wrapper,
            arguments: arguments
                .iter()
                .map(|&argument| argument.to_owned())
                .collect(),
            activated: None,
            process: None,
            buffer: None,
            scratch,
        };
        let store = daemon.store();
        let mut init = daemon.command();
        crate::process::run("holdfast init", init.arg("init").arg(store), CLI_LIMIT)?;
        daemon.start()?;
        let info = daemon.json(&["store", "info"])?;
        let id = info["id"].as_str().context("a store without an id")?;
        daemon.buffer = Some(Leftover::new(format!("/dev/shm/holdfast-{id}")));
        Ok(daemon)
    }

    /// Directory of the store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    /// A directory for a test's own files; goes when this goes.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Socket of the REST API.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.scratch.path().join("api.sock")
    }

    /// Socket of the NBD server.
    #[must_use]
    pub fn nbd_socket(&self) -> PathBuf {
        self.scratch.path().join("nbd.sock")
    }

    /// NBD URI of `export`.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        format!(
            "nbd+unix:///{export}?socket={}",
            self.nbd_socket().display()
        )
    }

    /// What the daemon has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.path().join("daemon.log")).unwrap_or_default()
    }

    /// The daemon's process id, if it runs.
    #[must_use]
    pub fn pid(&self) -> Option<i32> {
        self.process
            .as_ref()
            .map(|process| process.pid().as_raw_nonzero().get())
    }

    /// Starts the daemon and waits until it answers.
    ///
    /// # Errors
    /// It does not; its log is in the error.
    pub fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let up = poll(START_LIMIT, || {
            let process = self.process.as_mut().context("no process")?;
            if let Some(status) = process.ended()? {
                self.process = None;
                bail!(
                    "the daemon ended at once ({status}):\n{}",
                    tail(&self.log(), 15)
                );
            }
            Ok(greets(&self.nbd_socket()) && UnixStream::connect(self.socket()).is_ok())
        })?;
        ensure!(up, "the daemon does not answer:\n{}", tail(&self.log(), 15));
        Ok(())
    }

    /// Starts the daemon and does not wait for anything.
    ///
    /// # Errors
    /// It runs, or cannot be started.
    pub fn spawn(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.scratch.path().join("daemon.log"))?;
        let mut serve = self.command();
        serve
            .arg("serve")
            .arg(self.store())
            .arg("--socket")
            .arg(self.socket());
        serve
            .arg("--nbd-socket")
            .arg(self.nbd_socket())
            .args(&self.arguments);
        match &self.activated {
            // They come in as these two, and `sh` puts them where systemd does.
            Some(sockets) => serve
                .stdin(Stdio::from(OwnedFd::from(sockets.api.try_clone()?)))
                .stdout(Stdio::from(OwnedFd::from(sockets.nbd.try_clone()?))),
            None => serve.stdin(Stdio::null()).stdout(log.try_clone()?),
        };
        serve.stderr(log);
        self.process = Some(Process::start("holdfast serve", &mut serve)?);
        Ok(())
    }

    /// The program, where its store is.
    fn command(&self) -> Command {
        if self.activated.is_some() {
            let mut command = command("sh");
            command.args(["-c", ACTIVATE, "sh"]).arg(&self.program);
            return command;
        }
        match self.wrapper.split_first() {
            None => command(&self.program),
            Some((first, rest)) => {
                let mut command = command(first);
                command.args(rest).arg(&self.program);
                command
            }
        }
    }

    /// Kills the daemon with SIGKILL.
    pub fn kill(&mut self) {
        // Dropping it kills it.
        self.process = None;
    }

    /// Takes away what a dead daemon has left in memory, as a power cut does.
    pub fn cut_power(&self) {
        assert!(self.process.is_none(), "the daemon runs");
        if let Some(buffer) = &self.buffer {
            buffer.remove();
        }
    }

    /// Sends the daemon a signal, and does not wait for what it does.
    pub fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            process.signal(signal);
        }
    }

    /// Waits until the daemon, which was sent a signal, has ended.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        let mut process = self.process.take().context("the daemon does not run")?;
        process.wait(STOP_LIMIT)
    }

    /// Kills the daemon and leaves its directory to whoever wants to look at it.
    #[must_use]
    pub fn leave(self) -> PathBuf {
        drop(self.process);
        if let Some(buffer) = self.buffer {
            buffer.leave();
        }
        self.scratch.leave()
    }

    /// Ends the daemon with SIGTERM.
    ///
    /// # Errors
    /// It does not end in time, or not well.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM);
        let status = self.wait()?;
        ensure!(
            status.success(),
            "the daemon ended with {status}:\n{}",
            tail(&self.log(), 15)
        );
        Ok(())
    }

    /// Runs the command line client to its end, whatever that is.
    ///
    /// # Errors
    /// It takes too long.
    pub fn cli(&self, arguments: &[&str]) -> Result<Finished> {
        let mut client = command(&self.program);
        client.args(arguments).env("HOLDFAST_SOCKET", self.socket());
        finish(
            &format!("holdfast {}", arguments.join(" ")),
            &mut client,
            CLI_LIMIT,
        )
    }

    /// Runs the command line client, which must succeed, and gives what it printed.
    ///
    /// # Errors
    /// It fails.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        let done = self.cli(arguments)?;
        ensure!(
            done.status.success(),
            "`holdfast {}` failed ({}): {}",
            arguments.join(" "),
            done.status,
            done.stderr.trim()
        );
        Ok(done.stdout)
    }

    /// As [`Daemon::ok`] with `--json`, whose output is read.
    ///
    /// # Errors
    /// It fails, or prints no JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<serde_json::Value> {
        let text = self.ok(&[arguments, &["--json"]].concat())?;
        serde_json::from_str(&text)
            .with_context(|| format!("reading what `holdfast {}` printed", arguments.join(" ")))
    }
}

/// Whether an NBD server says hello. That somebody listens is not enough: it may be the socket alone.
fn greets(socket: &Path) -> bool {
    let hello = || -> std::io::Result<()> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(Duration::from_millis(200)))?;
        stream.read_exact(&mut [0; 16])
    };
    hello().is_ok()
}
