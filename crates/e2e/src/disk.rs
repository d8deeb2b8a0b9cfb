//! Small disks that tests may fill, freeze and break: ext4 in a file, mounted through a loop device.
//!
//! They need root and loop devices. [`SmallDisk::new`] says which of these is missing.

use crate::{
    cleanup::{self, Scratch},
    process::{command, run},
    tools,
};
use anyhow::{Context, Result, ensure};
use std::{path::PathBuf, time::Duration};

const LIMIT: Duration = Duration::from_secs(60);

/// A mounted file system in a file. Dropped, it is unmounted and gone, whatever state it is in.
pub struct SmallDisk {
    place: PathBuf,
    image: Scratch,
    /// What it is mounted in: it can go only after it was unmounted.
    _around: Scratch,
}

impl SmallDisk {
    /// An empty ext4 of so many bytes, mounted at `name` in `around`, which is made. After an error of its own it
    /// becomes read-only, as systems are set up usually.
    ///
    /// # Errors
    /// It cannot be made or mounted; a test that needs it must not pass then.
    pub fn new(around: &Scratch, name: &str, bytes: u64) -> Result<Self> {
        tools::need(&["mkfs.ext4", "mount", "umount", "fsck.ext4", "fsfreeze"])?;
        cleanup::on_signals()?;
        let image = Scratch::temporary()?;
        let place = around.path().join(name);
        let disk = SmallDisk {
            place: place.clone(),
            image,
            _around: around.clone(),
        };
        let file = std::fs::File::create(disk.file()).context("making a disk's image")?;
        file.set_len(bytes)?;
        // No blocks for root alone: the daemon of a test is root.
        let mut mkfs = command("mkfs.ext4");
        run(
            "mkfs.ext4",
            mkfs.args(["-q", "-F", "-m", "0"]).arg(disk.file()),
            LIMIT,
        )?;
        std::fs::create_dir_all(&place)?;
        cleanup::add_mount(place.clone());
        disk.mount()?;
        // A store wants an empty directory.
        std::fs::remove_dir(place.join("lost+found"))?;
        Ok(disk)
    }

    fn file(&self) -> PathBuf {
        self.image.path().join("disk")
    }

    /// Mounts it (again).
    ///
    /// # Errors
    /// It cannot be mounted.
    pub fn mount(&self) -> Result<()> {
        let mut mount = command("mount");
        mount.args(["-o", "loop,errors=remount-ro"]);
        run("mount", mount.arg(self.file()).arg(&self.place), LIMIT)
            .context("mounting a loop device, which needs root")?;
        Ok(())
    }

    /// Unmounts it and repairs what its errors left.
    ///
    /// # Errors
    /// Somebody uses it, or it cannot be repaired.
    pub fn repair(&self) -> Result<()> {
        run("umount", command("umount").arg(&self.place), LIMIT)?;
        let mut fsck = command("fsck.ext4");
        let done = crate::process::finish("fsck", fsck.arg("-fy").arg(self.file()), LIMIT)?;
        // 1: errors were corrected.
        ensure!(
            matches!(done.status.code(), Some(0 | 1)),
            "fsck: {}",
            done.stdout
        );
        Ok(())
    }

    /// Mounts it anew with other options.
    ///
    /// # Errors
    /// Files are open for writing, if it is to be read-only.
    pub fn remount(&self, options: &str) -> Result<()> {
        let mut mount = command("mount");
        mount.arg("-o").arg(format!("remount,{options}"));
        run("mount", mount.arg(&self.place), LIMIT)?;
        Ok(())
    }

    /// Takes all free bytes but `left`, as another program would. Answers the file that takes them.
    ///
    /// # Errors
    /// They cannot be taken.
    pub fn fill(&self, left: u64) -> Result<PathBuf> {
        let path = self.place.join("other-program");
        let mut file = std::fs::File::create(&path)?;
        let free = || -> Result<u64> {
            let stat = rustix::fs::statvfs(&self.place)?;
            Ok((stat.f_bavail * stat.f_frsize).saturating_sub(left))
        };
        let chunk = vec![1; 64 << 10];
        loop {
            let len = free()?.min(chunk.len() as u64) as usize;
            let written = std::io::Write::write(&mut file, &chunk[..len]);
            if len == 0 || written.is_err() {
                // What the page cache took must be on the disk before it counts.
                let _ = file.sync_all();
                if free()? == 0 || written.is_err() {
                    return Ok(path);
                }
            }
        }
    }

    /// Stops everything that writes to it, until [`thaw`](Self::thaw).
    ///
    /// # Errors
    /// It cannot be frozen.
    pub fn freeze(&self) -> Result<()> {
        run(
            "fsfreeze",
            command("fsfreeze").arg("-f").arg(&self.place),
            LIMIT,
        )?;
        Ok(())
    }

    /// Lets everything go on.
    ///
    /// # Errors
    /// It was not frozen.
    pub fn thaw(&self) -> Result<()> {
        run(
            "fsfreeze",
            command("fsfreeze").arg("-u").arg(&self.place),
            LIMIT,
        )?;
        Ok(())
    }

    /// The file system meets an error, and becomes read-only.
    ///
    /// # Errors
    /// The kernel has no way to ask for that.
    pub fn fail(&self) -> Result<()> {
        let mut find = command("findmnt");
        let source = run(
            "findmnt",
            find.args(["-no", "SOURCE"]).arg(&self.place),
            LIMIT,
        )?;
        let device = source.trim().trim_start_matches("/dev/");
        let trigger = format!("/sys/fs/ext4/{device}/trigger_fs_error");
        std::fs::write(&trigger, "1").with_context(|| format!("writing {trigger}"))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        cleanup::unmount(&self.place);
        cleanup::drop_mount(&self.place);
        let _ = std::fs::remove_dir_all(&self.place);
    }
}
