//! Disk modes: what becomes of what a machine wrote when it is powered off.

use anyhow::{Context, Result, ensure};
use e2e::{
    cleanup::Scratch,
    daemon::Daemon,
    stopwatch::poll,
    torture::nbd::{Client, Request},
    vhost::Driver,
};
use serde_json::Value;
use std::{fs, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);

/// A daemon that takes who has left for so long for powered off, and a volume that says 1.
struct Host {
    daemon: Daemon,
}

impl Host {
    fn new(grace: &str) -> Result<Self> {
        let scratch = Scratch::temporary()?;
        let config = scratch.path().join("holdfast.toml");
        fs::write(&config, format!("[power]\ngrace = '{grace}'\n"))?;
        let config = config.to_string_lossy().into_owned();
        let daemon = Daemon::in_directory(scratch, &["--config", &config])?;
        daemon.ok(&["volume", "create", "d", "8M"])?;
        let host = Host { daemon };
        host.write(1)?;
        Ok(host)
    }

    /// A machine that writes and is powered off.
    fn write(&self, byte: u8) -> Result<()> {
        drop(self.machine(byte)?);
        self.gone()
    }

    /// A machine that wrote and runs.
    fn machine(&self, byte: u8) -> Result<Client> {
        let mut client = Client::connect(&self.daemon.nbd_socket(), "d")?;
        client.ask(Request::Write(0, vec![byte; 4096], false))?;
        Ok(client)
    }

    /// Waits until the daemon has noticed that nobody has the volume open.
    fn gone(&self) -> Result<()> {
        let gone = poll(LIMIT, || {
            Ok::<_, anyhow::Error>(self.info()?["connections"] == 0)
        })?;
        ensure!(gone, "a client does not leave");
        Ok(())
    }

    fn read(&self, export: &str) -> Result<u8> {
        let mut client = Client::connect(&self.daemon.nbd_socket(), export)?;
        let bytes = client.ask(Request::Read(0, 4096))?;
        drop(client);
        self.gone()?;
        Ok(bytes[0])
    }

    fn info(&self) -> Result<Value> {
        self.daemon.json(&["volume", "info", "d"])
    }

    fn changed(&self) -> Result<bool> {
        let info = self.info()?;
        info["apart"]["changed"]
            .as_bool()
            .with_context(|| info.to_string())
    }

    fn power(&self) -> Result<String> {
        let info = self.info()?;
        let power = info["apart"]["power"].as_str();
        power.map(str::to_owned).with_context(|| info.to_string())
    }

    fn set(&self, property: &str) -> Result<()> {
        self.daemon.ok(&["volume", "set", "d", property]).map(drop)
    }

    /// Runs a command that must be refused; what it says.
    fn refused(&self, command: &[&str], code: i32) -> Result<String> {
        let done = self.daemon.cli(command)?;
        ensure!(
            done.status.code() == Some(code),
            "{command:?} ended with {}: {}{}",
            done.status,
            done.stdout,
            done.stderr
        );
        Ok(done.stderr)
    }

    fn kill_and_start(&mut self) -> Result<()> {
        self.daemon.kill();
        self.daemon.start()
    }
}

#[test]
fn vw_1_persistent_writes_survive_power_off() -> Result<()> {
    let mut host = Host::new("1s")?;
    host.write(2)?;
    let said = host.daemon.ok(&["volume", "poweroff", "d"])?;
    assert!(said.contains("what was written stays"), "{said}");
    host.refused(&["volume", "poweroff", "d", "--discard"], 4)?;
    host.refused(&["volume", "discard", "d"], 2)?;
    std::thread::sleep(Duration::from_millis(1600));
    host.kill_and_start()?;
    assert_eq!(host.read("d")?, 2);
    assert_eq!(host.info()?["mode"], "persistent");
    Ok(())
}

#[test]
fn vw_2_nonpersistent_writes_vanish_at_power_off() -> Result<()> {
    let mut host = Host::new("off")?;
    host.set("mode=nonpersistent")?;
    assert_eq!(
        (host.power()?, host.changed()?),
        ("leaving".to_owned(), false)
    );
    let base = host.info()?["apart"]["base"].clone();
    let base = format!("d@{}", base.as_str().context("no base")?);
    for round in 2..4 {
        // A reset keeps the connection, another start of the machine comes again: writes are there.
        let machine = host.machine(round)?;
        assert_eq!(host.power()?, "on");
        let said = host.refused(&["volume", "poweroff", "d"], 4)?;
        assert!(said.contains("is open on 1 connection"), "{said}");
        drop(machine);
        assert_eq!(host.read("d")?, round);
        // Nor is the end of the daemon one of the machine.
        host.kill_and_start()?;
        assert_eq!(
            (host.read("d")?, host.power()?),
            (round, "unknown".to_owned())
        );
        let said = host.daemon.ok(&["volume", "poweroff", "d"])?;
        assert!(said.contains("what was written is discarded"), "{said}");
        assert_eq!((host.read("d")?, host.changed()?), (1, false));
        assert_eq!(host.power()?, "off");
        host.kill_and_start()?;
        assert_eq!(host.read("d")?, 1);
    }
    assert_eq!(host.read(&base)?, 1, "the base has changed");
    assert_eq!(
        host.daemon
            .json(&["snapshot", "ls", "d"])?
            .as_array()
            .map(Vec::len),
        Some(1)
    );
    Ok(())
}

/// Without being told: who wrote leaves, and nobody comes for the grace time.
#[test]
fn vw_2_nonpersistent_writes_vanish_when_the_last_client_has_left() -> Result<()> {
    let mut host = Host::new("1s")?;
    host.set("mode=nonpersistent")?;
    let machine = host.machine(2)?;
    // The daemon dies under a machine, which comes again only when it has something to ask.
    host.kill_and_start()?;
    drop(machine);
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(
        (host.changed()?, host.power()?),
        (true, "unknown".to_owned())
    );
    // Nor does it count that somebody looks.
    assert_eq!(host.read("d")?, 2);
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(
        (host.changed()?, host.power()?),
        (true, "unknown".to_owned())
    );
    host.write(3)?;
    assert_eq!(host.power()?, "leaving");
    let off = poll(LIMIT, || Ok::<_, anyhow::Error>(host.power()? == "off"))?;
    ensure!(off, "{}", host.info()?);
    assert_eq!((host.read("d")?, host.changed()?), (1, false));
    // As orderly an end of the daemon.
    let machine = host.machine(4)?;
    host.daemon.stop()?;
    drop(machine);
    host.daemon.start()?;
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(host.read("d")?, 4);
    // The machines of a host that was started anew are off.
    host.daemon.kill();
    let note = host.daemon.store().join("boot-id");
    fs::write(&note, "another start\n")?;
    host.daemon.start()?;
    assert_eq!((host.read("d")?, host.power()?), (1, "off".to_owned()));
    Ok(())
}

#[test]
fn vw_3_undoable_writes_are_committed_discarded_or_kept() -> Result<()> {
    let mut host = Host::new("1s")?;
    host.set("mode=undoable")?;
    for (byte, decision, after, changed) in [
        (2, Some("--keep"), 2, true),
        (3, None, 3, true),
        (4, Some("--discard"), 1, false),
        (5, Some("--commit"), 5, false),
        (6, Some("--discard"), 5, false),
    ] {
        host.write(byte)?;
        // A crash leaves the choice open, and so does the time.
        host.kill_and_start()?;
        assert_eq!((host.read("d")?, host.changed()?), (byte, true));
        let mut poweroff = vec!["volume", "poweroff", "d"];
        poweroff.extend(decision);
        host.daemon.ok(&poweroff)?;
        host.kill_and_start()?;
        assert_eq!(
            (host.read("d")?, host.changed()?),
            (after, changed),
            "{decision:?}"
        );
    }
    // Later, and while a machine runs: what it wrote up to now is kept.
    let mut machine = host.machine(7)?;
    host.daemon.ok(&["volume", "commit", "d"])?;
    machine.ask(Request::Write(0, vec![8; 4096], false))?;
    host.refused(&["volume", "discard", "d"], 4)?;
    drop(machine);
    host.gone()?;
    let said = host.refused(&["volume", "set", "d", "mode=persistent"], 4)?;
    assert!(said.contains("volume commit d"), "{said}");
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!((host.changed()?, host.power()?), (true, "off".to_owned()));
    host.daemon.ok(&["volume", "discard", "d"])?;
    assert_eq!(host.read("d")?, 7);
    host.set("mode=persistent")?;
    assert_eq!(
        host.daemon.json(&["snapshot", "ls", "d"])?,
        serde_json::json!([])
    );
    assert_eq!((host.read("d")?, host.info()?.get("apart")), (7, None));
    Ok(())
}

#[test]
fn vw_4_independent_disks_are_not_in_snapshots_of_the_machine() -> Result<()> {
    let host = Host::new("off")?;
    host.daemon.ok(&["volume", "create", "e", "8M"])?;
    host.set("independent=on")?;
    let group = ["snapshot", "create", "--group", "d", "e@g"];
    let said = host.daemon.ok(&group)?;
    assert!(
        said.contains("'e@g'") && said.contains("left out, as independent: d"),
        "{said}"
    );
    assert_eq!(
        host.daemon.json(&["snapshot", "ls", "d"])?,
        serde_json::json!([])
    );
    host.write(2)?;
    let said = host
        .daemon
        .ok(&["snapshot", "rollback", "--group", "d", "e@g"])?;
    assert!(said.contains("left out, as independent: d"), "{said}");
    assert_eq!(host.read("d")?, 2, "it was set back");
    let clone = [
        "snapshot", "clone", "--group", "--prefix", "new-", "d@g", "e@g",
    ];
    host.daemon.ok(&clone)?;
    host.refused(&["volume", "info", "new-d"], 3)?;
    host.refused(&["snapshot", "create", "--group", "d@h"], 4)?;
    // By itself it can have snapshots, and a mode.
    host.daemon.ok(&["snapshot", "create", "d@own"])?;
    host.set("mode=nonpersistent")?;
    assert_eq!(host.info()?["independent"], true);
    host.set("independent=off")?;
    host.daemon
        .ok(&["snapshot", "create", "--group", "d@h", "e@h"])?;
    Ok(())
}

#[test]
fn what_cannot_be_is_refused_and_what_can_goes_with_the_volume() -> Result<()> {
    let mut host = Host::new("off")?;
    let machine = host.machine(1)?;
    let said = host.refused(&["volume", "set", "d", "mode=undoable"], 4)?;
    assert!(said.contains("given another mode"), "{said}");
    drop(machine);
    host.gone()?;
    host.refused(&["volume", "set", "d", "mode=sometimes"], 2)?;
    host.refused(&["volume", "set", "d", "mode=undoable", "codec=zstd"], 2)?;
    host.set("mode=undoable")?;
    host.write(2)?;
    let base = host.info()?["apart"]["base"]
        .as_str()
        .context("no base")?
        .to_owned();
    let base = format!("d@{base}");
    for command in [
        &["snapshot", "rm", &base][..],
        &["volume", "resize", "d", "16M"],
        &["volume", "convert", "d", "--backend", "file"],
    ] {
        let said = host.refused(command, 4)?;
        assert!(said.contains("mode=persistent"), "{said}");
    }
    host.daemon
        .ok(&["volume", "create", "f", "8M", "--backend", "file"])?;
    host.refused(&["volume", "set", "f", "mode=undoable"], 4)?;
    host.daemon.ok(&["volume", "poweroff", "f"])?;
    host.daemon.ok(&["volume", "set", "f", "independent=on"])?;
    host.daemon
        .ok(&["volume", "convert", "f", "--backend", "store"])?;
    assert_eq!(
        host.daemon.json(&["volume", "info", "f"])?["independent"],
        true
    );

    // Snapshots and clones are of what it is now, and stay; a clone is persistent.
    host.daemon.ok(&["snapshot", "create", "d@two"])?;
    host.daemon.ok(&["volume", "clone", "d", "c"])?;
    assert_eq!(
        host.daemon.json(&["volume", "info", "c"])?["mode"],
        "persistent"
    );
    host.daemon.ok(&["volume", "discard", "d"])?;
    assert_eq!(
        (host.read("d")?, host.read("d@two")?, host.read("c")?),
        (1, 2, 2)
    );
    host.daemon.ok(&["volume", "rollback", "d@two"])?;
    assert_eq!((host.read("d")?, host.changed()?), (2, true));

    // It goes to the trash and comes back with the choice, and so it does with a catalog made anew.
    host.daemon.ok(&["volume", "rm", "d"])?;
    host.daemon.ok(&["trash", "restore", "d"])?;
    assert_eq!((host.read("d")?, host.changed()?), (2, true));
    host.daemon.stop()?;
    fs::remove_file(host.daemon.store().join("catalog.redb"))?;
    let store = host.daemon.store().to_string_lossy().into_owned();
    host.daemon.ok(&["check", &store, "--repair"])?;
    host.daemon.start()?;
    assert_eq!((host.read("d")?, host.changed()?), (2, true));
    host.daemon.ok(&["volume", "discard", "d"])?;
    assert_eq!(host.read("d")?, 1);
    host.daemon.ok(&["check"])?;
    Ok(())
}

/// Over shared memory a device is open all the time, whether a guest is there or not.
#[test]
fn guests_of_shared_memory_are_powered_off_too() -> Result<()> {
    let mut host = Host::new("1s")?;
    host.daemon.ok(&["vhost", "on", "d"])?;
    host.set("mode=nonpersistent")?;
    let socket = host.info()?["vhost"]
        .as_str()
        .context("no socket")?
        .to_owned();
    let connect = || Driver::connect(socket.as_ref(), 1, 64, 1 << 20);
    let mut guest = connect()?;
    guest.write(0, &[2; 4096])?;
    host.refused(&["volume", "discard", "d"], 4)?;
    host.kill_and_start()?;
    drop(guest);
    std::thread::sleep(Duration::from_millis(1600));
    assert_eq!(
        (host.changed()?, host.power()?),
        (true, "unknown".to_owned())
    );
    let mut guest = connect()?;
    assert_eq!(guest.read(0, 4096)?, [2; 4096]);
    guest.write(0, &[3; 4096])?;
    drop(guest);
    let off = poll(LIMIT, || Ok::<_, anyhow::Error>(host.power()? == "off"))?;
    ensure!(off, "{}", host.info()?);
    let mut guest = connect()?;
    assert_eq!(guest.read(0, 4096)?, [1; 4096]);
    Ok(())
}
