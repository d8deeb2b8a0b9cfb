//! What is in the guest: a minimal Debian whose console is a shell.
//!
//! The guest boots under emulation, so whatever takes time and serves nobody here is masked.

/// Packages beside Debian's essential ones.
pub const PACKAGES: &str = "systemd-sysv,udev,iproute2,kmod";

/// Size of the disk, bytes. Most of it is a hole.
pub const DISK_SIZE: u64 = 2 << 30;

/// What the guest's shell prints when it is ready for commands.
pub const READY: &str = "holdfast-guest-ready";

/// What the initial file system prints just before it mounts the root.
pub const INITRD: &str = "holdfast-initrd";

/// On the kernel's command line: power off right after [`INITRD`].
pub const PROBE: &str = "holdfast.probe";

/// Directories emptied to keep the image small.
pub const DROPPED: &[&str] = &[
    "usr/share/doc",
    "usr/share/info",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
];

/// Kernel modules of the initial file system, dependencies aside; ext4 is in the kernel.
pub const MODULES: &[&str] = &["virtio_pci", "virtio_blk"];

/// Reads commands from the console and runs them; `$rc` is the last one's status. No prompt and
/// no echo: what is printed is what commands print.
pub const SHELL: &str = r#"#!/bin/sh
stty -echo -onlcr
echo "holdfast-guest-ready $(cut -d' ' -f1 /proc/uptime)"
rc=0
while IFS= read -r line; do
    eval "$line" </dev/null
    rc=$?
done
"#;

/// Starts [`SHELL`] when the system is up.
pub const SHELL_UNIT: &str = "[Unit]
Description=A shell on the serial console
After=basic.target
[Service]
ExecStart=/usr/local/sbin/console-shell
StandardInput=tty-force
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Environment=HOME=/root TERM=dumb
WorkingDirectory=/root
KillSignal=SIGHUP
SendSIGHUP=yes
TimeoutStopSec=2
";

/// First program of the guest: loads the disk's driver, mounts the root, hands over to it.
pub const INIT: &str = r#"#!/bin/busybox sh
B=/bin/busybox
$B mount -t proc p /proc; $B mount -t sysfs s /sys; $B mount -t devtmpfs d /dev
for m in $($B cat /lib/modules/order); do $B insmod "/lib/modules/$m"; done
root=/dev/vda
for word in $($B cat /proc/cmdline); do
    case $word in
        root=*) root=${word#root=};;
        holdfast.probe) $B echo holdfast-initrd; $B echo o >/proc/sysrq-trigger; $B sleep 60;;
    esac
done
i=0
while [ ! -b "$root" ] && [ $i -lt 100 ]; do $B sleep 0.1; i=$((i+1)); done
$B echo "holdfast-initrd: root is $root"
$B mount -t ext4 -o rw "$root" /newroot || { $B echo "holdfast-initrd: no root"; $B poweroff -f; }
exec $B switch_root /newroot /sbin/init
"#;

/// Units that the guest does without.
pub const MASKED: &[&str] = &[
    "apt-daily-upgrade.timer",
    "apt-daily.timer",
    "dev-hugepages.mount",
    "dev-mqueue.mount",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty-static.service",
    "getty.target",
    "kmod-static-nodes.service",
    "modprobe@.service",
    "proc-sys-fs-binfmt_misc.automount",
    "rc-local.service",
    "remote-fs.target",
    "sys-fs-fuse-connections.mount",
    "sys-kernel-config.mount",
    "sys-kernel-debug.mount",
    "sys-kernel-tracing.mount",
    "systemd-ask-password-console.path",
    "systemd-ask-password-wall.path",
    "systemd-binfmt.service",
    "systemd-firstboot.service",
    "systemd-journal-flush.service",
    "systemd-logind.service",
    "systemd-machine-id-commit.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-networkd.socket",
    "systemd-pstore.service",
    "systemd-random-seed.service",
    "systemd-remount-fs.service",
    "systemd-sysctl.service",
    "systemd-sysusers.service",
    "systemd-tmpfiles-clean.timer",
    "systemd-tmpfiles-setup-dev.service",
    "systemd-tmpfiles-setup.service",
    "systemd-udev-trigger.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
    "systemd-update-utmp-runlevel.service",
    "systemd-update-utmp.service",
    "systemd-user-sessions.service",
];

/// A number that changes with anything above, and with the code that puts it together
/// (`include_str!`), so that a cached image is never an old one.
#[must_use]
pub fn digest() -> u64 {
    let parts = [include_str!("recipe.rs"), include_str!("image.rs")];
    // FNV-1a: stable from one compiler to the next.
    parts
        .iter()
        .flat_map(|part| part.bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use super::{INIT, INITRD, PROBE, READY, SHELL};

    #[test]
    fn scripts_print_what_the_driver_waits_for() {
        assert!(SHELL.contains(READY));
        assert!(INIT.contains(INITRD) && INIT.contains(PROBE));
    }
}
