//! The emulator: finding it, getting it, asking whether it can use KVM.
//!
//! Debian 12 has QEMU 7.2, its backports 10.0. Their packages exclude each other: installing one's
//! emulator may remove the other's `qemu-img`. So backports come first (they upgrade what is there),
//! then the release, and if neither goes without removing something, the emulator is unpacked
//! beside the system.

use crate::{
    apt::Apt,
    cleanup::Scratch,
    image::Image,
    paths,
    process::{Process, command, finish, run},
    recipe, tools,
};
use anyhow::{Context, Result};
use std::{fs, path::PathBuf, process::Command, time::Duration};

/// The emulator's name.
pub const PROGRAM: &str = "qemu-system-x86_64";

/// Tools of QEMU that the tests use.
pub const TOOLS: &[&str] = &["qemu-img", "qemu-io", "qemu-nbd"];

const PACKAGES: [&str; 2] = ["qemu-system-x86", "qemu-utils"];

/// An emulator that can be run.
#[derive(Clone, Debug)]
pub struct Qemu {
    program: PathBuf,
    /// Where it was unpacked, if it is not installed.
    root: Option<PathBuf>,
}

fn unpacked() -> PathBuf {
    paths::cache().join("qemu")
}

impl Qemu {
    /// The installed emulator, or the one unpacked beside the system.
    #[must_use]
    pub fn find() -> Option<Self> {
        if let Some(program) = tools::find(PROGRAM) {
            return Some(Qemu {
                program,
                root: None,
            });
        }
        let root = unpacked();
        let program = root.join("usr/bin").join(PROGRAM);
        program.is_file().then_some(Qemu {
            program,
            root: Some(root),
        })
    }

    /// A command that runs it, with its firmware and libraries found.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = command(&self.program);
        if let Some(root) = &self.root {
            let libraries = root.join("usr/lib/x86_64-linux-gnu");
            command.env("QEMU_MODULE_DIR", libraries.join("qemu"));
            command.env("LD_LIBRARY_PATH", &libraries);
            for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        command
    }

    /// How it is told to try again to connect a character device that lost its other end: as often as can be.
    #[must_use]
    pub fn retry(&self) -> &'static str {
        let version = run(
            "QEMU",
            self.command().arg("--version"),
            Duration::from_secs(30),
        );
        let version = version.unwrap_or_default();
        // "QEMU emulator version 10.0.2 (Debian …)"
        let number = version.split_whitespace().nth(3).unwrap_or_default();
        let mut parts = number
            .split('.')
            .map(|part| part.parse::<u32>().unwrap_or(0));
        let version = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
        if version >= (9, 2) {
            "reconnect-ms=100"
        } else {
            "reconnect=1"
        }
    }

    /// Whether KVM boots `image`'s kernel here. `/dev/kvm` can be there and not work, so this
    /// tries, for a few seconds, once per boot of the machine.
    #[must_use]
    pub fn kvm_works(&self, image: &Image) -> bool {
        if fs::File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_err()
        {
            return false;
        }
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let answer = paths::cache().join("kvm");
        let known = fs::read_to_string(&answer).unwrap_or_default();
        if let Some((of, works)) = known.split_once(' ').filter(|_| !boot.is_empty())
            && of == boot.trim()
        {
            return works == "works";
        }
        let works = self.probe_kvm(image);
        let word = if works { "works" } else { "fails" };
        // Not remembering costs a few seconds, no more.
        let _ = fs::write(&answer, format!("{} {word}", boot.trim()));
        works
    }

    fn probe_kvm(&self, image: &Image) -> bool {
        let mut qemu = self.command();
        qemu.args(["-M", "q35", "-accel", "kvm", "-cpu", "host", "-m", "256"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none"]);
        qemu.args(["-serial", "stdio", "-no-reboot"]);
        qemu.arg("-kernel")
            .arg(&image.kernel)
            .arg("-initrd")
            .arg(&image.initrd);
        let append = format!("console=ttyS0 quiet panic=-1 {}", recipe::PROBE);
        qemu.args(["-append", &append]);
        finish("QEMU with KVM", &mut qemu, Duration::from_secs(8))
            .is_ok_and(|done| done.stdout.contains(recipe::INITRD))
    }
}

/// The emulator, installed or unpacked if it is not there; `say` is told about it. As
/// [`crate::apt`], removes nothing.
///
/// # Errors
/// It cannot be had.
pub fn ensure(say: &dyn Fn(&str)) -> Result<Qemu> {
    let complete = TOOLS.iter().all(|tool| tools::have(tool));
    if let Some(qemu) = Qemu::find().filter(|_| complete) {
        return Ok(qemu);
    }
    let apt = Apt::open(&paths::cache())?;
    apt.refresh()?;
    let suites = [apt.backports(), None];
    for suite in suites.iter().map(Option::as_deref) {
        if apt
            .simulate(&PACKAGES, suite)
            .is_ok_and(|plan| plan.removed.is_empty())
        {
            let from = suite.unwrap_or(apt.codename());
            say(&format!("installing {} from {from}", PACKAGES.join(" ")));
            apt.install(&PACKAGES, suite)?;
            return Qemu::find().context("QEMU was installed but is not to be found");
        }
    }
    unpack(&apt, say)
}

/// Unpacks the emulator beside the system.
///
/// # Errors
/// It cannot be fetched or does not run.
pub fn unpack(apt: &Apt, say: &dyn Fn(&str)) -> Result<Qemu> {
    let plan = apt.simulate_without(&PACKAGES[..1], "qemu")?;
    let root = unpacked();
    say(&format!(
        "QEMU cannot be installed without removing something: unpacking it in {}",
        root.display()
    ));
    let scratch = Scratch::new(paths::cache().join("qemu-building"))?;
    let packages: Vec<&str> = plan.installed.iter().map(String::as_str).collect();
    let tree = scratch.path().join("root");
    apt.unpack(&packages, &scratch.path().join("debs"), &tree)?;
    if root.exists() {
        fs::remove_dir_all(&root)?;
    }
    fs::rename(&tree, &root)?;
    let qemu = Qemu {
        program: root.join("usr/bin").join(PROGRAM),
        root: Some(root),
    };
    let mut version = qemu.command();
    let mut process = Process::start(
        "QEMU",
        version.arg("--version").stdout(std::process::Stdio::null()),
    )?;
    let status = process.wait(Duration::from_secs(30))?;
    anyhow::ensure!(
        status.success(),
        "the unpacked QEMU does not run ({status})"
    );
    Ok(qemu)
}
