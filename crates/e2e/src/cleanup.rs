//! Leaving nothing behind when interrupted.
//!
//! Child processes live in process groups of their own, so Ctrl-C reaches this process only; it
//! then ends their groups, removes the registered directories and leaves with 128 + the signal.
//! Children also die with this process if it is killed outright (see [`crate::process`]); the
//! directories that then remain are removed by the next run that takes their lock.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, Once, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

struct Registry {
    groups: Vec<Pid>,
    paths: Vec<PathBuf>,
    mounts: Vec<PathBuf>,
}

static REGISTRY: Mutex<Registry> = Mutex::new(Registry {
    groups: Vec::new(),
    paths: Vec::new(),
    mounts: Vec::new(),
});
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// From now on SIGINT, SIGTERM and SIGHUP clean up before they end the process.
///
/// # Errors
/// Signal handlers cannot be installed.
pub fn on_signals() -> Result<()> {
    static ONCE: Once = Once::new();
    let mut result = Ok(());
    ONCE.call_once(|| result = install());
    result
}

fn install() -> Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM, SIGHUP])
        .context("installing signal handlers")?;
    env::spawn("cleanup", move || {
        if let Some(signal) = signals.forever().next() {
            INTERRUPTED.store(true, Ordering::SeqCst);
            eprintln!("\ninterrupted: cleaning up");
            everything();
            std::process::exit(128 + signal);
        }
    })
    .context("starting the clean-up thread")?;
    Ok(())
}

/// If a signal has come, waits here until the clean-up has ended the process. To be called where
/// an error is about to be reported that may be only the interruption's echo.
pub fn hold_if_interrupted() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A directory that goes away when this and all its clones are dropped, or the process is interrupted.
#[derive(Clone)]
pub struct Scratch(Arc<Directory>);

struct Directory {
    path: PathBuf,
}

impl Scratch {
    /// Makes `path`, emptying it if it is there.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        hold_if_interrupted();
        lock().paths.push(path.clone());
        remove(&path);
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Scratch(Arc::new(Directory { path })))
    }

    /// A new directory with a short, unique name under the system's directory for such: unix
    /// sockets in it stay below the 108 bytes that their names may have.
    ///
    /// # Errors
    /// The directory cannot be made.
    pub fn temporary() -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("holdfast-")
            .tempdir()
            .context("making a temporary directory")?;
        lock().paths.push(dir.path().to_owned());
        let path = dir.keep();
        Ok(Scratch(Arc::new(Directory { path })))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Moves the directory to `to`; it is then no longer temporary.
    ///
    /// # Errors
    /// It cannot be moved.
    pub fn keep_as(self, to: &Path) -> Result<()> {
        std::fs::rename(self.path(), to).with_context(|| format!("making {}", to.display()))
    }
}

impl Scratch {
    /// Leaves the directory where it is, for good.
    #[must_use]
    pub fn leave(self) -> PathBuf {
        lock().paths.retain(|path| path != self.path());
        let path = self.path().to_owned();
        std::mem::forget(self);
        path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        hold_if_interrupted();
        remove(&self.path);
        lock().paths.retain(|path| path != &self.path);
    }
}

/// A file that others make, and that goes away when this is dropped or the process is interrupted.
pub struct Leftover(PathBuf);

impl Leftover {
    /// That file; it need not be there.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        lock().paths.push(path.clone());
        Leftover(path)
    }

    /// Removes it now.
    pub fn remove(&self) {
        remove(&self.0);
    }

    /// Leaves it where it is, for good.
    pub fn leave(mut self) {
        lock().paths.retain(|path| *path != self.0);
        self.0 = PathBuf::new();
    }
}

impl Drop for Leftover {
    fn drop(&mut self) {
        hold_if_interrupted();
        remove(&self.0);
        lock().paths.retain(|path| *path != self.0);
    }
}

pub(crate) fn add_group(pid: Pid) {
    lock().groups.push(pid);
    hold_if_interrupted();
}

pub(crate) fn drop_group(pid: Pid) {
    lock().groups.retain(|group| *group != pid);
}

pub(crate) fn add_mount(path: PathBuf) {
    lock().mounts.push(path);
    hold_if_interrupted();
}

pub(crate) fn drop_mount(path: &Path) {
    lock().mounts.retain(|mount| mount != path);
}

/// Unmounts what is mounted at `path`, frozen or not; who still uses it keeps it until it ends.
pub(crate) fn unmount(path: &Path) {
    // That it is not frozen, or not mounted any more, is as good.
    for (program, option) in [("fsfreeze", "-u"), ("umount", "-l")] {
        let mut quietly = std::process::Command::new(program);
        let quietly = quietly.arg(option).arg(path);
        let _ = quietly.stderr(std::process::Stdio::null()).status();
    }
}

fn everything() {
    let registry = lock();
    for group in registry.groups.iter().rev() {
        let _ = kill_process_group(*group, Signal::KILL);
    }
    for group in &registry.groups {
        // Whoever waits for it elsewhere no longer matters.
        let _ = waitpid(Some(*group), WaitOptions::empty());
    }
    for mount in &registry.mounts {
        unmount(mount);
    }
    for path in &registry.paths {
        remove(path);
    }
}

fn remove(path: &Path) {
    // A dying child may still add a file: once more, then leave it to the next run.
    for _ in 0..3 {
        let removed = match path.is_dir() {
            true => std::fs::remove_dir_all(path),
            false => std::fs::remove_file(path),
        };
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                std::thread::sleep(Duration::from_millis(100));
            }
            _ => return,
        }
    }
}

fn lock() -> std::sync::MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::Scratch;

    #[test]
    fn a_scratch_directory_is_emptied_and_goes_away() {
        let outer = Scratch::temporary().unwrap();
        let path = outer.path().join("inner");
        std::fs::create_dir_all(path.join("old")).unwrap();
        let inner = Scratch::new(&path).unwrap();
        assert_eq!(std::fs::read_dir(&path).unwrap().count(), 0);
        drop(inner);
        assert!(!path.exists());
    }

    #[test]
    fn what_is_kept_stays() {
        let outer = Scratch::temporary().unwrap();
        let to = outer.path().join("kept");
        let inner = Scratch::new(outer.path().join("inner")).unwrap();
        std::fs::write(inner.path().join("file"), "x").unwrap();
        inner.keep_as(&to).unwrap();
        assert!(to.join("file").is_file());
    }
}
