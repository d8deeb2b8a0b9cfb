//! Programs and scripts for a guest that its image does not have: a disk of their own. So the image stays small, and is not built anew for each of them.

use crate::{
    daemon::Daemon,
    process::{command, run},
    tools,
};
use anyhow::{Context, Result};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

const LIMIT: Duration = Duration::from_secs(60);
const SIZE: &str = "32M";

/// What is to be put in.
pub struct Toolbox {
    dir: PathBuf,
}

impl Toolbox {
    /// An empty one, in `dir`, which is made.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(dir.join("lib"))?;
        Ok(Toolbox { dir })
    }

    /// Puts a script in.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn script(&self, name: &str, text: &str) -> Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text)?;
        Ok(fs::set_permissions(
            &path,
            fs::Permissions::from_mode(0o755),
        )?)
    }

    /// Puts in a program of this machine, with its libraries and a script of its name that starts it with these.
    ///
    /// # Errors
    /// It is not here.
    pub fn program(&self, name: &str) -> Result<()> {
        let program = tools::find(name).with_context(|| format!("{name} is missing"))?;
        let libraries = run("ldd", command("ldd").arg(&program), LIMIT)?;
        let paths = libraries
            .split_whitespace()
            .filter(|word| word.starts_with('/'));
        for library in paths.map(Path::new) {
            let file = library.file_name().context("a library without a name")?;
            fs::copy(library, self.dir.join("lib").join(file))?;
        }
        fs::copy(&program, self.dir.join("lib").join(name))?;
        let start = "exec $d/ld-linux-x86-64.so.2 --library-path $d $d/";
        self.script(
            name,
            &format!("#!/bin/sh\nd=/run/tools/lib\n{start}{name} \"$@\"\n"),
        )
    }

    /// Makes the volume `name` of it.
    ///
    /// # Errors
    /// There is no `mke2fs`, or the import fails.
    pub fn import(&self, daemon: &Daemon, name: &str) -> Result<()> {
        let disk = self.dir.with_extension("raw");
        let mut mke2fs = command(tools::find("mke2fs").context("mke2fs is missing")?);
        mke2fs.args(["-q", "-t", "ext4", "-F", "-d"]).arg(&self.dir);
        run("mke2fs", mke2fs.arg(&disk).arg(SIZE), LIMIT)?;
        let path = disk.to_str().context("a path that is no text")?;
        daemon.ok(&["volume", "import", path, name]).map(drop)
    }
}

/// In the guest: makes what is on `disk` appear in `/run/tools`.
#[must_use]
pub fn mount(disk: &str) -> String {
    format!("mkdir -p /run/tools && mount -o ro {disk} /run/tools")
}
