//! Volumes that are plain files: what Ganeti's design for file-based storage promised, as far as it concerns one host.
//!
//! Tests are named after the promises: `f05_…` is the design's fifth, as docs/operating.md lists them.

use anyhow::{Result, ensure};
use e2e::{
    cleanup::Scratch,
    daemon::Daemon,
    process::{Process, command, finish, run},
    tools,
};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;

/// A daemon that allows image files in a directory beside its store.
struct Host {
    daemon: Daemon,
    allowed: PathBuf,
}

impl Host {
    fn new() -> Result<Self> {
        tools::need(&["qemu-io", "qemu-img", "nbdinfo"])?;
        e2e::cleanup::on_signals()?;
        let scratch = Scratch::temporary()?;
        let allowed = scratch.path().join("images");
        fs::create_dir(&allowed)?;
        let config = scratch.path().join("holdfast.toml");
        fs::write(
            &config,
            format!("[files]\nallowed = ['{}']\n", allowed.display()),
        )?;
        let config = config.to_string_lossy().into_owned();
        Ok(Host {
            daemon: Daemon::in_directory(scratch, &["--config", &config])?,
            allowed,
        })
    }

    fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.daemon.ok(arguments)
    }

    /// A command that must be refused, in one line that says `why`, with this exit code.
    fn refused(&self, arguments: &[&str], code: i32, why: &str) -> Result<()> {
        let finished = self.daemon.cli(arguments)?;
        let said = finished.stderr.trim();
        ensure!(
            finished.status.code() == Some(code) && said.contains(why) && said.lines().count() == 1,
            "{arguments:?}: {:?} {said}",
            finished.status
        );
        Ok(())
    }

    fn file(&self, path: &str) -> PathBuf {
        self.daemon.store().join("file-storage").join(path)
    }

    fn file_of(&self, volume: &str) -> Result<PathBuf> {
        let info = self.daemon.json(&["volume", "info", volume])?;
        Ok(info["file"]["path"].as_str().unwrap_or_default().into())
    }

    /// Does what `commands` say through NBD.
    fn io(&self, volume: &str, commands: &[&str]) -> Result<String> {
        let mut qemu_io = command("qemu-io");
        qemu_io.args(["-f", "raw"]);
        for one in commands {
            qemu_io.args(["-c", one]);
        }
        let said = run("qemu-io", qemu_io.arg(self.daemon.uri(volume)), LIMIT)?;
        ensure!(!said.contains("verification failed"), "{said}");
        Ok(said)
    }

    fn findings(&self) -> Result<Vec<String>> {
        let finished = self.daemon.cli(&["verify"])?;
        let lines: Vec<String> = finished.stdout.lines().map(str::to_owned).collect();
        let errors = lines.iter().any(|line| line.starts_with("ERROR:"));
        let code = finished.status.code();
        ensure!(
            code == Some(if errors { 5 } else { 0 }),
            "{code:?} {lines:?}"
        );
        Ok(lines)
    }
}

/// Type and code of a finding, and its object.
fn short(findings: &[String]) -> Vec<String> {
    let first = |line: &String| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":");
    findings.iter().map(first).collect()
}

fn wait_until(done: impl FnMut() -> Result<bool>) -> Result<()> {
    ensure!(
        e2e::stopwatch::poll(LIMIT, done)?,
        "it did not come about in time"
    );
    Ok(())
}

fn qemu(arguments: &[&str], file: &Path) -> Result<(bool, String)> {
    let finished = finish(
        "qemu",
        command(arguments[0]).args(&arguments[1..]).arg(file),
        LIMIT,
    )?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    Ok((finished.status.success(), said))
}

#[test]
fn f01_one_sparse_file_for_each_disk() -> Result<()> {
    let host = Host::new()?;
    host.ok(&[
        "volume",
        "create",
        "web",
        "--size",
        "5G",
        "--backend",
        "file",
    ])?;
    host.ok(&["volume", "create", "web.disk1", "10G", "--backend", "file"])?;
    for (path, size) in [("web/disk0", 5 << 30), ("web/disk1", 10_u64 << 30)] {
        let meta = fs::metadata(host.file(path))?;
        assert_eq!(meta.len(), size, "{path}");
        assert!(meta.blocks() * 512 < MIB, "{path} is not sparse");
    }
    fs::write(host.file("web/disk2"), b"somebody's")?;
    let taken = ["volume", "create", "web.disk2", "1G", "--backend", "file"];
    host.refused(&taken, 4, "--reuse")?;
    assert_eq!(fs::read(host.file("web/disk2"))?, b"somebody's");
    host.refused(&["volume", "info", "web.disk2"], 3, "no volume")
}

#[test]
fn f02_only_directories_that_are_allowed() -> Result<()> {
    let host = Host::new()?;
    let create = |name: &str, backend: &str, code: i32, why: &str| {
        host.refused(
            &["volume", "create", name, "1G", "--backend", backend],
            code,
            why,
        )
    };
    let allowed = format!("file:{}", host.allowed.display());
    host.ok(&["volume", "create", "a", "1G", "--backend", &allowed])?;
    assert!(host.allowed.join("a/disk0").is_file());
    host.ok(&["volume", "create", "b", "1G", "--backend", "file:fast/tier"])?;
    assert!(host.file("fast/tier/b/disk0").is_file());
    create("c", "file:/etc", 4, "[files] allowed")?;
    create("c", &format!("{allowed}/../elsewhere"), 2, "..")?;
    // A link leads nowhere, wherever it is on the way.
    symlink("/tmp", host.allowed.join("way-out"))?;
    create("c", &format!("{allowed}/way-out"), 4, "symbolic link")?;
    symlink("/etc", host.allowed.join("c"))?;
    create("c", &allowed, 4, "symbolic link")?;
    fs::create_dir(host.allowed.join("d"))?;
    symlink("/etc/hostname", host.allowed.join("d/disk0"))?;
    host.refused(
        &["volume", "create", "d", "--backend", &allowed, "--reuse"],
        4,
        "symbolic link",
    )
}

#[test]
fn f03_f04_format_and_driver_are_kept_for_each_volume() -> Result<()> {
    let mut host = Host::new()?;
    for driver in ["threads", "io_uring"] {
        host.ok(&[
            "volume",
            "create",
            driver,
            "8M",
            "--backend",
            "file",
            "--driver",
            driver,
        ])?;
        host.io(driver, &["write -P 3 1M 3M", "flush", "read -P 3 1M 3M"])?;
    }
    host.daemon.stop()?;
    host.daemon.start()?;
    for driver in ["threads", "io_uring"] {
        let info = host.daemon.json(&["volume", "info", driver])?;
        let path = host.file(&format!("{driver}/disk0"));
        assert_eq!(info["file"]["driver"], driver);
        assert_eq!(info["file"]["format"], "raw");
        assert_eq!(info["file"]["path"], path.to_string_lossy().as_ref());
        host.io(driver, &["read -P 3 1M 3M", "read -P 0 4M 4M"])?;
    }
    let unknown = [
        "volume",
        "create",
        "x",
        "8M",
        "--backend",
        "file",
        "--driver",
        "loop",
    ];
    assert_eq!(host.daemon.cli(&unknown)?.status.code(), Some(2));
    Ok(())
}

#[test]
fn f05_files_that_are_there_are_taken_as_they_are() -> Result<()> {
    let host = Host::new()?;
    let reuse =
        |name: &str| ["volume", "create", name, "--backend", "file", "--reuse"].map(str::to_owned);
    let refused = |name: &str, code: i32, why: &str| {
        let arguments = reuse(name);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        host.refused(&arguments, code, why)
    };
    refused("none", 3, "no file 'disk0'")?;
    fs::create_dir_all(host.file("misnamed"))?;
    fs::write(host.file("misnamed/root.img"), vec![0; MIB as usize])?;
    refused("misnamed", 3, "root.img")?;
    fs::create_dir_all(host.file("odd"))?;
    fs::write(host.file("odd/disk0"), vec![0; MIB as usize + 1])?;
    refused("odd", 2, "multiple of 512")?;
    fs::create_dir_all(host.file("good"))?;
    let file = host.file("good/disk0");
    let bytes: Vec<u8> = (0..2 * MIB).map(|n| (n % 251) as u8).collect();
    fs::write(&file, &bytes)?;
    let before = fs::metadata(&file)?;
    // Somebody has it.
    let socket = host.daemon.directory().join("q.sock");
    let mut qemu_nbd = command("qemu-nbd");
    qemu_nbd.args(["-t", "-f", "raw", "-k"]).arg(&socket);
    let mut holder = Process::start("qemu-nbd", qemu_nbd.arg(&file))?;
    wait_until(|| Ok(socket.exists()))?;
    refused("good", 4, "another program")?;
    holder.kill();
    host.refused(&["volume", "info", "good"], 3, "no volume")?;
    host.ok(&["volume", "create", "good", "--backend", "file", "--reuse"])?;
    let after = fs::metadata(&file)?;
    assert_eq!(
        (after.mtime_nsec(), after.ctime_nsec()),
        (before.mtime_nsec(), before.ctime_nsec())
    );
    host.io("good", &["read -v 0 512"])?;
    assert!(fs::read(&file)? == bytes, "taking it changed it");
    host.refused(
        &[
            "volume",
            "create",
            "good2",
            "3M",
            "--backend",
            "file:good",
            "--reuse",
        ],
        3,
        "no file",
    )?;
    let wrong_size = [
        "volume",
        "create",
        "odd",
        "3M",
        "--backend",
        "file",
        "--reuse",
    ];
    host.refused(&wrong_size, 2, "bytes")
}

#[test]
fn f06_removal_deletes_the_file_unless_it_is_to_be_kept() -> Result<()> {
    let host = Host::new()?;
    for name in ["a", "b"] {
        host.ok(&["volume", "create", name, "8M", "--backend", "file"])?;
    }
    host.ok(&["volume", "rm", "a"])?;
    assert!(!host.file("a").exists(), "the directory is left");
    host.ok(&["volume", "rm", "b", "--keep"])?;
    assert!(host.file("b/disk0").is_file());
    assert_eq!(
        host.daemon.json(&["trash", "ls"])?,
        Value::Array(Vec::new())
    );
    host.ok(&["volume", "create", "b", "--backend", "file", "--reuse"])?;
    host.ok(&["volume", "rm", "b"])
        .map(|_| assert!(!host.file("b").exists()))
}

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
fn f08_f14_export_import_and_conversions_keep_bytes_and_holes() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["volume", "create", "a", "256M", "--backend", "file"])?;
    host.io(
        "a",
        &[
            "write -P 5 1M 3M",
            "write -P 6 200M 1M",
            "write -P 7 255M 1M",
        ],
    )?;
    let original = fs::read(host.file_of("a")?)?;
    let out = host.daemon.directory().join("out.raw");
    let out_text = out.to_string_lossy().into_owned();
    host.ok(&["volume", "export", "a", &out_text])?;
    assert!(fs::read(&out)? == original, "the export differs");
    assert!(
        fs::metadata(&out)?.blocks() * 512 <= 6 * MIB,
        "the export has no holes"
    );

    host.ok(&["volume", "convert", "a", "--backend", "store"])?;
    assert!(!host.file("a").exists());
    assert_eq!(host.daemon.json(&["volume", "info", "a"])?["used"], 5 * MIB);
    host.io(
        "a",
        &[
            "read -P 5 1M 3M",
            "read -P 0 4M 196M",
            "read -P 6 200M 1M",
            "read -P 7 255M 1M",
        ],
    )?;
    host.refused(
        &["volume", "convert", "a", "--backend", "store"],
        4,
        "already",
    )?;
    host.ok(&["volume", "convert", "a", "--backend", "file"])?;
    let file = host.file_of("a")?;
    assert!(fs::read(&file)? == original, "the conversions changed it");
    assert!(
        fs::metadata(&file)?.blocks() * 512 <= 6 * MIB,
        "the conversions filled holes"
    );
    // What was in the store can be brought back.
    host.ok(&["trash", "restore", "a", "--name", "before"])?;
    host.io("before", &["read -P 6 200M 1M"])?;

    // Others use the file where it is, while it is not open here.
    let (ok, said) = qemu(
        &["qemu-img", "compare", "-f", "raw", "-F", "raw", &out_text],
        &file,
    )?;
    assert!(ok, "{said}");
    host.ok(&["volume", "import", &out_text, "b"])?;
    host.ok(&["snapshot", "create", "b@s"])?;
    host.refused(
        &["volume", "convert", "b", "--backend", "file"],
        4,
        "snapshots",
    )?;
    assert!(!host.file("b").exists());
    Ok(())
}

#[test]
fn f15_no_two_programs_write_one_image() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["volume", "create", "a", "8M", "--backend", "file"])?;
    let file = host.file_of("a")?;
    let mut client = Process::start(
        "qemu-io",
        command("qemu-io")
            .args(["-f", "raw", "-c", "write -P 1 0 4k", "-c", "sleep 60000"])
            .arg(host.daemon.uri("a")),
    )?;
    wait_until(|| Ok(host.daemon.json(&["volume", "info", "a"])?["connections"] == 1))?;
    let write = ["qemu-io", "-f", "raw", "-c", "write 0 512"];
    let (ok, said) = qemu(&write, &file)?;
    assert!(!ok && said.contains("lock"), "{said}");
    // Who only looks may.
    assert!(qemu(&["qemu-img", "info", "-U", "-f", "raw"], &file)?.0);
    client.kill();
    let write = ["qemu-io", "-f", "raw", "-c", "write -P 2 4k 4k"];
    wait_until(|| Ok(qemu(&write, &file)?.0))?;
    host.io("a", &["read -P 2 4k 4k"])?;
    Ok(())
}

#[test]
fn f16_what_a_file_lacks_is_refused_in_one_line() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["volume", "create", "a", "8M", "--backend", "file"])?;
    for arguments in [
        &["snapshot", "create", "a@s"][..],
        &["volume", "clone", "a", "b"],
        &["volume", "set", "a", "codec=zstd"],
        &["volume", "set", "a", "dedup=on"],
        &["volume", "set", "a", "quota=1M"],
        &[
            "volume",
            "create",
            "c",
            "8M",
            "--backend",
            "file",
            "--codec",
            "zstd",
        ],
    ] {
        host.refused(arguments, 4, "plain file")?;
    }
    Ok(())
}

#[test]
fn rename_resize_adopt_and_release_move_the_file() -> Result<()> {
    let host = Host::new()?;
    host.ok(&["volume", "create", "a", "8M", "--backend", "file"])?;
    host.io("a", &["write -P 4 0 1M"])?;
    host.ok(&["volume", "rename", "a", "b.disk3"])?;
    assert!(host.file("b/disk3").is_file() && !host.file("a").exists());
    host.ok(&["volume", "resize", "b.disk3", "+8M"])?;
    host.io("b.disk3", &["read -P 4 0 1M", "write -P 5 15M 1M"])?;
    host.refused(
        &["volume", "resize", "b.disk3", "4M"],
        4,
        "--allow-data-loss",
    )?;
    host.ok(&["volume", "resize", "b.disk3", "4M", "--allow-data-loss"])?;
    assert_eq!(fs::metadata(host.file("b/disk3"))?.len(), 4 * MIB);

    host.ok(&["volume", "release", "b.disk3"])?;
    assert!(host.file("b.disk3.raw").is_file() && !host.file("b").exists());
    host.ok(&["volume", "adopt", "c", "b.disk3.raw"])?;
    assert!(host.file("c/disk0").is_file() && !host.file("b.disk3.raw").exists());
    host.io("c", &["read -P 4 0 1M"])?;
    host.refused(&["volume", "adopt", "d", "c/disk0"], 4, "'c' already")?;
    host.refused(&["volume", "adopt", "d", "/etc/hostname"], 4, "allowed")?;
    host.refused(&["volume", "adopt", "d", "nowhere"], 3, "no file")?;
    assert_eq!(host.findings()?, Vec::<String>::new());
    Ok(())
}

#[test]
fn verify_finds_what_is_not_as_the_catalog_says() -> Result<()> {
    let host = Host::new()?;
    for name in ["good", "gone", "cut", "long", "linked"] {
        host.ok(&["volume", "create", name, "8M", "--backend", "file"])?;
    }
    assert_eq!(host.findings()?, Vec::<String>::new());
    let set_len = |path: &str, len: u64| {
        fs::OpenOptions::new()
            .write(true)
            .open(host.file(path))?
            .set_len(len)
    };
    fs::remove_file(host.file("gone/disk0"))?;
    set_len("cut/disk0", 4 * MIB)?;
    set_len("long/disk0", 16 * MIB)?;
    fs::rename(host.file("linked/disk0"), host.file("elsewhere"))?;
    symlink("../elsewhere", host.file("linked/disk0"))?;
    fs::create_dir(host.allowed.join("stray"))?;
    fs::write(host.allowed.join("stray/disk0"), b"")?;
    let stray = format!(
        "WARNING:EFILEORPHAN:{}",
        host.allowed.join("stray/disk0").display()
    );
    let expected = [
        "ERROR:EFILEMISSING:gone",
        "ERROR:EFILESIZE:cut",
        "WARNING:EFILESIZE:long",
        "ERROR:EFILETYPE:linked",
        &stray,
    ];
    assert_eq!(short(&host.findings()?), expected);
    let report: Value = serde_json::from_str(&host.daemon.cli(&["--json", "verify"])?.stdout)?;
    assert_eq!(report["volumes"], 5);
    assert_eq!(report["findings"][0]["type"], "ERROR");
    assert_eq!(report["findings"][0]["code"], "EFILEMISSING");
    // Those that are damaged are not served, others are.
    for name in ["gone", "cut", "linked"] {
        assert!(host.io(name, &["read 0 512"]).is_err(), "{name}");
    }
    host.io("good", &["read 0 512"])?;
    for name in ["gone", "cut", "linked", "long"] {
        host.ok(&["volume", "rm", name])?;
    }
    assert_eq!(short(&host.findings()?), [stray]);
    Ok(())
}
