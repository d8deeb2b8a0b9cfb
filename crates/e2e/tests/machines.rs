//! Machines in archives, and images with snapshots in them, by the command line.

use anyhow::{Context, Result, ensure};
use e2e::{
    daemon::Daemon,
    paths,
    process::{Finished, command, finish, run},
    tools,
};
use serde_json::json;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

fn qemu_img(arguments: &[&str]) -> Result<String> {
    run("qemu-img", command("qemu-img").args(arguments), LIMIT)
}

fn write(format: &str, image: &str, writes: &[&str]) -> Result<()> {
    let mut qemu_io = command("qemu-io");
    qemu_io.args(["-f", format, image]);
    for write in writes.iter().chain(&["flush"]) {
        qemu_io.args(["-c", write]);
    }
    run("qemu-io", &mut qemu_io, LIMIT).map(drop)
}

/// Two exports, byte for byte.
fn same(daemon: &Daemon, one: &str, other: &str) -> Result<()> {
    let [one, other] = [one, other].map(|name| daemon.uri(name));
    qemu_img(&["compare", "-s", "-f", "raw", "-F", "raw", &one, &other]).map(drop)
}

/// The command line with a file as its standard input.
fn piped(daemon: &Daemon, arguments: &[&str], input: &Path) -> Result<Finished> {
    let mut client = command(paths::holdfast()?);
    client
        .args(arguments)
        .env("HOLDFAST_SOCKET", daemon.socket())
        .stdin(fs::File::open(input)?);
    finish("holdfast", &mut client, LIMIT)
}

/// `web` and `web.disk1`, and both in an OVA.
fn machine(daemon: &Daemon) -> Result<PathBuf> {
    for (name, size, writes) in [
        ("web", "30M", ["write -P 1 0 5M", "write -P 2 29M 1M"]),
        (
            "web.disk1",
            "12582400",
            ["write -P 3 100k 7k", "write -P 4 12582300 100"],
        ),
    ] {
        daemon.ok(&["volume", "create", name, size])?;
        write("raw", &daemon.uri(name), &writes)?;
    }
    let ova = daemon.directory().join("web.ova");
    let export = ["volume", "export", "web", "web.disk1", text(&ova)?];
    daemon.ok(&[&export[..], &["--format", "ova"]].concat())?;
    Ok(ova)
}

#[test]
fn a_machine_goes_out_as_an_ova_and_comes_back_as_its_disks() -> Result<()> {
    tools::need(&["qemu-img", "qemu-io", "tar", "sha256sum"])?;
    let daemon = Daemon::new()?;
    let ova = machine(&daemon)?;
    let ova = text(&ova)?;
    let members = run("tar", command("tar").args(["tf", ova]), LIMIT)?;
    let members: Vec<&str> = members.lines().collect();
    let expected = ["web.ovf", "web.mf", "web-disk1.vmdk", "web-disk2.vmdk"];
    ensure!(members == expected, "{members:?}");
    let mut unpack = command("tar");
    run(
        "tar",
        unpack.args(["xf", ova, "-C", text(daemon.directory())?]),
        LIMIT,
    )?;
    let mut check = command("sha256sum");
    check
        .args(["--check", "--strict", "web.mf"])
        .current_dir(daemon.directory());
    // Of lines like `SHA256(name)= digest` it wants a space.
    let manifest = daemon.directory().join("web.mf");
    let lines = fs::read_to_string(&manifest)?;
    fs::write(
        &manifest,
        lines.replace("SHA256(", "SHA256 (").replace(")=", ") ="),
    )?;
    let checked = run("sha256sum", &mut check, LIMIT)?;
    ensure!(
        checked
            .lines()
            .filter(|line| line.ends_with(": OK"))
            .count()
            == 3,
        "{checked}"
    );

    let import = ["volume", "import", ova];
    let said = daemon.ok(&[&import[..], &["file"]].concat())?;
    ensure!(
        said.contains("'file-1'") && said.contains("'file-2'"),
        "{said}"
    );
    let done = piped(&daemon, &["volume", "import", "-", "pipe"], Path::new(ova))?;
    ensure!(done.status.success(), "{}", done.stderr);
    for name in ["file", "pipe"] {
        same(&daemon, "web", &format!("{name}-1"))?;
        same(&daemon, "web.disk1", &format!("{name}-2"))?;
    }
    // One of them, under the very name.
    daemon.ok(&[&import[..], &["only", "--disk", "2"]].concat())?;
    same(&daemon, "web.disk1", "only")?;
    let done = piped(
        &daemon,
        &["volume", "import", "-", "first", "--disk=1"],
        Path::new(ova),
    )?;
    ensure!(done.status.success(), "{}", done.stderr);
    same(&daemon, "web", "first")?;
    let volumes = daemon.json(&["volume", "ls"])?;
    let names: Vec<&str> = volumes
        .as_array()
        .context("no list")?
        .iter()
        .filter_map(|volume| volume["name"].as_str())
        .collect();
    let expected = [
        "file-1",
        "file-2",
        "first",
        "only",
        "pipe-1",
        "pipe-2",
        "web",
        "web.disk1",
    ];
    ensure!(names == expected, "{names:?}");
    daemon.ok(&["check"])?;
    Ok(())
}

#[test]
fn what_is_wrong_with_an_archive_or_a_request_is_one_line_and_leaves_nothing() -> Result<()> {
    tools::need(&["qemu-img", "qemu-io"])?;
    let daemon = Daemon::new()?;
    let ova = machine(&daemon)?;
    let whole = fs::read(&ova)?;
    let (cut, changed) = (
        daemon.directory().join("cut.ova"),
        daemon.directory().join("bad.ova"),
    );
    fs::write(&cut, &whole[..whole.len() - 3000])?;
    let mut bytes = whole.clone();
    let last = bytes.len() - 1500;
    bytes[last] ^= 1;
    fs::write(&changed, bytes)?;
    let before = daemon.json(&["volume", "ls"])?;
    let out = daemon.directory().join("out.ova");
    let (ova, out) = (text(&ova)?, text(&out)?);
    for (arguments, code, why) in [
        (&["import", ova, "v", "--disk", "3"][..], 2, "no disk 3"),
        (&["import", ova, "v", "--live"], 2, "--live"),
        (&["import", ova, "v", "--size", "1G"], 2, "several disks"),
        (&["import", ova, "web.disk1", "--disk=1"], 4, "exists"),
        (&["import", text(&cut)?, "v"], 2, "cut"),
        (&["import", text(&changed)?, "v"], 2, "web-disk2.vmdk"),
        (&["export", "web", "web.disk1", out], 2, "--format ova"),
        (
            &["export", "web", "web.disk1", out, "--format=vmdk"],
            2,
            "--format ova",
        ),
        (
            &["export", "web", "web", out, "--format=ova"],
            2,
            "named twice",
        ),
        (&["export", "web", "none", out, "--format=ova"], 3, "none"),
        (
            &["export", "web", out, "--format=ova", "--compress"],
            2,
            "nothing to choose",
        ),
        (
            &["export", "web", "-", "--format=ova"],
            2,
            "standard output",
        ),
        (&["export", "web", ova, "--format=ova"], 4, "exists"),
    ] {
        let refused = daemon.cli(&[&["volume"], arguments].concat())?;
        let said = refused.stderr.trim();
        ensure!(refused.status.code() == Some(code), "{arguments:?}: {said}");
        ensure!(
            said.contains(why) && said.lines().count() == 1,
            "{arguments:?}: {said}"
        );
    }
    let refused = piped(&daemon, &["volume", "import", "-", "v"], &cut)?;
    ensure!(refused.status.code() == Some(2), "{}", refused.stderr);
    ensure!(daemon.json(&["volume", "ls"])? == before);
    let left = fs::read_dir(daemon.directory())?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let left: Vec<String> = left
        .filter(|name| name.contains("out") || name.contains("partial"))
        .collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

#[test]
fn snapshots_in_a_qcow2_image_come_along_if_they_are_asked_for() -> Result<()> {
    tools::need(&["qemu-img", "qemu-io"])?;
    let daemon = Daemon::new()?;
    let image = daemon.directory().join("lab.qcow2");
    let image = text(&image)?;
    qemu_img(&["create", "-q", "-f", "qcow2", image, "20M"])?;
    // What each state is, as a volume of its own.
    let states: [(&str, &[&str]); 3] = [
        ("before-update", &["write -P 1 0 4M"]),
        ("2", &["write -P 2 1M 64k", "write -z 2M 1M"]),
        ("now", &["write -P 3 19M 1M"]),
    ];
    for (at, (name, writes)) in states.into_iter().enumerate() {
        write("qcow2", image, writes)?;
        if name != "now" {
            let name = name.replace('-', " ");
            qemu_img(&["snapshot", "-c", &name, image])?;
        }
        let raw = daemon.directory().join("state.raw");
        qemu_img(&["convert", "-f", "qcow2", "-O", "raw", image, text(&raw)?])?;
        daemon.ok(&["volume", "import", text(&raw)?, &format!("state{at}")])?;
    }
    let without = daemon.cli(&["volume", "import", image, "without"])?;
    ensure!(without.status.success(), "{}", without.stderr);
    ensure!(without.stderr.contains("2 snapshots"), "{}", without.stderr);
    ensure!(daemon.json(&["snapshot", "ls", "without"])? == json!([]));
    same(&daemon, "without", "state2")?;
    daemon.ok(&["volume", "import", image, "lab", "--snapshots"])?;
    let snapshots = daemon.json(&["snapshot", "ls", "lab"])?;
    let names: Vec<_> = snapshots
        .as_array()
        .context("no list")?
        .iter()
        .map(|s| &s["name"])
        .collect();
    ensure!(names == ["before-update", "2"], "{snapshots}");
    for (name, state) in [
        ("lab@before-update", "state0"),
        ("lab@2", "state1"),
        ("lab", "state2"),
    ] {
        same(&daemon, name, state)?;
    }
    for (arguments, why) in [
        (&["-", "v", "--snapshots"][..], "a file"),
        (&[image, "v", "--snapshots", "--live"], "--live"),
        (&[image, "v", "--snapshots", "--no-dedup"], "--dedup"),
        (&[image, "v", "--disk", "1"], "only an OVA"),
    ] {
        let refused = daemon.cli(&[&["volume", "import"], arguments].concat())?;
        ensure!(
            refused.status.code() == Some(2),
            "{arguments:?}: {}",
            refused.stderr
        );
        ensure!(
            refused.stderr.contains(why),
            "{arguments:?}: {}",
            refused.stderr
        );
    }
    ensure!(daemon.cli(&["volume", "info", "v"])?.status.code() == Some(3));
    Ok(())
}
