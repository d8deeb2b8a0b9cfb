//! Images whose servers, programs and files do not do what they should while they are imported and exported: an error or a cancel
//! that is not held up, nothing left behind, and a daemon that ends.

use anyhow::{Context, Result, ensure};
use e2e::{
    cleanup::Scratch,
    daemon::Daemon,
    paths,
    process::{Process, command, find, run},
    stopwatch::poll,
    tools,
};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);
/// Less than what anybody would be waited for.
const SOON: Duration = Duration::from_secs(30);
const MIB: usize = 1 << 20;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// A raw image of so many MiB of noise.
fn raw(directory: &Path, mebibytes: usize) -> Result<PathBuf> {
    let path = directory.join("disk.raw");
    let file = fs::File::create(&path)?;
    let mut random = fastrand::Rng::with_seed(7);
    let mut part = vec![0; MIB];
    for at in 0..mebibytes {
        random.fill(&mut part);
        file.write_all_at(&part, (at * MIB) as u64)?;
    }
    Ok(path)
}

/// The same in another format.
fn converted(raw: &Path, format: &str) -> Result<PathBuf> {
    let image = raw.with_extension(format);
    let mut convert = command("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", format]);
    run("qemu-img", convert.arg(raw).arg(&image), LIMIT)?;
    Ok(image)
}

fn compare(daemon: &Daemon, volume: &str, raw: &Path) -> Result<()> {
    let mut compare = command("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "raw"]);
    compare.arg(daemon.uri(volume)).arg(raw);
    run("qemu-img compare", &mut compare, LIMIT).map(drop)
}

/// A command that goes on by itself.
fn client(daemon: &Daemon, arguments: &[&str]) -> Result<Process> {
    let mut client = command(paths::holdfast()?);
    client
        .args(arguments)
        .env("HOLDFAST_SOCKET", daemon.socket());
    Process::start("holdfast", &mut client)
}

/// The process of `program` that has to do with `image`, as soon as there is one.
fn program(program: &str, image: &Path) -> Result<Pid> {
    let mut found = Vec::new();
    poll(LIMIT, || {
        found = find(program, text(image)?)?;
        anyhow::Ok(!found.is_empty())
    })?;
    let first = found.first().copied();
    first.with_context(|| format!("{program} is not started"))
}

/// No process of `program` has to do with `image` any more, soon.
fn gone(program: &str, image: &Path) -> Result<()> {
    let gone = poll(SOON, || anyhow::Ok(find(program, text(image)?)?.is_empty()))?;
    ensure!(gone, "{program} is left behind");
    Ok(())
}

/// Cancels the only job, which ends at once.
fn cancel(daemon: &Daemon, mut client: Process) -> Result<()> {
    let jobs = daemon.json(&["job", "ls"])?;
    let running = jobs.as_array().context("no jobs")?.iter();
    let mut running = running.filter(|job| job["state"] == "running");
    let id = running.next().context("no job")?["id"].to_string();
    daemon.ok(&["job", "cancel", &id])?;
    let status = client.wait(SOON)?;
    ensure!(status.code() == Some(130), "{status}");
    Ok(())
}

/// A daemon that fills volumes so fast at most.
fn slow(rate: &str) -> Result<Daemon> {
    let scratch = Scratch::temporary()?;
    let config = scratch.path().join("holdfast.toml");
    fs::write(&config, format!("[import]\nrate = \"{rate}\"\n"))?;
    let arguments = ["--config", config.to_str().context("no text")?];
    Daemon::in_directory(scratch, &arguments)
}

fn no_volumes(daemon: &Daemon) -> Result<()> {
    let volumes = daemon.json(&["volume", "ls"])?;
    ensure!(volumes == serde_json::json!([]), "{volumes}");
    Ok(())
}

/// A server that stops in the middle of an import is not waited for when that is cancelled.
#[test]
fn an_nbd_server_that_stalls_holds_up_no_cancel() -> Result<()> {
    tools::need(&["qemu-nbd"])?;
    let daemon = Daemon::new()?;
    let raw = raw(daemon.directory(), 64)?;
    let socket = daemon.directory().join("server.sock");
    let mut serve = command("qemu-nbd");
    serve.args(["--read-only", "--persistent", "--shared=4", "--object"]);
    serve.args(["throttle-group,id=t,x-bps-total=8388608", "--socket"]);
    serve.arg(&socket).arg("--image-opts").arg(format!(
        "driver=throttle,throttle-group=t,file.driver=file,file.filename={}",
        raw.display()
    ));
    let server = Process::start("qemu-nbd", &mut serve)?;
    let listens = || anyhow::Ok(std::os::unix::net::UnixStream::connect(&socket).is_ok());
    ensure!(poll(LIMIT, listens)?, "qemu-nbd does not listen");
    let uri = format!("nbd+unix:///?socket={}", socket.display());
    let importing = client(&daemon, &["volume", "import", &uri, "web"])?;
    let begun = poll(LIMIT, || {
        let jobs = daemon.json(&["job", "ls"])?;
        anyhow::Ok(jobs[0]["done"].as_u64() > Some(0))
    })?;
    ensure!(begun, "nothing is imported");
    server.signal(Signal::STOP);
    cancel(&daemon, importing)?;
    // Nor is it waited for when nobody has connected yet.
    let importing = client(&daemon, &["volume", "import", &uri, "web"])?;
    let begun = poll(LIMIT, || {
        let jobs = daemon.json(&["job", "ls"])?;
        anyhow::Ok(jobs[1]["state"] == "running")
    })?;
    ensure!(begun, "no second job");
    cancel(&daemon, importing)?;
    no_volumes(&daemon)
}

/// A volume that is filled through a program that stops can be removed, and the daemon be ended, at once.
#[test]
fn a_stalled_image_holds_up_neither_a_removal_nor_the_daemons_end() -> Result<()> {
    tools::need(&["qemu-img", "qemu-nbd"])?;
    let mut daemon = slow("10M")?;
    let raw = raw(daemon.directory(), 64)?;
    let vhdx = converted(&raw, "vhdx")?;
    let import = ["volume", "import", text(&vhdx)?, "web", "--live"];
    // Somebody who waits for what is not in the store.
    let reader = |daemon: &Daemon| -> Result<Process> {
        let script = format!(
            "import nbd\nh = nbd.NBD()\nh.connect_uri('{}')\nprint('connected', flush=True)\nh.pread({MIB}, {})",
            daemon.uri("web"),
            63 * MIB
        );
        let mut python = command("/usr/bin/python3");
        python.args(["-c", &script]);
        let reader = Process::start("libnbd", &mut python)?;
        let there = poll(LIMIT, || {
            let info = daemon.json(&["volume", "info", "web"])?;
            anyhow::Ok(info["connections"] == 1)
        })?;
        ensure!(there, "nobody reads");
        Ok(reader)
    };
    let stall = |daemon: &Daemon| -> Result<Process> {
        daemon.ok(&import)?;
        let begun = poll(LIMIT, || {
            let info = daemon.json(&["volume", "info", "web"])?;
            anyhow::Ok(info["importing"]["done"].as_u64() > Some(0))
        })?;
        ensure!(begun, "nothing is filled");
        let qemu_nbd = program("qemu-nbd", &vhdx)?;
        kill_process(qemu_nbd, Signal::STOP)?;
        reader(daemon)
    };

    let waiting = stall(&daemon)?;
    let mut removing = client(&daemon, &["volume", "rm", "web", "--force"])?;
    ensure!(removing.wait(SOON)?.success());
    gone("qemu-nbd", &vhdx)?;
    drop(waiting);

    let _waiting = stall(&daemon)?;
    daemon.signal(Signal::TERM);
    let store = daemon.store();
    let ended = poll(SOON, || {
        anyhow::Ok(find("", &format!("serve\0{}", text(&store)?))?.is_empty())
    })?;
    ensure!(ended, "the daemon does not end");
    ensure!(daemon.wait()?.success());
    gone("qemu-nbd", &vhdx)?;
    daemon.start()?;
    compare(&daemon, "web", &raw)
}
