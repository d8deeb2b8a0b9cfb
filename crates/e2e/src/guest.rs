//! A virtual machine, steered over its serial console.

use crate::{console::Console, image::Image, process::Process, qemu::Qemu, recipe};
use anyhow::{Context, Result, ensure};
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

/// Longest that booting may take; emulation on a busy machine is slow.
const BOOT_LIMIT: Duration = Duration::from_secs(180);
const OFF_LIMIT: Duration = Duration::from_secs(90);
const MEMORY_MIB: &str = "512";

/// Where a guest's disk is.
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
    pub fn boot(
        qemu: &Qemu,
        kvm: bool,
        image: &Image,
        disks: &[NbdDisk],
        log: &Path,
    ) -> Result<Self> {
        let log_file =
            std::fs::File::create(log).with_context(|| format!("making {}", log.display()))?;
        let mut command = qemu.command();
        command.args(machine(kvm));
        for (number, disk) in disks.iter().enumerate() {
            command.args(["-blockdev", &blockdev(number, disk)]);
            // In the order of the slots, which is that of the names in the guest.
            let device = format!("virtio-blk-pci,drive=disk{number},addr=0x{:x}", 4 + number);
            command.args(["-device", &device]);
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
            console,
            boot,
        })
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
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-no-reboot",
    ]
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
