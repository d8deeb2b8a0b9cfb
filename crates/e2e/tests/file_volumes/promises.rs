//! Promise by promise.

use crate::host::{Host, MIB, qemu, wait_until};
use anyhow::Result;
use e2e::process::{Process, command};
use serde_json::Value;
use std::{
    fs,
    os::unix::fs::{MetadataExt, symlink},
};

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

/// There is no volume group, and no other storage: an empty directory is all that is asked for.
#[test]
fn f13_a_store_needs_a_directory_and_nothing_else() -> Result<()> {
    let host = Host::new()?;
    let store = host.daemon.directory().join("another");
    let text = store.to_string_lossy().into_owned();
    host.ok(&["init", &text])?;
    assert!(store.join("store.toml").is_file());
    host.refused(&["init", &text], 4, "a store already")?;
    // Images go where the store is, if nothing else is said.
    host.ok(&["volume", "create", "a", "8M", "--backend", "file"])?;
    assert!(host.file("a/disk0").is_file());
    Ok(())
}
