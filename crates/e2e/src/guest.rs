//! A virtual machine, steered over its serial console.

use crate::{console::Console, image::Image, process::Process, qemu::Qemu, qmp::Qmp, recipe};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// Longest that booting may take; emulation on a busy machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
const OFF_LIMIT: Duration = Duration::from_secs(90);
const MEMORY_MIB: &str = "512";
/// What devices are plugged into.
const PORT: &str = "port0";

/// Where a guest's disk is.
#[derive(Clone, Debug)]
pub enum Disk {
    /// Behind an NBD server.
    Nbd(NbdDisk),
    /// A device in memory that the guest shares.
    Vhost(VhostDisk),
}

/// A vhost-user-blk device.
#[derive(Clone, Debug)]
pub struct VhostDisk {
    /// The device's unix socket. When the connection breaks, a new one is tried until there is one.
    pub socket: PathBuf,
    /// Queues that the guest gets.
    pub queues: u16,
}

/// A disk behind an NBD server.
#[derive(Clone, Debug)]
pub struct NbdDisk {
    /// The server's unix socket.
    pub socket: PathBuf,
    /// Name of the export.
    pub export: String,
    /// When the connection breaks, requests are held back and a new one is tried for so long.
    pub reconnect: Option<Duration>,
}

/// A running guest. Dropped, it is switched off hard.
pub struct Guest {
    process: Process,
    qmp: PathBuf,
    /// How the emulator is told to try again to connect.
    retry: &'static str,
    /// Its console.
    pub console: Console,
    /// Time from starting the emulator until the guest took commands.
    pub boot: Duration,
}

impl Guest {
    /// Boots `image`'s kernel with the first of `disks` as its root, `/dev/vda`, and the others in order, and
    /// waits until it takes commands. What the emulator itself says goes to `log`.
    ///
    /// # Errors
    /// It does not come up.
    pub fn boot(qemu: &Qemu, kvm: bool, image: &Image, disks: &[Disk], log: &Path) -> Result<Self> {
        let log_file =
            std::fs::File::create(log).with_context(|| format!("making {}", log.display()))?;
        let mut command = qemu.command();
        command.args(machine(kvm));
        let (qmp, retry) = (log.with_extension("qmp"), qemu.retry());
        command
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()));
        for (number, disk) in disks.iter().enumerate() {
            // In the order of the slots, which is that of the names in the guest.
            let at = format!("addr=0x{:x}", 4 + number);
            command.args(disk.options(number, &at, retry));
        }
        command
            .arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd);
        // `no_timer_check`: the kernel gives up if an emulator on a busy machine is late with its first ticks.
        command.args([
            "-append",
            "console=ttyS0 root=/dev/vda rw quiet loglevel=1 systemd.show_status=0 \
             mitigations=off no_timer_check panic=-1",
        ]);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log_file);
        let watch = crate::stopwatch::Stopwatch::start();
        let mut process = Process::start("QEMU", &mut command)?;
        let input = process.stdin().context("QEMU without input")?;
        let output = process.stdout().context("QEMU without output")?;
        let mut console = Console::new(input, output)?;
        console.expect(recipe::READY, BOOT_LIMIT).with_context(|| {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            format!("booting the guest; QEMU said: {:?}", said.trim())
        })?;
        let boot = watch.elapsed();
        Ok(Guest {
            process,
            qmp,
            retry,
            console,
            boot,
        })
    }

    /// Plugs a device in while the guest runs; `name` is what [`unplug`](Self::unplug) calls it.
    ///
    /// # Errors
    /// The emulator does not take it.
    pub fn plug(&self, name: &str, disk: &VhostDisk) -> Result<()> {
        let mut qmp = Qmp::connect(&self.qmp)?;
        let (option, number) = self.retry.split_once('=').context("an option")?;
        let backend = json!({ "type": "socket", "data": {
            "addr": { "type": "unix", "data": { "path": disk.socket } },
            "server": false,
            option: number.parse::<u32>()?,
        } });
        qmp.execute("chardev-add", &json!({ "id": name, "backend": backend }))?;
        let device = json!({
            "driver": "vhost-user-blk-pci", "id": name, "chardev": name, "bus": PORT,
            "num-queues": disk.queues,
        });
        qmp.execute("device_add", &device)
    }

    /// Pulls a device out, and waits until the guest has let it go.
    ///
    /// # Errors
    /// It does not.
    pub fn unplug(&self, name: &str) -> Result<()> {
        let mut qmp = Qmp::connect(&self.qmp)?;
        qmp.execute("device_del", &json!({ "id": name }))?;
        qmp.wait_for("DEVICE_DELETED", OFF_LIMIT)?;
        qmp.execute("chardev-remove", &json!({ "id": name }))
    }

    /// Shuts the guest down in order and waits until it is off.
    ///
    /// # Errors
    /// It does not go off.
    pub fn power_off(mut self) -> Result<()> {
        self.console.send("systemctl poweroff")?;
        let status = self.process.wait(OFF_LIMIT)?;
        ensure!(status.success(), "QEMU ended with {status}");
        Ok(())
    }

    /// Pulls the plug.
    pub fn kill(mut self) {
        self.process.kill();
    }
}

fn machine(kvm: bool) -> Vec<&'static str> {
    let (accelerator, cpu) = match kvm {
        true => ("kvm", "host"),
        false => ("tcg,thread=multi,tb-size=256", "max"),
    };
    vec![
        "-M",
        "q35",
        "-accel",
        accelerator,
        "-cpu",
        cpu,
        "-smp",
        "2",
        "-m",
        MEMORY_MIB,
        // Devices of other processes share it.
        "-object",
        "memory-backend-memfd,id=memory0,size=512M,share=on",
        "-machine",
        "memory-backend=memory0",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
        "-device",
        "pcie-root-port,id=port0,chassis=1,addr=0x1e",
    ]
}

impl Disk {
    /// The emulator's options for it.
    fn options(&self, number: usize, at: &str, retry: &str) -> Vec<String> {
        let (option, what, device) = match self {
            Disk::Nbd(disk) => (
                "-blockdev",
                blockdev(number, disk),
                format!("virtio-blk-pci,drive=disk{number},{at}"),
            ),
            Disk::Vhost(VhostDisk { socket, queues }) => (
                "-chardev",
                format!("socket,id=disk{number},path={},{retry}", socket.display()),
                format!("vhost-user-blk-pci,chardev=disk{number},num-queues={queues},{at}"),
            ),
        };
        vec![option.to_owned(), what, "-device".to_owned(), device]
    }
}

fn blockdev(number: usize, disk: &NbdDisk) -> String {
    serde_json::json!({
        "driver": "nbd",
        "node-name": format!("disk{number}"),
        "export": disk.export,
        "server": { "type": "unix", "path": disk.socket },
        "discard": "unmap",
        "reconnect-delay": disk.reconnect.unwrap_or_default().as_secs(),
    })
    .to_string()
}
