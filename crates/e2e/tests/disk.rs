//! The daemon on a disk that fills, is taken by another program, breaks, and stalls. Needs root and loop devices.

use anyhow::{Context, Result, ensure};
use e2e::{
    cleanup::Scratch,
    daemon::Daemon,
    disk::SmallDisk,
    process::{Finished, Process, command, finish, run},
    stopwatch::poll,
    tools,
};
use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Space is looked at four times a second, the trash and garbage every five seconds.
const SOON: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

/// Block `b` of volume `v` is noise that both decide. Arguments: what, the URI, the volume's number, the first block
/// and the end; blocks are of 1 MiB here.
const CLIENT: &str = r#"
import errno, nbd, random, sys
what, uri, v, first, end = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:6])
h = nbd.NBD()
h.connect_uri(uri)
def block(b):
    return random.Random(v * 1000003 + b).randbytes(1 << 20)
if what == "write":
    for b in range(first, end):
        try:
            h.pwrite(block(b), b << 20)
            h.flush()
        except nbd.Error as e:
            print(b, e.errno)
            sys.exit(0)
    print(end, "none")
elif what == "read":
    for b in range(first, end):
        assert h.pread(1 << 20, b << 20) == block(b), f"block {b} is wrong"
elif what == "flush":
    try:
        h.pwrite(block(first)[:4096], first << 20)
        h.flush()
        print("none")
    except nbd.Error as e:
        print(e.errno)
"#;

fn python(daemon: &Daemon, what: &str, volume: &str, first: u64, end: u64) -> Command {
    // Debian's own: it is the one that has libnbd's module.
    let mut python = command("/usr/bin/python3");
    let number = u64::from(volume.as_bytes()[0]);
    python.args(["-c", CLIENT, what, &daemon.uri(volume)]);
    python.args([number, first, end].map(|n| n.to_string()));
    python
}

fn client(daemon: &Daemon, what: &str, volume: &str, first: u64, end: u64) -> Result<String> {
    let mut python = python(daemon, what, volume, first, end);
    Ok(run(what, &mut python, LIMIT)?.trim().to_owned())
}

/// Writes blocks until one is refused for want of space; answers which.
fn fill(daemon: &Daemon, volume: &str, first: u64) -> Result<u64> {
    let said = client(daemon, "write", volume, first, 1000)?;
    let (block, error) = said.split_once(' ').context("no answer")?;
    ensure!(error == "ENOSPC", "{volume}: {said}");
    Ok(block.parse()?)
}

fn metric(daemon: &Daemon, name: &str) -> Result<u64> {
    let mut curl = command("curl");
    curl.args(["-s", "--unix-socket"]).arg(daemon.socket());
    let all = run("curl", curl.arg("http://localhost/metrics"), LIMIT)?;
    let line = all.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.context(name.to_owned())?.trim().parse()?)
}

/// A daemon whose store has a disk of its own.
fn on_disk(mebibytes: u64) -> Result<(SmallDisk, Daemon)> {
    tools::need(&["nbdsh", "curl"])?;
    let scratch = Scratch::temporary()?;
    let disk = SmallDisk::new(&scratch, "store", mebibytes * MIB)?;
    Ok((disk, Daemon::in_directory(scratch, &[])?))
}

fn remove(daemon: &Daemon, volume: &str) -> Result<()> {
    daemon.ok(&["volume", "rm", volume])?;
    daemon.ok(&["trash", "empty"])?;
    daemon.ok(&["store", "collect"])?;
    Ok(())
}

#[test]
fn a_small_disk_fills_and_is_emptied() -> Result<()> {
    let (_disk, mut daemon) = on_disk(256)?;
    for volume in ["a", "b"] {
        daemon.ok(&["volume", "create", volume, "1G"])?;
    }
    ensure!(client(&daemon, "write", "b", 0, 60)? == "60 none");
    let end = fill(&daemon, "a", 0)?;
    ensure!((60..170).contains(&end), "{end} MiB were taken");
    ensure!(poll(SOON, || Ok::<_, anyhow::Error>(
        metric(&daemon, "holdfast_space_level")? == 3
    ))?);
    ensure!(daemon.json(&["store", "info"])?["space"] == "full");
    client(&daemon, "read", "a", 0, end)?;

    remove(&daemon, "b")?;
    let more = fill(&daemon, "a", end)?;
    ensure!(more >= end + 50, "{more} after {end}");
    daemon.stop()?;
    daemon.start()?;
    client(&daemon, "read", "a", 0, more)?;
    daemon.ok(&["check"])?;
    ensure!(metric(&daemon, "holdfast_store_healthy")? == 1);
    Ok(())
}

#[test]
fn another_program_takes_every_byte() -> Result<()> {
    let (disk, mut daemon) = on_disk(256)?;
    for volume in ["a", "b"] {
        daemon.ok(&["volume", "create", volume, "1G"])?;
        ensure!(client(&daemon, "write", volume, 0, 30)? == "30 none");
        daemon.ok(&["snapshot", "create", &format!("{volume}@s")])?;
    }
    let other = disk.fill(0)?;
    let end = fill(&daemon, "a", 30)?;
    client(&daemon, "read", "a", 0, end)?;
    // Small flushes have room in the journal, or say that there is none.
    let flushed = client(&daemon, "flush", "a", 0, 0)?;
    ensure!(matches!(&*flushed, "none" | "ENOSPC"), "{flushed}");
    daemon.ok(&["snapshot", "rm", "b@s"])?;
    remove(&daemon, "b")?;
    ensure!(client(&daemon, "write", "a", end, end + 1)? == format!("{} none", end + 1));

    disk.fill(0)?;
    fs::remove_file(other)?;
    let goes_on = || Ok::<_, anyhow::Error>(client(&daemon, "write", "a", 40, 60)? == "60 none");
    ensure!(poll(SOON, goes_on)?);
    ensure!(poll(SOON, || Ok::<_, anyhow::Error>(
        metric(&daemon, "holdfast_store_healthy")? == 1
    ))?);
    daemon.stop()?;
    daemon.start()?;
    client(&daemon, "read", "a", 40, 60)?;
    client(&daemon, "read", "a", 0, 30)?;
    Ok(())
}

#[test]
fn a_disk_that_becomes_read_only() -> Result<()> {
    let (disk, mut daemon) = on_disk(128)?;
    daemon.ok(&["volume", "create", "a", "64M"])?;
    ensure!(client(&daemon, "write", "a", 0, 8)? == "8 none");
    disk.fail()?;
    let flush = || Ok::<_, anyhow::Error>(client(&daemon, "flush", "a", 9, 9)? == "EIO");
    ensure!(poll(SOON, flush)?, "flushes go on");
    for _ in 0..20 {
        ensure!(client(&daemon, "flush", "a", 9, 9)? == "EIO");
    }
    client(&daemon, "read", "a", 0, 8)?;
    ensure!(metric(&daemon, "holdfast_store_healthy")? == 0);
    let lines = daemon.log().lines().count();
    ensure!(lines < 60, "{lines} lines:\n{}", daemon.log());
    daemon.kill();

    // One line that says what is wrong, and nothing is changed.
    let refused = serve(&daemon)?;
    ensure!(!refused.status.success());
    let said = refused.stderr.lines().last().unwrap_or_default();
    ensure!(said.contains("Read-only file system"), "{}", refused.stderr);
    disk.repair()?;
    disk.mount()?;
    daemon.start()?;
    client(&daemon, "read", "a", 0, 8)?;
    ensure!(client(&daemon, "flush", "a", 9, 9)? == "none");
    daemon.stop()?;
    disk.remount("ro")?;
    ensure!(serve(&daemon)?.stderr.contains("Read-only file system"));
    disk.remount("rw")?;
    daemon.start()
}

/// A daemon that does not come up.
fn serve(daemon: &Daemon) -> Result<Finished> {
    let mut serve = command(e2e::paths::holdfast()?);
    serve.arg("serve").arg(daemon.store());
    serve.arg("--socket").arg(daemon.directory().join("2.sock"));
    serve
        .arg("--nbd-socket")
        .arg(daemon.directory().join("2-nbd.sock"));
    finish("a daemon on a read-only disk", &mut serve, LIMIT)
}

#[test]
fn a_disk_that_stalls() -> Result<()> {
    let (disk, daemon) = on_disk(128)?;
    daemon.ok(&["volume", "create", "a", "64M"])?;
    ensure!(client(&daemon, "write", "a", 0, 8)? == "8 none");
    disk.freeze()?;
    let mut flush = python(&daemon, "flush", "a", 9, 9);
    let flush = flush.stdout(Stdio::null()).stderr(Stdio::null());
    let mut flush = Process::start("flush", flush)?;
    let stalled = || Ok::<_, anyhow::Error>(metric(&daemon, "holdfast_store_healthy")? == 0);
    ensure!(poll(SOON, stalled)?, "nobody noticed");
    client(&daemon, "read", "a", 0, 8)?;
    let said = &daemon.json(&["store", "info"])?["problems"][0];
    ensure!(said.to_string().contains("the disk stalls"), "{said}");
    ensure!(flush.ended()?.is_none(), "it was not durable");
    // Whoever looks at the disk looks now and then.
    let logged = || Ok::<_, anyhow::Error>(daemon.log().contains("the disk stalls"));
    ensure!(poll(SOON, logged)?, "nobody said so");
    disk.thaw()?;
    ensure!(flush.wait(LIMIT)?.success());
    ensure!(poll(SOON, || Ok::<_, anyhow::Error>(
        metric(&daemon, "holdfast_store_healthy")? == 1
    ))?);
    ensure!(metric(&daemon, "holdfast_disk_stalls_total")? > 0);
    ensure!(
        daemon.log().matches("the disk stalls").count() == 1,
        "{}",
        daemon.log()
    );
    Ok(())
}
