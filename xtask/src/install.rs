//! What tests and demo need beside Rust, from the Debian archive.

use crate::stage::{cargo, show};
use anyhow::{Result, bail};
use e2e::{apt::Apt, image, paths, process, qemu, tools};
use std::time::Duration;

/// A program and the Debian package that has it.
type Need = (&'static str, &'static str);

/// For building the guest's image.
const GUEST: &[Need] = &[
    ("mmdebstrap", "mmdebstrap"),
    ("mke2fs", "e2fsprogs"),
    ("cpio", "cpio"),
    ("depmod", "kmod"),
    ("modprobe", "kmod"),
    ("unshare", "util-linux"),
    ("setpriv", "util-linux"),
];

/// For the tests.
const CLIENTS: &[Need] = &[
    ("fio", "fio"),
    ("nbdinfo", "libnbd-bin"),
    ("nbdcopy", "libnbd-bin"),
    ("nbdsh", "python3-libnbd"),
    ("nbdkit", "nbdkit"),
    ("zstd", "zstd"),
    ("curl", "curl"),
    ("mkfs.ext4", "e2fsprogs"),
    ("fsfreeze", "util-linux"),
    // Compiling zstd's C library.
    ("cc", "gcc"),
    // And libFuzzer.
    ("c++", "g++"),
];

/// For the database in a guest.
const DATABASE: &[Need] = &[("sqlite3", "sqlite3"), ("ldd", "libc-bin")];

/// Installs what a guest with a database takes.
pub(crate) fn for_database() -> Result<()> {
    packages(&missing(DATABASE, tools::have))?;
    for_guest()
}

/// Installs what booting a guest takes.
pub(crate) fn for_guest() -> Result<()> {
    debug_assert!(
        image::TOOLS
            .iter()
            .all(|tool| GUEST.iter().any(|need| need.0 == *tool))
    );
    packages(&missing(GUEST, tools::have))?;
    emulator()
}

/// Installs what the tests take.
pub(crate) fn for_tests() -> Result<()> {
    packages(&missing(&[GUEST, CLIENTS].concat(), tools::have))?;
    emulator()?;
    nextest()
}

/// Packages of the programs that are not there, each once.
fn missing(needs: &[Need], have: impl Fn(&str) -> bool) -> Vec<&'static str> {
    let mut packages: Vec<&str> = Vec::new();
    for (program, package) in needs {
        if !have(program) && !packages.contains(package) {
            packages.push(package);
        }
    }
    packages
}

fn packages(missing: &[&str]) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    insist_on_root(&format!("apt-get install --no-install-recommends {list}"))?;
    println!("   installing {list}");
    Apt::open(&paths::cache())?.install(missing, None)
}

fn emulator() -> Result<()> {
    let installed = qemu::TOOLS.iter().all(|tool| tools::have(tool));
    if qemu::Qemu::find().is_none() || !installed {
        insist_on_root("apt-get install --no-install-recommends qemu-system-x86 qemu-utils")?;
    }
    qemu::ensure(&|line| println!("   {line}")).map(drop)
}

fn nextest() -> Result<()> {
    let version = &mut cargo(&["nextest", "--version"]);
    if process::run("cargo nextest", version, Duration::from_secs(60)).is_ok() {
        return Ok(());
    }
    println!("   installing cargo-nextest (compiling it takes some minutes)");
    show(
        "cargo install cargo-nextest",
        &mut cargo(&["install", "--quiet", "--locked", "cargo-nextest"]),
    )
}

fn insist_on_root(command: &str) -> Result<()> {
    let id = process::run(
        "id",
        process::command("id").arg("-u"),
        Duration::from_secs(10),
    )?;
    if id.trim() != "0" {
        bail!("programs are missing and this is not root; run this first:\n  sudo {command}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{CLIENTS, missing};

    #[test]
    fn only_what_is_missing_is_installed_and_once() {
        assert!(missing(CLIENTS, |_| true).is_empty());
        let list = missing(CLIENTS, |program| program == "fio");
        assert!(!list.contains(&"fio"));
        assert_eq!(list.iter().filter(|name| **name == "libnbd-bin").count(), 1);
    }
}
