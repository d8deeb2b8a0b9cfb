//! Snapshots of qcow2 images.

use crate::host::{Host, LIMIT, MIB, qemu};
use anyhow::{Result, ensure};
use e2e::{
    process::{command, run},
    torture::nbd::{Client, Request},
    vhost::Driver,
};
use serde_json::Value;
use std::{fs, os::unix::fs::MetadataExt};

#[test]
fn qcow2_files_have_snapshots_of_their_own() -> Result<()> {
    let host = Host::new()?;
    let create = [
        "volume",
        "create",
        "q",
        "64M",
        "--backend",
        "file",
        "--file-format",
        "qcow2",
    ];
    host.ok(&create)?;
    host.io("q", &["write -P 1 0 4M"])?;
    host.ok(&["snapshot", "create", "q@one"])?;
    host.io("q", &["write -P 2 1M 1M", "write -P 3 32M 1M"])?;
    host.ok(&["snapshot", "create", "q@two"])?;
    host.refused(&["snapshot", "create", "q@two"], 4, "exists")?;
    let names = |host: &Host| -> Result<Vec<Value>> {
        let all = host.daemon.json(&["snapshot", "ls", "q"])?;
        Ok(all
            .as_array()
            .into_iter()
            .flatten()
            .map(|s| s["name"].clone())
            .collect())
    };
    assert_eq!(names(&host)?, ["one", "two"]);
    let mut read = command("qemu-io");
    read.args([
        "-r",
        "-f",
        "raw",
        "-c",
        "read -P 1 0 4M",
        "-c",
        "read -P 0 32M 1M",
    ]);
    let said = run("qemu-io", read.arg(host.daemon.uri("q@one")), LIMIT)?;
    ensure!(!said.contains("failed"), "{said}");
    let out = host
        .daemon
        .directory()
        .join("one.raw")
        .to_string_lossy()
        .into_owned();
    host.ok(&["volume", "export", "q@one", &out])?;
    assert_eq!(fs::read(&out)?[..4 << 20], [1; 4 << 20]);
    host.refused(
        &["volume", "convert", "q", "--backend", "store"],
        4,
        "snapshots",
    )?;
    host.ok(&["volume", "rollback", "q@one"])?;
    host.io(
        "q",
        &["read -P 1 0 4M", "read -P 0 32M 1M", "write -P 4 0 1M"],
    )?;
    host.ok(&["snapshot", "rm", "q@one", "q@two"])?;
    host.ok(&["volume", "resize", "q", "+64M"])?;
    host.refused(
        &["volume", "resize", "q", "1M", "--allow-data-loss"],
        2,
        "smaller",
    )?;
    let file = host.file_of("q")?;
    let (ok, said) = qemu(&["qemu-img", "check", "-f", "qcow2"], &file)?;
    ensure!(ok && said.contains("No errors"), "{said}");
    host.ok(&["volume", "convert", "q", "--backend", "store"])?;
    host.io(
        "q",
        &["read -P 4 0 1M", "read -P 1 1M 3M", "read -P 0 64M 64M"],
    )?;
    let back = [
        "volume",
        "convert",
        "q",
        "--backend",
        "file",
        "--file-format",
        "qcow2",
    ];
    host.ok(&back)?;
    let (ok, said) = qemu(
        &[
            "qemu-io",
            "-f",
            "qcow2",
            "-c",
            "read -P 4 0 1M",
            "-c",
            "read -P 0 4M 124M",
        ],
        &file,
    )?;
    ensure!(ok && !said.contains("failed"), "{said}");
    assert!(
        fs::metadata(&file)?.blocks() * 512 < 8 * MIB,
        "the holes are filled"
    );
    // What QEMU made is taken, its snapshots with it.
    fs::create_dir(host.file("theirs"))?;
    let theirs = host.file("theirs/disk0");
    qemu(
        &["qemu-img", "create", "-q", "-f", "qcow2", "-o", "size=32M"],
        &theirs,
    )?;
    qemu(&["qemu-img", "snapshot", "-c", "before"], &theirs)?;
    let before = fs::read(&theirs)?;
    host.ok(&["volume", "create", "theirs", "--backend", "file", "--reuse"])?;
    assert!(fs::read(&theirs)? == before, "taking it changed it");
    assert_eq!(
        host.daemon.json(&["volume", "info", "theirs"])?["snapshots"],
        1
    );
    assert_eq!(
        host.daemon.json(&["volume", "info", "theirs"])?["file"]["format"],
        "qcow2"
    );
    host.ok(&["volume", "rollback", "theirs@before"])?;
    Ok(())
}

#[test]
fn who_has_just_left_is_in_nobodys_way() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["volume", "create", "s", "64M"])?;
    let qcow2 = ["--backend", "file", "--file-format", "qcow2"];
    host.ok(&[&["volume", "create", "q", "64M"], &qcow2[..]].concat())?;
    for volume in ["s", "q"] {
        let machine = || -> Result<()> {
            let mut client = Client::connect(&host.daemon.nbd_socket(), volume)?;
            client.ask(Request::Write(0, vec![1; 1 << 20], false))?;
            Ok(())
        };
        for number in 0..10 {
            let snapshot = format!("{volume}@{number}");
            machine()?;
            host.ok(&["snapshot", "create", &snapshot])?;
            machine()?;
            host.ok(&["snapshot", "rollback", &snapshot])?;
        }
    }
    for number in 0..10 {
        let snapshot = format!("s@{number}");
        host.ok(&["vhost", "on", &snapshot])?;
        let status = host.daemon.json(&["vhost", "status"])?;
        let socket = status["devices"][0]["socket"].as_str().unwrap_or_default();
        Driver::connect(socket.as_ref(), 1, 64, 1 << 20)?.read(0, 1 << 20)?;
        Client::connect(&host.daemon.nbd_socket(), &snapshot)?.ask(Request::Read(0, 1 << 20))?;
        host.ok(&["snapshot", "rm", &snapshot])?;
    }
    Ok(())
}
