//! The servers: ours and its peers, how each is started.

use super::fio::DEVICE_GIB;
use anyhow::{Context, Result, bail};
use e2e::{
    daemon::Daemon,
    process::{Process, command},
    stopwatch::poll,
    tools,
};
use std::{
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// Who serves NBD, and some of them vhost-user-blk.
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
    /// qemu-storage-daemon on a raw file, page cache, thread pool. This and the next two are for vhost-user-blk.
    QsdThreads,
    /// qemu-storage-daemon on a raw file, page cache, `io_uring`.
    QsdUring,
    /// qemu-storage-daemon on a raw file, `O_DIRECT`, Linux AIO.
    QsdDirect,
}

/// Who serves a raw file over vhost-user-blk, in all settings.
pub(crate) const VHOST_RAW: &[Contender] = &[
    Contender::QsdThreads,
    Contender::QsdUring,
    Contender::QsdDirect,
];

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
            Contender::QsdThreads => "qemu-storage-daemon raw, threads",
            Contender::QsdUring => "qemu-storage-daemon raw, io_uring",
            Contender::QsdDirect => "qemu-storage-daemon raw, O_DIRECT",
        }
    }

    /// Its program, and the Debian package that has it.
    fn program(self) -> (&'static str, &'static str) {
        match self {
            Contender::Holdfast => ("setpriv", "util-linux"),
            Contender::NbdkitNull | Contender::NbdkitFile => ("nbdkit", "nbdkit"),
            Contender::QsdThreads | Contender::QsdUring | Contender::QsdDirect => {
                ("qemu-storage-daemon", "qemu-system-common")
            }
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
            Contender::QsdThreads | Contender::QsdUring | Contender::QsdDirect => {
                preallocate(&disk)?;
                server.args(self.storage_daemon(dir));
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

    /// Its device over vhost-user-blk; and over NBD, by which it is filled.
    fn storage_daemon(self, dir: &Path) -> Vec<String> {
        let (direct, aio) = match self {
            Contender::QsdUring => ("off", "io_uring"),
            Contender::QsdDirect => ("on", "native"),
            _ => ("off", "threads"),
        };
        let dir = dir.display();
        vec![
            format!(
                "--blockdev=driver=file,node-name=file0,filename={dir}/disk.raw,aio={aio},cache.direct={direct}"
            ),
            "--blockdev=driver=raw,node-name=disk,file=file0".to_owned(),
            format!("--nbd-server=addr.type=unix,addr.path={dir}/nbd.sock"),
            "--export=type=nbd,id=nbd0,node-name=disk,name=,writable=on".to_owned(),
            format!(
                "--export=type=vhost-user-blk,id=vhost0,node-name=disk,addr.type=unix,addr.path={dir}/vhost.sock,writable=on"
            ),
        ]
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
    /// Of its vhost-user-blk device, if it has one.
    vhost: PathBuf,
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
            vhost: dir.join("vhost.sock"),
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

    /// Where its device is over vhost-user-blk.
    ///
    /// # Errors
    /// It is not served so.
    pub(crate) fn vhost_socket(&self) -> Result<PathBuf> {
        match self {
            Server::Holdfast(daemon) => {
                let device = daemon.json(&["vhost", "on", VOLUME])?;
                Ok(device["socket"].as_str().context("no socket")?.into())
            }
            Server::Peer(peer) => Ok(peer.vhost.clone()),
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
