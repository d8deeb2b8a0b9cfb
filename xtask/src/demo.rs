//! `cargo xtask demo`: a real guest on a Holdfast volume, from nothing, in one command.
//!
//! Tells in plain lines what happens and why it matters, checks each claim in the guest itself,
//! and leaves nothing behind but what a second run would have to fetch again.

mod table;

use crate::{install, stage::build_holdfast};
use anyhow::{Context, Result, ensure};
use e2e::{
    cleanup::Scratch,
    daemon::Daemon,
    guest::{Disk, Guest, VhostDisk},
    image::{self, Image},
    paths,
    qemu::{self, Qemu},
    stopwatch::{Stopwatch, poll},
};
use std::{fs, path::PathBuf, slice::from_ref, time::Duration};
use table::Figures;

/// How long a guest may take for a command; emulation is slow.
const LIMIT: Duration = Duration::from_secs(60);
/// Queues of its disk: one for each of its processors.
const QUEUES: u16 = 2;

/// How to run it.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// Install nothing.
    #[arg(long)]
    no_install: bool,
}

/// Runs it.
pub(crate) fn run(options: &Options) -> Result<()> {
    let watch = Stopwatch::start();
    say("Getting ready (what is made here is kept for the next time).");
    if !options.no_install {
        install::for_guest()?;
    }
    note("compiling Holdfast");
    build_holdfast()?;
    let image = image::ensure(&note)?;
    let qemu = qemu::ensure(&note)?;
    let kvm = qemu.kvm_works(&image);
    note(match kvm {
        true => "the guest will run under KVM",
        false => "no working KVM here: the guest will be emulated",
    });
    let _lock = lock()?;
    let mut scene = Scene::open(image, qemu, kvm)?;
    let figures = scene.play()?;
    scene.daemon.stop()?;
    println!("\n{}", table::render(&figures));
    say(&format!(
        "Done in {:.0} s. The store is removed; README.md shows how to make one that stays.",
        watch.elapsed().as_secs_f64()
    ));
    Ok(())
}

fn say(line: &str) {
    println!("\n{line}");
}

fn note(line: &str) {
    println!("   {line}");
}

/// One demo at a time; removes what a killed one left.
fn lock() -> Result<fs::File> {
    let path = paths::cache().join("demo.lock");
    let lock = fs::File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    lock.try_lock().context("another demo is running")?;
    if let Ok(left) = fs::read_to_string(left_file())
        && PathBuf::from(&left).is_dir()
    {
        fs::remove_dir_all(&left).with_context(|| format!("removing {left}"))?;
    }
    Ok(lock)
}

fn left_file() -> PathBuf {
    paths::cache().join("demo.directory")
}

/// Everything on stage.
struct Scene {
    daemon: Daemon,
    image: Image,
    qemu: Qemu,
    kvm: bool,
}

impl Scene {
    fn open(image: Image, qemu: Qemu, kvm: bool) -> Result<Self> {
        say("A new store, and the daemon that serves it.");
        let scratch = Scratch::temporary()?;
        fs::write(left_file(), scratch.path().display().to_string())?;
        let daemon = Daemon::in_directory(scratch, &[])?;
        note(&format!("store {}", daemon.store().display()));
        Ok(Scene {
            daemon,
            image,
            qemu,
            kvm,
        })
    }

    fn play(&mut self) -> Result<Figures> {
        let import = self.import()?;
        self.clone_twice()?;
        let (first_boot, snapshot, seen) = self.write_and_snapshot()?;
        say("Roll back: the disk is again what it was at the snapshot, whatever came later.");
        let rollback = self.timed(&["snapshot", "rollback", "web1@before"])?;
        let second_boot = self.look_again(seen)?;
        Figures::collect(
            &self.daemon,
            import,
            snapshot,
            rollback,
            [first_boot, second_boot],
        )
    }

    fn timed(&self, arguments: &[&str]) -> Result<Duration> {
        let watch = Stopwatch::start();
        self.daemon.ok(arguments)?;
        let took = watch.elapsed();
        let line = arguments.join(" ");
        note(&format!(
            "holdfast {line}   ({:.0} ms)",
            took.as_secs_f64() * 1000.0
        ));
        Ok(took)
    }

    fn import(&self) -> Result<Duration> {
        say("Import a Debian 12 disk of 2 GiB: only what it contains is stored, compressed.");
        let disk = self
            .image
            .disk
            .to_str()
            .context("a path that is not UTF-8")?;
        self.timed(&["volume", "import", disk, "debian", "--codec", "zstd"])
    }

    fn clone_twice(&self) -> Result<()> {
        say("A snapshot of it, and two clones: new disks at once, and no bytes copied.");
        self.timed(&["snapshot", "create", "debian@golden"])?;
        self.timed(&["volume", "clone", "debian@golden", "web1"])?;
        self.timed(&["volume", "clone", "debian@golden", "web2"])?;
        say(
            "Serve the first one to guests of this host, through memory that they share with it (vhost-user-blk).",
        );
        self.timed(&["vhost", "on", "web1"]).map(drop)
    }

    fn boot(&self, log: &str) -> Result<Guest> {
        let web1 = self.daemon.json(&["volume", "info", "web1"])?;
        let socket = web1["vhost"].as_str().context("web1 has no socket")?;
        let disk = Disk::Vhost(VhostDisk {
            socket: socket.into(),
            queues: QUEUES,
        });
        let log = self.daemon.directory().join(log);
        let guest = Guest::boot(&self.qemu, self.kvm, &self.image, from_ref(&disk), &log)?;
        note(&format!("up after {:.1} s", guest.boot.as_secs_f64()));
        Ok(guest)
    }

    fn write_and_snapshot(&self) -> Result<(Duration, Duration, Seen)> {
        say("Boot it: its root file system, /dev/vda, is the volume.");
        let mut guest = self.boot("qemu-1.log")?;
        let boot = guest.boot;
        note(&ok(&mut guest, "findmnt -no SOURCE,FSTYPE,SIZE /")?);
        say("The guest writes files and syncs them, and goes on writing.");
        ok(
            &mut guest,
            "for i in 1 2 3; do echo kept > /root/before-$i; done; sync",
        )?;
        ok(&mut guest, WRITER)?;
        ensure!(
            poll(LIMIT, || anyhow::Ok(count(&mut guest)? >= 3))?,
            "the guest's writer does not get on"
        );
        say("A snapshot while it writes. The guest is not stopped and not told.");
        let at_least = count(&mut guest)?;
        let snapshot = self.timed(&["snapshot", "create", "web1@before"])?;
        let at_most = count(&mut guest)? + 1;
        note(&format!(
            "the guest had synced {at_least} times before, and goes on"
        ));
        ok(
            &mut guest,
            "for i in 1 2 3; do echo lost > /root/after-$i; done; sync",
        )?;
        ensure!(
            poll(LIMIT, || anyhow::Ok(count(&mut guest)? > at_most))?,
            "the guest's writer stopped at the snapshot"
        );
        note(&format!("files: {}", files(&mut guest)?));
        say("Shut it down.");
        guest.power_off()?;
        Ok((boot, snapshot, Seen { at_least, at_most }))
    }

    fn look_again(&self, seen: Seen) -> Result<Duration> {
        say("Boot it again.");
        let mut guest = self.boot("qemu-2.log")?;
        let files = files(&mut guest)?;
        note(&format!("files: {files}"));
        ensure!(
            files == "before-1 before-2 before-3",
            "the files are not those of the snapshot: {files}"
        );
        let count = count(&mut guest)?;
        ensure!(
            (seen.at_least..=seen.at_most).contains(&count),
            "the writer's log ends at {count}; the snapshot was between {} and {}",
            seen.at_least,
            seen.at_most
        );
        note("gone: what was written after the snapshot. There: all that was synced before it");
        let boot = guest.boot;
        guest.power_off()?;
        Ok(boot)
    }
}

/// Between which of its syncs the guest was snapshotted.
struct Seen {
    at_least: u64,
    at_most: u64,
}

/// Appends a number to a file and syncs it, for ever; the last number is how often it has.
const WRITER: &str = "(n=0; while :; do n=$((n+1)); \
    head -c 262144 /dev/urandom > /root/noise-$((n%8)); echo $n >> /root/count; sync; \
    echo $n > /run/synced; done) > /dev/null 2>&1 &";

fn ok(guest: &mut Guest, command: &str) -> Result<String> {
    guest.console.ok(command, LIMIT)
}

/// How often the writer has synced: while it runs, by what it says, later by what is on disk.
fn count(guest: &mut Guest) -> Result<u64> {
    let text = ok(
        guest,
        "cat /run/synced 2>/dev/null || tail -n 1 /root/count 2>/dev/null || echo 0",
    )?;
    match text.is_empty() {
        true => Ok(0),
        false => text
            .parse()
            .with_context(|| format!("reading the guest's count {text:?}")),
    }
}

fn files(guest: &mut Guest) -> Result<String> {
    let list = ok(guest, "cd /root; ls before-* after-* 2>/dev/null; cd /")?;
    Ok(list.split_whitespace().collect::<Vec<_>>().join(" "))
}
