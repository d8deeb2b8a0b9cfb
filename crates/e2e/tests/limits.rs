//! Limits of a volume, set while clients use it. What is counted are requests: time only bounds them from above.

use anyhow::{Context, Result, ensure};
use e2e::{
    api,
    daemon::Daemon,
    stopwatch::Stopwatch,
    torture::nbd::{Client, Request},
};
use std::time::Duration;

const BLOCK: u32 = 4096;
/// Requests a second of the limit that is measured.
const RATE: u64 = 50;

/// Reads one block after the other, for a while; how many, and the seconds that it took.
fn use_up(daemon: &Daemon, wish: Duration) -> Result<(u64, f64)> {
    let mut clients = [
        Client::connect(&daemon.nbd_socket(), "v")?,
        Client::connect(&daemon.nbd_socket(), "v")?,
    ];
    let (watch, mut count) = (Stopwatch::start(), 0);
    while watch.elapsed() < wish {
        for client in &mut clients {
            client.send(&[Request::Read(0, BLOCK), Request::Read(0, BLOCK)])?;
        }
        for client in &mut clients {
            for _ in 0..2 {
                ensure!(client.receive()?.error == 0, "a read fails");
                count += 1;
            }
        }
    }
    Ok((count, watch.elapsed().as_secs_f64()))
}

#[test]
fn limits_hold_for_all_clients_together_and_change_under_them() -> Result<()> {
    let mut daemon = Daemon::new()?;
    daemon.ok(&["volume", "create", "v", "64M"])?;
    daemon.ok(&["volume", "set", "v", "read-iops=50", "write-bps=1M"])?;
    daemon.ok(&["snapshot", "create", "v@s"])?;
    daemon.ok(&["volume", "clone", "v@s", "clone"])?;
    let none = serde_json::json!({});
    assert_eq!(daemon.json(&["volume", "info", "clone"])?["limits"], none);

    for _ in 0..2 {
        let (count, seconds) = use_up(&daemon, Duration::from_secs(1))?;
        let most = RATE as f64 * seconds + RATE as f64 / 10.0 + 1.0;
        assert!(count as f64 <= most && count > 10, "{count} in {seconds} s");
        // They are the volume's, whoever serves it.
        daemon.stop()?;
        daemon.start()?;
        let limits = &daemon.json(&["volume", "info", "v"])?["limits"];
        assert_eq!(limits["read_iops"]["rate"], RATE);
    }

    // A hundred seconds' worth of writes, and a flush that does not wait for them.
    let mut client = Client::connect(&daemon.nbd_socket(), "v")?;
    let write = |n: u64| Request::Write(n << 20, vec![n as u8 + 1; 1 << 20], false);
    let mut batch: Vec<Request> = (0..50).map(write).collect();
    batch.push(Request::Flush);
    client.send(&batch)?;
    let mut before = 0;
    loop {
        let reply = client.receive()?;
        assert_eq!(reply.error, 0);
        if reply.index == 50 {
            break;
        }
        before += 1;
    }
    assert!(before < 20, "{before} writes passed");
    let metrics = api::get(&daemon.socket(), "/metrics")?;
    let figure = |name: &str| -> Result<f64> {
        let line = format!("holdfast_volume_throttled_{name}_total{{volume=\"v\"}} ");
        let found = metrics.lines().find_map(|l| l.strip_prefix(&line));
        Ok(found.with_context(|| format!("no {line}"))?.parse()?)
    };
    assert!(figure("requests")? >= 1.0 && figure("seconds")? > 0.0);
    // Those that wait are let go at once.
    daemon.ok(&["volume", "set", "v", "write-bps=none", "read-iops=none"])?;
    for _ in before..50 {
        assert_eq!(client.receive()?.error, 0);
    }
    let read = client.ask(Request::Read(49 << 20, BLOCK))?;
    assert!(read.iter().all(|&byte| byte == 50));
    assert_eq!(daemon.json(&["volume", "info", "v"])?["limits"], none);
    let wrong = daemon.cli(&["volume", "set", "v", "iops-burst=5"])?;
    assert_eq!(wrong.status.code(), Some(2), "{}", wrong.stderr);
    daemon.stop()
}
