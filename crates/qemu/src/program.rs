//! Starting QEMU's programs, and what they complain of.

use env::Child;
use image_formats::Error;
use parking_lot::Mutex;
use std::{
    ffi::{OsStr, OsString},
    fs::Permissions,
    io,
    os::{
        fd::OwnedFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::PermissionsExt,
        },
    },
    path::Path,
    process::{Command, ExitStatus},
    sync::Arc,
};
use tempfile::TempDir;

/// Lines that are kept of what a program says: the first, which say most.
const LINES_MAX: usize = 8;
/// Characters of a complaint that are quoted.
const QUOTED_MAX: usize = 300;

/// A program at work.
pub(crate) struct Program {
    name: &'static str,
    pub(crate) child: Child,
    said: Arc<Mutex<Vec<String>>>,
}

impl Program {
    /// Starts it; `what` needs it. Lines that `other` answers `true` to are no complaints.
    pub(crate) fn start(
        name: &'static str,
        what: &str,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        input: Option<OwnedFd>,
        mut other: impl FnMut(&str) -> bool + Send + 'static,
    ) -> Result<Self, Error> {
        let mut command = Command::new(name);
        command.args(arguments).env("LC_ALL", "C");
        let said = Arc::<Mutex<Vec<String>>>::default();
        let heard = Arc::clone(&said);
        let child = Child::start(command, input, move |line| {
            if other(line) {
                return;
            }
            tracing::debug!(name, line, "a program of QEMU's says something");
            let mut said = heard.lock();
            if said.len() < LINES_MAX {
                said.push(line.to_owned());
            }
        });
        let child = child.map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Error::invalid(format!(
                "{what} needs {name}, which is not installed: apt-get install qemu-utils, or dnf install qemu-img"
            )),
            _ => Error::io(format_args!("cannot start {name} for {what}"), e),
        })?;
        Ok(Program { name, child, said })
    }

    /// Why it ended, in one line.
    pub(crate) fn complaint(&self, status: ExitStatus) -> String {
        let said = self.said.lock();
        let prefix = format!("{}: ", self.name);
        let lines = said
            .iter()
            .map(|line| line.strip_prefix(&prefix).unwrap_or(line));
        let mut lines = lines.filter(|line| !line.starts_with("warning: "));
        match lines.next() {
            Some(line) => format!("{} says: {}", self.name, short(line)),
            None => format!("{} ended with {status}", self.name),
        }
    }
}

/// What a complaint says, without what it is about: that is told in its own words.
fn short(line: &str) -> String {
    let mut line = line;
    for about in ["Failed to blk_new_open '", "Could not open '"] {
        let rest = line
            .strip_prefix(about)
            .and_then(|rest| rest.split_once("': "));
        line = rest.map_or(line, |(_, why)| why);
    }
    line.chars().take(QUOTED_MAX).collect()
}

/// A directory in which nobody else has anything.
pub(crate) fn private_directory() -> Result<TempDir, Error> {
    let made = tempfile::Builder::new()
        .prefix("holdfast-")
        .permissions(Permissions::from_mode(0o700))
        .tempdir();
    made.map_err(|e| Error::io("cannot make a directory for a socket", e))
}

/// `key=path`, an option in which the path's commas do not end it.
pub(crate) fn option(key: &str, path: &Path) -> OsString {
    let mut bytes = key.as_bytes().to_vec();
    bytes.push(b'=');
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(byte);
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_short_and_commas_are_doubled() {
        assert_eq!(
            short(
                "Failed to blk_new_open 'driver=vdi,file.filename=/a': Could not open '/a': Is odd: very"
            ),
            "Is odd: very"
        );
        assert_eq!(short("anything 'else': at all"), "anything 'else': at all");
        assert_eq!(
            option("file.filename", Path::new("/a,driver=raw,,b")),
            "file.filename=/a,,driver=raw,,,,b"
        );
    }

    #[test]
    fn a_program_that_is_missing_is_said_to_be_missing() {
        let none = Program::start("qemu-none", "/a.vdi, a vdi image,", ["x"], None, |_| false);
        let error = none.err().unwrap().to_string();
        assert!(
            error.contains("/a.vdi")
                && error.contains("qemu-none")
                && error.contains("install qemu-utils"),
            "{error}"
        );
    }
}
