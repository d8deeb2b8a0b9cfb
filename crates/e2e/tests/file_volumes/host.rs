//! A daemon with plain files, and the programs that use them beside it.

use anyhow::{Result, ensure};
use e2e::{
    cleanup::Scratch,
    daemon::Daemon,
    process::{command, finish, run},
    tools,
};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const MIB: u64 = 1 << 20;

/// A daemon that allows image files in a directory beside its store.
pub(crate) struct Host {
    pub(crate) daemon: Daemon,
    pub(crate) allowed: PathBuf,
}

impl Host {
    pub(crate) fn new() -> Result<Self> {
        tools::need(&["qemu-io", "qemu-img", "nbdinfo"])?;
        e2e::cleanup::on_signals()?;
        let scratch = Scratch::temporary()?;
        let allowed = scratch.path().join("images");
        fs::create_dir(&allowed)?;
        let config = scratch.path().join("holdfast.toml");
        fs::write(
            &config,
            format!("[files]\nallowed = ['{}']\n", allowed.display()),
        )?;
        let config = config.to_string_lossy().into_owned();
        Ok(Host {
            daemon: Daemon::in_directory(scratch, &["--config", &config])?,
            allowed,
        })
    }

    pub(crate) fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.daemon.ok(arguments)
    }

    /// A command that must be refused, in one line that says `why`, with this exit code.
    pub(crate) fn refused(&self, arguments: &[&str], code: i32, why: &str) -> Result<()> {
        let finished = self.daemon.cli(arguments)?;
        let said = finished.stderr.trim();
        ensure!(
            finished.status.code() == Some(code) && said.contains(why) && said.lines().count() == 1,
            "{arguments:?}: {:?} {said}",
            finished.status
        );
        Ok(())
    }

    pub(crate) fn file(&self, path: &str) -> PathBuf {
        self.daemon.store().join("file-storage").join(path)
    }

    pub(crate) fn file_of(&self, volume: &str) -> Result<PathBuf> {
        let info = self.daemon.json(&["volume", "info", volume])?;
        Ok(info["file"]["path"].as_str().unwrap_or_default().into())
    }

    /// Does what `commands` say through NBD.
    pub(crate) fn io(&self, volume: &str, commands: &[&str]) -> Result<String> {
        let mut qemu_io = command("qemu-io");
        qemu_io.args(["-f", "raw"]);
        for one in commands {
            qemu_io.args(["-c", one]);
        }
        let said = run("qemu-io", qemu_io.arg(self.daemon.uri(volume)), LIMIT)?;
        ensure!(!said.contains("verification failed"), "{said}");
        Ok(said)
    }

    pub(crate) fn findings(&self) -> Result<Vec<String>> {
        let finished = self.daemon.cli(&["verify"])?;
        let lines: Vec<String> = finished.stdout.lines().map(str::to_owned).collect();
        let errors = lines.iter().any(|line| line.starts_with("ERROR:"));
        let code = finished.status.code();
        ensure!(
            code == Some(if errors { 5 } else { 0 }),
            "{code:?} {lines:?}"
        );
        Ok(lines)
    }
}

/// Type and code of a finding, and its object.
pub(crate) fn short(findings: &[String]) -> Vec<String> {
    let first = |line: &String| line.splitn(4, ':').take(3).collect::<Vec<_>>().join(":");
    findings.iter().map(first).collect()
}

pub(crate) fn wait_until(done: impl FnMut() -> Result<bool>) -> Result<()> {
    ensure!(
        e2e::stopwatch::poll(LIMIT, done)?,
        "it did not come about in time"
    );
    Ok(())
}

pub(crate) fn qemu(arguments: &[&str], file: &Path) -> Result<(bool, String)> {
    let finished = finish(
        "qemu",
        command(arguments[0]).args(&arguments[1..]).arg(file),
        LIMIT,
    )?;
    let said = format!("{}{}", finished.stdout, finished.stderr);
    Ok((finished.status.success(), said))
}
