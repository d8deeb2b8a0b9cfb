//! What changed between two states, as programs and people are told.

use anyhow::{Context, Result};
use e2e::{daemon::Daemon, process::command, process::run, tools};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);

/// Runs Python with libnbd's module, and `h`, which is connected to `export`.
fn nbdsh(daemon: &Daemon, export: &str, script: &str) -> Result<String> {
    tools::need(&["nbdsh"])?;
    let head = format!(
        "import nbd\nh = nbd.NBD()\nh.connect_uri({:?})\n",
        daemon.uri(export)
    );
    // Debian's Python: it is the one that has libnbd's module.
    let mut python = command("/usr/bin/python3");
    run("nbdsh", python.args(["-c", &(head + script)]), LIMIT)
}

#[test]
fn diff_tells_people_and_programs_what_changed() -> Result<()> {
    let mut daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "1T"])?;
    nbdsh(
        &daemon,
        "a",
        "h.pwrite(b'1' * 65536, 0)\nh.pwrite(b'1' * 4096, 1 << 39)",
    )?;
    daemon.ok(&["snapshot", "create", "a@one"])?;
    nbdsh(
        &daemon,
        "a",
        "h.pwrite(b'2', 5000)\nh.zero(8192, 16384)\nh.pwrite(b'2' * 8192, 1 << 39)",
    )?;
    daemon.ok(&["snapshot", "create", "a@two"])?;

    let text = daemon.ok(&["diff", "a@one", "a@two"])?;
    let rows: Vec<Vec<&str>> = text
        .lines()
        .map(|l| l.split_whitespace().collect())
        .collect();
    let far = (1_u64 << 39).to_string();
    let expected = [
        vec!["OFFSET", "LENGTH", "TYPE"],
        vec!["4096", "4096", "data"],
        vec!["16384", "8192", "zero"],
        vec![&far, "8192", "data"],
    ];
    assert_eq!(rows, expected, "{text}");
    let summary = daemon.ok(&["diff", "a@one", "a@two", "--summary"])?;
    assert_eq!(
        summary.trim(),
        "3 extents: 12.0 KiB of data, 8.00 KiB of zeroes"
    );

    let json = daemon.json(&["diff", "a@one", "a@two"])?;
    let extents = json["extents"].as_array().context("no extents")?;
    assert_eq!(extents.len(), 3);
    assert_eq!(extents[1]["offset"], 16384);
    assert_eq!(extents[1]["data"], false);
    assert_eq!(json["count"], 3);
    assert_eq!(json["to_size"], 1_u64 << 40);

    // Up to now: what is in memory counts, also of a daemon that was killed.
    daemon.ok(&["volume", "clone", "a@two", "b"])?;
    nbdsh(&daemon, "b", "h.pwrite(b'3' * 4096, 0)\nh.flush()")?;
    daemon.kill();
    daemon.start()?;
    let clone = daemon.json(&["diff", "a@two", "b"])?;
    assert_eq!(clone["data_bytes"], 4096);
    assert_eq!(daemon.json(&["diff", "a@two", "a"])?["count"], 0);

    let missing = daemon.cli(&["diff", "a@one", "a@three"])?;
    assert_eq!(missing.status.code(), Some(3), "{}", missing.stderr);
    Ok(())
}

/// A list that is much longer than what is kept of it arrives whole.
#[test]
fn a_long_list_arrives_whole() -> Result<()> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "1G"])?;
    daemon.ok(&["snapshot", "create", "a@empty"])?;
    let script = "for n in range(0, 60000, 2): h.pwrite(b'1', n * 4096)";
    nbdsh(&daemon, "a", script)?;
    let json = daemon.json(&["diff", "a@empty", "a"])?;
    let extents = json["extents"].as_array().context("no extents")?;
    assert_eq!(extents.len(), 30_000);
    assert_eq!(json["count"], 30_000);
    assert_eq!(extents[29_999]["offset"], 59_998 * 4096);
    Ok(())
}

/// What any program does that was written for QEMU's pull backup: read what a dirty bitmap marks, put it where the
/// last backup is.
const INCREMENT: &str = r#"
import os
def since(uri, point):
    name = "qemu:dirty-bitmap:" + point
    b = nbd.NBD()
    b.add_meta_context("base:allocation")
    b.add_meta_context(name)
    b.connect_uri(uri)
    assert b.can_meta_context(name), name
    return b, name
def runs(b, name):
    found, at, size = [], 0, b.get_size()
    while at < size:
        seen = []
        def status(context, offset, entries, err):
            if context == name:
                seen.extend(entries)
        b.block_status(min(size - at, 1 << 30), at, status)
        for length, flags in zip(seen[::2], seen[1::2]):
            assert flags in (0, 1), flags
            if flags:
                found.append((at, length))
            at += length
    return found
def backup(uri, point, path):
    b, name = since(uri, point)
    fd = os.open(path, os.O_WRONLY)
    os.ftruncate(fd, b.get_size())
    copied = 0
    for at, length in runs(b, name):
        for part in range(at, at + length, 1 << 20):
            data = b.pread(min(1 << 20, at + length - part), part)
            copied += os.pwrite(fd, data, part)
    os.close(fd)
    return copied
"#;

/// Runs that are dirty in `of`, as Python prints them.
fn changed(daemon: &Daemon, of: &str, since: &str) -> Result<String> {
    let uri = daemon.uri(of);
    let script = format!("{INCREMENT}\nprint(runs(*since({uri:?}, {since:?})))");
    Ok(nbdsh(daemon, of, &script)?.trim().to_owned())
}

#[test]
fn an_increment_is_read_over_nbd_and_restored() -> Result<()> {
    let mut daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "256M"])?;
    let write = "import random\nrandom.seed(1)\nfor n in range(200): h.pwrite(random.randbytes(4096), random.randrange(65536) * 4096)";
    nbdsh(&daemon, "a", write)?;
    daemon.ok(&["snapshot", "create", "a@sunday"])?;

    // The full backup, and then two increments on top of it.
    let image = daemon.directory().join("backup.raw");
    let path = image.to_str().context("a path that is no text")?;
    tools::need(&["nbdcopy", "nbdinfo", "qemu-img"])?;
    let copy = |export: &str, to: &str| {
        let uri = daemon.uri(export);
        run("nbdcopy", command("nbdcopy").args([&uri, to]), LIMIT)
    };
    copy("a@sunday", path)?;
    nbdsh(
        &daemon,
        "a",
        "h.pwrite(b'm' * 10000, 1 << 20)\nh.zero(1 << 20, 0)\nh.trim(1 << 20, 5 << 20)",
    )?;
    daemon.ok(&["snapshot", "create", "a@monday"])?;
    nbdsh(&daemon, "a", "h.pwrite(b't' * 4096, 200 << 20)")?;
    daemon.ok(&["snapshot", "create", "a@tuesday"])?;
    let increment = |of: &str, since: &str| {
        let script = format!(
            "{INCREMENT}\nprint(backup({:?}, {since:?}, {path:?}))",
            daemon.uri(of)
        );
        nbdsh(&daemon, of, &script)
    };
    let monday: u64 = increment("a@monday", "sunday")?.trim().parse()?;
    assert!((12288..4 << 20).contains(&monday), "{monday} bytes");
    assert_eq!(increment("a@tuesday", "monday")?.trim(), "4096");

    // What was restored from it is the snapshot.
    daemon.ok(&["volume", "import", path, "restored"])?;
    let compare = |a: &str, b: &str| {
        let (a, b) = (daemon.uri(a), daemon.uri(b));
        let arguments = ["compare", "-f", "raw", "-F", "raw", &a, &b];
        run(
            "qemu-img compare",
            command("qemu-img").args(arguments),
            LIMIT,
        )
    };
    compare("restored", "a@tuesday")?;

    // Of a volume it is what has changed until now, in memory or not; of a clone also since what it comes from.
    nbdsh(&daemon, "a", "h.pwrite(b'w', 100 << 20)")?;
    daemon.ok(&["volume", "clone", "a@tuesday", "b"])?;
    nbdsh(&daemon, "b", "h.pwrite(b'b', 8192)")?;
    assert_eq!(changed(&daemon, "a", "tuesday")?, "[(104857600, 4096)]");
    assert_eq!(changed(&daemon, "b", "a@tuesday")?, "[(8192, 4096)]");
    daemon.kill();
    daemon.start()?;
    assert_eq!(changed(&daemon, "a", "tuesday")?, "[(104857600, 4096)]");

    let info = |export: &str| {
        let uri = daemon.uri(export);
        run("nbdinfo", command("nbdinfo").args(["--json", &uri]), LIMIT)
    };
    let contexts = |text: &str| -> Result<Vec<String>> {
        let info: serde_json::Value = serde_json::from_str(text)?;
        let contexts = info["exports"][0]["contexts"].as_array().cloned();
        let contexts = contexts.unwrap_or_default().into_iter();
        let names = contexts.filter_map(|c| c.as_str().map(str::to_owned));
        Ok(names.filter(|name| name.starts_with("qemu:")).collect())
    };
    let bitmap = |name| format!("qemu:dirty-bitmap:{name}");
    assert_eq!(contexts(&info("a@monday")?)?, [bitmap("sunday")]);
    assert_eq!(
        contexts(&info("a")?)?,
        ["sunday", "monday", "tuesday"].map(bitmap)
    );
    let map = run(
        "nbdinfo --map",
        command("nbdinfo").args(["--map=qemu:dirty-bitmap:monday", &daemon.uri("a@tuesday")]),
        LIMIT,
    )?;
    assert!(map.contains("dirty"), "{map}");

    // QEMU reads it with the name of the bitmap alone.
    let file = format!(
        "driver=nbd,server.type=unix,server.path={},export=a@tuesday,x-dirty-bitmap=qemu:dirty-bitmap:monday",
        daemon.nbd_socket().display()
    );
    let arguments = ["map", "--output=json", "--image-opts", &file];
    let map = run("qemu-img map", command("qemu-img").args(arguments), LIMIT)?;
    let map: serde_json::Value = serde_json::from_str(&map)?;
    // With this option it tells what is dirty as what is not data.
    let dirty = map.as_array().cloned().unwrap_or_default().into_iter();
    let dirty: Vec<_> = dirty
        .filter(|extent| extent["data"] == false)
        .map(|extent| (extent["start"].as_u64(), extent["length"].as_u64()))
        .collect();
    assert_eq!(dirty, [(Some(200 << 20), Some(4096))]);
    Ok(())
}
