//! The daemon killed again and again: what was flushed is there, and nothing is damaged.

use anyhow::{Context, Result, ensure};
use e2e::{
    daemon::Daemon,
    process::{Process, command, run},
    stopwatch::poll,
    tools,
};
use std::{fs, path::Path, process::Stdio, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);
const ROUNDS: u64 = 6;
const BLOCKS: u64 = 2048;

/// Writes blocks that say who they are, flushes after each eight, and notes what was flushed:
/// block `i` of round `r` is `r`, `i`, over and over. Runs until killed, or cut off.
const WRITER: &str = r#"
import nbd, struct, sys
uri, note, r, blocks = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
h = nbd.NBD()
h.connect_uri(uri)
with open(note, "a") as out:
    i = 0
    while True:
        batch = [(i * 37 + k * 211) % blocks for k in range(8)]
        i += 8
        for b in batch:
            h.pwrite(struct.pack("<QQ", r, b) * 256, b * 4096)
        h.flush()
        out.write("".join(f"{r} {b}\n" for b in batch))
        out.flush()
"#;

/// Every block is whole, is its own, and is not older than what was flushed last.
const READER: &str = r#"
import nbd, struct, sys
uri, note, blocks = sys.argv[1], sys.argv[2], int(sys.argv[4])
h = nbd.NBD()
h.connect_uri(uri)
flushed = {}
for line in open(note):
    r, b = map(int, line.split())
    flushed[b] = r
for b in range(blocks):
    data = h.pread(4096, b * 4096)
    r, own = struct.unpack("<QQ", data[:16])
    assert data == data[:16] * 256, f"block {b} is torn"
    assert r == 0 or own == b, f"block {b} holds {own}"
    assert r >= flushed.get(b, 0), f"block {b} is of round {r}; {flushed[b]} was flushed"
print(len(flushed))
"#;

fn python(script: &str, daemon: &Daemon, note: &Path, round: u64) -> std::process::Command {
    // Debian's own: it is the one that has libnbd's module.
    let mut python = command("/usr/bin/python3");
    python.args(["-c", script, &daemon.uri("a")]).arg(note);
    python.args([round.to_string(), BLOCKS.to_string()]);
    python
}

#[test]
fn kill_after_kill_keeps_what_was_flushed() -> Result<()> {
    tools::need(&["nbdsh"])?;
    let mut daemon = Daemon::new()?;
    let note = daemon.directory().join("flushed");
    daemon.ok(&["volume", "create", "a", "8M"])?;
    for round in 1..=ROUNDS {
        let mut writer = python(WRITER, &daemon, &note, round);
        let writer = Process::start("writer", writer.stdout(Stdio::null()).stderr(Stdio::null()))?;
        let noted = || {
            fs::read_to_string(&note)
                .unwrap_or_default()
                .lines()
                .count() as u64
        };
        let enough = noted() + 200 * round;
        ensure!(
            poll(LIMIT, || anyhow::Ok(noted() >= enough))?,
            "the writer does not get on"
        );
        if round % 2 == 0 {
            daemon.ok(&["snapshot", "create", &format!("a@{round}")])?;
        }
        daemon.kill();
        drop(writer);
        daemon
            .start()
            .with_context(|| format!("starting after kill {round}"))?;
        run("reader", &mut python(READER, &daemon, &note, round), LIMIT)?;
        daemon.ok(&["check"])?;
    }
    // Once more, stopped in order: the same disk, and the snapshots with it.
    daemon.stop()?;
    daemon.start()?;
    run("reader", &mut python(READER, &daemon, &note, 0), LIMIT)?;
    let snapshots = daemon.json(&["snapshot", "ls", "a"])?;
    assert_eq!(snapshots.as_array().map(Vec::len), Some(3));
    Ok(())
}

#[test]
fn a_second_daemon_is_refused_and_told_who_is_first() -> Result<()> {
    let daemon = Daemon::new()?;
    let pid = daemon.pid().context("no daemon")?.to_string();
    let mut second = command(e2e::paths::holdfast()?);
    second.arg("serve").arg(daemon.store());
    second
        .arg("--socket")
        .arg(daemon.directory().join("2.sock"));
    second
        .arg("--nbd-socket")
        .arg(daemon.directory().join("2-nbd.sock"));
    let done = e2e::process::finish("second daemon", &mut second, LIMIT)?;
    ensure!(!done.status.success(), "a second daemon runs");
    ensure!(done.stderr.contains(&pid), "not told who: {}", done.stderr);
    daemon.ok(&["volume", "ls"])?;
    Ok(())
}

#[test]
fn a_new_store_needs_an_empty_directory() -> Result<()> {
    let scratch = e2e::cleanup::Scratch::temporary()?;
    fs::write(scratch.path().join("file"), "mine")?;
    let mut init = command(e2e::paths::holdfast()?);
    let done = e2e::process::finish("init", init.arg("init").arg(scratch.path()), LIMIT)?;
    assert!(!done.status.success());
    assert_eq!(done.stderr.trim().lines().count(), 1, "{}", done.stderr);
    assert_eq!(fs::read_to_string(scratch.path().join("file"))?, "mine");
    Ok(())
}
