//! Images of all formats, in and out, and programs of QEMU's that must not outlive the daemon.

use anyhow::{Context, Result, ensure};
use e2e::{
    daemon::Daemon,
    paths,
    process::{Process, command, find, run},
    stopwatch::poll,
    tools,
};
use std::{
    fs,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// A raw image with noise in its first part and holes behind it, and a last sector.
fn raw(directory: &Path, noise: usize) -> Result<PathBuf> {
    let path = directory.join("disk.raw");
    let file = fs::File::create(&path)?;
    file.set_len((noise as u64 + 40) << 20)?;
    let mut random = fastrand::Rng::with_seed(7);
    let mut part = vec![0; MIB];
    for at in 0..noise {
        random.fill(&mut part);
        file.write_all_at(&part, (at * MIB) as u64)?;
    }
    file.write_all_at(&[9; 512], ((noise as u64 + 40) << 20) - 512)?;
    Ok(path)
}

fn qemu_img(arguments: &[&str]) -> Result<String> {
    run("qemu-img", command("qemu-img").args(arguments), LIMIT)
}

fn compare(daemon: &Daemon, volume: &str, raw: &Path) -> Result<()> {
    let uri = daemon.uri(volume);
    qemu_img(&["compare", "-f", "raw", "-F", "raw", &uri, text(raw)?]).map(drop)
}

fn wait_for(program: &str, word: &str, any: bool) -> Result<()> {
    let seen = poll(LIMIT, || anyhow::Ok(find(program, word)?.is_empty() != any))?;
    ensure!(
        seen,
        "{program} is {}",
        if any { "not started" } else { "left behind" }
    );
    Ok(())
}

/// A command that goes on by itself.
fn client(daemon: &Daemon, arguments: &[&str]) -> Result<Process> {
    let mut client = command(paths::holdfast()?);
    client
        .args(arguments)
        .env("HOLDFAST_SOCKET", daemon.socket());
    Process::start("holdfast", &mut client)
}

#[test]
fn every_format_goes_out_and_comes_back() -> Result<()> {
    tools::need(&["qemu-img", "qemu-nbd"])?;
    let daemon = Daemon::new()?;
    let raw = raw(daemon.directory(), 3)?;
    daemon.ok(&["volume", "import", text(&raw)?, "web"])?;
    daemon.ok(&["snapshot", "create", "web@s"])?;
    for (at, (format, qemu, options)) in [
        ("qcow2", "qcow2", &[][..]),
        ("qcow2", "qcow2", &["--compress"]),
        ("qcow2", "qcow2", &["--compress=zstd"]),
        ("vmdk", "vmdk", &[]),
        ("vmdk", "vmdk", &["--subformat", "streamoptimized"]),
        ("vhdx", "vhdx", &[]),
        ("vhd", "vpc", &["--subformat", "fixed"]),
        ("vdi", "vdi", &[]),
    ]
    .into_iter()
    .enumerate()
    {
        let image = daemon.directory().join(format!("{at}.{format}"));
        let image = text(&image)?;
        let arguments = ["volume", "export", "web@s", image, "--format", format];
        daemon.ok(&[&arguments, options].concat())?;
        qemu_img(&["compare", "-f", qemu, "-F", "raw", image, text(&raw)?])?;
        let again = daemon.cli(&[&arguments, options].concat())?;
        ensure!(again.status.code() == Some(4), "{}", again.stderr);
        let name = format!("copy{at}");
        daemon.ok(&["volume", "import", image, &name])?;
        compare(&daemon, &name, &raw)?;
    }
    let uri = daemon.uri("web@s");
    daemon.ok(&["volume", "import", &uri, "over-nbd"])?;
    compare(&daemon, "over-nbd", &raw)?;
    daemon.ok(&["check"])?;

    for (arguments, why) in [
        (
            &["export", "web", "-", "--format", "vdi"][..],
            "standard output",
        ),
        (&["export", "web", "web.qcow2"], "--format qcow2"),
        (
            &["export", "web", "x", "--format", "vdi", "--compress"],
            "not compressed",
        ),
        (
            &[
                "export",
                "web",
                "x",
                "--format",
                "vhd",
                "--subformat",
                "monolithicFlat",
            ],
            "dynamic, fixed",
        ),
        (&["import", &uri, "w", "--live"], "needs a file"),
        (&["import", "nbds://host/x", "w"], "TLS"),
        (&["import", &daemon.uri("none"), "w"], "no export 'none'"),
    ] {
        let refused = daemon.cli(&[&["volume"], arguments].concat())?;
        ensure!(
            refused.status.code() == Some(2),
            "{arguments:?}: {}",
            refused.status
        );
        ensure!(
            refused.stderr.contains(why) && refused.stderr.lines().count() == 1,
            "{}",
            refused.stderr
        );
    }
    Ok(())
}

#[test]
fn a_killed_daemon_leaves_no_program_of_qemus_and_no_image() -> Result<()> {
    tools::need(&["qemu-img", "qemu-nbd"])?;
    let mut daemon = Daemon::new()?;
    let raw = raw(daemon.directory(), 200)?;
    let vdi = daemon.directory().join("disk.vdi");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vdi",
        text(&raw)?,
        text(&vdi)?,
    ])?;
    let out = daemon.directory().join("out.qcow2");
    let mut import = client(&daemon, &["volume", "import", text(&vdi)?, "web"])?;
    wait_for("qemu-nbd", text(&vdi)?, true)?;
    daemon.kill();
    wait_for("qemu-nbd", text(&vdi)?, false)?;
    ensure!(!import.wait(LIMIT)?.success());
    daemon.start()?;
    ensure!(
        daemon.json(&["volume", "ls"])? == serde_json::json!([]),
        "a volume is left"
    );
    daemon.ok(&["volume", "import", text(&vdi)?, "web"])?;
    compare(&daemon, "web", &raw)?;

    let export = [
        "volume",
        "export",
        "web",
        text(&out)?,
        "--format",
        "qcow2",
        "--compress",
    ];
    let mut running = client(&daemon, &export)?;
    wait_for("qemu-img", text(&out)?, true)?;
    daemon.kill();
    wait_for("qemu-img", text(&out)?, false)?;
    ensure!(!running.wait(LIMIT)?.success() && !out.exists());
    daemon.start()?;
    let refused = daemon.cli(&export)?;
    ensure!(refused.stderr.contains("rm -r"), "{}", refused.stderr);
    fs::remove_dir_all(daemon.directory().join("out.qcow2.partial"))?;
    daemon.ok(&export)?;
    qemu_img(&[
        "compare",
        "-f",
        "qcow2",
        "-F",
        "raw",
        text(&out)?,
        text(&raw)?,
    ])?;
    Ok(())
}

/// The image is read through QEMU for as long as it takes, over restarts.
#[test]
fn a_volume_is_used_while_its_vhdx_is_imported() -> Result<()> {
    tools::need(&["qemu-img", "qemu-nbd"])?;
    let mut daemon = Daemon::new()?;
    let raw = raw(daemon.directory(), 60)?;
    let vhdx = daemon.directory().join("disk.vhdx");
    qemu_img(&[
        "convert",
        "-f",
        "raw",
        "-O",
        "vhdx",
        text(&raw)?,
        text(&vhdx)?,
    ])?;
    daemon.ok(&["volume", "import", text(&vhdx)?, "web", "--live"])?;
    compare(&daemon, "web", &raw)?;
    daemon.kill();
    daemon.start()?;
    compare(&daemon, "web", &raw)?;
    let done = poll(LIMIT, || {
        Ok::<_, anyhow::Error>(daemon.json(&["volume", "info", "web"])?["importing"].is_null())
    })?;
    ensure!(done, "it is not filled");
    wait_for("qemu-nbd", text(&vhdx)?, false)?;
    fs::remove_file(&vhdx)?;
    compare(&daemon, "web", &raw)
}
