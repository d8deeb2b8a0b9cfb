//! Volumes that are used while they are imported: killed in the middle, without their image, on a full disk, and by a guest.

use anyhow::{Context, Result, ensure};
use e2e::{
    api,
    cleanup::{self, Scratch},
    daemon::Daemon,
    disk::SmallDisk,
    guest::{Disk, Guest, NbdDisk},
    image,
    process::{command, run},
    qemu::Qemu,
    stopwatch::poll,
    tools,
    vhost::Driver,
};
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
    slice::from_ref,
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(120);
const MIB: usize = 1 << 20;

/// Noise of a number.
fn noise(number: u64, len: usize) -> Vec<u8> {
    let mut state = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A qcow2 image of so many MiB of noise, a hole of 64 MiB in the middle; and the same as a raw file.
fn image(directory: &Path, mebibytes: usize) -> Result<(PathBuf, PathBuf)> {
    let (raw, qcow2) = (directory.join("disk.raw"), directory.join("disk.qcow2"));
    let mut file = fs::File::create(&raw)?;
    let half = mebibytes / 2;
    for mebibyte in 0..half {
        file.write_all(&noise(mebibyte as u64, MIB))?;
    }
    file.set_len(((half + 64) * MIB) as u64)?;
    drop(file);
    let mut file = fs::File::options().append(true).open(&raw)?;
    for mebibyte in half..mebibytes {
        file.write_all(&noise(mebibyte as u64, MIB))?;
    }
    let mut convert = command("qemu-img");
    convert.args(["convert", "-f", "raw", "-O", "qcow2"]);
    run("qemu-img", convert.arg(&raw).arg(&qcow2), LIMIT)?;
    Ok((raw, qcow2))
}

/// Does something as a client of the volume, with libnbd's `h`.
fn client(daemon: &Daemon, script: &str) -> Result<()> {
    // Debian's own: it is the one that has libnbd's module.
    let mut python = command("/usr/bin/python3");
    let uri = daemon.uri("web");
    let script = format!("import nbd\nh = nbd.NBD()\nh.connect_uri('{uri}')\n{script}");
    run("libnbd", python.args(["-c", &script]), LIMIT).map(drop)
}

/// Writes over the volume and over a copy of what it was.
fn write(daemon: &Daemon, copy: &Path, at: usize, len: usize, number: u64) -> Result<()> {
    let (bytes, file) = (noise(number, len), daemon.directory().join("piece"));
    fs::write(&file, &bytes)?;
    use std::os::unix::fs::FileExt;
    let out = fs::File::options().write(true).open(copy)?;
    out.write_all_at(&bytes, at as u64)?;
    let file = file.display();
    client(
        daemon,
        &format!("h.pwrite(open('{file}', 'rb').read(), {at}); h.flush()"),
    )
}

/// Discards from the volume, and zeroes the copy.
fn zero(daemon: &Daemon, copy: &Path, at: usize, len: usize) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let out = fs::File::options().write(true).open(copy)?;
    out.write_all_at(&vec![0; len], at as u64)?;
    client(daemon, &format!("h.trim({len}, {at}); h.flush()"))
}

/// The export is what the file is.
fn compare(daemon: &Daemon, export: &str, copy: &Path) -> Result<()> {
    let mut compare = command("qemu-img");
    compare.args(["compare", "-f", "raw", "-F", "raw"]);
    compare.arg(daemon.uri(export)).arg(copy);
    run("qemu-img compare", &mut compare, LIMIT).map(drop)
}

fn sum(file: &Path) -> Result<String> {
    let mut sum = command("sha256sum");
    run("sha256sum", sum.arg(file), LIMIT)
}

/// A daemon that fills so fast at most, and its configuration, which can be emptied before it is started again.
fn slow(rate: &str) -> Result<(Daemon, PathBuf)> {
    let scratch = Scratch::temporary()?;
    let config = scratch.path().join("holdfast.toml");
    fs::write(&config, format!("[import]\nrate = \"{rate}\"\n"))?;
    let arguments = ["--config", config.to_str().context("no text")?];
    let daemon = Daemon::in_directory(scratch, &arguments)?;
    Ok((daemon, config))
}

fn import(daemon: &Daemon, image: &Path) -> Result<()> {
    let image = image.to_str().context("a path that is no text")?;
    daemon.ok(&["volume", "import", image, "web", "--live"])?;
    Ok(())
}

fn importing(daemon: &Daemon) -> Result<serde_json::Value> {
    let info = daemon.json(&["volume", "info", "web"])?;
    Ok(info["importing"].clone())
}

fn wait_done(daemon: &Daemon) -> Result<()> {
    let done = poll(LIMIT, || {
        Ok::<_, anyhow::Error>(importing(daemon)?.is_null())
    })?;
    ensure!(done, "not filled: {}", importing(daemon)?);
    Ok(())
}

/// Killed again and again while it is filled, written to meanwhile: it is always the image below what was written.
#[test]
fn a_volume_is_used_while_it_is_imported_and_killed() -> Result<()> {
    tools::need(&["qemu-img", "nbdsh"])?;
    let (mut daemon, config) = slow("10M")?;
    let (raw, qcow2) = image(daemon.directory(), 128)?;
    let before = sum(&qcow2)?;
    import(&daemon, &qcow2)?;
    write(&daemon, &raw, 5 * MIB, 300_000, 1000)?;
    zero(&daemon, &raw, 180 * MIB, 4 * MIB)?;
    daemon.ok(&["snapshot", "create", "web@early"])?;
    let early = daemon.directory().join("early.raw");
    fs::copy(&raw, &early)?;
    for kill in 0..3 {
        write(&daemon, &raw, (100 + kill) * MIB + 512, 70_000, kill as u64)?;
        daemon.kill();
        daemon.start()?;
        compare(&daemon, "web", &raw)?;
    }
    ensure!(!importing(&daemon)?.is_null(), "the import was too fast");
    daemon.stop()?;
    fs::write(&config, "")?;
    daemon.start()?;
    wait_done(&daemon)?;
    ensure!(sum(&qcow2)? == before, "the image was changed");
    fs::remove_file(&qcow2)?;
    compare(&daemon, "web", &raw)?;
    compare(&daemon, "web@early", &early)?;
    daemon.kill();
    daemon.start()?;
    compare(&daemon, "web", &raw)?;
    daemon.ok(&["check"])?;
    Ok(())
}

/// What the image has is data to who asks for block status, from the beginning.
#[test]
fn block_status_tells_of_what_the_image_has() -> Result<()> {
    tools::need(&["qemu-img", "nbdinfo"])?;
    let daemon = Daemon::new()?;
    let (raw, qcow2) = image(daemon.directory(), 128)?;
    import(&daemon, &qcow2)?;
    let map = |uri: String| {
        let mut map = command("qemu-img");
        map.args(["map", "-f", "raw", "--output=json"]);
        run("qemu-img map", map.arg(uri), LIMIT)
    };
    let data = |map: &str| -> Result<Vec<(u64, u64, bool)>> {
        let map: serde_json::Value = serde_json::from_str(map)?;
        let runs = map.as_array().context("no list")?.iter();
        let number = |run: &serde_json::Value, key: &str| run[key].as_u64().unwrap_or(0);
        let run = |run: &serde_json::Value| {
            let data = run["data"] == true;
            (number(run, "start"), number(run, "length"), data)
        };
        Ok(runs.map(run).collect())
    };
    let expected = data(&map(raw.display().to_string())?)?;
    ensure!(
        data(&map(daemon.uri("web"))?)? == expected,
        "while it is imported"
    );
    wait_done(&daemon)?;
    ensure!(
        data(&map(daemon.uri("web"))?)? == expected,
        "when it is done"
    );
    Ok(())
}

/// An image that is not what it was is not read; it may come back.
#[test]
fn an_image_that_is_gone_or_changed_is_an_error_that_names_it() -> Result<()> {
    tools::need(&["qemu-img", "nbdsh"])?;
    let (mut daemon, config) = slow("1M")?;
    let (raw, qcow2) = image(daemon.directory(), 64)?;
    import(&daemon, &qcow2)?;
    daemon.kill();
    fs::write(&config, "")?;
    let aside = qcow2.with_extension("aside");
    fs::rename(&qcow2, &aside)?;
    daemon.start()?;
    let refused = |daemon: &Daemon| -> Result<()> {
        let refused = poll(LIMIT, || {
            Ok::<_, anyhow::Error>(importing(daemon)?["error"].is_string())
        })?;
        ensure!(refused, "no error: {}", importing(daemon)?);
        let error = importing(daemon)?["error"].to_string();
        ensure!(error.contains("disk.qcow2"), "{error}");
        ensure!(client(daemon, "h.pread(512, 0)").is_err(), "it is served");
        ensure!(
            daemon
                .ok(&["volume", "info", "web"])?
                .contains("disk.qcow2")
        );
        Ok(())
    };
    refused(&daemon)?;
    fs::copy(&raw, &qcow2)?;
    refused(&daemon)?;
    fs::rename(&aside, &qcow2)?;
    wait_done(&daemon)?;
    compare(&daemon, "web", &raw)
}

/// Without room the volume goes on from its image; removing it leaves the image.
#[test]
fn a_full_store_stops_an_import_and_not_its_volume() -> Result<()> {
    tools::need(&["qemu-img", "nbdsh"])?;
    let scratch = Scratch::temporary()?;
    let elsewhere = Scratch::temporary()?;
    let _disk = SmallDisk::new(&scratch, "store", 192 * MIB as u64)?;
    let daemon = Daemon::in_directory(scratch, &[])?;
    let (raw, qcow2) = image(elsewhere.path(), 256)?;
    import(&daemon, &qcow2)?;
    let full = poll(LIMIT, || {
        Ok::<_, anyhow::Error>(importing(&daemon)?["error"].is_string())
    })?;
    ensure!(full, "no error: {}", importing(&daemon)?);
    ensure!(importing(&daemon)?["error"].to_string().contains("full"));
    compare(&daemon, "web", &raw)?;
    let before = sum(&qcow2)?;
    daemon.ok(&["volume", "rm", "web"])?;
    daemon.ok(&["trash", "empty"])?;
    ensure!(sum(&qcow2)? == before, "the image was changed");
    Ok(())
}

/// What a volume must be, and a guest that has it over vhost-user-blk.
struct Shared<'a> {
    guest: Driver,
    copy: &'a Path,
    random: fastrand::Rng,
}

impl<'a> Shared<'a> {
    const LONGEST: usize = 256 << 10;

    fn connect(daemon: &Daemon, copy: &'a Path, seed: u64) -> Result<Self> {
        let status = daemon.json(&["vhost", "status"])?;
        let socket = status["devices"][0]["socket"].as_str();
        let socket = socket.with_context(|| format!("not served: {status}"))?;
        Ok(Shared {
            guest: Driver::connect(Path::new(socket), 1, 64, Self::LONGEST)?,
            copy,
            random: fastrand::Rng::with_seed(seed),
        })
    }

    /// Writes, and reads what must be there, so often.
    fn work(&mut self, times: usize) -> Result<()> {
        use std::os::unix::fs::FileExt;
        let copy = fs::File::options().read(true).write(true).open(self.copy)?;
        let sectors = self.guest.size()? / 512;
        for _ in 0..times {
            let len = self.random.usize(1..=Self::LONGEST / 512) * 512;
            let at = self.random.u64(0..sectors - (len / 512) as u64) * 512;
            if self.random.u8(0..3) == 0 {
                let bytes = noise(self.random.u64(..), len);
                self.guest.write(at, &bytes)?;
                copy.write_all_at(&bytes, at)?;
                continue;
            }
            let mut expected = vec![0; len];
            copy.read_exact_at(&mut expected, at)?;
            ensure!(
                self.guest.read(at, len)? == expected,
                "byte {at}, {len} of them"
            );
        }
        Ok(())
    }
}

/// A guest reads and writes over vhost-user-blk while its volume is filled; the daemon is killed, and the import paused, under it.
#[test]
fn a_guest_over_vhost_user_blk_uses_a_volume_while_it_is_imported() -> Result<()> {
    tools::need(&["qemu-img"])?;
    let (mut daemon, config) = slow("10M")?;
    let (raw, qcow2) = image(daemon.directory(), 128)?;
    import(&daemon, &qcow2)?;
    daemon.ok(&["vhost", "on", "web"])?;
    for life in 0..3 {
        let mut guest = Shared::connect(&daemon, &raw, life)?;
        guest.work(100)?;
        if life == 1 {
            daemon.ok(&["volume", "pause-import", "web"])?;
            guest.work(100)?;
        }
        ensure!(!importing(&daemon)?.is_null(), "the import was too fast");
        // What was answered and not flushed outlives the daemon.
        drop(guest);
        daemon.kill();
        if life == 2 {
            fs::write(&config, "")?;
        }
        daemon.start()?;
    }
    ensure!(importing(&daemon)?["paused"] == true);
    let mut guest = Shared::connect(&daemon, &raw, 3)?;
    daemon.ok(&["volume", "resume-import", "web"])?;
    guest.work(200)?;
    wait_done(&daemon)?;
    fs::remove_file(&qcow2)?;
    guest.work(200)?;
    guest.guest.flush()?;
    compare(&daemon, "web", &raw)?;
    daemon.ok(&["check"])?;
    Ok(())
}

/// A paused import stays where it is, whatever becomes of the daemon, until it is told to go on; it can be given up as well.
#[test]
fn a_paused_import_waits_until_it_is_resumed_or_given_up() -> Result<()> {
    tools::need(&["qemu-img", "nbdsh"])?;
    let (mut daemon, config) = slow("10M")?;
    let (raw, qcow2) = image(daemon.directory(), 128)?;
    let before = sum(&qcow2)?;
    import(&daemon, &qcow2)?;
    let begun = poll(LIMIT, || {
        Ok::<_, anyhow::Error>(importing(&daemon)?["done"].as_u64() > Some(0))
    })?;
    ensure!(begun, "nothing is filled");
    let said = daemon.ok(&["volume", "pause-import", "web"])?;
    ensure!(said.contains("paused"), "{said}");
    let paused = importing(&daemon)?;
    ensure!(paused["paused"] == true && paused["done"].as_u64() > Some(0));
    ensure!(paused["saved"].as_u64() <= paused["done"].as_u64());
    // From here on all of it would be there in a moment.
    fs::write(&config, "")?;
    let stays = |daemon: &Daemon| -> Result<()> {
        write(daemon, &raw, 5 * MIB, 300_000, 1000)?;
        compare(daemon, "web", &raw)?;
        let now = importing(daemon)?;
        ensure!(now == paused, "{now} was {paused}");
        ensure!(
            daemon
                .ok(&["volume", "info", "web"])?
                .contains(" saved, paused")
        );
        ensure!(daemon.ok(&["volume", "ls"])?.contains("paused at"));
        let metrics = api::get(&daemon.socket(), "/metrics")?;
        ensure!(metrics.contains(r#"holdfast_import_paused{volume="web"} 1"#));
        Ok(())
    };
    daemon.kill();
    daemon.start()?;
    stays(&daemon)?;
    daemon.stop()?;
    daemon.start()?;
    stays(&daemon)?;
    // It is given up, and taken back.
    daemon.ok(&["volume", "rm", "web"])?;
    daemon.ok(&["trash", "restore", "web"])?;
    stays(&daemon)?;
    daemon.ok(&["volume", "resume-import", "web"])?;
    wait_done(&daemon)?;
    let refused = daemon.cli(&["volume", "pause-import", "web"])?;
    ensure!(refused.status.code() == Some(4), "{}", refused.stderr);
    compare(&daemon, "web", &raw)?;
    // What is removed while it is paused leaves nothing but its image.
    daemon.ok(&["volume", "rm", "web"])?;
    daemon.stop()?;
    fs::write(&config, "[import]\nrate = \"1M\"\n")?;
    daemon.start()?;
    import(&daemon, &qcow2)?;
    daemon.ok(&["volume", "pause-import", "web"])?;
    daemon.ok(&["volume", "rm", "web"])?;
    daemon.ok(&["trash", "empty"])?;
    ensure!(daemon.json(&["volume", "ls"])? == serde_json::json!([]));
    ensure!(sum(&qcow2)? == before, "the image was changed");
    Ok(())
}

/// A real guest boots from what is not in the store yet, writes, and finds it again when all is.
#[test]
fn guest_boots_from_a_volume_that_is_being_imported() -> Result<()> {
    cleanup::on_signals()?;
    tools::need(&["qemu-img"])?;
    let qemu = Qemu::find().context("no QEMU: `cargo xtask test` installs it")?;
    let image = image::ensure(&|line| println!("{line}"))?;
    let (mut daemon, config) = slow("1M")?;
    let qcow2 = daemon.directory().join("guest.qcow2");
    let mut convert = command("qemu-img");
    convert
        .args(["convert", "-c", "-O", "qcow2"])
        .arg(&image.disk);
    run("qemu-img", convert.arg(&qcow2), LIMIT)?;
    import(&daemon, &qcow2)?;
    let disk = Disk::Nbd(NbdDisk {
        socket: daemon.nbd_socket(),
        export: "web".to_owned(),
        reconnect: None,
    });
    let log = daemon.directory().join("qemu.log");
    let mut guest = Guest::boot(&qemu, false, &image, from_ref(&disk), &log)?;
    guest.console.ok("echo 1 > /root/mine; sync", LIMIT)?;
    ensure!(!importing(&daemon)?.is_null(), "the import was too fast");
    daemon.ok(&["snapshot", "create", "web@running"])?;
    guest.power_off()?;
    daemon.stop()?;
    fs::write(&config, "")?;
    daemon.start()?;
    wait_done(&daemon)?;
    fs::remove_file(&qcow2)?;
    let mut guest = Guest::boot(&qemu, false, &image, from_ref(&disk), &log)?;
    ensure!(guest.console.ok("cat /root/mine", LIMIT)? == "1");
    guest.power_off()?;
    daemon.ok(&["check"])?;
    Ok(())
}
