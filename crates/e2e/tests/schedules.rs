//! Snapshots that the daemon takes by itself. Here it is shown that it does; what it does when, `schedule` and the daemon's
//! own tests show on clocks that are set by hand.

use anyhow::{Context, Result, ensure};
use e2e::{
    api,
    daemon::Daemon,
    stopwatch::poll,
    torture::nbd::{Client, Request},
};
use serde_json::Value;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(60);
/// Snapshots that stay: one is there for so many seconds, which is time to use it on a busy machine.
const KEPT: usize = 4;

/// Names of a volume's snapshots, oldest first; of those that were taken by itself, or of the others.
fn snapshots(daemon: &Daemon, volume: &str, scheduled: bool) -> Result<Vec<String>> {
    let all = daemon.json(&["snapshot", "ls", volume])?;
    let all = all.as_array().context("no list")?.iter();
    let names = all.filter(|s| s["scheduled"] == scheduled);
    Ok(names
        .map(|s| s["name"].as_str().unwrap_or("").to_owned())
        .collect())
}

fn policy(daemon: &Daemon, volume: &str) -> Result<Value> {
    Ok(daemon.json(&["volume", "info", volume])?["snapshot_policy"].take())
}

fn figure(daemon: &Daemon, name: &str) -> Result<u64> {
    let metrics = api::get(&daemon.socket(), "/metrics")?;
    let line = metrics.lines().find_map(|line| line.strip_prefix(name));
    Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
}

/// Waits until all that are there are gone, and as many others are in their place.
fn goes_on(daemon: &Daemon) -> Result<()> {
    let before = snapshots(daemon, "v", true)?;
    let gone = poll(LIMIT, || {
        let now = snapshots(daemon, "v", true)?;
        Ok::<_, anyhow::Error>(now.len() == KEPT && before.iter().all(|name| !now.contains(name)))
    })?;
    ensure!(gone, "nothing is taken or removed:\n{}", daemon.log());
    Ok(())
}

#[test]
fn snapshots_are_taken_and_removed_by_themselves_over_restarts() -> Result<()> {
    let mut daemon = Daemon::new()?;
    let create = [
        "volume",
        "create",
        "v",
        "64M",
        "--snapshots-schedule",
        "@every 1s",
        "--snapshots-keep",
        &format!("last:{KEPT}"),
    ];
    daemon.ok(&create)?;
    daemon.ok(&["snapshot", "create", "v@auto-mine"])?;
    let mut client = Client::connect(&daemon.nbd_socket(), "v")?;
    client.ask(Request::Write(0, vec![7; 4096], false))?;
    goes_on(&daemon)?;
    daemon.kill();
    daemon.start()?;
    goes_on(&daemon)?;
    daemon.stop()?;
    daemon.start()?;
    goes_on(&daemon)?;
    // They are snapshots as any.
    let last = snapshots(&daemon, "v", true)?.pop().context("none")?;
    daemon.ok(&["volume", "clone", &format!("v@{last}"), "clone"])?;
    let mut client = Client::connect(&daemon.nbd_socket(), "clone")?;
    assert_eq!(client.ask(Request::Read(0, 1))?, [7]);
    assert_eq!(policy(&daemon, "clone")?, Value::Null);
    assert_eq!(snapshots(&daemon, "v", false)?, ["auto-mine"]);
    assert!(figure(&daemon, "holdfast_scheduled_snapshots_taken_total")? >= 2);
    assert!(figure(&daemon, "holdfast_scheduled_snapshots_removed_total")? >= 1);
    assert_eq!(
        figure(&daemon, "holdfast_scheduled_snapshots_failed_total")?,
        0
    );
    assert_eq!(
        figure(&daemon, "holdfast_scheduled_snapshot_failing{volume=\"v\"}")?,
        0
    );
    let last = figure(
        &daemon,
        "holdfast_scheduled_snapshot_timestamp_seconds{volume=\"v\"}",
    )?;
    let told = policy(&daemon, "v")?;
    assert!(
        told["last_ms"]
            .as_u64()
            .is_some_and(|ms| ms / 1000 >= last && last > 0),
        "{told}"
    );

    // One that is being read stays until it is not.
    let read = snapshots(&daemon, "v", true)?.pop().context("none")?;
    let mut reader = Client::connect(&daemon.nbd_socket(), &format!("v@{read}"))?;
    let stayed = poll(LIMIT, || {
        let now = snapshots(&daemon, "v", true)?;
        Ok::<_, anyhow::Error>(now.len() == KEPT + 1 && now[0] == read)
    })?;
    assert!(stayed && reader.ask(Request::Read(0, 1))? == [7]);
    drop(reader);
    goes_on(&daemon)?;

    // It ends, and what is there stays.
    daemon.ok(&["volume", "set", "v", "snapshots.schedule="])?;
    let left = snapshots(&daemon, "v", true)?;
    std::thread::sleep(Duration::from_millis(2500));
    assert_eq!(snapshots(&daemon, "v", true)?, left);
    let told = policy(&daemon, "v")?;
    assert_eq!(
        (&told["schedule"], &told["keep"]),
        (&Value::Null, &Value::from(format!("last:{KEPT}")))
    );
    daemon.ok(&["volume", "set", "v", "snapshots.keep="])?;
    assert_eq!(policy(&daemon, "v")?, Value::Null);
    daemon.stop()
}

#[test]
fn volumes_of_a_group_are_taken_at_one_instant() -> Result<()> {
    let mut daemon = Daemon::new()?;
    for volume in ["data", "log", "scratch"] {
        let create = ["volume", "create", volume, "64M", "--snapshots-group", "db"];
        daemon.ok(&create)?;
    }
    daemon.ok(&["volume", "set", "scratch", "independent=on"])?;
    for volume in ["data", "log", "scratch"] {
        let every = "snapshots.schedule=@every 1s";
        daemon.ok(&["volume", "set", volume, every])?;
    }
    let shown = daemon.ok(&["volume", "info", "data"])?;
    assert!(
        shown.contains("snapshots.group") && shown.contains("db"),
        "{shown}"
    );
    let shown = daemon.ok(&["volume", "info", "scratch"])?;
    assert!(shown.contains("left out"), "{shown}");
    let taken = |daemon: &Daemon| -> Result<()> {
        let enough = snapshots(daemon, "log", true)?.len() + 2;
        let taken = poll(LIMIT, || {
            Ok::<_, anyhow::Error>(snapshots(daemon, "log", true)?.len() >= enough)
        })?;
        ensure!(taken, "none is taken:\n{}", daemon.log());
        Ok(())
    };
    taken(&daemon)?;
    daemon.kill();
    daemon.start()?;
    taken(&daemon)?;
    for volume in ["data", "log", "scratch"] {
        daemon.ok(&["volume", "set", volume, "snapshots.schedule="])?;
    }
    let of = |volume: &str| -> Result<Vec<(Value, Value, Value)>> {
        let all = daemon.json(&["snapshot", "ls", volume])?;
        let all = all.as_array().context("no list")?.iter();
        let told = |s: &Value| {
            (
                s["name"].clone(),
                s["group"].clone(),
                s["created_ms"].clone(),
            )
        };
        Ok(all.map(told).collect())
    };
    // While only one had the schedule it was alone.
    let together = |volume: &str| -> Result<Vec<(Value, Value, Value)>> {
        let all = of(volume)?.into_iter();
        Ok(all.filter(|(_, group, _)| group.is_u64()).collect())
    };
    let (data, log) = (together("data")?, together("log")?);
    assert!(data == log && data.len() >= 2, "{data:?} {log:?}");
    let alone = of("scratch")?;
    assert!(
        alone.iter().all(|(_, group, _)| group.is_null()),
        "{alone:?}"
    );
    let name = data[1].0.as_str().context("no name")?;
    let (data, log) = (format!("data@{name}"), format!("log@{name}"));
    daemon.ok(&["snapshot", "rollback", "--group", &data, &log])?;
    daemon.stop()
}

#[test]
fn what_is_chosen_is_shown_kept_and_checked() -> Result<()> {
    let mut daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "v", "64M"])?;
    let set = [
        "volume",
        "set",
        "v",
        "snapshots.schedule=30 2 * * *",
        "snapshots.keep=daily:7,weekly:4",
        "snapshots.pattern=night-%F",
    ];
    let shown = daemon.ok(&set)?;
    for line in [
        "30 2 * * *",
        "daily:7,weekly:4",
        "night-%F",
        "next snapshot",
        "none yet",
    ] {
        assert!(shown.contains(line), "{shown}");
    }
    let told = policy(&daemon, "v")?;
    daemon.stop()?;
    daemon.start()?;
    assert_eq!(policy(&daemon, "v")?, told);
    assert!(told["next_ms"].as_u64().is_some_and(|ms| ms > 0), "{told}");
    let refused = |command: &[&str], code: i32, why: &str| -> Result<()> {
        let done = daemon.cli(command)?;
        ensure!(
            done.status.code() == Some(code),
            "{command:?}: {}{}",
            done.stdout,
            done.stderr
        );
        ensure!(
            done.stderr.contains(why) && done.stderr.lines().count() == 1,
            "{}",
            done.stderr
        );
        Ok(())
    };
    refused(
        &["volume", "set", "v", "snapshots.schedule=@often"],
        2,
        "@hourly",
    )?;
    refused(
        &["volume", "set", "v", "snapshots.keep=daily"],
        2,
        "hourly:24,daily:7",
    )?;
    refused(&["volume", "set", "v", "snapshots.pattern=%z"], 2, "%Y")?;
    refused(
        &["volume", "set", "v", "snapshots.when=@daily"],
        2,
        "snapshots.schedule",
    )?;
    refused(
        &["volume", "create", "w", "64M", "--snapshots-keep", "x"],
        2,
        "hourly:24",
    )?;
    assert_eq!(policy(&daemon, "v")?, told);
    // Plain files have none, also not by a conversion.
    refused(
        &["volume", "convert", "v", "--backend", "file"],
        4,
        "snapshots.schedule=",
    )?;
    daemon.ok(&["volume", "create", "f", "64M", "--backend", "file"])?;
    refused(
        &["volume", "set", "f", "snapshots.schedule=@daily"],
        4,
        "plain file",
    )?;
    daemon.ok(&["volume", "set", "f", "snapshots.schedule="])?;
    let with = [
        "volume",
        "create",
        "g",
        "64M",
        "--backend",
        "file",
        "--snapshots-schedule",
        "@daily",
    ];
    refused(&with, 4, "plain file")?;
    daemon.stop()
}
