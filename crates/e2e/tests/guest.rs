//! A real Debian guest.

use anyhow::{Result, ensure};
use e2e::{
    cleanup::{self, Scratch},
    daemon::Daemon,
    guest::{Disk, Guest, NbdDisk},
    image::{self, Image},
    process::{Process, command},
    qemu::Qemu,
    stopwatch::poll,
    tools,
};
use std::{fs, slice::from_ref, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);

fn ready() -> Result<(Qemu, Image)> {
    cleanup::on_signals()?;
    tools::need(&["qemu-nbd", "qemu-img"])?;
    let qemu = Qemu::find();
    ensure!(qemu.is_some(), "no QEMU: `cargo xtask test` installs it");
    let image = image::ensure(&|line| println!("{line}"))?;
    qemu.map(|qemu| (qemu, image))
        .ok_or_else(|| anyhow::anyhow!("no QEMU"))
}

/// The guest itself, on another server: if this fails, Holdfast is not to blame.
#[test]
fn guest_boots_writes_and_goes_off_on_qemu_nbd() -> Result<()> {
    let (qemu, image) = ready()?;
    boot_twice_on_qemu_nbd(&qemu, &image)
}

/// The way out where installing the emulator would remove something.
#[test]
#[ignore = "fetches the emulator from the archive: for changes to qemu.rs"]
fn guest_boots_on_an_emulator_unpacked_beside_the_system() -> Result<()> {
    let (_, image) = ready()?;
    let apt = e2e::apt::Apt::open(&e2e::paths::cache())?;
    let qemu = e2e::qemu::unpack(&apt, &|line| println!("{line}"))?;
    boot_twice_on_qemu_nbd(&qemu, &image)
}

fn boot_twice_on_qemu_nbd(qemu: &Qemu, image: &Image) -> Result<()> {
    let scratch = Scratch::temporary()?;
    let (disk, socket) = (
        scratch.path().join("disk.qcow2"),
        scratch.path().join("nbd.sock"),
    );
    let mut create = command("qemu-img");
    create.args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"]);
    e2e::process::run("qemu-img", create.arg(&image.disk).arg(&disk), LIMIT)?;
    let mut serve = command("qemu-nbd");
    serve
        .args(["-f", "qcow2", "-t", "-x", "disk", "-k"])
        .arg(&socket)
        .arg(&disk);
    let _server = Process::start("qemu-nbd", &mut serve)?;
    ensure!(
        poll(LIMIT, || anyhow::Ok(socket.exists()))?,
        "qemu-nbd does not answer"
    );
    let disk = Disk::Nbd(NbdDisk {
        socket,
        export: "disk".to_owned(),
        reconnect: None,
    });
    let log = scratch.path().join("qemu.log");
    for round in ["first", "second"] {
        let mut guest = Guest::boot(qemu, false, image, from_ref(&disk), &log)?;
        println!("{round} boot took {:?}", guest.boot);
        let root = guest.console.ok("findmnt -no SOURCE,FSTYPE /", LIMIT)?;
        assert_eq!(
            root.split_whitespace().collect::<Vec<_>>(),
            ["/dev/vda", "ext4"]
        );
        match round {
            "first" => guest
                .console
                .ok("echo still here > /root/file; sync", LIMIT)?,
            _ => guest.console.ok("grep -x 'still here' /root/file", LIMIT)?,
        };
        guest.power_off()?;
    }
    Ok(())
}

/// What the demo shows: boot from a clone, write, snapshot while writing, roll back, boot again.
/// And after a SIGKILL of the daemon, all that the guest had synced is there.
#[test]
fn guest_survives_snapshot_rollback_and_a_killed_daemon() -> Result<()> {
    let (qemu, image) = ready()?;
    let mut daemon = Daemon::new()?;
    let disk = Disk::Nbd(NbdDisk {
        socket: daemon.nbd_socket(),
        export: "guest".to_owned(),
        reconnect: None,
    });
    let log = daemon.directory().join("qemu.log");
    daemon.ok(&["volume", "import", &image.disk.to_string_lossy(), "debian"])?;
    daemon.ok(&["snapshot", "create", "debian@golden"])?;
    daemon.ok(&["volume", "clone", "debian@golden", "guest"])?;

    let mut guest = Guest::boot(&qemu, false, &image, from_ref(&disk), &log)?;
    guest.console.ok("echo 1 > /root/before; sync", LIMIT)?;
    guest.console.ok(
        "(while :; do date > /root/noise; sync; done) & sleep 1",
        LIMIT,
    )?;
    daemon.ok(&["snapshot", "create", "guest@before"])?;
    guest.console.ok("echo 1 > /root/after; sync", LIMIT)?;
    guest.power_off()?;

    daemon.ok(&["snapshot", "rollback", "guest@before"])?;
    let mut guest = Guest::boot(&qemu, false, &image, from_ref(&disk), &log)?;
    assert_eq!(guest.console.ok("cat /root/before", LIMIT)?, "1");
    assert_ne!(guest.console.run("cat /root/after", LIMIT)?.status, 0);
    let sum = guest.console.ok(
        "head -c 8M /dev/urandom > /root/big; sync; md5sum < /root/big",
        LIMIT,
    )?;
    daemon.kill();
    guest.kill();

    daemon.start()?;
    let mut guest = Guest::boot(&qemu, false, &image, from_ref(&disk), &log)?;
    assert_eq!(guest.console.ok("md5sum < /root/big", LIMIT)?, sum);
    guest.power_off()?;
    daemon.ok(&["check"])?;
    assert!(fs::metadata(&image.disk)?.len() == e2e::recipe::DISK_SIZE);
    Ok(())
}
