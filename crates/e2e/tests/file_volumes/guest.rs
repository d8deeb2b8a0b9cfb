//! A guest on a qcow2 image in place.

use crate::host::{Host, LIMIT, qemu as run_qemu, wait_until};
use anyhow::{Context, Result, ensure};
use e2e::{
    guest::{Disk, Guest, NbdDisk},
    image,
    process::{command, run},
    qemu::Qemu,
};
use std::slice::from_ref;

/// It boots, writes, goes off, and boots again after the daemon was killed; its image is sound to QEMU's own eyes.
#[test]
fn guest_runs_from_a_qcow2_file_volume() -> Result<()> {
    let mut host = Host::new()?;
    let qemu = Qemu::find().context("no QEMU: `cargo xtask test` installs it")?;
    let image = image::ensure(&|line| println!("{line}"))?;
    let dir = host.file("guest");
    std::fs::create_dir_all(&dir)?;
    let mut convert = command("qemu-img");
    convert
        .args(["convert", "-O", "qcow2"])
        .arg(&image.disk)
        .arg(dir.join("disk0"));
    run("qemu-img", &mut convert, LIMIT)?;
    host.ok(&["volume", "create", "guest", "--backend", "file", "--reuse"])?;
    assert_eq!(
        host.daemon.json(&["volume", "info", "guest"])?["file"]["format"],
        "qcow2"
    );
    let disk = Disk::Nbd(NbdDisk {
        socket: host.daemon.nbd_socket(),
        export: "guest".to_owned(),
        reconnect: None,
    });
    let log = host.daemon.directory().join("qemu.log");

    let mut guest = Guest::boot(&qemu, false, &image, from_ref(&disk), &log)?;
    let big = "head -c 4M /dev/urandom > /root/big; sync; md5sum < /root/big";
    let sum = guest.console.ok(big, LIMIT)?;
    host.daemon.kill();
    guest.kill();
    host.daemon.start()?;
    let mut guest = Guest::boot(&qemu, false, &image, from_ref(&disk), &log)?;
    assert_eq!(guest.console.ok("md5sum < /root/big", LIMIT)?, sum);
    guest.power_off()?;
    wait_until(|| Ok(host.daemon.json(&["volume", "info", "guest"])?["connections"] == 0))?;
    let (sound, said) = run_qemu(
        &["qemu-img", "check", "-f", "qcow2"],
        &host.file_of("guest")?,
    )?;
    ensure!(sound && said.contains("No errors"), "{said}");
    assert_eq!(host.findings()?, Vec::<String>::new());
    Ok(())
}
