//! A guest that runs on while its disks' daemon is killed, stopped and started again: it sees a pause, and
//! never an error. Nothing that was answered is lost, flushed or not.

use anyhow::{Context, Result, ensure};
use e2e::{
    cleanup,
    daemon::Daemon,
    guest::{Disk, Guest, NbdDisk, VhostDisk},
    image::{self, Image},
    process::{command, run},
    qemu::Qemu,
    stopwatch::{Stopwatch, poll},
    toolbox::{self, Toolbox},
    tools,
    torture::nbd::{Client, Request},
};
use std::{thread::sleep, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);
/// How the daemon is ended, one after the other, and how long it is then left down.
const ENDS: [(End, Duration); 5] = [
    (End::Kill, Duration::ZERO),
    (End::Stop, Duration::ZERO),
    (End::Kill, Duration::from_millis(1500)),
    (End::Stop, Duration::from_millis(1500)),
    (End::Kill, Duration::ZERO),
];

#[derive(Clone, Copy, Debug)]
enum End {
    Kill,
    Stop,
}

/// How the guest reaches its disks.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Nbd,
    Vhost,
}

/// The guest's disks, in order.
const DISKS: [&str; 3] = ["root", "plain", "tools"];
/// Queues of a vhost-user-blk device: one for each of the guest's processors.
const QUEUES: u16 = 2;

struct Scene {
    daemon: Daemon,
    guest: Guest,
}

impl Scene {
    /// A guest with a root, an empty disk `/dev/vdb`, and its tools on `/dev/vdc`.
    fn open(way: Way) -> Result<Self> {
        cleanup::on_signals()?;
        tools::need(&["mke2fs", "e2fsck"])?;
        let qemu = Qemu::find().context("no QEMU: `cargo xtask test` installs it")?;
        let image = image::ensure(&|line| println!("{line}"))?;
        let mut daemon = Daemon::new()?;
        if way == Way::Nbd {
            daemon.activate()?;
        }
        let guest = Self::furnish(&daemon, way, &qemu, &image)?;
        Ok(Scene { daemon, guest })
    }

    fn furnish(daemon: &Daemon, way: Way, qemu: &Qemu, image: &Image) -> Result<Guest> {
        daemon.ok(&["volume", "import", &image.disk.to_string_lossy(), "root"])?;
        daemon.ok(&["volume", "create", "plain", "2M"])?;
        let toolbox = Toolbox::new(daemon.directory().join("tools"))?;
        toolbox.script("durable.pl", include_str!("guest_scripts/durable.pl"))?;
        toolbox.script("answered.sh", include_str!("guest_scripts/answered.sh"))?;
        toolbox.import(daemon, "tools")?;
        let nbd = |export: &str| {
            Ok(Disk::Nbd(NbdDisk {
                socket: daemon.nbd_socket(),
                export: export.to_owned(),
                reconnect: Some(LIMIT),
            }))
        };
        let disks: Result<Vec<Disk>> = match way {
            Way::Nbd => DISKS.map(nbd).into_iter().collect(),
            Way::Vhost => DISKS
                .map(|name| vhost_disk(daemon, name).map(Disk::Vhost))
                .into_iter()
                .collect(),
        };
        let disks = disks?;
        let log = daemon.directory().join("qemu.log");
        let mut guest = Guest::boot(qemu, qemu.kvm_works(image), image, &disks, &log)?;
        guest.console.ok(&toolbox::mount("/dev/vdc"), LIMIT)?;
        Ok(guest)
    }

    fn begin(&mut self) -> Result<()> {
        let console = &mut self.guest.console;
        let durable =
            "perl /run/tools/durable.pl /root/blocks 1024 /run/durable & echo $! >/run/durable.pid";
        console.ok(durable, LIMIT)?;
        console.ok("/run/tools/answered.sh /dev/vdb /run/answered &", LIMIT)?;
        Ok(())
    }

    /// Waits until both writers have got on.
    fn progress(&mut self) -> Result<()> {
        let before = self.counts()?;
        let on = poll(LIMIT, || {
            let now = self.counts()?;
            anyhow::Ok(now.0 > before.0 && now.1 > before.1)
        })?;
        ensure!(on, "the guest's writers do not get on: {before:?}");
        Ok(())
    }

    /// How far the writers are.
    fn counts(&mut self) -> Result<(u64, u64)> {
        let failed = self
            .guest
            .console
            .ok("cat /run/*.failed 2>/dev/null; true", LIMIT)?;
        ensure!(failed.is_empty(), "in the guest: {failed}");
        let show = "echo $(cut -d' ' -f1 /run/durable.running || echo 0) $(cat /run/answered.running || echo 0)";
        // A file that is just being written is empty for a moment.
        let mut counts = None;
        poll(LIMIT, || {
            let console = &mut self.guest.console;
            let text = console.ok(&format!("({show}) 2>/dev/null"), LIMIT)?;
            counts = text.split_once(' ').and_then(|(durable, answered)| {
                Some((durable.parse().ok()?, answered.parse().ok()?))
            });
            anyhow::Ok(counts.is_some())
        })?;
        counts.context("two numbers")
    }

    /// Ends the daemon and starts it again; how long until it answered a request.
    fn interrupt(&mut self, end: End, down: Duration) -> Result<Duration> {
        let watch = Stopwatch::start();
        match end {
            End::Kill => self.daemon.kill(),
            End::Stop => self.daemon.stop()?,
        }
        sleep(down);
        self.daemon.spawn()?;
        // Where sockets do not outlive the daemon, there is nobody to connect to at first.
        let socket = self.daemon.nbd_socket();
        let mut client = None;
        poll(LIMIT, || {
            client = Client::connect(&socket, "plain").ok();
            anyhow::Ok(client.is_some())
        })?;
        client
            .context("the daemon does not come back")?
            .ask(Request::Read(0, 4096))?;
        Ok(watch.elapsed())
    }

    /// The longest that the writer of durable blocks waited, as the guest saw it, since this was last asked;
    /// seconds.
    fn wait(&mut self) -> Result<String> {
        let ask = "cut -d' ' -f2 /run/durable.running; kill -USR1 $(cat /run/durable.pid)";
        self.guest.console.ok(ask, LIMIT)
    }

    /// Ends the writers, who say whether all was well.
    fn finish(&mut self) -> Result<()> {
        let console = &mut self.guest.console;
        console.ok(
            "touch /run/answered.stop; kill $(cat /run/durable.pid)",
            LIMIT,
        )?;
        let done = poll(LIMIT, || {
            let done = console.run("test -e /run/durable.done -a -e /run/answered.done", LIMIT)?;
            let failed = console.ok("cat /run/*.failed 2>/dev/null; true", LIMIT)?;
            ensure!(failed.is_empty(), "in the guest: {failed}");
            anyhow::Ok(done.status == 0)
        })?;
        ensure!(done, "the guest's writers do not end");
        let complaints =
            "dmesg | grep -iE 'i/o error|ext4-fs (error|warning)|remount|aborted|hung task'; true";
        let complaints = console.ok(complaints, LIMIT)?;
        ensure!(
            complaints.is_empty(),
            "the guest's kernel complains: {complaints}"
        );
        Ok(())
    }
}

/// Has a volume served, and says where.
fn vhost_disk(daemon: &Daemon, name: &str) -> Result<VhostDisk> {
    let device = daemon.json(&["vhost", "on", name, "--queues", &QUEUES.to_string()])?;
    let socket = device["socket"]
        .as_str()
        .context("a device without a socket")?;
    Ok(VhostDisk {
        socket: socket.into(),
        queues: QUEUES,
    })
}

#[test]
fn guest_runs_on_while_the_daemon_is_killed_and_restarted() -> Result<()> {
    let mut scene = Scene::open(Way::Nbd)?;
    scene.run_on()?;
    scene.end()
}

/// The same over vhost-user-blk: requests that a daemon had taken when it died are done by the next. And a disk is
/// plugged in, grows before the guest's eyes, is written, and pulled out.
#[test]
fn guest_of_shared_memory_runs_on_and_sees_its_disks_come_grow_and_go() -> Result<()> {
    let mut scene = Scene::open(Way::Vhost)?;
    scene.run_on()?;
    let resumed = scene.daemon.json(&["vhost", "status"])?["devices"][1]["resumed"].clone();
    println!("of the last daemon's first requests {resumed} were of the one before");
    scene.plug_grow_and_unplug()?;
    scene.end()
}

impl Scene {
    /// The daemon ends and begins again and again, and the guest's writers go on.
    fn run_on(&mut self) -> Result<()> {
        self.begin()?;
        self.progress()?;
        for (end, down) in ENDS {
            self.wait()?;
            let pause = self.interrupt(end, down)?;
            self.progress()?;
            println!(
                "{end:?}, down for {down:?}: answered after {pause:?}; the guest waited {} s",
                self.wait()?
            );
        }
        Ok(())
    }

    fn plug_grow_and_unplug(&mut self) -> Result<()> {
        self.daemon.ok(&["volume", "create", "late", "8M"])?;
        let late = vhost_disk(&self.daemon, "late")?;
        self.guest.plug("late", &late)?;
        let console = &mut self.guest.console;
        let seen = |console: &mut e2e::console::Console, sectors: u64| {
            let look = format!("test \"$(cat /sys/block/vdd/size)\" = {sectors}");
            poll(LIMIT, || anyhow::Ok(console.run(&look, LIMIT)?.status == 0))
        };
        ensure!(seen(console, 8 << 11)?, "the guest does not see its disk");
        self.daemon.ok(&["volume", "resize", "late", "+8M"])?;
        ensure!(seen(console, 16 << 11)?, "the guest does not see it grow");
        let write = "head -c 16M /dev/urandom >/run/late && dd if=/run/late of=/dev/vdd bs=1M oflag=direct 2>&1 && sync && cmp /run/late /dev/vdd";
        console.ok(write, LIMIT)?;
        let refused = self.daemon.cli(&["volume", "rm", "late"])?;
        ensure!(
            refused.status.code() == Some(4),
            "a disk in use was removed: {}",
            refused.stdout
        );
        self.guest.unplug("late")?;
        let gone = || anyhow::Ok(self.daemon.cli(&["volume", "rm", "late"])?.status.success());
        ensure!(poll(LIMIT, gone)?, "the disk is in use for ever");
        Ok(())
    }

    /// All is well, in the guest and on its disks.
    fn end(mut self) -> Result<()> {
        self.finish()?;
        let Scene { daemon, guest } = self;
        guest.power_off()?;
        verify(daemon)
    }
}

fn verify(mut daemon: Daemon) -> Result<()> {
    let disk = daemon.directory().join("root.raw");
    daemon.ok(&["volume", "export", "root", &disk.to_string_lossy()])?;
    let mut e2fsck = command(tools::find("e2fsck").context("e2fsck is missing")?);
    run("e2fsck", e2fsck.args(["-f", "-n"]).arg(&disk), LIMIT)?;
    daemon.ok(&["check"])?;
    daemon.stop()
}
