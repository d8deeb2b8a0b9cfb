//! vhost-user-blk devices of a real daemon, with a real driver.

use anyhow::{Context, Result, ensure};
use e2e::{
    api,
    daemon::Daemon,
    stopwatch::poll,
    torture::nbd::{Client, Request},
    vhost::Driver,
};
use serde_json::Value;
use std::{path::PathBuf, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

fn connect(daemon: &Daemon, name: &str) -> Result<Driver> {
    Driver::connect(&socket(daemon, name)?, 1, 64, 1 << 20)
}

/// Where something is served, as its device says.
fn socket(daemon: &Daemon, name: &str) -> Result<PathBuf> {
    let device = device(daemon, name)?;
    let socket = device["socket"].as_str().context("no socket")?;
    Ok(socket.into())
}

fn device(daemon: &Daemon, name: &str) -> Result<Value> {
    let status = daemon.json(&["vhost", "status"])?;
    let devices = status["devices"].as_array().context("no devices")?;
    let found = devices.iter().find(|device| device["name"] == name);
    found
        .cloned()
        .with_context(|| format!("{name} is not served: {status}"))
}

/// Runs a command that must be refused; what it says.
fn refused(daemon: &Daemon, command: &[&str], code: i32) -> Result<String> {
    let done = daemon.cli(command)?;
    ensure!(
        done.status.code() == Some(code),
        "{command:?} ended with {}: {}{}",
        done.status,
        done.stdout,
        done.stderr
    );
    Ok(done.stderr)
}

/// Waits until the daemon has noticed that the guest has left.
fn left(daemon: &Daemon, name: &str) -> Result<()> {
    let gone = poll(LIMIT, || {
        anyhow::Ok(device(daemon, name)?.get("guest").is_none())
    })?;
    ensure!(gone, "the guest of {name} does not leave");
    Ok(())
}

#[test]
fn what_is_served_is_served_again_and_is_the_same_volume_as_over_nbd() -> Result<()> {
    let mut daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "8M"])?;
    daemon.ok(&["vhost", "on", "a", "--queues", "2"])?;
    let mut guest = connect(&daemon, "a")?;
    assert_eq!((guest.size()?, guest.read_only()), (8 * MIB, false));
    guest.write(4096, &[7; 8192])?;
    let mut client = Client::connect(&daemon.nbd_socket(), "a")?;
    let seen = client.ask(Request::Read(4096, 8192))?;
    assert!(seen == [7; 8192], "over NBD");
    client.ask(Request::Write(0, vec![8; 4096], false))?;
    assert_eq!(guest.read(0, 4096)?, [8; 4096]);
    drop(client);

    // What was answered, and not flushed, outlives the daemon; so does how it is served.
    daemon.ok(&["snapshot", "create", "a@one"])?;
    daemon.ok(&["vhost", "on", "a@one"])?;
    guest.write(0, &[9; 4096])?;
    drop(guest);
    daemon.kill();
    daemon.start()?;
    let mut guest = connect(&daemon, "a")?;
    assert_eq!(guest.read(0, 4096)?, [9; 4096]);
    guest.flush()?;
    let mut frozen = connect(&daemon, "a@one")?;
    assert!(frozen.read_only());
    assert_eq!(frozen.read(0, 4096)?, [8; 4096]);
    assert!(frozen.write(0, &[1; 4096]).is_err());

    let metrics = api::get(&daemon.socket(), "/metrics")?;
    for line in [
        "holdfast_vhost_devices 2",
        "holdfast_vhost_guests 2",
        "holdfast_vhost_flushes_total 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let info = daemon.json(&["volume", "info", "a"])?;
    assert_eq!(
        (&info["connections"], info["vhost"].is_string()),
        (&1.into(), true)
    );
    Ok(())
}

#[test]
fn volumes_with_guests_are_not_moved_and_sockets_go_with_their_volumes() -> Result<()> {
    let daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "a", "8M"])?;
    daemon.ok(&["snapshot", "create", "a@one"])?;
    daemon.ok(&["vhost", "on", "a"])?;
    daemon.ok(&["vhost", "on", "a@one"])?;
    let guest = connect(&daemon, "a")?;
    let reader = connect(&daemon, "a@one")?;
    for command in [
        &["volume", "rename", "a", "b"][..],
        &["volume", "rm", "a"],
        &["volume", "resize", "a", "4M", "--allow-data-loss"],
        &["snapshot", "rollback", "a@one"],
        &["snapshot", "rm", "a@one"],
        &["vhost", "off", "a"],
        &["vhost", "on", "a", "--queues", "3"],
    ] {
        let said = refused(&daemon, command, 4)?;
        assert!(
            said.contains("holdfast vhost status"),
            "{command:?}: {said}"
        );
    }
    // A device has one guest; it sees the volume grow.
    assert!(connect(&daemon, "a").is_err());
    daemon.ok(&["volume", "resize", "a", "16M"])?;
    assert_eq!(guest.size()?, 16 * MIB);
    drop(guest);
    left(&daemon, "a")?;
    refused(&daemon, &["volume", "rename", "a", "b"], 4)?;
    drop(reader);
    left(&daemon, "a@one")?;

    let old = socket(&daemon, "a")?;
    daemon.ok(&["volume", "rename", "a", "b"])?;
    assert!(!old.exists() && socket(&daemon, "b")?.exists());
    assert!(connect(&daemon, "b@one")?.read_only());
    left(&daemon, "b@one")?;
    daemon.ok(&["snapshot", "rm", "b@one"])?;
    assert!(device(&daemon, "b@one").is_err());

    let cut_off = connect(&daemon, "b")?;
    daemon.ok(&["volume", "rm", "b", "--force"])?;
    assert!(device(&daemon, "b").is_err());
    assert!(cut_off.size().is_err());
    drop(cut_off);
    daemon.ok(&["trash", "restore", "b"])?;
    connect(&daemon, "b")?.write(0, &[1; 512])?;
    daemon.ok(&["vhost", "off", "b", "--force"])?;
    assert!(device(&daemon, "b").is_err());
    refused(&daemon, &["vhost", "off", "c"], 3)?;
    refused(&daemon, &["vhost", "on", "b", "--queues", "0"], 2)?;
    Ok(())
}

/// A path that cannot be a socket's costs nothing but that socket, and the reason is shown.
#[test]
fn a_socket_that_cannot_be_made_is_told_and_tried_again() -> Result<()> {
    let mut daemon = Daemon::new()?;
    let name = "n".repeat(120);
    daemon.ok(&["volume", "create", &name, "1M"])?;
    daemon.ok(&["volume", "create", "b", "1M"])?;
    daemon.ok(&["vhost", "on", &name])?;
    daemon.ok(&["vhost", "on", "b"])?;
    let path = socket(&daemon, &name)?;
    assert!(path.exists(), "a long name is served under a short one");
    daemon.stop()?;
    assert!(!path.exists());
    std::fs::write(&path, "in the way")?;
    daemon.start()?;
    let error = device(&daemon, &name)?["error"].clone();
    assert!(
        error
            .as_str()
            .is_some_and(|why| why.contains("not a socket")),
        "{error}"
    );
    connect(&daemon, "b")?.read(0, 4096)?;
    refused(&daemon, &["vhost", "on", &name], 1)?;
    std::fs::remove_file(&path)?;
    daemon.ok(&["vhost", "on", &name])?;
    connect(&daemon, &name)?.write(0, &[1; 4096])?;
    daemon.stop()
}
