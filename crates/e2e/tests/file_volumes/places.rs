//! Where files are, and what is found out about them.

use crate::host::{Host, MIB, short};
use anyhow::Result;
use serde_json::Value;
use std::{fs, os::unix::fs::symlink};

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
