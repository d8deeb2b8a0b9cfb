//! Thousands of hostile NBD clients at once: the daemon's memory stays within what is documented, and a serious
//! client gets everything that it asks for.

use anyhow::{Context, Result, ensure};
use e2e::{
    daemon::Daemon,
    stopwatch::poll,
    torture::nbd::{Client, Request},
};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::{fs, io::Write, os::unix::net::UnixStream, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// More than the daemon takes at a time.
const SILENT: usize = 2000;
/// Of each other kind.
const EACH: usize = 60;
/// The longest request that there may be.
const LONGEST: u32 = 32 << 20;
/// What docs/semantics.md says of requests in flight, and of buffers at rest.
const BUDGET_MIB: u64 = 512 + 64;
/// The allocator may keep as much again of what was given back.
const KEPT_MIB: u64 = BUDGET_MIB;
/// Of each connection that sends requests: buffers, what it has for itself, stacks.
const LOUD_MIB: u64 = 3;
/// What all silent connections together may take: as many as the daemon takes, half a MiB each.
const SILENT_MIB: u64 = 512;

/// This process needs a descriptor for each connection, and so does the daemon, which gets our limit.
fn raise_limit() -> Result<()> {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).context("raising the limit of open files")
}

/// Memory that the daemon has in use, MiB.
fn resident(daemon: &Daemon) -> Result<u64> {
    let pid = daemon.pid().context("the daemon is gone")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no VmRSS")?.parse::<u64>()? >> 10)
}

/// Connections that stop at some point of the handshake, or say nothing at all.
fn silent(daemon: &Daemon) -> Result<Vec<UnixStream>> {
    let said: [&[u8]; 4] = [
        b"",
        b"\0\0\0\x03",
        b"\0\0\0\x03IHAVE",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\xff\xff",
    ];
    (0..SILENT)
        .map(|n| {
            let mut stream = UnixStream::connect(daemon.nbd_socket())?;
            // It may have been closed already: there are more than may be.
            let _ = stream.write_all(said[n % said.len()]);
            Ok(stream)
        })
        .collect()
}

/// Asks for as much as may be, and takes nothing of it.
fn deaf(daemon: &Daemon) -> Result<Client> {
    let mut client = Client::connect(&daemon.nbd_socket(), "a")?;
    client.send(&[Request::Read(0, LONGEST), Request::Read(32 * MIB, LONGEST)])?;
    Ok(client)
}

/// Begins to write as much as may be, and stops after `sent` bytes of it.
fn half_written(daemon: &Daemon, sent: usize) -> Result<Client> {
    let mut client = Client::connect(&daemon.nbd_socket(), "a")?;
    let mut wire = 0x2560_9513_u32.to_be_bytes().to_vec();
    wire.extend([0, 0, 0, 1]);
    wire.extend([0; 16]);
    wire.extend(LONGEST.to_be_bytes());
    wire.resize(wire.len() + sent, 0x5a);
    client.send_bytes(&wire)?;
    Ok(client)
}

/// Writes and reads back, short and long.
fn serious(daemon: &Daemon) -> Result<()> {
    // Silent clients make room when they have been silent for a second.
    let mut client = None;
    poll(LIMIT, || {
        client = Client::connect(&daemon.nbd_socket(), "b").ok();
        anyhow::Ok(client.is_some())
    })?;
    let mut client = client.context("no room for a serious client")?;
    for n in 0..100 {
        let data = vec![n as u8 + 1; 4096];
        client.ask(Request::Write(n * 4096, data.clone(), n % 10 == 0))?;
        let read = client.ask(Request::Read(n * 4096, 4096))?;
        ensure!(read == data, "block {n} is another");
    }
    let data: Vec<u8> = (0..8 * MIB as u32).map(|n| (n >> 10) as u8).collect();
    client.ask(Request::Write(16 * MIB, data.clone(), true))?;
    let read = client.ask(Request::Read(16 * MIB, data.len() as u32))?;
    ensure!(read == data, "a long read is another");
    Ok(())
}

#[test]
fn thousands_of_hostile_clients_cost_bounded_memory_and_starve_nobody() -> Result<()> {
    raise_limit()?;
    let daemon = Daemon::new()?;
    for name in ["a", "b"] {
        daemon.ok(&["volume", "create", name, "128M"])?;
    }
    serious(&daemon)?;
    let before = resident(&daemon)?;
    let mut hostile = Vec::new();
    for n in 0..EACH {
        hostile.push(deaf(&daemon)?);
        hostile.push(half_written(&daemon, n << 15)?);
        // These vanish in the middle.
        drop(half_written(&daemon, 100_000)?);
        drop(deaf(&daemon)?);
    }
    let loud = resident(&daemon)?;
    let silent = silent(&daemon)?;
    serious(&daemon)?;
    let most = before + BUDGET_MIB + KEPT_MIB + SILENT_MIB + LOUD_MIB * hostile.len() as u64;
    let during = resident(&daemon)?;
    println!(
        "{before} MiB before, {loud} MiB with loud clients, {during} MiB with silent ones too"
    );
    ensure!(
        during <= most,
        "{during} MiB, {most} may be; {before} were before"
    );
    drop((hostile, silent));
    serious(&daemon)
}
