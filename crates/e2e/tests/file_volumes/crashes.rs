//! What is there after the daemon has died.

use crate::host::{Host, MIB, qemu, short, wait_until};
use anyhow::{Result, ensure};
use e2e::process::{Process, command};
use serde_json::Value;
use std::{fs, time::Duration};

#[test]
fn f07_what_was_flushed_is_there_however_the_daemon_ends() -> Result<()> {
    let mut host = Host::new()?;
    for driver in ["threads", "io_uring"] {
        host.ok(&[
            "volume",
            "create",
            driver,
            "64M",
            "--backend",
            "file",
            "--driver",
            driver,
        ])?;
    }
    for round in 1..4_u64 {
        for driver in ["threads", "io_uring"] {
            let write = format!("write -P {round} {round}M 1M");
            host.io(
                driver,
                &[
                    &write,
                    "flush",
                    &format!("write -f -P {round} {}M 64k", 32 + round),
                ],
            )?;
        }
        host.daemon.kill();
        host.daemon.start()?;
        for driver in ["threads", "io_uring"] {
            for done in 1..=round {
                let long = format!("read -P {done} {done}M 1M");
                host.io(
                    driver,
                    &[&long, &format!("read -P {done} {}M 64k", 32 + done)],
                )?;
            }
        }
    }
    host.daemon.stop()?;
    host.daemon.start()?;
    host.io("threads", &["read -P 3 3M 1M"])?;
    assert_eq!(host.findings()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn f07_a_daemon_that_dies_under_its_clients_keeps_what_was_flushed() -> Result<()> {
    let mut host = Host::new()?;
    let formats = ["raw", "qcow2"];
    for format in formats {
        let create = [
            "volume",
            "create",
            format,
            "64M",
            "--backend",
            "file",
            "--file-format",
            format,
        ];
        host.ok(&create)?;
    }
    for round in 1..4_u64 {
        let mut clients = Vec::new();
        for format in formats {
            let flushed = format!("write -P {round} {round}M 1M");
            let later = format!("write -P 99 {}M 1M", 40 + round);
            let mut qemu_io = command("qemu-io");
            qemu_io.args(["-f", "raw", "-c", &flushed, "-c", "flush", "-c", &later]);
            qemu_io
                .args(["-c", "sleep 60000"])
                .arg(host.daemon.uri(format));
            clients.push(Process::start("qemu-io", &mut qemu_io)?);
        }
        wait_until(|| {
            let status = host.daemon.json(&["nbd", "status"])?;
            let connections = status["connections"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            let done = |c: &Value| c["bytes_written"].as_u64() >= Some(2 * MIB);
            Ok(connections.len() == 2 && connections.iter().all(done))
        })?;
        host.daemon.kill();
        clients.iter_mut().for_each(Process::kill);
        host.daemon.start()?;
        for format in formats {
            for done in 1..=round {
                host.io(format, &[&format!("read -P {done} {done}M 1M")])?;
            }
        }
    }
    let (ok, said) = qemu(
        &["qemu-img", "check", "-f", "qcow2"],
        &host.file_of("qcow2")?,
    )?;
    ensure!(ok && said.contains("No errors"), "{said}");
    assert_eq!(host.findings()?, Vec::<String>::new());
    Ok(())
}

/// A conversion that is killed has happened or has not. What may be left over is a file too many, which is named.
#[test]
fn f07_a_conversion_that_is_killed_leaves_the_one_or_the_other() -> Result<()> {
    let mut host = Host::new()?;
    host.ok(&["volume", "create", "a", "256M", "--backend", "file"])?;
    host.io(
        "a",
        &[
            "write -P 5 1M 3M",
            "write -P 6 16M 100M",
            "write -P 7 255M 1M",
        ],
    )?;
    let mut killed = 0;
    for round in 0..8_u64 {
        let info = host.daemon.json(&["volume", "info", "a"])?;
        let to = if info["file"].is_object() {
            "store"
        } else {
            "file"
        };
        let mut convert = command(e2e::paths::holdfast()?);
        convert.args(["volume", "convert", "a", "--backend", to]);
        convert.env("HOLDFAST_SOCKET", host.daemon.socket());
        let mut client = Process::start("holdfast convert", &mut convert)?;
        std::thread::sleep(Duration::from_millis(20 * round));
        killed += u64::from(client.ended()?.is_none());
        host.daemon.kill();
        client.kill();
        host.daemon.start()?;
        host.io(
            "a",
            &[
                "read -P 5 1M 3M",
                "read -P 0 4M 12M",
                "read -P 6 16M 100M",
                "read -P 7 255M 1M",
            ],
        )?;
        for finding in short(&host.findings()?) {
            let left = finding.starts_with("WARNING:EFILEORPHAN:");
            ensure!(left, "{finding}");
            fs::remove_file(host.file("a/disk0"))?;
        }
    }
    ensure!(killed > 0, "every conversion was faster than its end");
    host.ok(&["check"]).map(drop)
}
