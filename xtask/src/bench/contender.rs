//! The servers: ours and its peers, how each is started.

use super::fio::DEVICE_GIB;
use anyhow::{Result, bail};
use e2e::{
    daemon::Daemon,
    process::{Process, command},
    stopwatch::poll,
    tools,
};
use std::{os::unix::net::UnixStream, path::Path, process::Stdio, time::Duration};

/// Who serves NBD.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// Ours.
    Holdfast,
    /// nbdkit's null plugin: it stores nothing, so that only the protocol is left.
    NbdkitNull,
    /// nbdkit's file plugin, on a raw file.
    NbdkitFile,
    /// qemu-nbd on a raw file, page cache, thread pool.
    QemuThreads,
    /// qemu-nbd on a raw file, page cache, `io_uring`.
    QemuUring,
    /// qemu-nbd on a raw file, `O_DIRECT`, Linux AIO.
    QemuDirect,
}

/// qemu-nbd on a raw file in all its settings.
pub(crate) const QEMU_RAW: &[Contender] = &[
    Contender::QemuThreads,
    Contender::QemuUring,
    Contender::QemuDirect,
];
/// Everybody who serves a raw file.
pub(crate) const RAW: &[Contender] = &[
    Contender::QemuThreads,
    Contender::QemuUring,
    Contender::QemuDirect,
    Contender::NbdkitFile,
];

impl Contender {
    /// How it is called in results.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Contender::Holdfast => "holdfast",
            Contender::NbdkitNull => "nbdkit null",
            Contender::NbdkitFile => "nbdkit file",
            Contender::QemuThreads => "qemu-nbd raw, threads",
            Contender::QemuUring => "qemu-nbd raw, io_uring",
            Contender::QemuDirect => "qemu-nbd raw, O_DIRECT",
        }
    }

    /// Its program, and the Debian package that has it.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Contender::Holdfast => ("setpriv", "util-linux"),
            Contender::NbdkitNull | Contender::NbdkitFile => ("nbdkit", "nbdkit"),
            _ => ("qemu-nbd", "qemu-utils"),
        }
    }

    /// Starts it in `dir`, which has nothing of it yet.
    ///
    /// # Errors
    /// The program is not here, or does not come up.
    pub(crate) fn start(self, dir: &Path) -> Result<Peer> {
        let (program, package) = self.program();
        if !tools::have(program) {
            bail!("{program} is not installed (apt-get install {package})");
        }
        let socket = dir.join("nbd.sock");
        let disk = dir.join("disk.raw");
        let mut server = command(program);
        match self {
            Contender::NbdkitNull => {
                server
                    .args(["-f", "-U"])
                    .arg(&socket)
                    .args(["null", &format!("{DEVICE_GIB}G")]);
            }
            Contender::NbdkitFile => {
                preallocate(&disk)?;
                server
                    .args(["-f", "-U"])
                    .arg(&socket)
                    .arg("file")
                    .arg(&disk);
            }
            _ => {
                preallocate(&disk)?;
                let (cache, aio) = match self {
                    Contender::QemuUring => ("writeback", "io_uring"),
                    Contender::QemuDirect => ("none", "native"),
                    _ => ("writeback", "threads"),
                };
                server.args(["-f", "raw", "-t", "-e", "8", "--discard=unmap"]);
                server
                    .args([format!("--cache={cache}"), format!("--aio={aio}")])
                    .arg("-k")
                    .arg(&socket)
                    .arg(&disk);
            }
        }
        Peer::start(self.name(), server, dir, &socket)
    }
}

/// A raw file whose blocks are all there.
fn preallocate(path: &Path) -> Result<()> {
    let mut fallocate = command("fallocate");
    fallocate.args(["-l", &format!("{DEVICE_GIB}G")]).arg(path);
    e2e::process::run("fallocate", &mut fallocate, Duration::from_secs(60)).map(drop)
}

/// A server that is not ours, while it runs.
pub(crate) struct Peer {
    process: Process,
    uri: String,
}

impl Peer {
    /// Starts `server` and waits until it listens on `socket`; `dir` takes its log.
    pub(crate) fn start(
        name: &str,
        mut server: std::process::Command,
        dir: &Path,
        socket: &Path,
    ) -> Result<Self> {
        let log = dir.join("log");
        server
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?);
        let mut process = Process::start(name, &mut server)?;
        let up = poll(Duration::from_secs(10), || {
            if let Some(status) = process.ended()? {
                bail!(
                    "{name} ended at once ({status}): {}",
                    std::fs::read_to_string(&log)?.trim()
                );
            }
            Ok(UnixStream::connect(socket).is_ok())
        })?;
        if !up {
            bail!("{name} does not listen");
        }
        Ok(Peer {
            process,
            uri: format!("nbd+unix:///?socket={}", socket.display()),
        })
    }
}

impl Peer {
    /// Where its device is.
    pub(crate) fn uri(&self) -> String {
        self.uri.clone()
    }
}

/// A server, ready to be measured.
pub(crate) enum Server {
    /// Ours; the volume is `bench`.
    Holdfast(Box<Daemon>),
    /// Another.
    Peer(Peer),
}

/// Name of the volume that stands against the peers' raw files.
pub(crate) const VOLUME: &str = "bench";

impl Server {
    /// Where its device is.
    pub(crate) fn uri(&self) -> String {
        match self {
            Server::Holdfast(daemon) => daemon.uri(VOLUME),
            Server::Peer(peer) => peer.uri(),
        }
    }

    /// Its process.
    pub(crate) fn pid(&self) -> i32 {
        match self {
            Server::Holdfast(daemon) => daemon.pid().unwrap_or(0),
            Server::Peer(peer) => peer.process.pid().as_raw_nonzero().get(),
        }
    }
}
