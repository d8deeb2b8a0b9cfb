//! Where jobs run: servers that are started when a job first needs them, on disks filled alike.

use super::{
    contender::{Contender, Server, VOLUME},
    fio::{self, DEVICE_GIB, HALF},
    machine,
};
use anyhow::{Context, Result, bail};
use e2e::{cleanup::Scratch, daemon::Daemon, stopwatch::poll};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};

/// The longest that what was written may take to be in its place.
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

/// Everything that jobs share. Dropped, all of it is gone.
pub(crate) struct Bed {
    // Before the directory: processes must be gone when it goes.
    servers: Vec<(Contender, Server)>,
    skipped: Vec<String>,
    /// Rounds of each job.
    pub(crate) rounds: u32,
    /// Seconds of a turn, if somebody says so.
    seconds: Option<u32>,
    scratch: Scratch,
}

impl Bed {
    /// An empty one in a directory of its own in `dir`, for `program`.
    pub(crate) fn new(
        dir: &Path,
        program: PathBuf,
        rounds: u32,
        seconds: Option<u32>,
    ) -> Result<Self> {
        e2e::paths::use_program(program);
        // Sockets lie in it: the name is short.
        let scratch = Scratch::new(dir.join(format!("hf-bench-{}", std::process::id())))?;
        Ok(Bed {
            servers: Vec::new(),
            skipped: Vec::new(),
            rounds,
            seconds,
            scratch,
        })
    }

    /// Seconds of a turn of a job that takes so many, unless somebody says otherwise.
    pub(crate) fn seconds_or(&self, usual: u32) -> u32 {
        self.seconds.unwrap_or(usual)
    }

    /// Who could not be started, and why.
    pub(crate) fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// A directory for a job's own things.
    pub(crate) fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// Ends all servers: for jobs that want the machine for themselves.
    pub(crate) fn clear(&mut self) {
        self.servers.clear();
    }

    /// A daemon of a job's own, on an empty store.
    pub(crate) fn daemon(&self, arguments: &[&str]) -> Result<Daemon> {
        Daemon::in_directory(Scratch::new(self.scratch.path().join("own"))?, arguments)
    }

    /// Starts whoever of `contenders` does not run yet, fills its device, and leaves out who cannot be started. What is
    /// left begins with ours.
    pub(crate) fn ready(&mut self, contenders: &[Contender]) -> Result<Vec<Contender>> {
        let mut ready = vec![Contender::Holdfast];
        self.start(Contender::Holdfast)?;
        for &contender in contenders {
            match self.start(contender) {
                Ok(()) => ready.push(contender),
                Err(error) => {
                    let line = format!("{}: {error:#}", contender.name());
                    if !self.skipped.contains(&line) {
                        println!("   left out: {line}");
                        self.skipped.push(line);
                    }
                }
            }
        }
        if ready.len() == 1 && !contenders.is_empty() {
            bail!("there is nobody to compare with");
        }
        Ok(ready)
    }

    fn start(&mut self, contender: Contender) -> Result<()> {
        if self.servers.iter().any(|(other, _)| *other == contender) {
            return Ok(());
        }
        let scratch = Scratch::new(self.scratch.path().join(format!("{}", self.servers.len())))?;
        let server = match contender {
            Contender::Holdfast => {
                let daemon = Daemon::in_directory(scratch, &[])?;
                daemon.ok(&["volume", "create", VOLUME, &format!("{DEVICE_GIB}G")])?;
                Server::Holdfast(Box::new(daemon))
            }
            // Its files go with the bed.
            _ => Server::Peer(contender.start(&scratch.leave())?),
        };
        fio::whole(
            &server.uri(),
            "write",
            &[&HALF[..], &["--end_fsync=1"]].concat(),
        )
        .with_context(|| format!("filling {}", contender.name()))?;
        self.servers.push((contender, server));
        Ok(())
    }

    /// One that is ready.
    pub(crate) fn server(&self, contender: Contender) -> Result<&Server> {
        let found = self.servers.iter().find(|(other, _)| *other == contender);
        found
            .map(|(_, server)| server)
            .with_context(|| format!("{} does not run", contender.name()))
    }

    /// Writes every device anew from end to end: what random writes have scattered lies in order again.
    pub(crate) fn refill(&mut self, contenders: &[Contender]) -> Result<()> {
        for &contender in contenders {
            fio::whole(
                &self.server(contender)?.uri(),
                "write",
                &[&HALF[..], &["--end_fsync=1"]].concat(),
            )?;
        }
        self.settle()
    }

    /// Waits until nobody has anything left to write: the next turn is not to pay for the last.
    pub(crate) fn settle(&self) -> Result<()> {
        for (_, server) in &self.servers {
            if let Server::Holdfast(daemon) = server {
                drained(daemon)?;
            }
        }
        machine::settle(self.scratch.path())
    }

    /// Drops the page cache, and what our daemon has cached, by starting it anew.
    pub(crate) fn chill(&mut self) -> Result<()> {
        self.settle()?;
        for (_, server) in &mut self.servers {
            if let Server::Holdfast(daemon) = server {
                daemon.stop()?;
                daemon.start()?;
            }
        }
        machine::drop_page_cache(self.scratch.path())
    }
}

/// Waits until `daemon` has everything in packs.
pub(crate) fn drained(daemon: &Daemon) -> Result<()> {
    let done = poll(SETTLE_LIMIT, || {
        anyhow::Ok(metric(daemon, "holdfast_dirty_bytes")? == 0.0)
    })?;
    if !done {
        bail!("what was written is not in packs after {SETTLE_LIMIT:?}");
    }
    Ok(())
}

/// One of the daemon's metrics.
pub(crate) fn metric(daemon: &Daemon, name: &str) -> Result<f64> {
    let body = e2e::api::get(&daemon.socket(), "/metrics")?;
    let line = body
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = line.with_context(|| format!("there is no metric {name}"))?;
    value
        .trim()
        .parse()
        .with_context(|| format!("reading metric {name}"))
}
