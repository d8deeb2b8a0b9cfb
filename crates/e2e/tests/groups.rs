//! Several volumes at one instant, from the command line.

use anyhow::{Context, Result};
use e2e::{
    daemon::Daemon,
    torture::nbd::{Client, Request},
};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

fn number(block: &[u8]) -> u64 {
    block
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

/// Writes a number to one volume, then to the other, then the next number, until it is stopped.
fn write(daemon: &Daemon, stop: &AtomicBool) -> Result<()> {
    let connect = |volume| Client::connect(&daemon.nbd_socket(), volume);
    let mut clients = [connect("a")?, connect("b")?];
    for number in 1_u64.. {
        for client in &mut clients {
            let block = number.to_le_bytes().repeat(512);
            client.ask(Request::Write(0, block, false))?;
        }
        if stop.load(Relaxed) {
            break;
        }
    }
    Ok(())
}

fn read(daemon: &Daemon, export: &str) -> Result<u64> {
    let mut client = Client::connect(&daemon.nbd_socket(), export)?;
    Ok(number(&client.ask(Request::Read(0, 4096))?))
}

#[test]
fn a_group_is_taken_under_load_cloned_and_set_back() -> Result<()> {
    let mut daemon = Daemon::new()?;
    for volume in ["a", "b", "c"] {
        daemon.ok(&["volume", "create", volume, "64M"])?;
    }
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let writer = scope.spawn(|| write(&daemon, &stop));
        for round in 0..20 {
            let name = format!("c@g{round}");
            daemon.ok(&["snapshot", "create", "--group", "a", "b", &name])?;
        }
        stop.store(true, Relaxed);
        writer.join().ok().context("the writer panicked")?
    })?;
    daemon.kill();
    daemon.start()?;
    for round in 0..20 {
        let (first, second) = (
            read(&daemon, &format!("a@g{round}"))?,
            read(&daemon, &format!("b@g{round}"))?,
        );
        let fits = first == second || first == second + 1;
        assert!(fits, "round {round}: {first}, then {second}");
    }

    let clone = ["snapshot", "clone", "--group", "--prefix", "test-"];
    daemon.ok(&[&clone[..], &["a@g5", "b@g5"]].concat())?;
    assert_eq!(read(&daemon, "test-a")?, read(&daemon, "a@g5")?);
    daemon.ok(&["snapshot", "rollback", "--group", "a", "b", "c@g5"])?;
    assert_eq!(read(&daemon, "b")?, read(&daemon, "b@g5")?);
    let list = daemon.json(&["snapshot", "ls", "c"])?;
    assert!(list[0]["group"].is_u64(), "{list}");

    for (arguments, code) in [
        (&["create", "a@x", "b@x"][..], 2),
        (&["create", "--group", "a", "b"], 2),
        (&["create", "--group", "a@x", "none@x"], 3),
        (&["create", "--group", "a@g5", "b@g5"], 4),
        (&["rollback", "--group", "a@g5", "b@g6"], 4),
        (&["clone", "a@g5"], 2),
    ] {
        let done = daemon.cli(&[&["snapshot"], arguments].concat())?;
        assert_eq!(
            done.status.code(),
            Some(code),
            "{arguments:?}: {}",
            done.stderr
        );
    }
    assert!(
        daemon
            .json(&["snapshot", "ls", "a"])?
            .as_array()
            .is_some_and(|all| all.len() == 20)
    );
    Ok(())
}
